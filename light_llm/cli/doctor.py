"""`light-llm doctor`: whether this device computes right, and what this machine is."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from rich.table import Column, Table
from rich.text import Text
from tyro.conf import arg

from ..text_format import format_duration
from .args import parse
from .output import columns, show
from .progress import counting

if TYPE_CHECKING:
    from ..doctor import Diagnosis, Finding


@dataclass(frozen=True)
class DoctorFlags:
    """The flags of `doctor`."""

    device: Annotated[str, arg(metavar="NAME", help="auto, cpu, cuda, mps")] = "auto"
    quick: Annotated[bool, arg(help="seconds: the known faults only")] = False
    compile: Annotated[bool, arg(help="the compiled step too")] = False
    json: Annotated[bool, arg(help="one JSON object, nothing else")] = False


def command(argv: Sequence[str]) -> int:
    """Run the verb. Returns 0 where the device is safe, with the remedies named, and 2 where it is not."""
    about = (
        "Whether this device computes right: fixed cases against float64 on the CPU, in about a minute. "
        "Says what is safe, and what light-llm does about the rest. Exit code 0: safe; 2: not."
    )
    flags, _ = parse(DoctorFlags, argv, prog="light-llm doctor", about=about)
    from ..doctor import core, full
    from ..runtime import choose_device, configure_malloc, limit_threads
    from .surroundings import surroundings, surroundings_lines

    configure_malloc()
    limit_threads()
    device = choose_device(flags.device).value
    examine = core if flags.quick else full
    with counting("examining", quiet=flags.json) as tell:
        found = examine(device, compile=flags.compile, progress=lambda done, total, _: tell(done, total))
    machine = surroundings()
    if flags.json:
        print(json.dumps({**found.to_dict(), "machine": machine}, indent=1))
    else:
        _show(found, surroundings_lines(machine))
    return 0 if found.safe else 2


def _show(found: Diagnosis, machine: Sequence[str]) -> None:
    from ..doctor.words import verdict_lines

    head, *lines = verdict_lines(found)
    show(Text(head, style="bold green" if found.safe else "bold red"), *map(Text, lines), "")
    show(
        _table(found),
        Text(f"\n{len(found.findings)} cases in {format_duration(found.seconds)}\n", style="dim"),
        *map(Text, machine),
    )


def _table(found: Diagnosis) -> Table:
    """A line a case; `of it` is the error as a share of what is allowed."""
    right = {"justify": "right", "no_wrap": True}
    number: dict[str, Any] = right
    table = columns(
        Column("case", no_wrap=True),
        Column("format", no_wrap=True),
        Column("error", **number),
        Column("allowed", **number),
        Column("of it", **number),
        "verdict",
    )
    for finding in found.findings:
        style = "" if finding.ok else "bold red" if finding.wrong else "yellow"
        table.add_row(finding.case, finding.dtype, *_numbers(finding), Text(finding.verdict, style=style))
    return table


def _numbers(finding: Finding) -> tuple[str, str, str]:
    """Error, tolerance, and the first as a share of the second."""
    error, tolerance = finding.error, finding.tolerance
    if tolerance is None:
        return "-", "-", "-"
    if error is None:
        return "no number", f"{tolerance:.2g}", "-"
    return f"{error:.2g}", f"{tolerance:.2g}", f"{error / tolerance:.0%}" if tolerance else "-"
