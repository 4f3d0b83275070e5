"""How far a result may be from the exact one: from the unit roundoff of a number format and the lengths of the sums.

A number is rounded with a relative error of at most u, 2^-24 in float32 and 2^-8 in bfloat16. The errors of a sum of n
terms are as good as independent and partly cancel: they grow as sqrt(n) u, not n u (Higham and Mary, 2019,
theorem 3.1). Steps in a row are independent too, so that their errors add up in squares.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from ..config import ModelConfig

# The largest of a million normal errors is 5 standard deviations, and a rounding has one of u / sqrt(3): so sound
# arithmetic keeps below 3 times the sqrt(n) u of its chain. One more, for kernels that round once more often.
SAFETY = 4.0
BLOCK = 2048  # terms of a long sum that a device may add one after the other; beyond that it adds up partial sums


def roundoff(dtype: torch.dtype) -> float:
    """The unit roundoff u: half the distance from 1 to the next number.

    >>> roundoff(torch.float32) == 2.0**-24, roundoff(torch.bfloat16) == 2.0**-8, roundoff(torch.float16) == 2.0**-11
    (True, True, True)
    """
    return torch.finfo(dtype).eps / 2


def allowed(sums: Sequence[int], dtype: torch.dtype = torch.float32) -> float:
    """The largest sound error of a chain of sums, relative to the largest number of the result.

    SAFETY sqrt(sum over the chain of n u^2 + 3 u'^2): n additions in float32, whatever the format of the factors, and
    three roundings to that format: both factors and the result. A sum that is not made in float32 is so noticed.

    Args:
        sums: the number of terms of each sum, one after the other.
        dtype: of the factors and results, with unit roundoff u'.

    >>> f"{allowed([1024]):.1e}, {allowed([1024], torch.bfloat16):.1e}"
    '7.6e-06, 2.7e-02'
    """
    u, low = roundoff(torch.float32), roundoff(dtype)
    return SAFETY * math.sqrt(sum(n * u**2 + 3 * low**2 for n in sums))


def forward_sums(config: ModelConfig, T: int) -> list[int]:
    """The sums between tokens and logits: of each layer two norms, four products and attention; a norm; the head."""
    C, D = config.n_embd, config.head_size
    layer = [C, C, D, T, C, C, C, 4 * C]
    return layer * config.n_layer + [C, C]


def loss_sums(config: ModelConfig, T: int) -> list[int]:
    """The sums up to the loss: the vocabulary's is made in blocks or as a tree, never id by id (see BLOCK)."""
    return [*forward_sums(config, T), min(config.vocab_size, BLOCK)]


def gradient_sums(config: ModelConfig, B: int, T: int) -> list[int]:
    """The sums of a gradient: those of the way forward, twice as many on the way back, the softmax, and all rows."""
    return [*loss_sums(config, T), *forward_sums(config, T) * 2, B * T]


def chi_square_limit(bins: int) -> float:
    """The largest sound chi-square of draws in so many bins: its mean and 6 standard deviations.

    >>> chi_square_limit(19)
    54.0
    """
    freedom = bins - 1
    return freedom + 6 * math.sqrt(2 * freedom)


def worst_error(found: Tensor, exact: Tensor) -> float:
    """max |found - exact| / max |exact|; infinite where the shape is another, or a number is none."""
    found = found.detach().cpu()
    if found.shape != exact.shape:
        return math.inf
    worst = float((found.double() - exact).abs().max())
    size = float(exact.abs().max())
    if not math.isfinite(worst):
        return math.inf
    if size == 0:
        return 0.0 if worst == 0 else math.inf
    return worst / size
