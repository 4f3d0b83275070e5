"""The first run on a machine measures and examines it, in a process of its own: what that leaves behind goes with it.

Run as `python -m light_llm.train.first_look DEVICE FORMAT DOCTOR THREADS MODEL`; what is found is in the cache then.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict

import torch

from ..config import ModelConfig
from ..doctor import remembered_core
from ..doctor.remembered import kept_at
from ..plan.profile import is_known, profile
from ..runtime import configure_malloc, subprocess_env

LONGEST = 120  # seconds; whoever waits longer measures by itself


def first_look(model: ModelConfig, device: str, dtype: str, *, doctor: bool, say: Callable[[str], object]) -> None:
    """See to it that this machine is known. On a GPU, whose driver takes seconds to start, there is no child."""
    known = is_known(device, dtype, model) and (not doctor or kept_at(device).exists())
    if known or device != "cpu":
        return
    say("first    this machine is measured, and examined for wrong results: once, some seconds")
    command = [sys.executable, "-m", "light_llm.train.first_look", device, dtype]
    command += ["doctor" if doctor else "no-doctor", str(torch.get_num_threads()), json.dumps(asdict(model))]
    with suppress(OSError, subprocess.SubprocessError):  # then it is done here
        subprocess.run(command, env=subprocess_env(), capture_output=True, timeout=LONGEST, check=False)  # noqa: S603


def main(device: str, dtype: str, doctor: str, threads: str, model: str) -> None:
    """The child."""
    torch.set_num_threads(int(threads))
    configure_malloc()
    profile(device, dtype, ModelConfig(**json.loads(model)))
    if doctor == "doctor":
        remembered_core(device)


if __name__ == "__main__":
    main(*sys.argv[1:])
