"""`light-llm doctor`: check that this device computes correctly, and describe this machine for a bug report.

The description does not identify the machine or its user: it has no user or host name, no path and no value of an
environment variable.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib import metadata
from typing import Annotated

from rich.text import Text
from tyro.conf import arg

from .. import __version__
from ..text_format import format_bytes
from .args import parse
from .cache_info import cached_files
from .output import print_rich
from .progress import progress_bar

# The optional dependencies of pyproject.toml.
OPTIONAL_PACKAGES = (
    *("pyarrow", "wandb", "pillow", "tensorboard", "matplotlib", "pyte"),
    *("transformers", "gguf", "onnx", "onnxruntime", "onnxscript", "lm-eval"),
)


@dataclass(frozen=True)
class DoctorFlags:
    """The flags of `doctor`."""

    device: Annotated[str, arg(metavar="NAME", help="auto, cpu, cuda, mps")] = "auto"
    quick: Annotated[bool, arg(help="run only the checks for known faults")] = False
    compile: Annotated[bool, arg(help="also check the compiled training step")] = False
    json: Annotated[bool, arg(help="print one JSON object")] = False


def command(argv: Sequence[str]) -> int:
    """Print the results of the checks. Returns 0 if the device is safe and 2 if it is not."""
    about = (
        "Check that this device computes correctly: compare its results on fixed inputs with float64 on the CPU. This "
        "takes about a minute. If a check fails, it names the flag that avoids the problem. Exit code 0: safe; 2: not "
        "safe."
    )
    flags, _ = parse(DoctorFlags, argv, prog="light-llm doctor", about=about)
    from ..doctor import full_check, quick_check
    from ..runtime import choose_device, configure_process

    configure_process()
    device = choose_device(flags.device).value
    run = quick_check if flags.quick else full_check
    duration = "about half a minute" if flags.quick else "one to two minutes"
    # On standard error, so that the JSON object is alone on standard output.
    with progress_bar(stage_help={"checking": f"{device} against float64, {duration}"}) as show:
        diagnosis = run(device, compile=flags.compile, progress=partial(show, "checking"))
    machine = system_info()
    if flags.json:
        print(json.dumps({**diagnosis.to_dict(), "machine": machine}, indent=1))
    else:
        headline, *lines = diagnosis.lines()
        print_rich(Text(headline, style="bold green" if diagnosis.safe else "bold red"))
        print(*lines, "", *(f"{name:11}{text}" for name, text in machine.items()), sep="\n")
    return 0 if diagnosis.safe else 2


def system_info() -> dict[str, str]:
    """Return facts by name, each as one line of text."""
    import torch

    from ..runtime import choose_device, device_name, memory_limit, offline_dir, usable_cores
    from ..runtime.device import COMPILERS

    device = choose_device("auto").value
    limit = memory_limit(device)
    accelerator = torch.accelerator.current_accelerator(check_available=False)
    built_for = f"{accelerator.type} {getattr(torch.version, accelerator.type, '')}" if accelerator else "cpu"
    # The digits alone: the name of the person who built a kernel may follow them.
    version = re.match(r"\d+(\.\d+)*", platform.mac_ver()[0] or platform.release())
    system = (platform.system(), version[0] if version else "", platform.machine(), *platform.libc_ver())
    installed = {package.name.lower(): package.version for package in metadata.distributions()}
    return {
        "light-llm": __version__,
        "python": platform.python_version(),
        "torch": f"{torch.__version__}, built for {built_for.strip()}, threads {torch.get_num_threads()}",
        "system": " ".join(filter(None, system)),
        "processor": f"{usable_cores()} of {os.cpu_count()} cores, {torch.backends.cpu.get_cpu_capability()}",
        "memory": f"{format_bytes(limit.bytes)} {limit.reason}" if limit else "unknown",
        "disk": f"{format_bytes(shutil.disk_usage('.').free)} free here",
        "compiler": next(filter(shutil.which, COMPILERS), "none"),
        "gpu": "none" if device == "cpu" else f"{device_name(device)}, {device}",
        "extras": describe({name: installed[name] for name in OPTIONAL_PACKAGES if name in installed}),
        "offline": "LIGHT_LLM_OFFLINE_DIR is set" if offline_dir() else "LIGHT_LLM_OFFLINE_DIR is not set",
        "cache": describe(cached_files()),
    }


def describe(values: Mapping[str, object]) -> str:
    """Return "name value, name value"; "none" without values."""
    return ", ".join(f"{name} {value}" for name, value in values.items()) or "none"
