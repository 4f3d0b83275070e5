"""A sound device is examined once: what was found is kept in the cache, as plain JSON with a digest."""

import hashlib
import platform
from contextlib import suppress
from pathlib import Path

from ..atomic_io import atomic_write
from ..json_io import dump_with_digest, load_verified
from ..runtime import cache_dir, device_name
from ..runtime.machine_cache import machine_key
from .diagnosis import VERSION, Diagnosis
from .examine import core


def remembered_core(device: str) -> Diagnosis:
    """`core`, or what it found earlier on this device with this torch, system and version of the cases.

    Only a device on which everything was right is remembered; any other is examined anew, in case it has been mended.
    A file that is damaged or missing, or a cache that cannot be written, costs the examination again and nothing else.
    """
    path = kept_at(device)
    try:
        return Diagnosis.from_dict(load_verified(path))
    except (OSError, ValueError, KeyError, TypeError):
        pass  # missing, or not ours: examined anew
    found = core(device)
    if found.sound:
        _keep(path, found)
    return found


def kept_at(device: str) -> Path:
    """The file of a device; its name is a digest of all that the answer may depend on."""
    about = [device, device_name(device), str(VERSION), platform.platform(), machine_key()]  # torch's version in it
    return cache_dir() / "doctor" / f"{hashlib.sha256(' | '.join(about).encode()).hexdigest()[:16]}.json"


def _keep(path: Path, diagnosis: Diagnosis) -> None:
    with suppress(OSError):  # a cache that cannot be written only costs the examination again
        atomic_write(path, dump_with_digest(diagnosis.to_dict()))
