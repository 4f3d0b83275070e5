"""Measure this machine before its first run, with visible progress; and correct its predictions after each run.

Run as `python -m light_llm.train.measure DEVICE DTYPE DOCTOR THREADS MODEL` it measures the machine in a child process,
leaves the results in the cache, and prints its progress as JSON lines.
"""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from ..config import ModelConfig
from ..doctor import check_device, has_cached_check
from ..errors import DeviceError
from ..observe.console import SafeStream
from ..plan.memory_model import StepShape
from ..plan.profile import is_known, profile
from ..plan.speed import record_steps
from ..runtime import configure_malloc, subprocess_env
from ..runtime.machine_cache import disturbed_measurements, store_measurements
from .callbacks import Callback
from .step import Status, Step

if TYPE_CHECKING:
    from .trainer import Trainer

MAX_SILENCE = 60.0  # seconds without progress in the child process; after that this process measures for itself
SKIPPED_STEPS = 2  # the first ones set up kernels and memory, and a compiled step is compiled
SPEED, DOCTOR = "measuring its speed", "checking its arithmetic"
ShowFn = Callable[[str, int, int], None]  # what is being done, and how much of how much


def measure_machine(
    model: ModelConfig,
    device: str,
    dtype: str,
    *,
    doctor: bool,
    quiet: bool = False,
    say: Callable[[str], object] = print,
) -> None:
    """Measure the speed of this machine and run the doctor, if the cache lacks either; with a progress bar.

    In a child process, because the measurements leave the heap of their process larger than a run needs. On a GPU this
    process measures for itself: starting the driver a second time takes seconds.
    """
    speed, checks = not is_known(device, dtype, model), doctor and not has_cached_check(device)
    if not speed and not checks:
        return
    if not quiet:
        say(announcement(speed=speed, checks=checks))
    with _bar(quiet=quiet) as show:
        if device == "cpu":
            command = [sys.executable, "-m", "light_llm.train.measure", device, dtype]
            command += ["doctor" if checks else "no-doctor", str(torch.get_num_threads()), json.dumps(asdict(model))]
            with suppress(OSError, subprocess.SubprocessError):
                _follow(command, show)
        # Returns at once what the child measured.
        profile(device, dtype, model, progress=lambda done, total: show(SPEED, done, total))


def announcement(*, speed: bool, checks: bool) -> str:
    """Return the message before this machine is measured.

    >>> announcement(speed=True, checks=True)
    'First run on this machine: measuring its speed and checking its arithmetic (about 30 s, once)'
    >>> announcement(speed=True, checks=False)
    'Measuring the speed of this machine (about 10 s)'
    """
    if speed and checks:
        return f"First run on this machine: {SPEED} and {DOCTOR} (about 30 s, once)"
    if speed:
        return "Measuring the speed of this machine (about 10 s)"
    return "Checking the arithmetic of this machine (about 20 s, once)"


@contextmanager
def _bar(*, quiet: bool) -> Iterator[ShowFn]:
    """Yield a function that shows progress on standard error, if that is a terminal."""
    stream: Any = SafeStream(sys.stderr) if sys.stderr is not None else None
    console = Console(file=stream, stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.description}"), BarColumn(bar_width=30), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal) as progress:
        task = progress.add_task("starting", total=None)
        yield lambda stage, done, total: progress.update(task, description=stage, completed=done, total=total)


def _follow(command: list[str], show: ShowFn) -> None:
    """Run the child process, show its progress, and use what it measured while the machine was busy."""
    # Its errors are of no use here: whatever it could not measure is measured by this process.
    with subprocess.Popen(  # noqa: S603
        command, env=subprocess_env(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as child:
        try:
            while line := _read_line(child):
                with suppress(ValueError, KeyError, TypeError):
                    message = json.loads(line)
                    if "disturbed" in message:
                        store_measurements(message["disturbed"], disturbed=True)
                    else:
                        show(message["stage"], message["done"], message["total"])
        finally:
            child.kill()


def _read_line(child: subprocess.Popen[str]) -> str:
    """Return the next line of a child process; "" at its end. A child that is silent for too long is ended."""
    assert child.stdout is not None
    timer = threading.Timer(MAX_SILENCE, child.kill)
    timer.start()
    try:
        return child.stdout.readline()
    finally:
        timer.cancel()


def main(device: str, dtype: str, doctor: str, threads: str, model: str) -> None:
    """Measure in the child process of `measure_machine`."""

    def tell(message: Mapping[str, Any]) -> None:
        print(json.dumps(message), flush=True)

    def progress(stage: str) -> Callable[[int, int], None]:
        return lambda done, total: tell({"stage": stage, "done": done, "total": total})

    torch.set_num_threads(int(threads))
    configure_malloc()
    profile(device, dtype, ModelConfig(**json.loads(model)), progress=progress(SPEED))
    # The parent uses these for its own run; they are not cached.
    tell({"disturbed": disturbed_measurements()})
    if doctor == "doctor":
        # The run itself reads the result from the cache, and raises the error again.
        with suppress(DeviceError):
            check_device(device, progress=progress(DOCTOR))


class RecordStepTime(Callback):
    """Corrects the predictions for this machine by the steps of the run, unless other programs disturbed it."""

    synchronous = False

    def __init__(self, trainer: Trainer, T: int) -> None:
        self.trainer, self.T = trainer, T
        self.n_steps = 0
        self.seconds: list[float] = []
        self.shares: list[float] = []  # of the time since the step before in which this thread had a processor
        self.clocks = (0.0, 0.0)

    def on_step(self, step: Step) -> None:
        """Collect the time of a step."""
        before, self.clocks = self.clocks, (time.perf_counter(), time.thread_time())
        self.n_steps += 1
        if self.n_steps > SKIPPED_STEPS:
            self.seconds.append(step.seconds)
            self.shares.append((self.clocks[1] - before[1]) / max(self.clocks[0] - before[0], 1e-9))

    def on_end(self, status: Status) -> None:
        """Record the steps."""
        config = self.trainer.config
        record_steps(StepShape.of(self.trainer.model.config, config, self.T), config, self.seconds, self.shares)


if __name__ == "__main__":
    main(*sys.argv[1:])
