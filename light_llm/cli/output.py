"""What a verb shows: styled and as wide as the terminal; in a pipe plain, each line whole."""

from rich.console import Console, RenderableType
from rich.table import Column, Table

_WIDE = 10_000  # columns of a pipe: nothing is wrapped or cut in one


def print_rich(*parts: RenderableType) -> None:
    """Print to standard output; lines end where their text ends."""
    terminal = Console().is_terminal
    console = Console(highlight=False, width=None if terminal else _WIDE)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    # Printed from here and not by rich, so that a reader who leaves early is handled as for every other verb.
    for line in captured.get().split("\n")[:-1]:
        print(line.rstrip())


def new_table(*heads: str | Column) -> Table:
    """An empty table without lines: the heads dim, two spaces between columns."""
    return Table(*heads, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
