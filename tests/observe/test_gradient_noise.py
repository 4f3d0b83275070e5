"""The gradient noise scale against problems whose answer is known."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from light_llm.errors import ConfigError
from light_llm.observe.gradient_noise import NoiseScale, noise_scale

D = 40
MEAN = torch.linspace(-1, 1, D, dtype=torch.float64) / 2
SPREAD = torch.linspace(0.5, 2, D, dtype=torch.float64)  # standard deviation of each component
SQUARED, TRACE = float(MEAN @ MEAN), float(SPREAD @ SPREAD)


def drawn(n: int, seed: int = 0, mean: Tensor = MEAN) -> Tensor:
    """n gradients (n, D) of known mean and covariance."""
    noise = torch.randn(n, D, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return mean + SPREAD * noise


def scale_of(gradients: Tensor) -> NoiseScale:
    return noise_scale(lambda i: gradients[i], len(gradients))


def test_a_known_noise_scale_is_found() -> None:
    found = scale_of(drawn(20_000))
    assert found.scale is not None and found.stderr is not None
    assert found.scale == pytest.approx(TRACE / SQUARED, rel=0.05)
    assert abs(found.scale - TRACE / SQUARED) < 3 * found.stderr < 0.2 * found.scale


def test_both_estimates_are_unbiased() -> None:
    """Their means over many small samples: the naive |mean|^2 would be 2.7 times too large here."""
    many = [scale_of(drawn(12, seed)) for seed in range(1500)]
    for name, true in (("gradient_squared", SQUARED), ("trace", TRACE)):
        values = np.array([getattr(found, name) for found in many])
        error = values.std(ddof=1) / math.sqrt(len(values))
        assert abs(values.mean() - true) < 3 * error < 0.1 * true, name


def test_the_jackknife_is_the_spread_over_samples() -> None:
    many = [scale_of(drawn(200, seed)) for seed in range(300)]
    spread = np.std([found.scale for found in many], ddof=1)
    assert np.median([found.stderr for found in many if found.stderr]) == pytest.approx(spread, rel=0.2)


def test_equal_gradients_have_no_noise() -> None:
    found = scale_of(MEAN.expand(5, D))
    assert found.trace == pytest.approx(0, abs=1e-12) and found.scale == pytest.approx(0, abs=1e-12)
    assert found.gradient_squared == pytest.approx(SQUARED)


def test_noise_alone_has_no_scale() -> None:
    """Two opposite gradients, and two more: their mean is 0, so the estimate of |G|^2 is below it."""
    g = drawn(2)
    found = scale_of(torch.cat([g, -g]))
    assert found.gradient_squared < 0 and found.scale is None and found.stderr is None and found.trace > 0


def test_too_few_sequences() -> None:
    with pytest.raises(ConfigError, match="a noise scale from 2 sequences has no error; use at least 3"):
        scale_of(drawn(2))
