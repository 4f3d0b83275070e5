"""`light-llm doctor`: check that this device computes correctly, and describe this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from rich.table import Column, Table
from rich.text import Text
from tyro.conf import arg

from ..text_format import format_duration
from .args import parse
from .output import new_table, number_column, print_rich
from .progress import counting

if TYPE_CHECKING:
    from ..doctor import Diagnosis


@dataclass(frozen=True)
class DoctorFlags:
    """The flags of `doctor`."""

    device: Annotated[str, arg(metavar="NAME", help="auto, cpu, cuda, mps")] = "auto"
    quick: Annotated[bool, arg(help="seconds: the known faults only")] = False
    compile: Annotated[bool, arg(help="the compiled step too")] = False
    json: Annotated[bool, arg(help="one JSON object, nothing else")] = False


def command(argv: Sequence[str]) -> int:
    """Print the results of the checks. Returns 0 if the device is safe and 2 if it is not."""
    about = (
        "Check that this device computes correctly: fixed inputs against float64 on the CPU, in about a minute. "
        "Names the flag that avoids what is wrong. Exit code 0: safe; 2: not."
    )
    flags, _ = parse(DoctorFlags, argv, prog="light-llm doctor", about=about)
    from ..doctor import full_check, quick_check
    from ..runtime import choose_device, configure_process
    from .system_info import system_info, system_info_lines

    configure_process()
    device = choose_device(flags.device).value
    run = quick_check if flags.quick else full_check
    with counting("checking", quiet=flags.json) as update:
        diagnosis = run(device, compile=flags.compile, progress=lambda done, total, _: update(done, total))
    machine = system_info()
    if flags.json:
        print(json.dumps({**diagnosis.to_dict(), "machine": machine}, indent=1))
    else:
        headline, *lines = diagnosis.lines()
        print_rich(Text(headline, style="bold green" if diagnosis.safe else "bold red"), *map(Text, lines), "")
        duration = Text(f"\n{len(diagnosis.findings)} checks in {format_duration(diagnosis.seconds)}\n", style="dim")
        print_rich(results_table(diagnosis), duration, *map(Text, system_info_lines(machine)))
    return 0 if diagnosis.safe else 2


def results_table(diagnosis: Diagnosis) -> Table:
    """Return a table with a row per check; "share" is the error as a share of what is allowed."""
    names = (Column(name, no_wrap=True) for name in ("check", "format"))
    table = new_table(*names, *map(number_column, ("error", "allowed", "share")), "verdict")
    for result in diagnosis.findings:
        style = "" if result.ok else "bold red" if result.failed else "yellow"
        error, limit = result.error, result.tolerance
        shown = ("-" if x is None else f"{x:.2g}" for x in (error, limit))
        share = f"{error / limit:.0%}" if error is not None and limit else "-"
        table.add_row(result.case, result.dtype, *shown, share, Text(result.verdict, style=style))
    return table
