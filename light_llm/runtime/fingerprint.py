"""Compare what must be equal on all ranks of a run: the program, the settings and the data.

Ranks that differ would not fail by themselves in a way that says why: they would train on different texts, wait for
each other, or send tensors of different sizes.
"""

import hashlib
import socket
from collections.abc import Mapping
from pathlib import Path

import torch

from .. import __version__
from ..errors import ConfigError
from .world import Json, World


def compare_ranks(world: World, values: Mapping[str, Json]) -> None:
    """Raise ConfigError on all ranks if a value of rank 0 differs on another rank; it names rank, host and value."""
    if world.size == 1:
        return
    first, *others = world.gather([socket.gethostname(), {name: str(value) for name, value in values.items()}])
    for rank, (host, found) in enumerate(others, start=1):
        for name, value in first[1].items():
            if found.get(name) != value:
                raise ConfigError(
                    f"rank {rank} on {host} has another {name} than rank 0 on {first[0]}: {found.get(name)} and not "
                    f"{value}; the processes of a run must have the same program, settings, data, callbacks and guards"
                )


def program_values(device: str) -> dict[str, str]:
    """Return the versions that must be equal on all ranks, and the kind of device."""
    return {
        "light-llm version": __version__,
        "torch version": torch.__version__,
        "copy of light-llm (SHA-256 of its files)": digest_of_files(Path(__file__).parents[1]),
        "kind of device": torch.device(device).type,
    }


def digest_of_files(folder: Path) -> str:
    """Return the SHA-256 of the names and bytes of the Python files below a folder."""
    sha = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        data = file.read_bytes()
        sha.update(f"{file.relative_to(folder).as_posix()} {len(data)}\n".encode() + data)
    return sha.hexdigest()[:16]
