"""Loss curves: windowed means of a run, their gap to held-out text, and those to expect from a known recipe.

The bands of known recipes, mean and spread over seeds, are measured by benchmarks/bands.py.
"""

import json
import math
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from importlib import resources
from itertools import accumulate, pairwise
from statistics import median
from typing import Any

from ..config import Run
from .coerce import Number

# Steps. Shorter windows are noisy; longer ones delay every warning. The bands of benchmarks/bands.py use the same.
MEAN_STEPS = 10
# Nats. Three seeds can agree by chance, and other machines round differently.
MIN_HALF_WIDTH = 0.03


class Curve:
    """A training loss without its missing values, with prefix sums so that any mean takes constant time."""

    def __init__(self, steps: Iterable[int], losses: Iterable[Number]) -> None:
        pairs = [(step, loss) for step, loss in zip(steps, losses, strict=True) if loss is not None]
        self.steps, self.losses = [step for step, _ in pairs], [loss for _, loss in pairs]
        self.sums = list(accumulate(self.losses, initial=0.0))  # sums[i]: the sum of the first i losses

    def __len__(self) -> int:
        return len(self.steps)

    def mean(self, i: int, n: int = MEAN_STEPS) -> float:
        """Return the mean of the n losses that end at index i, or of all up to i if there are fewer."""
        first = max(0, i + 1 - n)
        return (self.sums[i + 1] - self.sums[first]) / (i + 1 - first)

    def noise(self, i: int, n: int = MEAN_STEPS) -> float:
        """Return the standard error of `mean`, estimated from differences of neighbours so that a trend adds nothing.

        For normal noise of deviation s, the median of |b - a| is 0.954 s.
        """
        window = self.losses[max(0, i - 3 * n) : i + 1]
        differences = [abs(b - a) for a, b in pairwise(window)]
        return median(differences) / 0.954 / math.sqrt(n) if differences else 0.0

    def index(self, step: int) -> int:
        """Return the index of the last loss at or before a step, or -1."""
        return bisect_right(self.steps, step) - 1


@dataclass(frozen=True)
class GapPoint:
    """An evaluation and the mean training loss of the steps before it, nats per token."""

    step: int
    held: float
    train: float
    noise: float  # standard error of `train`

    @property
    def gap(self) -> float:
        """Return the held-out loss minus the training loss."""
        return self.held - self.train


@dataclass(frozen=True)
class BandPoint:
    """The loss at one step, over seeds, in nats per token."""

    step: int
    mean: float
    std: float


@dataclass(frozen=True)
class Band:
    """The losses of one recipe. A training point is the mean over the 10 steps that end at its step."""

    name: str  # "nano/shakespeare"
    seeds: int
    train: tuple[BandPoint, ...]
    held_out: tuple[BandPoint, ...]

    def half_width(self, point: BandPoint) -> float:
        """Return half the width of the band at a point, nats.

        A new run differs from the mean of n seeds by sqrt(std^2 + std^2 / n) = std sqrt(1 + 1/n). The band is three
        times that, and at least 0.03 nats, because a spread estimated from three seeds is itself uncertain.
        """
        return max(3 * point.std * math.sqrt(1 + 1 / self.seeds), MIN_HALF_WIDTH)

    def position(self, point: BandPoint, loss: float) -> float:
        """Return where a loss lies: between -1 and 1 inside the band, below -1 better than expected."""
        return (loss - point.mean) / self.half_width(point)


def find_band(run: Run, data: Mapping[str, Any], bands: Mapping[str, Any] | None = None) -> Band | None:
    """Return the band with the settings and the text of a run, or None.

    Args:
        data: the entry of that name in run.json, with sha256 and tokenizer_sha256.
        bands: by default those of the package.
    """
    settings = {f"{part}.{name}": value for part, group in run.to_dict().items() for name, value in group.items()}
    for name, band in (read_bands() if bands is None else bands).items():
        same_text = (data.get("sha256"), data.get("tokenizer_sha256")) == (
            band["data_sha256"],
            band["tokenizer_sha256"],
        )
        if same_text and band["settings"].items() <= settings.items():
            train, held_out = (tuple(BandPoint(*row) for row in band[key]) for key in ("train", "held_out"))
            return Band(name, band["seeds"], train, held_out)
    return None


def read_bands() -> dict[str, Any]:
    """Return the entries of bands.json by name."""
    bands: dict[str, Any] = json.loads(resources.files(__package__).joinpath("bands.json").read_text(encoding="utf-8"))
    return bands["bands"]
