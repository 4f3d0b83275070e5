"""Cache measurements of this machine, one per machine, torch version and thread count."""

import json
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

import torch

from ..atomic_io import atomic_write
from ..json_io import load_json
from .env import cache_dir


def machine_key() -> str:
    """Return the key of a measurement: machine, torch version and number of threads."""
    return f"{platform.node()} {platform.machine()} torch {torch.__version__} threads {torch.get_num_threads()}"


def cached_measurement(key: str, measure: Callable[[], float]) -> float:
    """Return the number cached under a key; measure and cache it if it is missing."""
    return cached_measurements(key, [""], lambda: [measure()])[0]


def cached_measurements(key: str, names: Sequence[str], measure: Callable[[], Sequence[float]]) -> list[float]:
    """Return the numbers cached under a key, one per name; measure and cache all of them if one is missing."""
    path = cache_dir() / "measured.json"
    cached = _read(path)
    keys = [f"{key}, {name}" if name else key for name in names]
    if not all(k in cached for k in keys):
        cached |= dict(zip(keys, measure(), strict=True))
        with suppress(OSError):  # a cache that cannot be written only costs the measurement again
            atomic_write(path, json.dumps(cached, indent=1).encode())
    return [cached[k] for k in keys]


def has_cached_measurements(key: str, names: Sequence[str]) -> bool:
    """Return True if `cached_measurements` would not have to measure."""
    cached = _read(cache_dir() / "measured.json")
    return all((f"{key}, {name}" if name else key) in cached for name in names)


def _read(path: Path) -> dict[str, float]:
    try:
        return {str(key): float(value) for key, value in load_json(path).items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # missing, damaged, or of another program: measured again
