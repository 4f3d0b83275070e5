"""What to expect of a known recipe: mean and spread of its losses over seeds, measured once and shipped as data."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from typing import Any

from ..config import Run
from .tolerant import grid, known, mapping, whole

FLOOR = 0.03  # nats: three seeds can agree by luck, and other machines round otherwise
MEAN_OF = 10  # steps in a point of the training band


@dataclass(frozen=True)
class Point:
    """A loss in nats per token over the seeds, at a step."""

    step: int
    mean: float
    std: float


@dataclass(frozen=True)
class Band:
    """What the losses of a recipe were. Training points are means over the 10 steps up to theirs."""

    name: str  # "nano/shakespeare"
    seeds: int
    train: tuple[Point, ...]
    held_out: tuple[Point, ...]

    def width(self, point: Point) -> float:
        """Half of the band at a point, nats.

        A new run differs from the mean of n seeds by sqrt(std^2 + std^2 / n) = std sqrt(1 + 1/n); the band is three
        times that. A spread from three seeds is itself uncertain, so the band is never narrower than 0.03 nats.
        """
        return max(3 * point.std * math.sqrt(1 + 1 / self.seeds), FLOOR)

    def position(self, point: Point, loss: float) -> float:
        """Where a loss is: within -1 and 1 it is inside of the band, below it is better than expected."""
        return (loss - point.mean) / self.width(point)


def find_band(run: Run, data: Mapping[str, Any], bands: Mapping[str, Any] | None = None) -> Band | None:
    """The band whose settings and text this run has; None when there is none.

    Args:
        data: the text as run.json describes it: sha256, tokenizer_sha256.
        bands: what bands.json holds; None: read the one of the package.
    """
    for name, values in mapping((read_bands() if bands is None else bands).get("bands")).items():
        values = mapping(values)
        of_text = {"sha256": values.get("data_sha256"), "tokenizer_sha256": values.get("tokenizer_sha256")}
        same_text = all(wanted and data.get(key) == wanted for key, wanted in of_text.items())
        if same_text and _same_settings(run, mapping(values.get("settings"))):
            return _band(name, values)
    return None


def read_bands() -> Mapping[str, Any]:
    """The bands that came with the package; empty when none did."""
    try:
        return mapping(json.loads(resources.files(__package__).joinpath("bands.json").read_text(encoding="utf-8")))
    except (OSError, ValueError):
        return {}


def _same_settings(run: Run, settings: Mapping[str, Any]) -> bool:
    """Whether a run has all of these settings, named as part.name. Without any, none is meant."""
    values = run.to_dict()
    return bool(settings) and all(
        name.partition(".")[2] in values.get(name.partition(".")[0], {})
        and values[name.partition(".")[0]][name.partition(".")[2]] == wanted
        for name, wanted in settings.items()
    )


def _band(name: str, values: Mapping[str, Any]) -> Band:
    return Band(name, whole(values.get("seeds")) or 1, _points(values.get("train")), _points(values.get("held_out")))


def _points(value: Any) -> tuple[Point, ...]:
    """[[step, mean, std], ...]; what cannot be read is left out."""
    rows = [known(row) for row in grid(value)]
    return tuple(Point(int(row[0]), row[1], row[2]) for row in rows if len(row) == 3)
