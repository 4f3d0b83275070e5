"""What this machine is to light-llm: versions, processor, memory, disks, packages, and the files kept on it.

Nothing here says whose machine it is: no name of a user or a host, no path but the cache's usual one below `~`, no
value of an environment variable. It may be put into a report of a fault as it is.
"""

import os
import platform
import re
import shutil
import textwrap
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import Any

from .. import __version__
from ..text_format import format_bytes
from .cache_info import cached_files, offline_files

EXTRAS = {  # of pyproject.toml: what is not needed to train and write
    "parquet": ("pyarrow",),
    "wandb": ("wandb", "pillow"),
    "tensorboard": ("tensorboard",),
    "bench": ("matplotlib",),
    "hf": ("transformers",),
    "gguf": ("gguf",),
    "onnx": ("onnx", "onnxruntime", "onnxscript"),
    "eval": ("lm-eval",),
    "dev": ("transformers",),
}
WIDTH, LABEL = 80, 9


def surroundings(*, check_shards: bool = False) -> dict[str, Any]:
    """All facts, as plain values that JSON takes; None where the system does not say. Sizes are bytes.

    Args:
        check_shards: hash every byte of the shards; otherwise their manifests and sizes alone are looked at.
    """
    from ..runtime import cache_dir

    return {
        "light_llm": __version__,
        "python": platform.python_version(),
        "torch": _torch(),
        "system": _system(),
        "processor": _processor(),
        "memory": _memory(),
        "disk": {"here": _free(Path.cwd()), "cache": _free(cache_dir())},
        "compiler": _compiler(),
        "gpu": _gpu(),
        "extras": {package: _version(package) for packages in EXTRAS.values() for package in packages},
        "offline": offline_files(),
        "cache": cached_files(check_shards=check_shards),
    }


def _torch() -> dict[str, Any]:
    import torch

    made_for = torch.accelerator.current_accelerator(check_available=False)
    return {
        "version": str(torch.__version__),
        "built_for": made_for.type if made_for else "cpu",
        "toolkit": getattr(torch.version, made_for.type, None) if made_for else None,
        "threads": torch.get_num_threads(),
    }


def _system() -> dict[str, Any]:
    """Name and version, without what someone who built the kernel called it."""
    version = platform.mac_ver()[0] or platform.release()
    numbers = re.match(r"\d+(\.\d+)*", version)
    return {
        "name": platform.system(),
        "version": numbers.group() if numbers else None,
        "machine": platform.machine(),
        "libc": " ".join(filter(None, platform.libc_ver())) or None,
    }


def _processor() -> dict[str, Any]:
    import torch

    from ..runtime import usable_cores

    return {
        "cores": os.cpu_count(),
        "usable_cores": usable_cores(),
        "capability": torch.backends.cpu.get_cpu_capability(),
        "bfloat16": _asked(lambda: torch.ops.mkldnn._is_mkldnn_bf16_supported()),
        "amx": _asked(lambda: torch.cpu._is_amx_tile_supported()),
    }


def _asked(question: Callable[[], bool]) -> bool | None:
    """An answer of one of torch's private functions; None in a torch that has it no longer."""
    try:
        return bool(question())
    except (AttributeError, RuntimeError):
        return None


def _memory() -> dict[str, int | None]:
    """What the machine has and has left, and what limits this process to less."""
    from ..runtime import available_memory, container_limit, shell_limit, total_memory

    return {
        "total": total_memory(),
        "available": available_memory(),
        "container": container_limit(),
        "address_space": shell_limit("RLIMIT_AS"),
        "data": shell_limit("RLIMIT_DATA"),
    }


def _free(folder: Path) -> int | None:
    """Bytes that are free where a folder is or would be made."""
    folder = folder.absolute()
    with suppress(OSError, StopIteration):
        return shutil.disk_usage(next(path for path in [folder, *folder.parents] if path.is_dir())).free
    return None


def _compiler() -> str | None:
    """The C++ compiler that `--compile on` would find on a CPU, by name."""
    from ..runtime.precision import COMPILERS

    return next((name for name in COMPILERS if shutil.which(name)), None)


