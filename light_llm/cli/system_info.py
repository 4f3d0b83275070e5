"""Describe this machine for a bug report: versions, processor, memory, disks, packages and cached files.

The description does not identify the machine or its user: it has no user or host name, no path and no value of
an environment variable.
"""

import os
import platform
import re
import shutil
from collections.abc import Mapping
from importlib import metadata

from .. import __version__
from ..text_format import format_bytes
from .cache_info import cached_files

# The optional dependencies of pyproject.toml.
OPTIONAL_PACKAGES = (
    *("pyarrow", "wandb", "pillow", "tensorboard", "matplotlib"),
    *("transformers", "gguf", "onnx", "onnxruntime", "onnxscript", "lm-eval"),
)


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
