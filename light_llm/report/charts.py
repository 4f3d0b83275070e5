"""Small charts for a terminal, as lines of text: braille dots and shades, or ASCII for terminals without those."""

from collections.abc import Sequence
from dataclasses import dataclass

from .coerce import Number, drop_none, mean_of

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # bits of a braille character: 4 rows of 2
BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.-=+*#@"
SHADES, ASCII_SHADES = " ░▒▓█", " .+*#"
LABEL_WIDTH = 9  # columns for the numbers beside a chart


@dataclass(frozen=True)
class Series:
    """A curve; with a `mark` its points are drawn as that letter, otherwise as dots."""

    x: Sequence[float]
    y: Sequence[Number]
    mark: str = ""


def line_chart(series: Sequence[Series], *, width: int = 72, height: int = 10, plain: bool = False) -> list[str]:
    """Draw curves over one another, with the ends of both axes as numbers; [] if there are fewer than two points.

    Args:
        width, height: in characters, numbers included.
        plain: ASCII only.
    """
    points = [(x, y) for s in series for x, y in zip(s.x, s.y, strict=True) if y is not None]
    if len(points) < 2:
        return []
    (left, right), (low, high) = ((min(v), max(v)) for v in zip(*points, strict=True))
    columns, rows = width - LABEL_WIDTH - 1, height - 1
    # A braille character holds 2 x 4 dots.
    dots_across, dots_down = (columns, rows) if plain else (2 * columns, 4 * rows)
    cells = [[0] * columns for _ in range(rows)]
    letters: dict[tuple[int, int], str] = {}
    for s in series:
        for x, y in zip(s.x, s.y, strict=True):
            if y is None:
                continue
            column = round((x - left) / (right - left or 1.0) * (dots_across - 1))
            row = round((high - y) / (high - low or 1.0) * (dots_down - 1))
            cell = (row, column) if plain else (row // 4, column // 2)
            if s.mark or plain:
                letters[cell] = s.mark or letters.get(cell, ".")
            else:
                cells[cell[0]][cell[1]] |= DOTS[row % 4][column % 2]
    lines = []
    for r in range(rows):
        label = f"{high:.3g}" if r == 0 else f"{low:.3g}" if r == rows - 1 else ""
        text = "".join(letters.get((r, c)) or (chr(0x2800 + dots) if dots else " ") for c, dots in enumerate(cells[r]))
        lines.append(f"{label:>{LABEL_WIDTH}} {text}".rstrip())
    first, last = f"{left:,.0f}", f"{right:,.0f}"
    return [*lines, " " * (LABEL_WIDTH + 1) + f"{first}{last:>{columns - len(first)}}"]


def sparkline(values: Sequence[Number], width: int = 60, *, plain: bool = False) -> str:
    """Draw a curve in one line: each letter is the mean of a stretch, between the lowest and the highest mean.

    >>> sparkline([1, 2, 3, 4, 5, 6, 7, 8]), sparkline([1.0, None, 8.0], plain=True), sparkline([])
    ('▁▂▃▄▅▆▇█', '_ @', '')
    """
    letters = ASCII_BLOCKS if plain else BLOCKS
    n = min(width, len(values))
    means = [mean_of(values[i * len(values) // n : (i + 1) * len(values) // n]) for i in range(n)]
    low, high = min(drop_none(means), default=0.0), max(drop_none(means), default=0.0)
    scale = (len(letters) - 1) / (high - low or 1.0)
    return "".join(" " if m is None else letters[round((m - low) * scale)] for m in means)


def shaded_rows(
    names: Sequence[str], values: Sequence[Sequence[Number]], *, width: int = 80, plain: bool = False
) -> list[str]:
    """Draw a heat map of shares, a row per line, with its numbers if they fit."""
    letters, label = ASCII_SHADES if plain else SHADES, max(map(len, names), default=0)
    fits = all(label + 9 * len(row) + 1 <= width for row in values)
    lines = []
    for name, row in zip(names, values, strict=True):
        grey = ["?" if v is None else letters[round(min(1.0, max(0.0, v)) * (len(letters) - 1))] for v in row]
        numbers = ["" if not fits else " -   " if v is None else f" {v:.2f}" for v in row]
        cells = [2 * letter + number for letter, number in zip(grey, numbers, strict=True)]
        lines.append(f"{name:>{label}}  {('  ' if fits else ' ').join(cells)}".rstrip()[:width])
    return lines
