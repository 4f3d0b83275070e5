"""analyze_training_dynamics: a plain dict of what training would see, and a model that never notices."""

import json
from pathlib import Path

import pytest
import torch

from light_llm.errors import ConfigError
from light_llm.objective import NextTokenLoss, total_weight
from tests.support.tools import (
    Foreign,
    byte_loader,
    byte_model,
    gradients,
    rows_of,
    some_tokens,
    tiny_model,
    train_small,
)
from train import analyze_training_dynamics


def test_it_makes_its_own_pass(poem: Path) -> None:
    model, loader = byte_model(), byte_loader(poem)
    found = analyze_training_dynamics(model, loader, curvature=False)
    assert all(p.grad is None for p in model.parameters())
    x, y = loader.batch(0)
    (NextTokenLoss(model, chunk=0)(x, y) / total_weight(y)).backward()
    whole = torch.nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    assert found["grad_norm"] == pytest.approx(whole.item(), rel=1e-4)
    assert sum(g**2 for g in found["grad_norms"].values()) == pytest.approx(found["grad_norm"] ** 2)
    assert found["loss"] == pytest.approx(float((NextTokenLoss(model)(x, y) / total_weight(y)).detach()), rel=1e-5)


def test_it_sees_what_the_first_step_of_a_run_sees(poem: Path) -> None:
    found = analyze_training_dynamics(byte_model(), byte_loader(poem), curvature=False)
    train_small(poem, model=byte_model(), max_steps=1)
    (row,) = rows_of("run", "step")
    assert found["grad_norm"] == pytest.approx(row["grad_norm"], rel=1e-4)
    assert found["grad_norms"] == pytest.approx(row["grad_norms"], rel=1e-3)


def test_it_returns_all_of_it_as_plain_values_and_leaves_the_model_as_it_was(poem: Path) -> None:
    model = tiny_model(vocab_size=257, n_embd=12, n_layer=1).train()
    model(some_tokens()).sum().backward()
    weights, grads = {n: t.clone() for n, t in model.state_dict().items()}, gradients(model)
    steps: list[str] = []
    found = analyze_training_dynamics(model, byte_loader(poem), progress=lambda what, done, total: steps.append(what))
    assert json.loads(json.dumps(found)) == found and steps
    assert found.keys() >= {
        *("loss", "grad_norm", "grad_norms", "weight_norm", "attention", "stream", "dead_units", "predictions"),
        *("induction", "lens", "alarms", "hessian", "sharpness", "noise", "landscape"),
    }
    assert found["hessian"]["eigenvalues"][0] > 0 and found["noise"]["sequences"] == 24
    assert model.training and all(torch.equal(t, weights[n]) for n, t in model.state_dict().items())
    assert gradients(model).keys() == grads.keys()
    assert all(torch.equal(g, grads[n]) for n, g in gradients(model).items())


def test_any_loader_of_pairs_will_do(poem: Path) -> None:
    model, loader = byte_model(), byte_loader(poem)
    ours, theirs = (analyze_training_dynamics(model, by, curvature=False) for by in (loader, Foreign(loader)))
    assert ours == theirs
    with pytest.raises(ConfigError, match="the loader gives no batches"):
        analyze_training_dynamics(model, [])
    one = torch.ones(1, 4, dtype=torch.long)
    with pytest.raises(ConfigError, match="the loader ended after 1 batches, and more are needed"):
        analyze_training_dynamics(model, iter([(one, one)]))
    with pytest.raises(ConfigError, match="takes a LightLLM and then a loader, not a Linear first"):
        analyze_training_dynamics(torch.nn.Linear(2, 2), [])  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the loader gives id 900; this model has 0 ... 256"):
        analyze_training_dynamics(model, [(torch.full((1, 4), 900), torch.full((1, 4), 900))])
