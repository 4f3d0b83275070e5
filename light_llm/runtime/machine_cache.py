"""Identify this machine: the versions for run.json, and measurements that are cached by machine, torch and threads."""

import json
import platform
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress

import numpy
import torch

from .. import __version__
from ..atomic_io import atomic_write
from ..json_io import load_json
from .env import cache_dir
from .timing import BusyMeter

# Numbers measured while other programs were running: used by this process, and never written to the cache.
_disturbed: dict[str, float] = {}


def machine_key() -> str:
    """Return the key of a measurement: machine, torch version and number of threads."""
    return f"{platform.node()} {platform.machine()} torch {torch.__version__} threads {torch.get_num_threads()}"


def cached_measurement(key: str, measure: Callable[[], float], *, device: str = "cpu") -> float:
    """Return the number cached under a key; measure it if it is missing (see `cached_measurements`)."""
    return cached_measurements([key], lambda: [measure()], device=device)[0]


def cached_measurements(
    keys: Sequence[str],
    measure: Callable[[], Sequence[float]],
    *,
    device: str = "cpu",
    make_meter: Callable[[], BusyMeter] = BusyMeter,
) -> list[float]:
    """Return the numbers cached under some keys; if one is missing, measure all of them.

    A measurement on a busy CPU is used by this process and not cached: the next process measures again.

    Args:
        device: the device that is measured. On a GPU, other programs are not detected.
        make_meter: starts the meter that detects other programs.
    """
    known = _disturbed | read_measurements()
    if not all(key in known for key in keys):
        meter = make_meter()
        measured = dict(zip(keys, measure(), strict=True))
        store_measurements(measured, disturbed=device == "cpu" and meter.is_busy)
        known |= measured
    return [known[key] for key in keys]


def store_measurements(numbers: Mapping[str, float], *, disturbed: bool = False) -> None:
    """Cache numbers by key; those of a disturbed measurement for this process only."""
    if disturbed:
        _disturbed.update(numbers)
        return
    for key in numbers:
        _disturbed.pop(key, None)
    _write({**read_measurements(), **numbers})


def forget_measurements(keys: Collection[str]) -> None:
    """Remove numbers from the cache and from this process."""
    for key in keys:
        _disturbed.pop(key, None)
    cached = read_measurements()
    if not cached.keys().isdisjoint(keys):
        _write({key: number for key, number in cached.items() if key not in keys})


def disturbed_measurements() -> dict[str, float]:
    """Return the numbers of this process that were measured while the machine was busy."""
    return dict(_disturbed)


def _write(numbers: Mapping[str, float]) -> None:
    with suppress(OSError):  # a cache that cannot be written only costs the measurement again
        atomic_write(cache_dir() / "measured.json", json.dumps(numbers, indent=1).encode())


def read_measurements() -> dict[str, float]:
    """Return all cached numbers by key; {} if the file is missing, damaged or of another program."""
    try:
        return {str(key): float(value) for key, value in load_json(cache_dir() / "measured.json").items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}


def versions() -> dict[str, str]:
    """Return the versions that can change the results of a run."""
    return {
        "light_llm": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "threads": str(torch.get_num_threads()),
    }
