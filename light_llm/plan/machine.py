"""Machine files: TOML that describes the GPUs and the links of a cluster. Those of the package are in `machines/`."""

import math
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..config.validation import repr_short, wrong_type
from ..errors import ConfigError, did_you_mean

MAX_BYTES = 1 << 20  # of a machine file


@dataclass(frozen=True)
class Gpu:
    """A GPU. Its rates are those of bfloat16 products."""

    kind: str  # as in the name that its driver reports: H100
    flops: float  # peak FLOP/s, without sparsity
    efficiency: float  # the share of them that the products of a wide model reach
    bandwidth: float  # bytes/s of its own memory
    memory: float  # bytes

    def is_named(self, name: str) -> bool:
        """Return whether a product name is that of this kind.

        >>> l4 = Gpu("L4", 1.0, 1.0, 1.0, 1.0)
        >>> l4.is_named("NVIDIA L4"), l4.is_named("NVIDIA L40S")
        (True, False)
        """
        return set(_words(self.kind)) <= set(_words(name))


@dataclass(frozen=True)
class Machine:
    """Equal machines with equal GPUs. Links have bytes/s in one direction; None where they are not known."""

    name: str
    gpu: Gpu
    gpus: int  # of one machine
    machines: int | None = None  # None: as many as are asked for
    nvlink: float | None = None  # of one GPU to the others of its machine
    nic: float | None = None  # of one machine to the others
    about: str = ""
    assumed: bool = False  # from data sheets, not measured

    def line(self, W: int) -> float:
        """Return the bytes/s of the slowest link of a ring of W GPUs."""
        inside = math.inf if self.nvlink is None or self.gpus == 1 else self.nvlink
        return inside if W <= self.gpus or self.nic is None else min(inside, self.nic)

    def check_processes(self, W: int) -> None:
        """Raise ConfigError unless W processes can each have a GPU and a link to the others."""
        if self.machines is not None and self.machines * self.gpus < W:
            raise ConfigError(
                f"{{--processes {W}}} is more than the {self.machines * self.gpus} GPUs of {self.name}; "
                f"its file says machines = {self.machines} and gpus = {self.gpus}"
            )
        if W > self.gpus and W % self.gpus:
            below, above = W // self.gpus * self.gpus, -(-W // self.gpus) * self.gpus
            raise ConfigError(
                f"{{--processes {W}}} leaves GPUs without work: the machines of {self.name} have {self.gpus}; "
                f"use {{--processes {below}}} or {{--processes {above}}}"
            )
        for name, needed in (("nvlink", W > 1 and self.gpus > 1), ("nic", W > self.gpus)):
            if needed and getattr(self, name) is None:
                raise ConfigError(f"{self.name} does not say {name}, {NUMBERS[name].what}; {W} processes need it")


@dataclass(frozen=True)
class _Number:
    """A number of a machine file: its limits, its meaning and an example."""

    low: float
    high: float
    what: str
    example: str
    required: bool = True
    whole: bool = False


NUMBERS = {
    "machines": _Number(1, 100_000, "the number of machines", "2", required=False, whole=True),
    "gpus": _Number(1, 1024, "the GPUs of one machine", "8", whole=True),
    "nvlink": _Number(1e6, 1e14, "the bytes/s of a GPU to the others of its machine", "450e9", required=False),
    "nic": _Number(1e5, 1e14, "the bytes/s of a machine to the others", "50e9", required=False),
}
GPU_NUMBERS = {
    "flops": _Number(1e9, 1e18, "the peak FLOP/s of bfloat16 products", "989e12"),
    "efficiency": _Number(0.01, 1, "the share of the peak that wide products reach", "0.57"),
    "bandwidth": _Number(1e9, 1e15, "the bytes/s of the GPU's memory", "3.35e12"),
    "memory": _Number(1e8, 1e14, "the bytes of the GPU's memory", "80e9"),
}


def machine_names() -> list[str]:
    """Return the names of the machine files of the package."""
    return sorted(f.name.removesuffix(".toml") for f in _folder().iterdir() if f.name.endswith(".toml"))


