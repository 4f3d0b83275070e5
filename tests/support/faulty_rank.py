"""`light-llm` as one rank of a run in which a fault happens: `python -m tests.support.faulty_rank FAULT train ...`.

A fault is `NAME@STEP@RANK`. Before a step it sends this process a signal, makes its loss NaN, makes it run out of
memory, fails with an error, or asks the process that started it for something. The rest of the command line is that of
`light-llm`.
"""

import errno
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

import light_llm
from light_llm.atomic_io import Files, WriteFn
from light_llm.cli import run
from light_llm.train import Trainer

MAX_ROWS = 2  # more do not fit into the memory of the rank with the fault `memory`


def at_step(step: int, act: Callable[[Trainer], None]) -> None:
    """Call a function once, before a step (0, 1, ...)."""
    original, done = Trainer.set_learning_rate, []

    def set_learning_rate(trainer: Trainer) -> float:
        if trainer.state.step == step and not done:
            done.append(step)
            print(f"fault at {step}", file=sys.stderr, flush=True)
            act(trainer)
        return original(trainer)

    Trainer.set_learning_rate = set_learning_rate  # type: ignore[method-assign]


def not_a_number(trainer: Trainer) -> None:
    """Make the loss of this rank NaN in the next forward pass."""

    def hook(module: Any, inputs: Any, loss: Any) -> Any:
        handle.remove()
        return loss * float("nan")

    handle = trainer.parallel.module.register_forward_hook(hook)


def fail(trainer: Trainer) -> None:
    """Raise an error that is none of ours, as a callback or a library may."""
    raise ValueError("a fault of this process")


def too_little_memory() -> None:
    """Make the forward passes of this rank run out of memory if they have too many rows."""
    from light_llm.objective import NextTokenLoss

    original = NextTokenLoss.forward

    def forward(self: Any, tokens: Any, *rest: Any) -> Any:
        if len(tokens) > MAX_ROWS and self.model.training:
            raise torch.OutOfMemoryError("a fault: out of memory")
        return original(self, tokens, *rest)

    NextTokenLoss.forward = forward  # type: ignore[method-assign]


def full_disk() -> None:
    """Make the disk full when the second checkpoint is written."""
    original = Files.write

    def write(self: Files, path: Path, write_fn: WriteFn) -> str:
        if type(self) is Files and "step-000020" in str(path) and path.name == "model.safetensors":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return original(self, path, write_fn)

    Files.write = write  # type: ignore[method-assign]


def send(number: int, *, to_parent: bool = False) -> Callable[[Trainer], None]:
    """Return a function that sends a signal to this process, or to the one that started it."""
    return lambda _: os.kill(os.getppid() if to_parent else os.getpid(), number)


def leave(trainer: Trainer) -> None:
    """Send Ctrl-C twice to the process that started this one, during a step that takes a minute."""

    def press() -> None:
        for _ in range(2):
            os.kill(os.getppid(), signal.SIGINT)
            time.sleep(1)

    threading.Thread(target=press, daemon=True).start()
    time.sleep(60)


AT_STEP: dict[str, Callable[[Trainer], None]] = {
    "kill": send(signal.SIGKILL),
    "hang": send(signal.SIGSTOP),
    "terminate": send(signal.SIGTERM),
    "save": send(signal.SIGUSR1),
    "kill-parent": send(signal.SIGKILL, to_parent=True),
    "terminate-parent": send(signal.SIGTERM, to_parent=True),
    "interrupt-parent": send(signal.SIGINT, to_parent=True),
    "save-parent": send(signal.SIGUSR1, to_parent=True),
    "leave": leave,
    "nan": not_a_number,
    "error": fail,
}


def another_version() -> None:
    """Be another version of light-llm."""
    light_llm.__version__ = "0.0.9"
    for module in list(sys.modules.values()):
        if getattr(module, "__name__", "").startswith("light_llm") and hasattr(module, "__version__"):
            module.__version__ = "0.0.9"  # type: ignore[attr-defined]


AT_START: dict[str, Callable[[], None]] = {
    "memory": too_little_memory,
    "full-disk": full_disk,
    "version": another_version,
    "none": lambda: None,
}


def main() -> int:
    """Prepare the fault, and run the command line."""
    name, step, rank = sys.argv[1].split("@")
    is_first_attempt = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) == 0
    own_rank = int(os.environ["RANK"])
    # As on another machine: another folder, with another cache. The folder may hold another text.
    other = os.environ.get(f"FAULTY_FOLDER_{own_rank}")
    if other:
        os.chdir(other)
        os.environ |= {"LIGHT_LLM_CACHE": str(Path(other, "cache")), "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}
    if own_rank == int(rank) and is_first_attempt:
        if name in AT_STEP:
            at_step(int(step), AT_STEP[name])
        else:
            AT_START[name]()
    sys.argv = ["light-llm", *sys.argv[2:]]
    return run()


if __name__ == "__main__":
    sys.exit(main())
