"""Losses to expect from a known recipe: their mean and spread over seeds, measured by benchmarks/bands.py."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ..config import Run

# Nats. Three seeds can agree by chance, and other machines round differently.
MIN_WIDTH = 0.03


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

    def width(self, point: BandPoint) -> float:
        """Return half the width of the band at a point, nats.

        A new run differs from the mean of n seeds by sqrt(std^2 + std^2 / n) = std sqrt(1 + 1/n). The band is three
        times that, and at least 0.03 nats, because a spread estimated from three seeds is itself uncertain.
        """
        return max(3 * point.std * math.sqrt(1 + 1 / self.seeds), MIN_WIDTH)

    def position(self, point: BandPoint, loss: float) -> float:
        """Return where a loss lies: between -1 and 1 inside the band, below -1 better than expected."""
        return (loss - point.mean) / self.width(point)


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