def load_machine(name_or_path: str) -> Machine:
    """Read a machine file: a name means one of the package, anything else is the path of a file.

    Raises:
        ConfigError: no such file, a file that is not TOML, a field that is missing, unknown or out of range.

    >>> load_machine("h100x8").gpu.kind, load_machine("l4x1").nvlink
    ('H100', None)
    """
    names, path = machine_names(), Path(name_or_path)
    if name_or_path in names:
        text, name = str((_folder() / f"{name_or_path}.toml").read_text(encoding="utf-8")), name_or_path
    elif path.is_file():
        if path.stat().st_size > MAX_BYTES:
            raise ConfigError(f"{path} is too large to be a machine file")
        text, name = path.read_text(encoding="utf-8-sig", errors="replace"), path.stem
    else:
        raise ConfigError(
            f"there is no machine or file {name_or_path!r}{did_you_mean(name_or_path, names)} "
            f"The machines are {', '.join(names)}; anything else is the path of a TOML file"
        )
    try:
        return parse_machine(tomllib.loads(text), name)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{name_or_path} is not TOML: {error}") from None
    except ConfigError as error:
        raise ConfigError(f"{name_or_path}: {error.message}") from None


def parse_machine(tables: Mapping[str, Any], name: str) -> Machine:
    """Check the tables of a machine file. Raises ConfigError for a field that is missing, unknown or out of range."""
    gpu = tables.get("gpu")
    if not isinstance(gpu, Mapping):
        raise ConfigError(f"the table [gpu] is missing; it has kind, {', '.join(GPU_NUMBERS)}")
    _check_names(tables, {*NUMBERS, "about", "assumed", "gpu"})
    _check_names(gpu, {*GPU_NUMBERS, "kind"}, "gpu.")
    kind, about, assumed = gpu.get("kind"), tables.get("about", ""), tables.get("assumed", False)
    if not isinstance(kind, str) or not _words(kind):
        raise ConfigError('gpu.kind is missing; it is a part of the name that the driver reports: kind = "H100"')
    if not isinstance(about, str):
        raise wrong_type("about", about, "text")
    for field, value in (("about", about), ("gpu.kind", kind)):
        if not value.isprintable():
            raise ConfigError(f"{field}={repr_short(value)} has characters that cannot be printed on a line")
    if not isinstance(assumed, bool):
        raise wrong_type("assumed", assumed, "true or false")
    of_gpu: dict[str, Any] = {key: _number(gpu, key, rule, "gpu.") for key, rule in GPU_NUMBERS.items()}
    numbers: dict[str, Any] = {key: _number(tables, key, rule) for key, rule in NUMBERS.items()}
    return Machine(name, Gpu(kind, **of_gpu), about=about, assumed=assumed, **numbers)


def _number(table: Mapping[str, Any], key: str, rule: _Number, prefix: str = "") -> float | None:
    """Return a checked number; None for one that is not required and not there."""
    value = table.get(key)
    if value is None:
        if rule.required:
            raise ConfigError(f"{prefix}{key} is missing; it is {rule.what}: {key} = {rule.example}")
        return None
    if isinstance(value, bool) or not isinstance(value, int if rule.whole else (int, float)):
        raise wrong_type(f"{prefix}{key}", value, "a whole number" if rule.whole else "a number")
    if not rule.low <= value <= rule.high:
        raise ConfigError(
            f"{prefix}{key}={repr_short(value)} cannot be {rule.what}, which is from {rule.low:g} to {rule.high:g}: "
            f"{key} = {rule.example}"
        )
    return value


def _check_names(table: Mapping[str, Any], known: set[str], prefix: str = "") -> None:
    for key in table:
        if key not in known:
            near = did_you_mean(key, known)
            raise ConfigError(f"a machine file has no field {prefix}{key}{near} It has {', '.join(sorted(known))}")


def _words(text: str) -> list[str]:
    """Return the letters and numbers of a product name, in lower case.

    >>> _words("NVIDIA GeForce RTX 4090")
    ['nvidia', 'geforce', 'rtx', '4090']
    """
    return re.findall(r"[a-z0-9]+", text.lower())


def _folder() -> Any:
    """Return the folder of the package's machine files."""
    return files(__package__) / "machines"
