"""Dropout with cheap bits: its rate, its mean, its seed, and torch's own beside it."""

import pytest
import torch

from light_llm.layers.dropout import Dropout, drop


@pytest.mark.parametrize("p", [0.01, 0.1, 0.5, 0.9])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_share_is_p_and_the_mean_stays(p: float, dtype: torch.dtype) -> None:
    """Over 400,000 draws, within four standard errors; every lane of the random words alike."""
    torch.manual_seed(0)
    y = drop(torch.ones(100_003, 4, dtype=dtype), p).float()
    error = (p * (1 - p) / len(y)) ** 0.5
    assert ((y == 0).float().mean(0) - p).abs().max() < 4 * error
    assert (y.mean() - 1).abs() < 2 * error / (1 - p) + (0.005 if dtype == torch.bfloat16 else 0.0)


def test_neighbours_are_dropped_independently() -> None:
    torch.manual_seed(0)
    gone = (drop(torch.ones(400_000), 0.5) == 0).float() - 0.5
    for distance in (1, 2, 3, 4, 5):
        assert (gone[distance:] * gone[:-distance]).mean().abs() < 4 * 0.25 / 400_000**0.5


def test_a_seed_repeats_it_and_a_state_goes_on() -> None:
    torch.manual_seed(7)
    first, state = drop(torch.ones(1000), 0.3), torch.get_rng_state()
    second = drop(torch.ones(1000), 0.3)
    torch.manual_seed(7)
    assert torch.equal(drop(torch.ones(1000), 0.3), first)
    torch.set_rng_state(state)
    assert torch.equal(drop(torch.ones(1000), 0.3), second) and not torch.equal(first, second)


def test_as_a_module_it_is_torch_s() -> None:
    layer, x = Dropout(0.5), torch.randn(3, 50)
    assert torch.equal(layer.eval()(x), x) and torch.equal(Dropout(0.0).train()(x), x)
    kept = layer.train()(x)
    torch.testing.assert_close(kept[kept != 0], 2 * x[kept != 0])
    assert "p=0.5" in repr(layer)
