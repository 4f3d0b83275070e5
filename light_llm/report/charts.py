"""Small charts for a terminal, as lines of text: braille dots and shades, or ASCII where those cannot be shown."""

from collections.abc import Sequence
from dataclasses import dataclass

from .tolerant import Number, known

DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))  # of a braille cell: 4 rows of 2
BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_.-=+*#@"
SHADES, ASCII_SHADES = " ░▒▓█", " .+*#"
LABEL = 9  # columns for the numbers beside a chart


@dataclass(frozen=True)
class Series:
    """One curve; with a `mark` its points are drawn as that letter, without one as a line of dots."""

    x: Sequence[float]
    y: Sequence[Number]
    mark: str = ""


def line_chart(series: Sequence[Series], *, width: int = 72, height: int = 10, plain: bool = False) -> list[str]:
    """Curves over one another, the numbers of both axes at their ends. Nothing for curves without two points.

    Args:
        width, height: in characters, the numbers at the left and below included.
        plain: ASCII only.
    """
    points = [(x, y) for s in series for x, y in zip(s.x, s.y, strict=True) if y is not None]
    if len(points) < 2:
        return []
    (left, right), (low, high) = ((min(v), max(v)) for v in zip(*points, strict=True))
    columns, rows = width - LABEL - 1, height - 1
    across, up = (columns, rows) if plain else (2 * columns, 4 * rows)

    def place(x: float, y: float) -> tuple[int, int]:
        column = round((x - left) / (right - left or 1.0) * (across - 1))
        return column, round((high - y) / (high - low or 1.0) * (up - 1))

    cells = [[0] * columns for _ in range(rows)]
    letters: dict[tuple[int, int], str] = {}
    for s in series:
        for x, y in zip(s.x, s.y, strict=True):
            if y is None:
                continue
            column, row = place(x, y)
            at = (row, column) if plain else (row // 4, column // 2)
            if s.mark or plain:
                letters[at] = s.mark or letters.get(at, ".")
            else:
                cells[at[0]][at[1]] |= DOTS[row % 4][column % 2]
    lines = []
    for r in range(rows):
        label = f"{high:.3g}" if r == 0 else f"{low:.3g}" if r == rows - 1 else ""
        drawn = (letters.get((r, c)) or (chr(0x2800 + dots) if dots else " ") for c, dots in enumerate(cells[r]))
        lines.append(f"{label:>{LABEL}} {''.join(drawn)}".rstrip())
    ends = f"{left:,.0f}", f"{right:,.0f}"
    return [*lines, " " * (LABEL + 1) + f"{ends[0]}{ends[1]:>{columns - len(ends[0])}}"]


def sparkline(values: Sequence[Number], width: int = 60, *, plain: bool = False) -> str:
    """A curve in one line: each letter is the mean of a stretch, from the lowest value to the highest.

    >>> sparkline([1, 2, 3, 4, 5, 6, 7, 8]), sparkline([1.0, None, 8.0], plain=True), sparkline([])
    ('▁▂▃▄▅▆▇█', '_ @', '')
    """
    letters = ASCII_BLOCKS if plain else BLOCKS
    width = min(width, len(values))
    stretches = [known(values[i * len(values) // width : (i + 1) * len(values) // width]) for i in range(width)]
    means = [sum(s) / len(s) if s else None for s in stretches]
    low, high = min(known(means), default=0.0), max(known(means), default=0.0)
    scale = (len(letters) - 1) / (high - low or 1.0)
    return "".join(" " if m is None else letters[round((m - low) * scale)] for m in means)


def shade(value: Number, *, plain: bool = False) -> str:
    """A share from 0 to 1 as two letters of a grey.

    >>> shade(0.0), shade(0.5), shade(1.0), shade(1.0, plain=True), shade(None)
    ('  ', '▒▒', '██', '##', '??')
    """
    letters = ASCII_SHADES if plain else SHADES
    if value is None:
        return "??"
    return 2 * letters[round(min(1.0, max(0.0, value)) * (len(letters) - 1))]


def shaded_rows(
    names: Sequence[str], values: Sequence[Sequence[Number]], *, width: int = 80, plain: bool = False
) -> list[str]:
    """A heat map of shares, a row a line: with its numbers where they fit, without them otherwise."""
    label = max(map(len, names), default=0)
    fits = all(label + 9 * len(row) + 1 <= width for row in values)
    lines = []
    for name, row in zip(names, values, strict=True):
        cells = [shade(v, plain=plain) + ("" if not fits else " -   " if v is None else f" {v:.2f}") for v in row]
        lines.append(f"{name:>{label}}  {('  ' if fits else ' ').join(cells)}".rstrip()[:width])
    return lines
