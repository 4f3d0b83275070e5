"""Losses to expect from a known recipe: their mean and spread over seeds, measured by benchmarks/bands.py."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ..config import Run
from .coerce import as_grid, as_int, as_mapping, drop_none

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
        bands: contents of bands.json; by default the file of the package.
    """
    for name, entry in as_mapping((read_bands() if bands is None else bands).get("bands")).items():
        values = as_mapping(entry)
        hashes = {"sha256": values.get("data_sha256"), "tokenizer_sha256": values.get("tokenizer_sha256")}
        same_text = all(expected and data.get(key) == expected for key, expected in hashes.items())
        if same_text and _has_settings(run, as_mapping(values.get("settings"))):
            seeds = as_int(values.get("seeds")) or 1
            return Band(name, seeds, _points(values.get("train")), _points(values.get("held_out")))
    return None


def read_bands() -> Mapping[str, Any]:
    """Return the contents of the package's bands.json; {} if it cannot be read."""
    try:
        return as_mapping(json.loads(resources.files(__package__).joinpath("bands.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _has_settings(run: Run, settings: Mapping[str, Any]) -> bool:
    """Return whether a run has all of these settings, named "part.name". No settings match no run."""
    values = run.to_dict()
    flat = {f"{part}.{name}": value for part, group in values.items() for name, value in as_mapping(group).items()}
    return bool(settings) and all(name in flat and flat[name] == value for name, value in settings.items())


def _points(value: Any) -> tuple[BandPoint, ...]:
    """Parse [[step, mean, std], ...], without the rows that are incomplete."""
    rows = [drop_none(row) for row in as_grid(value)]
    return tuple(BandPoint(int(row[0]), row[1], row[2]) for row in rows if len(row) == 3)
