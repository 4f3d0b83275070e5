"""Describe this machine for a bug report: versions, processor, memory, disks, packages and cached files.

The description does not identify the machine or its user: it has no user or host name, no path but the default one of
the cache below ~, and no value of an environment variable.
"""

import os
import platform
import re
import shutil
import textwrap
from collections.abc import Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__
from ..text_format import format_bytes
from .cache_info import cached_files, offline_files

# The optional dependencies of pyproject.toml.
OPTIONAL_PACKAGES = (
    *("pyarrow", "wandb", "pillow", "tensorboard", "matplotlib"),
    *("transformers", "gguf", "onnx", "onnxruntime", "onnxscript", "lm-eval"),
)


def system_info() -> dict[str, Any]:
    """Return all facts as JSON values; None where the system does not tell. Sizes are in bytes."""
    import torch

    from ..runtime import available_memory, cache_dir, container_limit, shell_limit, total_memory, usable_cores
    from ..runtime.device import COMPILERS

    accelerator = torch.accelerator.current_accelerator(check_available=False)
    # The digits alone: the name of the person who built a kernel may follow them.
    version = re.match(r"\d+(\.\d+)*", platform.mac_ver()[0] or platform.release())
    return {
        "light_llm": __version__,
        "python": platform.python_version(),
        "torch": {
            "version": str(torch.__version__),
            "built_for": accelerator.type if accelerator else "cpu",
            "toolkit": getattr(torch.version, accelerator.type, None) if accelerator else None,
            "threads": torch.get_num_threads(),
        },
        "system": {
            "name": platform.system(),
            "version": version.group() if version else None,
            "machine": platform.machine(),
            "libc": " ".join(filter(None, platform.libc_ver())) or None,
        },
        "processor": {
            "cores": os.cpu_count(),
            "usable_cores": usable_cores(),
            "capability": torch.backends.cpu.get_cpu_capability(),
        },
        "memory": {
            "total": total_memory(),
            "available": available_memory(),
            "container": container_limit(),
            "address_space": shell_limit("RLIMIT_AS"),
            "data": shell_limit("RLIMIT_DATA"),
        },
        "disk": {"here": free_space(Path.cwd()), "cache": free_space(cache_dir())},
        "compiler": next(filter(shutil.which, COMPILERS), None),
        "gpu": gpu(),
        "extras": {package: installed_version(package) for package in OPTIONAL_PACKAGES},
        "offline": offline_files(),
        "cache": cached_files(),
    }


def free_space(folder: Path) -> int | None:
    """Return the free bytes of the disk that a folder is on, or would be created on."""
    folder = folder.absolute()
    with suppress(OSError, StopIteration):
        return shutil.disk_usage(next(path for path in [folder, *folder.parents] if path.is_dir())).free
    return None


def gpu() -> dict[str, Any] | None:
    """Return name, kind and memory of the device that `--device auto` takes; None for the CPU."""
    import torch

    from ..runtime import choose_device, device_name

    device = choose_device("auto").value
    if not torch.accelerator.is_available():
        return None
    module = torch.get_device_module(device)
    memory = None
    with suppress(AttributeError, RuntimeError):
        # Apple's GPUs share the memory of the machine and have a recommended share of it instead of a size.
        recommended = getattr(module, "recommended_max_memory", None)
        memory = int(recommended() if recommended else module.get_device_properties(device).total_memory)
    return {"name": device_name(device), "kind": device, "memory": memory}


def installed_version(package: str) -> str | None:
    """Return the version of a package; None if it is not installed."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def system_info_lines(facts: Mapping[str, Any]) -> list[str]:
    """Format `system_info` as lines of at most 80 columns: a label and its values, the unknown ones left out."""
    lines = []
    for name, value in facts.items():
        text = format_value({"free " + k: v for k, v in value.items()} if name == "disk" else value)
        head, indent = f"{name.replace('_', '-'):11}", " " * 11
        lines += textwrap.wrap(text, 80, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False)
    return lines


def format_value(value: Any) -> str:
    """Format a value of `system_info`: sizes with their unit, dicts as "name value, name value".

    >>> format_value({"usable_cores": 2, "total": 16_000_000_000, "container": None, "sources": ["a", "b"]})
    'usable cores 2, total 16.0 GB, sources a and b'
    """
    if isinstance(value, Mapping):
        known = {name: v for name, v in value.items() if v is not None and v != [] and v != {}}
        return ", ".join(f"{name.replace('_', ' ')} {format_value(v)}" for name, v in known.items()) or "unknown"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return format_bytes(value) if value >= 1_000_000 else f"{value:,}"
    return " and ".join(value) if isinstance(value, list) else "none" if value is None else str(value)
