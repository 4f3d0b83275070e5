"""What was measured of this machine, kept in the cache: measured once per machine, torch version and thread count."""

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
    """What a measurement holds for."""
    return f"{platform.node()} {platform.machine()} torch {torch.__version__} threads {torch.get_num_threads()}"


def cached_measurement(key: str, measure: Callable[[], float]) -> float:
    """The number kept under a key, or else measured now and kept."""
    return cached_measurements(key, [""], lambda: [measure()])[0]


def cached_measurements(key: str, names: Sequence[str], measure: Callable[[], Sequence[float]]) -> list[float]:
    """The numbers kept under a key, one for each name, or else all of them measured now and kept."""
    path = cache_dir() / "measured.json"
    known = _read(path)
    keys = [f"{key}, {name}" if name else key for name in names]
    if not all(k in known for k in keys):
        known |= dict(zip(keys, measure(), strict=True))
        with suppress(OSError):  # a cache that cannot be written only costs the measurement again
            atomic_write(path, json.dumps(known, indent=1).encode())
    return [known[k] for k in keys]


def has_cached_measurements(key: str, names: Sequence[str]) -> bool:
    """Whether all of them are known already."""
    known = _read(cache_dir() / "measured.json")
    return all((f"{key}, {name}" if name else key) in known for name in names)


def _read(path: Path) -> dict[str, float]:
    try:
        known = load_json(path)
        return {str(key): float(value) for key, value in known.items()}
    except (OSError, ValueError, AttributeError, TypeError):
        return {}  # missing, or not ours: measured anew
