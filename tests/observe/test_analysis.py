"""The analysis of a model from Python: it changes nothing, counts correctly, and its results are plain JSON."""

import json
import math

import pytest
import torch

from light_llm.errors import ConfigError
from light_llm.observe import analysis
from light_llm.observe.analysis import AdamState, AnalysisConfig, analyze, spectrum
from light_llm.observe.curvature import Hessian
from light_llm.observe.flat_params import flatten, trainable_parameters
from light_llm.observe.metrics import replace_nonfinite
from tests.support.tools import some_batch, tiny_model

QUICK = AnalysisConfig(batch_size=2, k=2, steps=4, sharpness_steps=2, signs=3, sequences=4, line=3, side=3)


def test_the_model_is_left_exactly_as_it_was() -> None:
    model = tiny_model(scale=4, dropout=0.3).train()
    model.h[0].eval()
    attend, modes = [b.attn.attend for b in model.h], [m.training for m in model.modules()]
    model.wpe.weight.grad = torch.ones_like(model.wpe.weight)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    state = torch.get_rng_state()
    weights = flatten(trainable_parameters(model).values())
    run = {s: weights + s * torch.randn(len(weights)) / 100 for s in (1, 2)}
    torch.set_rng_state(state)
    found = analyze(model, some_batch(4), step=9, optimizer=AdamState(lr=0.1), run=run, config=QUICK)
    assert found["path"] and all(torch.equal(t, before[name]) for name, t in model.state_dict().items())
    assert [b.attn.attend for b in model.h] == attend and [m.training for m in model.modules()] == modes
    grads = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert list(grads) == ["wpe.weight"] and torch.equal(grads["wpe.weight"], torch.ones_like(model.wpe.weight))
    assert torch.equal(torch.get_rng_state(), state), "no generator but its own is drawn from"


def test_every_probe_of_the_trace_counts_alike() -> None:
    """On a diagonal matrix each vector of signs gives the trace exactly, alone or as the start of an iteration."""
    values = torch.linspace(-1, 3, 60)
    known = Hessian(0.0, torch.zeros(60), lambda v: values * v)
    found = spectrum(known, QUICK, torch.Generator().manual_seed(0), lambda *done: None)
    assert found["trace"] == {"value": pytest.approx(60), "stderr": pytest.approx(0, abs=1e-4), "probes": 3}
    assert found["parameters"] == 60 and found["density"]["probes"] == 2 and found["density"]["steps"] == 4


def test_numbers_that_are_none_are_plain_json(monkeypatch: pytest.MonkeyPatch) -> None:
    """A loss that is not finite somewhere around the weights still gives an analysis that JSON can hold."""
    model = tiny_model(scale=4)
    away = {"line": {"at": [0.0, 1.0], "loss": [2.0, math.inf]}}
    monkeypatch.setattr(analysis, "landscape", lambda *anything: away)
    found = analyze(model, some_batch(4), step=1, optimizer=AdamState(), config=QUICK)
    assert found["landscape"]["line"]["loss"] == [2.0, None]
    assert json.loads(json.dumps(found, allow_nan=False)) == found
    odd = replace_nonfinite({"a": [1.0, math.nan, {"b": math.inf}], "c": "text", "d": 3})
    assert odd == {"a": [1.0, None, {"b": None}], "c": "text", "d": 3}


def test_a_missing_moment_is_said() -> None:
    model = tiny_model()
    names = {n: p for n, p in model.named_parameters() if n != "ln_f.bias"}
    moments = {f"{n}/exp_avg_sq": torch.ones_like(p) for n, p in names.items()}
    moments |= {f"{n}/step": torch.tensor(3.0) for n in names}
    found = analyze(model, some_batch(4), step=1, optimizer=AdamState(lr=0.1, moments=moments), config=QUICK)
    assert found["sharpness"]["preconditioned"] is None
    assert "ln_f.bias/exp_avg_sq" in found["sharpness"]["why_not"]


def test_progress_counts_to_the_end_of_each_stage() -> None:
    seen: dict[str, list[tuple[int, int]]] = {}
    model = tiny_model()
    weights = flatten(model.parameters())
    run = {step: weights + torch.randn(len(weights)) for step in (1, 2)}

    def progress(stage: str, done: int, total: int) -> None:
        seen.setdefault(stage, []).append((done, total))

    analyze(model, some_batch(4), step=9, optimizer=AdamState(), run=run, config=QUICK, progress=progress)
    assert list(seen) == ["curvature", "noise", "landscape", "path"]
    for counts in seen.values():
        assert [done for done, _ in counts] == list(range(1, counts[-1][1] + 1))


def test_too_few_windows() -> None:
    with pytest.raises(ConfigError, match="3 windows.* 4 "):
        analyze(tiny_model(), some_batch(3), step=1, optimizer=AdamState(), config=QUICK)
