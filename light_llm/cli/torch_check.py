"""Check that PyTorch can be loaded under a limit on address space, before a command imports it."""

import subprocess
import sys

from ..errors import DeviceError
from ..text_format import format_bytes


def check_torch_loads() -> None:
    """Raise DeviceError when PyTorch does not fit into the address space that `ulimit -v` allows.

    Without a limit this costs nothing. With one, a child process tries it: just below the size that is needed, the
    loader ends the process with `std::bad_alloc`, which no Python code can catch.
    """
    limit = _address_space_limit()
    if limit is None or "torch" in sys.modules:
        return
    # Loading PyTorch maps all its libraries: about 1 GB for the CPU build, 3.3 GB for the CUDA build (2.14.1, Linux).
    words = [sys.executable, "-c", "import torch"]
    child = subprocess.run(words, capture_output=True, text=True, check=False)  # noqa: S603
    if child.returncode != 0 and "ModuleNotFoundError" not in child.stderr:
        raise DeviceError(
            f"PyTorch cannot be loaded within the {format_bytes(limit)} that ulimit -v allows: its libraries are "
            "mapped there, more than 3 GB for a CUDA build. Raise the limit (ulimit -v unlimited), or install "
            "PyTorch's CPU build, which fits into 2 GB"
        )


def _address_space_limit() -> int | None:
    """Return the soft limit of `ulimit -v` in bytes, or None."""
    try:
        import resource
    except ImportError:  # Windows
        return None
    limit = resource.getrlimit(resource.RLIMIT_AS)[0]
    return None if limit == resource.RLIM_INFINITY else limit
