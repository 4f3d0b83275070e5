"""Pictures of attention for trackers: numbers to pixels, with nothing but NumPy."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .metrics import Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

LIGHT_TO_DARK = ((250, 250, 245), (70, 145, 195), (10, 30, 80))  # red, green, blue at 0, 1/2 and 1
NOTHING = (205, 205, 205)  # a cell without a number: the future, in an attention map
SIDE = 320  # pixels that the longer side gets at least, if a cell is one pixel or more


@dataclass(frozen=True)
class Image:
    """Pixels (rows, columns, 3) of red, green and blue, 0 to 255, and what they show."""

    pixels: NDArray[np.uint8]
    caption: str


def heatmap(rows: Sequence[Sequence[float | None]], *, side: int = SIDE) -> NDArray[np.uint8]:
    """Numbers from 0 to 1 as squares from light to dark; short rows, None and NaN leave grey.

    The colour goes with the square root of the number: a weight of 1/100, even attention over a hundred tokens, is
    still told from 0. The scale is the same in every picture, so that two of them can be compared.

    Returns:
        (rows, columns, 3) pixels, each number a square of equal size.
    """
    import numpy as np

    grid = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
    for place, row in enumerate(rows):
        grid[place, : len(row)] = [np.nan if number is None else number for number in row]
    at = np.sqrt(np.clip(grid, 0, 1))
    stops = np.linspace(0, 1, len(LIGHT_TO_DARK))
    channels = [np.interp(at, stops, levels) for levels in zip(*LIGHT_TO_DARK, strict=True)]
    pixels = np.where(np.isnan(grid)[..., None], NOTHING, np.stack(channels, axis=-1)).round().astype(np.uint8)
    cell = max(1, -(-side // max(1, *grid.shape)))
    return pixels.repeat(cell, axis=0).repeat(cell, axis=1)


def row_images(row: Row) -> dict[str, Image]:
    """What can be seen in a row: the maps of an `attention` row, the relative entropies of a `probe` row.

    A map is named by why its head was chosen, so that a name shows the same thing throughout a run.
    """
    if row.get("kind") == "attention":
        words = " ".join(str(token) for token in row.get("tokens", ()))
        found: dict[str, Image] = {}
        for chosen in row.get("maps", ()):
            head, why = f"l{chosen['layer']}.h{chosen['head']}", str(chosen.get("why", ""))
            name = f"attention_maps/{re.sub(r'[^a-z0-9]+', '_', why.lower()).strip('_') or head}"
            caption = f"step {row['step']}, {head}: {why}. Rows look back at columns: {words}"
            found[name if name not in found else f"{name}_{head}"] = Image(heatmap(chosen["weights"]), caption)
        return found
    relative = (row.get("attention") or {}).get("relative") if row.get("kind") == "probe" else None
    if not relative:
        return {}
    caption = f"step {row['step']}: entropy of attention over its maximum, layers down, heads across, 0 light to 1 dark"
    return {"attention_maps/relative_entropy": Image(heatmap(relative), caption)}
