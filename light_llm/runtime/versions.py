"""Versions for run.json."""

import platform

import numpy
import torch

from .. import __version__


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
