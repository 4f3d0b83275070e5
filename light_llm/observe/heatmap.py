"""Draw heat maps of attention for trackers, with NumPy only."""

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
MISSING_COLOR = (205, 205, 205)  # a cell without a number, such as the future in an attention map
MIN_SIDE = 320  # pixels of the longer side, unless each cell would be smaller than a pixel


@dataclass(frozen=True)
class Image:
    """Pixels (rows, columns, 3) of red, green and blue, 0 to 255, and a caption."""

    pixels: NDArray[np.uint8]
    caption: str


def heatmap(rows: Sequence[Sequence[float | None]], *, min_side: int = MIN_SIDE) -> NDArray[np.uint8]:
    """Draw numbers from 0 to 1 as squares from light to dark; missing cells, None and NaN are grey.

    The colour is that of the square root, so that a weight of 1/100 (even attention over a hundred tokens) differs
    visibly from 0. The scale is the same in every image, so that two can be compared.

    Returns:
        (rows, columns, 3) pixels, each number a square of equal size.
    """
    import numpy as np

    grid = np.full((len(rows), max(map(len, rows), default=0)), np.nan)
    for i, row in enumerate(rows):
        grid[i, : len(row)] = [np.nan if number is None else number for number in row]
    shade = np.sqrt(np.clip(grid, 0, 1))
    stops = np.linspace(0, 1, len(LIGHT_TO_DARK))
    channels = [np.interp(shade, stops, levels) for levels in zip(*LIGHT_TO_DARK, strict=True)]
    pixels = np.where(np.isnan(grid)[..., None], MISSING_COLOR, np.stack(channels, axis=-1)).round().astype(np.uint8)
    cell = max(1, -(-min_side // max(1, *grid.shape)))
    return pixels.repeat(cell, axis=0).repeat(cell, axis=1)


def row_images(row: Row) -> dict[str, Image]:
    """Return the images of a row by name: the maps of an `attention` row, the relative entropies of a `probe` row.

    A map is named after the reason why its head was selected, so that one name shows the same thing throughout a run.
    """
    if row.get("kind") == "attention":
        words = " ".join(str(token) for token in row.get("tokens", ()))
        images: dict[str, Image] = {}
        for selected in row.get("maps", ()):
            head, reason = f"l{selected['layer']}.h{selected['head']}", str(selected.get("why", ""))
            name = f"attention_maps/{re.sub(r'[^a-z0-9]+', '_', reason.lower()).strip('_') or head}"
            caption = f"step {row['step']}, {head}: {reason} of all heads. Rows attend to columns: {words}"
            images[name if name not in images else f"{name}_{head}"] = Image(heatmap(selected["weights"]), caption)
        return images
    relative = (row.get("attention") or {}).get("relative") if row.get("kind") == "probe" else None
    if not relative:
        return {}
    caption = f"step {row['step']}: relative entropy of attention, layers down, heads across; 0 is light, 1 is dark"
    return {"attention_maps/relative_entropy": Image(heatmap(relative), caption)}
