"""Print tables and styled text: as wide as the terminal, or plain and unwrapped in a pipe."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Column, Table


def print_rich(*parts: RenderableType) -> None:
    """Print to standard output, without trailing spaces."""
    from rich.console import Console

    # Into a pipe, use a width so large that no line is wrapped or truncated.
    console = Console(highlight=False, width=None if Console().is_terminal else 10_000)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    # Printed by `print` and not by rich, so that a closed pipe raises BrokenPipeError as in every other command.
    for line in captured.get().split("\n")[:-1]:
        print(line.rstrip())


def number_column(head: str) -> Column:
    """Return a column of numbers: aligned to the right, never wrapped."""
    from rich.table import Column

    return Column(head, justify="right", no_wrap=True)


def new_table(*heads: str | Column, header: bool = True) -> Table:
    """Return an empty table without rules: dim headers, two spaces between columns."""
    from rich.table import Table

    return Table(*heads, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_header=header)
