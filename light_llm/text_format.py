"""Format byte sizes, durations, counts, measured numbers and long lines: the same value prints alike everywhere.

Rounded values have three significant digits. Exact counts are written with `f"{n:,}"` where they matter.
"""

import math
import re
import textwrap
from typing import TextIO

ROUNDS_UP = 0.9995  # of a unit: from here on a value is shown as 1.00 of it, so that 999,900 is 1.00M and not 1000k

LABEL = re.compile(
    r"(?:[a-z-]+ {2,}|error: | +)(?=\S)"
)  # what a line of a header begins with: "data     ", or the indent below it
# A command to copy, up to the next punctuation: a line break inside would make it two commands.
COMMAND = re.compile(
    r"light-llm [a-z-]+(?: [^\s,;:()]*[^\s,;:().])*|(?:make|pip|uv) [a-z-]+(?: -\S+)*|--[a-z-]+ [\d.]+"
)
SAMPLE = "  | "  # what each line of a sample begins with


def wrap_line(line: str, width: int) -> list[str]:
    """Break a line at spaces, and indent what follows below the text after its label.

    Words, flags with their number and commands to copy stay whole, even where they are longer than the width.

    >>> wrap_line("plan     memory 5 GB of 12 GB, 7.2 s a step", 30)
    ['plan     memory 5 GB of 12 GB,', '         7.2 s a step']
    >>> wrap_line("next     light-llm generate demo --checkpoint run", 30)
    ['next     light-llm generate demo --checkpoint run']
    >>> wrap_line("  | To be, or not to be", 16)
    ['  | To be, or', '  | not to be']
    """
    if len(line) <= width:
        return [line]
    label = LABEL.match(line)
    indent = " " * len(label[0]) if label and len(label[0]) < width // 2 else ""
    if line.startswith(SAMPLE):
        indent = SAMPLE
    whole = COMMAND.sub(lambda command: command[0].replace(" ", "\0"), line[len(indent) :])
    wrapped = textwrap.wrap(
        whole,
        max(1, width - len(indent)),
        break_long_words=False,
        break_on_hyphens=False,
        replace_whitespace=False,
        expand_tabs=False,
    )
    lines = [indent + part.replace("\0", " ") for part in wrapped]
    return [line[: len(indent)] + lines[0][len(indent) :], *lines[1:]] if lines else [line]


def print_wrapped(text: str, stream: TextIO) -> None:
    """Print lines, each broken at spaces to the width of the terminal if the stream is one."""
    width = terminal_width(stream)
    for line in text.split("\n"):
        print("\n".join(wrap_line(line, width) if width else [line]), file=stream)
    if stream is not None:
        stream.flush()


def terminal_width(stream: TextIO) -> int:
    """Return the columns of a stream's terminal; 0 for a file or a pipe."""
    if stream is None or not stream.isatty():
        return 0
    from rich.console import Console

    return Console(file=stream).width


def format_bytes(n: float) -> str:
    """Return a size in bytes or decimal units, as disks and `df -H` count them.

    >>> [format_bytes(n) for n in (999, 1_500, 45_000_000, 999_900_000, 1_610_000_000, 2.5e12)]
    ['999 bytes', '1.50 kB', '45.0 MB', '1.00 GB', '1.61 GB', '2.50 TB']
    """
    for unit, name in ((1e12, "TB"), (1e9, "GB"), (1e6, "MB"), (1e3, "kB")):
        if abs(n) >= ROUNDS_UP * unit:
            return f"{format_number(n / unit)} {name}"
    return f"{n:.0f} bytes"


def format_duration(seconds: float) -> str:
    """Return a duration: milliseconds, seconds, or two units from a minute upwards. Negative durations count as 0.

    >>> [format_duration(s) for s in (0, 0.0123, 0.8412, 12.34, 59.96, 75, 3700, 200_000)]
    ['0 s', '12.3 ms', '0.841 s', '12.3 s', '1 min 00 s', '1 min 15 s', '1 h 01 min', '2 days 8 h']
    """
    seconds = max(0.0, seconds)  # an estimate of the time left can fall below 0
    if seconds == 0:
        return "0 s"
    if seconds < 0.1:
        return f"{format_number(1000 * seconds)} ms"
    if seconds < 59.95:
        return f"{format_number(seconds)} s"
    minutes, rest = divmod(round(seconds), 60)
    hours = round(seconds / 3600)
    if minutes < 60:
        return f"{minutes} min {rest:02} s"
    return f"{minutes // 60} h {minutes % 60:02} min" if hours < 48 else f"{hours // 24} days {hours % 24} h"


def format_clock(seconds: float) -> str:
    """Return a duration that counts down, in whole seconds, as a clock shows it.

    >>> [format_clock(s) for s in (0, 17.2, 75, 3700, 200_000)]
    ['0:00', '0:17', '1:15', '1:01:40', '2 days 8 h']
    """
    whole = round(max(0.0, seconds))
    if whole >= 48 * 3600:
        return format_duration(seconds)
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def format_count(n: float) -> str:
    """Return a count of parameters or tokens in a few letters.

    >>> [format_count(n) for n in (950, 61_248, 999_900, 30_339_456, 3.1e9)]
    ['950', '61.2k', '1.00M', '30.3M', '3.10B']
    """
    for unit, letter in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if n >= ROUNDS_UP * unit:
            return f"{format_number(n / unit)}{letter}"
    return f"{n:g}"


def format_number(value: float, digits: int = 3) -> str:
    """Return a measured number with `digits` significant digits; from 1,000 upwards whole, from 10^9 with an exponent.

    >>> [format_number(x) for x in (0.01234, 41.234, 123.4, 1234567.0, 1.6e10, float("nan"))]
    ['0.0123', '41.2', '123', '1,234,567', '1.60e+10', 'nan']
    >>> format_number(0.28125, digits=4)
    '0.2812'
    """
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    if 999.5 <= abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:#.{digits}g}".rstrip(".")
