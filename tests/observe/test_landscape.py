"""The loss around the weights: directions that mean the same for every row, and planes that go where they should."""

import pytest
import torch
from torch import Tensor

from light_llm.model import LightLLM
from light_llm.objective import NextTokenLoss, total_weight
from light_llm.observe.flat_params import flatten, mean_loss, trainable_parameters, unflatten
from light_llm.observe.landscape import filter_normalised_direction, fit_plane, loss_on_line, spaced_values
from tests.support.tools import some_batch, tiny_model


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def direction_of(model: LightLLM, seed: int = 0) -> Tensor:
    return filter_normalised_direction(trainable_parameters(model), generator(seed))


def by_name(direction: Tensor, model: LightLLM) -> dict[str, Tensor]:
    return unflatten(direction, trainable_parameters(model))


# ---- directions


def test_a_direction_grows_with_the_weights_and_is_random() -> None:
    model = tiny_model()
    first, other = (direction_of(model, seed) for seed in (0, 1))
    assert abs(torch.cosine_similarity(first, other, dim=0)) < 0.05
    with torch.no_grad():
        model.h[0].mlp.c_fc.weight[3] *= 10
    before = by_name(first, model)
    for name, part in by_name(direction_of(model), model).items():
        factor = torch.ones(part.shape)
        if name == "h.0.mlp.c_fc.weight":
            factor[3] = 10
        torch.testing.assert_close(part, before[name] * factor)


def test_a_row_of_zeros_has_no_direction() -> None:
    model = tiny_model()
    with torch.no_grad():
        model.wte.weight[5] = 0
    direction = by_name(direction_of(model), model)
    assert not direction["wte.weight"][5].any() and torch.isfinite(direction["wte.weight"]).all()


# ---- the loss


def test_at_the_weights_it_is_the_loss_and_elsewhere_that_of_a_moved_model() -> None:
    model, batch = tiny_model(scale=4), some_batch()
    origin = flatten(trainable_parameters(model).values())
    direction = direction_of(model)

    def loss(at: Tensor) -> float:
        with torch.no_grad():
            return float(mean_loss(model, at, batch))

    def own() -> float:
        with torch.no_grad():
            return float(NextTokenLoss(model)(batch.tokens, batch.targets) / total_weight(batch.targets))

    line = loss_on_line(loss, origin, direction, [-0.5, 0.0, 0.5])
    assert line[1] == own()
    for p, part in zip(model.parameters(), by_name(direction, model).values(), strict=True):
        p.data.add_(0.5 * part)
    assert line[2] == pytest.approx(own(), rel=1e-6) and abs(line[2] - line[1]) > 0.01


def test_the_model_is_as_before_even_when_interrupted() -> None:
    model, batch = tiny_model(scale=4, dropout=0.4).train(), some_batch()
    origin, calls = flatten(model.parameters()), 0
    fast = model.h[1].attn.attend

    def attend(*args: Tensor) -> Tensor:
        nonlocal calls
        calls += 1
        if calls == 3:
            raise KeyboardInterrupt
        return fast(*args)

    model.h[1].attn.attend = attend
    with pytest.raises(KeyboardInterrupt), torch.no_grad():
        loss_on_line(lambda w: float(mean_loss(model, w, batch)), origin, torch.ones_like(origin), [0, 1, 2, 3])
    assert torch.equal(flatten(model.parameters()), origin) and all(m.training for m in model.modules())
    assert all(isinstance(p, torch.nn.Parameter) and p.grad is None for p in model.parameters())
    assert model.h[1].attn.attend is attend and calls == 3


# ---- planes


def test_points_on_a_line_or_too_few_have_no_plane() -> None:
    origin, away = torch.zeros(50), torch.randn(50, generator=generator())
    assert fit_plane(origin, [away, 2 * away, -away]) is None
    assert fit_plane(origin, [away]) is None and fit_plane(origin, []) is None
    assert fit_plane(origin, [origin, origin]) is None


def test_a_grid_covers_its_points_and_some_more() -> None:
    at = spaced_values([2.0, -1.0, 0.0], 7)
    assert len(at) == 7 and at[0] == -1.75 and at[-1] == 2.75
    assert spaced_values((-1.0, 1.0), 5, 0) == [-1, -0.5, 0, 0.5, 1]
