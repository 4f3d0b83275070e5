"""Training runs on the ranks of a world, as functions of `run_ranks`, and the files they leave behind."""

import hashlib
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from light_llm.runtime import World
from light_llm.train import Step, Trainer
from tests.support.tools import SMALL, byte_loader, byte_model, rows_of

# Everything on: evaluations, the best model, probes and samples.
FULL: dict[str, Any] = SMALL | {
    "max_steps": 12,
    "eval_interval": 4,
    "save_interval": 6,
    "sample_interval": 6,
    "probe_interval": 6,
    "skip_doctor": True,
}
FILES = ("model.safetensors", "optimizer.safetensors", "state.json")
KINDS = ("step", "eval", "probe", "attention", "sample", "rollback")
NOWHERE = "/no/such/folder"  # the run folder of ranks that must not need one


def train(
    world: World, text: str, out: str, *, dropout: float = 0.0, stop_after: int | None = None, **changes: Any
) -> Trainer:
    """Train a tiny model on the ranks of a world, of which rank 0 alone has the folder. Returns the trainer."""
    folder = out if world.is_first else NOWHERE
    trainer = Trainer(byte_model(dropout), byte_loader(Path(text)), out=folder, world=world, **(FULL | changes))
    trainer.stop_flag.stop_after = stop_after
    trainer.train()
    return trainer


def train_all(world: World, text: str, runs: dict[str, dict[str, Any]]) -> list[str]:
    """Train one run after another, by their folders. Returns the files that this rank has opened for writing."""
    with opened_for_writing() as paths:
        for out, how in runs.items():
            train(world, text, out.rstrip("+"), **how)
    return paths


def digests(out: str | Path, step: int = 12) -> dict[str, str]:
    """Return the hashes of what does not depend on the number of processes: tensors, counters, best model and rows."""
    folder = Path(out, f"step-{step:06d}")
    paths = [folder / name for name in FILES] + [Path(out, "best_model.pt")]
    found = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}
    return found | {kind: repr(rows_of(out, kind)) for kind in KINDS}


_written: list[list[str]] = []


@contextmanager
def opened_for_writing() -> Iterator[list[str]]:
    """Collect the paths that this process opens for writing, creates, renames or deletes in the block."""
    if not _written:
        sys.addaudithook(_audit)
    _written.append([])
    try:
        yield _written[-1]
    finally:
        _written.append([])


def _audit(event: str, args: tuple[Any, ...]) -> None:
    writes = event == "open" and isinstance(args[2], int) and args[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
    if writes or event in ("os.mkdir", "os.rename", "os.remove", "os.rmdir"):
        _written[-1].append(str(args[0]))


def lose_rank(world: World, text: str, out: str, how: str, changes: dict[str, Any]) -> Any:
    """Train until a rank is lost in the callbacks of step 3. Returns the error of this rank.

    Args:
        how: of the highest rank: "kill" itself, "stop" as a process that hangs does, or "raise" an error.
    """
    folder = out if world.is_first else NOWHERE
    trainer = Trainer(byte_model(), byte_loader(Path(text)), out=folder, world=world, **(FULL | changes))

    def leave(step: Step) -> None:
        if step.number == 3 and world.rank == world.size - 1:
            if how == "raise":
                raise ValueError("no such token")
            os.kill(os.getpid(), signal.SIGKILL if how == "kill" else signal.SIGSTOP)

    trainer.every(1, leave)
    try:
        trainer.train()
    except Exception as error:
        return [type(error).__name__, str(error), list(getattr(error, "__notes__", []))]
    return None


def _start(thread: threading.Thread, step: Step) -> None:
    """Start a thread in the first step."""
    if step.number == 1:
        thread.start()


def hammer(world: World, text: str, out: str, seeds: int) -> list[Any]:
    """Train once a seed, with signals to this rank at random times. Returns the status and last step of each run."""
    ends = []
    for seed in range(seeds):
        random = Random(seed * world.size + world.rank)
        folder = f"{out} {seed}" if world.is_first else NOWHERE
        how = FULL | {"max_steps": 5000, "sample_interval": 30, "probe_interval": 50, "eval_interval": 40}
        trainer = Trainer(byte_model(), byte_loader(Path(text)), out=folder, world=world, **how)
        signal.signal(signal.SIGUSR1, lambda *_, trainer=trainer: trainer.request_save())
        signal.signal(signal.SIGUSR2, lambda *_, trainer=trainer: trainer.request_stop())
        pauses = [random.uniform(0, 0.3) for _ in range(4)]

        def send(pauses: list[float] = pauses, last: bool = seed % world.size == world.rank) -> None:
            for pause in pauses:
                time.sleep(pause)
                os.kill(os.getpid(), signal.SIGUSR1)
            if last:
                time.sleep(0.5)
                os.kill(os.getpid(), signal.SIGUSR2)

        thread = threading.Thread(target=send)
        trainer.every(1, partial(_start, thread))
        result = trainer.train()
        thread.join()
        ends.append([result.status, result.step])
    return ends
