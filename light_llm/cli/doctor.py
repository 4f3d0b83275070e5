"""`light-llm doctor`: check that this device computes correctly, and describe this machine."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from rich.text import Text
from tyro.conf import arg

from .args import parse
from .output import print_rich
from .progress import counting


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
    from .system_info import system_info

    configure_process()
    device = choose_device(flags.device).value
    run = quick_check if flags.quick else full_check
    with counting("checking", quiet=flags.json) as update:
        diagnosis = run(device, compile=flags.compile, progress=update)
    machine = system_info()
    if flags.json:
        print(json.dumps({**diagnosis.to_dict(), "machine": machine}, indent=1))
    else:
        headline, *lines = diagnosis.lines()
        print_rich(Text(headline, style="bold green" if diagnosis.safe else "bold red"))
        print(*lines, "", *(f"{name:11}{text}" for name, text in machine.items()), sep="\n")
    return 0 if diagnosis.safe else 2
