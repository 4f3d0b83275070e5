"""Print tables and styled text: as wide as the terminal, or plain and unwrapped in a pipe."""

from rich.console import Console, RenderableType
from rich.table import Column, Table

_PIPE_WIDTH = 10_000  # columns; so wide that no line is wrapped or truncated


def print_rich(*parts: RenderableType) -> None:
    """Print to standard output, without trailing spaces."""
    terminal = Console().is_terminal
    console = Console(highlight=False, width=None if terminal else _PIPE_WIDTH)
    with console.capture() as captured:
        for part in parts:
            console.print(part)
    # Printed by `print` and not by rich, so that a closed pipe raises BrokenPipeError as in every other command.
    for line in captured.get().split("\n")[:-1]:
        print(line.rstrip())


def new_table(*heads: str | Column) -> Table:
    """Return an empty table without lines: dim heads, two spaces between columns."""
    return Table(*heads, box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim")
