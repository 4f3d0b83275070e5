"""Draw a terminal of 80 columns in which commands have run, for the front page.

    python benchmarks/terminal_picture.py [COMMAND ...]

The commands run in a temporary folder, in a pseudo-terminal, and what they write is read by a terminal emulator, so the
picture is what a person sees at the end. It goes to docs/images/terminal.svg. Needs the extra [bench].
"""

import argparse
import fcntl
import os
import pty
import shlex
import struct
import subprocess
import tempfile
import termios
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from xml.sax.saxutils import escape

import pyte
from pyte.screens import Char

PICTURE = Path(__file__).parent.parent / "docs" / "images" / "terminal.svg"
COMMANDS = (
    "light-llm train --config shakespeare-modern",
    "light-llm generate text --prompt ROMEO: --max-new-tokens 80",
)
COLUMNS, ROWS = 80, 400  # so many rows that nothing scrolls away
CELL, LINE, SIZE, MARGIN = 8.4, 19, 14, 18  # pixels: width and height of a cell, size of its letters, border
INK, PAPER, PROMPT = "#d8dee4", "#14181d", "#6cc38d"
COLORS = {
    "black": "#5d646c",
    "red": "#f08a80",
    "green": "#6cc38d",
    "brown": "#e2ac4f",
    "blue": "#7db9de",
    "magenta": "#c893d8",
    "cyan": "#6cc7c9",
    "white": INK,
    "brightblack": "#7b858e",
}


class Screen(pyte.Screen):
    """A terminal that knows the faint letters of rich, which pyte does not: they get a colour of their own."""

    def select_graphic_rendition(self, *attributes: int, **more: bool) -> None:
        super().select_graphic_rendition(*(38, 2, 0x98, 0xA2, 0xAB) if attributes == (2,) else attributes, **more)


def main() -> None:
    """Run the commands and draw the terminal."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("commands", nargs="*", default=COMMANDS, metavar="COMMAND")
    parser.add_argument("--out", type=Path, default=PICTURE, metavar="FILE")
    flags = parser.parse_args()
    rows: list[list[Char]] = []
    with tempfile.TemporaryDirectory() as folder:
        for command in flags.commands:
            prompt = [Char("$", fg=PROMPT[1:], bold=True), *map(Char, f" {command}")]
            wrapped = [prompt[i : i + COLUMNS] for i in range(0, len(prompt), COLUMNS)]
            rows += [*([[]] if rows else []), *wrapped, *run(shlex.split(command), folder)]
    flags.out.write_text(draw(rows), encoding="utf-8")
    print(f"{flags.out}  {len(rows)} rows, {flags.out.stat().st_size / 1024:.0f} kB")


def run(words: Sequence[str], folder: str) -> list[list[Char]]:
    """Run a command in a pseudo-terminal and return the rows it leaves there.

    Raises:
        CalledProcessError: the command failed.
    """
    screen = Screen(COLUMNS, ROWS)
    stream = pyte.ByteStream(screen)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    environment = {k: v for k, v in os.environ.items() if k not in ("COLUMNS", "LINES", "NO_COLOR")}
    environment |= {"TERM": "xterm-256color"}
    child = subprocess.Popen(words, cwd=folder, env=environment, stdin=theirs, stdout=theirs, stderr=theirs)
    os.close(theirs)
    try:
        while data := os.read(ours, 65536):
            stream.feed(data)
    except OSError:  # Linux ends a pseudo-terminal by an error
        pass
    os.close(ours)
    if child.wait():
        raise subprocess.CalledProcessError(child.returncode, words, "\n".join(screen.display).rstrip())
    rows = [[screen.buffer[y][x] for x in range(COLUMNS)] for y in range(ROWS)]
    while rows and all(cell.data in ("", " ") for cell in rows[-1]):
        rows.pop()
    return rows


def draw(rows: Sequence[Sequence[Char]]) -> str:
    """Return the rows as an SVG picture. Each stretch of one style gets its width, so that any font fits the cells."""
    width, height = COLUMNS * CELL + 2 * MARGIN, len(rows) * LINE + 2 * MARGIN
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:g} {height:g}" width="{width:g}" role="img">',
        "<title>A terminal: a model is trained, and generates text</title>",
        f'<rect width="100%" height="100%" rx="10" fill="{PAPER}"/>',
        f'<g font-family="ui-monospace, SFMono-Regular, Menlo, Consolas, monospace" font-size="{SIZE}">',
    ]
    for y, row in enumerate(rows):
        x = 0
        for (color, weight), group in groupby(row, key=_style):
            text = "".join(cell.data for cell in group)
            if text.strip():
                lines.append(_text(text, x, y, color, weight))
            x += len(text)
    return "\n".join([*lines, "</g>", "</svg>", ""])


def _style(cell: Char) -> tuple[str, str]:
    color = INK if cell.fg == "default" else COLORS.get(cell.fg, f"#{cell.fg}")
    return color, "bold" if cell.bold else "normal"


def _text(text: str, x: int, y: int, color: str, weight: str) -> str:
    """Return a stretch of text that begins in column x of row y."""
    left = len(text) - len(text.lstrip())
    words = text.strip()
    place = f'x="{MARGIN + (x + left) * CELL:.1f}" y="{MARGIN + y * LINE + SIZE:g}"'
    bold = ' font-weight="bold"' if weight == "bold" else ""
    fit = f'textLength="{len(words) * CELL:.1f}" lengthAdjust="spacingAndGlyphs"'
    return f'<text {place} fill="{color}"{bold} {fit} xml:space="preserve">{escape(words)}</text>'


if __name__ == "__main__":
    main()
