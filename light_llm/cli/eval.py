"""`light-llm eval`: the same as `light-llm generate eval`."""

from collections.abc import Sequence

from . import generate


def command(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    return generate.command(["eval", *argv])