def _gpu() -> dict[str, Any] | None:
    import torch

    from ..runtime import choose_device, device_name

    device = choose_device("auto").value
    if not torch.accelerator.is_available():
        return None
    module = torch.get_device_module(device)
    memory = None
    with suppress(AttributeError, RuntimeError):
        most = getattr(module, "recommended_max_memory", None)  # of Apple's, which shares the machine's memory
        memory = int(most() if most else module.get_device_properties(device).total_memory)
    return {"name": device_name(device), "kind": device, "memory": memory}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def surroundings_lines(facts: Mapping[str, Any]) -> list[str]:
    """The same for people, in lines of at most 80 columns: a label, and what is to be said of it."""
    torch, system, gpu = facts["torch"], facts["system"], facts["gpu"]
    threads = _several(torch["threads"], "thread")
    kernel = " ".join(filter(None, (system["name"], system["version"])))
    build = " ".join(filter(None, (torch["built_for"], torch["toolkit"])))
    machine = ", ".join(filter(None, (kernel, system["machine"], system["libc"])))
    parts = {
        "version": f"light-llm {facts['light_llm']}, Python {facts['python']}",
        "torch": f"{torch['version']}, built for {build}; {threads}",
        "system": machine,
        "cores": _cores(facts["processor"]),
        "memory": "; ".join(_memory_parts(facts["memory"])),
        "disk": f"{_size(facts['disk']['here'])} free here, {_size(facts['disk']['cache'])} for the cache",
        "gpu": f"{gpu['name']} ({gpu['kind']}), {_size(gpu['memory'])}" if gpu else "none found",
        "compiler": facts["compiler"] or "no C++ compiler found; --compile on needs one on a CPU",
        "extras": _extras(facts["extras"]),
        "offline": _offline(facts["offline"]),
        "cache": _cache(facts["cache"]),
    }
    return [line for label, text in parts.items() for line in _wrapped(label, text)]


def _wrapped(label: str, text: str) -> list[str]:
    head, indent = f"{label:{LABEL}}", " " * LABEL
    return textwrap.wrap(text, WIDTH, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False)


def _cores(processor: Mapping[str, Any]) -> str:
    features = [processor["capability"]]
    if processor["bfloat16"] is not None:
        features.append("bfloat16 in hardware" if processor["bfloat16"] else "no bfloat16 in hardware")
    if processor["amx"]:
        features.append("AMX")
    return f"{processor['usable_cores']} usable of {processor['cores']}; {', '.join(features)}"


def _memory_parts(memory: Mapping[str, int | None]) -> Iterator[str]:
    yield f"{_size(memory['total'])}, {_size(memory['available'])} available"
    names = {"container": "the container", "address_space": "ulimit -v", "data": "ulimit -d"}
    for key, name in names.items():
        if memory[key] is not None:
            yield f"{name} allows {_size(memory[key])}"


def _extras(extras: Mapping[str, str | None]) -> str:
    here = ", ".join(f"{name} {version}" for name, version in extras.items() if version)
    missing = ", ".join(name for name, version in extras.items() if not version)
    return "; ".join(filter(None, (here, missing and f"not installed: {missing}")))


def _offline(offline: Mapping[str, Any]) -> str:
    if not offline["set"]:
        return "LIGHT_LLM_OFFLINE_DIR is not set"
    files = ", ".join(f"{name} {state}" for name, state in offline["files"].items())
    more = f"; all files of {', '.join(offline['sources'])}" if offline["sources"] else ""
    return f"LIGHT_LLM_OFFLINE_DIR is set: {files}{more}"


def _cache(cache: Mapping[str, Any]) -> str:
    where = "LIGHT_LLM_CACHE is set" if cache["place"] == "set" else cache["place"]
    kinds = ("texts", "shards", "tokenizers")
    kept = ", ".join(_several(cache[kind], kind.removesuffix("s")) for kind in kinds)
    known = "".join(f"; {name} {state}" for name, state in cache["files"].items())
    damaged = ", ".join(f"{n} of {kind}" for kind, n in cache["damaged"].items())
    verdict = f"damaged: {damaged}" if damaged else "none damaged"
    how = "every byte checked" if cache["shards_checked"] else "shards checked by size alone"
    partial = f"; {_several(cache['partial'], 'unfinished file')}" if cache["partial"] else ""
    return f"{where}: {_size(cache['bytes'])}, {kept}{known}{partial}; {verdict}; {how}"


def _several(n: int, what: str) -> str:
    """
    >>> _several(1, "thread"), _several(2, "thread")
    ('1 thread', '2 threads')
    """
    return f"{n:,} {what}{'s' * (n != 1)}"


def _size(n: int | None) -> str:
    return "unknown" if n is None else format_bytes(n)
