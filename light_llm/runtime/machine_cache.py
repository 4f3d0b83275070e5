"""Identify this machine: the versions for run.json, and measurements that are cached by machine, torch and threads."""

import json
import platform
from collections.abc import Callable, Sequence
from contextlib import suppress

import numpy
import torch

from .. import __version__
from ..atomic_io import atomic_write
from ..json_io import load_json
from .env import cache_dir


def machine_key() -> str:
    """Return the key of a measurement: machine, torch version and number of threads."""
    return f"{platform.node()} {platform.machine()} torch {torch.__version__} threads {torch.get_num_threads()}"


def cached_measurement(key: str, measure: Callable[[], float]) -> float:
    """Return the number cached under a key; measure and cache it if it is missing."""
    return cached_measurements([key], lambda: [measure()])[0]


def cached_measurements(keys: Sequence[str], measure: Callable[[], Sequence[float]]) -> list[float]:
    """Return the numbers cached under some keys; measure and cache all of them if one is missing."""
    cached = read_measurements()
    if not all(key in cached for key in keys):
        cached |= dict(zip(keys, measure(), strict=True))
        with suppress(OSError):  # a cache that cannot be written only costs the measurement again
            atomic_write(cache_dir() / "measured.json", json.dumps(cached, indent=1).encode())
    return [cached[key] for key in keys]


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
