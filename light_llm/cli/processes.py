"""`--processes N`: start N processes on this machine as the ranks of one run, and end with their exit code.

What torchrun does for one machine, without a port and with the exit codes of `light-llm`: each signal reaches each
rank once, no rank outlives this process, and no rank waits for one that is gone. Nothing here imports torch, which
would be loaded for nothing.
"""

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

from ..errors import ConfigError
from .signals import SIGHUP, SIGUSR1

MAX_PROCESSES = 1024  # of one machine
EXIT_TIMEOUT = 20.0  # seconds in which rank 0 saves and all leave, once one has left with an error
LEAVE_TIMEOUT = 10.0  # seconds in which the other ranks leave after rank 0
TERMINATE_TIMEOUT = 5.0  # seconds from SIGTERM to SIGKILL
SECOND_SIGNAL_TIMEOUT = 1.0  # seconds to leave after a second Ctrl-C
POLL_SECONDS = 0.05
PARENT = "LIGHT_LLM_PARENT"  # file descriptor of a pipe that this process holds open


def rank_of_environment() -> int | None:
    """Return the rank of this process; None if it was not started as one of several."""
    rank = os.environ.get("RANK", "")
    return int(rank) if rank.isdecimal() and os.environ.get("WORLD_SIZE") else None


def local_rank_of_environment() -> int:
    """Return the rank of this process among those of its machine: 0 for a process by itself."""
    rank = os.environ.get("LOCAL_RANK", "")
    return int(rank) if rank.isdecimal() else 0


def started_by_torchrun() -> bool:
    """Return True if torchrun watches this process, and starts it again if it fails."""
    return "TORCHELASTIC_RUN_ID" in os.environ


def restarts_of_environment() -> int:
    """Return how often torchrun or Slurm has started this job again."""
    counts = (os.environ.get(name, "") for name in ("TORCHELASTIC_RESTART_COUNT", "SLURM_RESTART_COUNT"))
    return sum(int(count) for count in counts if count.isdecimal())


def job_of_environment() -> str:
    """Return a name of the job that is the same in each of its restarts; "" if it is not known to have any."""
    if job := os.environ.get("SLURM_JOB_ID"):
        return f"slurm {job}"
    job = os.environ.get("TORCHELASTIC_RUN_ID", "")
    # Without a rendezvous every job has the same name, but the process that started this one stays.
    return f"torchrun {job}" + (f" {os.getppid()}" if job == "none" else "") if job else ""


def number_of_processes(asked: str, device: str) -> int:
    """Return how many processes `--processes` asks this process to start: 1 if it is a rank itself.

    Args:
        device: of the run, as it was asked for.

    Raises:
        ConfigError: no number above 0, more processes than GPUs, or a system or launcher with which it cannot be used.
    """
    if PARENT in os.environ:
        return 1
    if asked != "auto" and not (asked.isdecimal() and 1 <= int(asked) <= MAX_PROCESSES):
        raise ConfigError(f"--processes {asked} cannot be used; it must be auto or a number from 1 to {MAX_PROCESSES}")
    if asked == "1":
        return 1
    if rank_of_environment() is not None:
        raise ConfigError(
            f"--processes {asked} cannot be used here: this is one of {os.environ['WORLD_SIZE']} processes already, "
            "started by torchrun or a scheduler; leave it out"
        )
    if sys.platform == "win32":
        raise ConfigError("--processes has not been tried on Windows and is not available there; use WSL")
    if asked != "auto" and not device.startswith("cuda"):
        return int(asked)
    gpus = _number_of_gpus() if device in ("auto", "cuda") else 0
    if asked == "auto":
        return max(1, gpus)
    if ":" in device:
        raise ConfigError(
            f"--device {device} is one GPU, and each of {asked} processes needs its own; use --device cuda"
        )
    if int(asked) > gpus:
        raise ConfigError(
            f"--processes {asked} needs {asked} GPUs, one for each process, and this machine has {gpus}; "
            "use --processes auto or --device cpu"
        )
    return int(asked)


def _number_of_gpus() -> int:
    # In a child process: loading torch here would cost its memory for the whole run.
    program = "import torch; print(torch.cuda.device_count())"
    child = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)  # noqa: S603
    return int(child.stdout) if child.returncode == 0 else 0


def launch(command: Sequence[str], n: int) -> int:
    """Run a command in n processes of one run. Returns the exit code of rank 0, or 2 if a signal ended it."""
    _open_standard_streams()
    with tempfile.TemporaryDirectory(prefix="light-llm-") as folder, _blocked_signals():
        reader, writer = os.pipe()
        try:
            ranks = [_start(command, rank, n, Path(folder, "store"), reader) for rank in range(n)]
        finally:
            os.close(reader)
        with _forwarded_signals(ranks) as received:
            _wait(ranks, received)
        os.close(writer)
    for rank in ranks:
        rank.print_end()
    code = ranks[0].process.returncode
    return code if code >= 0 else 2


def _open_standard_streams() -> None:
    """Open the null device in place of standard streams that are closed: the pipe to the ranks would take their place.

    A rank whose standard input is that pipe would not see it, and stop because the launcher seems gone.
    """
    while (fd := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(fd, True)
    os.close(fd)


@dataclass
class _Rank:
    """A process that was started."""

    process: "subprocess.Popen[bytes]"
    name: str
    gave_up: bool = False  # it was killed here

    def print_end(self) -> None:
        """Say how the process ended, if a signal ended it and it could not say so itself."""
        if self.process.returncode >= 0:
            return
        with suppress(ValueError, OSError):
            name = signal.Signals(-self.process.returncode).name
            hint = " (out of memory? see dmesg)" if name == "SIGKILL" else ""
            how = "did not end after the others, and was killed" if self.gave_up else f"was ended by {name}{hint}"
            print(f"error: {self.name} {how}", file=sys.stderr, flush=True)


def _start(command: Sequence[str], rank: int, n: int, store: Path, parent: int) -> _Rank:
    """Start a rank in a session of its own: what is typed in the terminal reaches it through this process alone."""
    numbers = {"RANK": rank, "WORLD_SIZE": n, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": n, PARENT: parent}
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]
    env = {
        **os.environ,
        **{name: str(number) for name, number in numbers.items()},
        "LIGHT_LLM_STORE": str(store),
        "PYTHONPATH": os.pathsep.join(filter(None, paths)),
    }
    stdin = None if rank == 0 else subprocess.DEVNULL
    process = subprocess.Popen(command, env=env, stdin=stdin, pass_fds=(parent,), start_new_session=True)  # noqa: S603
    return _Rank(process, f"process {rank + 1} of {n}")


def _wait(ranks: Sequence[_Rank], received: "_Received") -> None:
    """Wait until all ranks have ended. One that fails gives the others limited time."""
    deadline: float | None = None
    terminated = False
    # A list, because `any` alone would ask only up to the first that runs.
    while None in (codes := [rank.process.poll() for rank in ranks]):
        now = time.monotonic()
        if deadline is None and any(codes):
            deadline = now + EXIT_TIMEOUT
        if codes[0] and deadline is not None:
            deadline = min(deadline, now + LEAVE_TIMEOUT)
        if received.count > 1 and not terminated:
            deadline, terminated = now + SECOND_SIGNAL_TIMEOUT, True
        if deadline is not None and now > deadline:
            for rank in ranks:
                rank.gave_up = terminated and rank.process.poll() is None
            _send(ranks, signal.SIGKILL if terminated else signal.SIGTERM)
            deadline, terminated = now + TERMINATE_TIMEOUT, True
        time.sleep(POLL_SECONDS)


def _send(ranks: Sequence[_Rank], number: int) -> None:
    for rank in ranks:
        if rank.process.poll() is None:
            rank.process.send_signal(number)


# ---- signals


@dataclass
class _Received:
    """Requests to stop that were passed on."""

    count: int = 0


def _stop_signals() -> set[signal.Signals]:
    return {signal.SIGINT, signal.SIGTERM}


@contextmanager
def _blocked_signals() -> Iterator[None]:
    """Keep signals back inside the block: in this process until it passes them on, in a rank until it can handle them.

    A rank inherits the mask, so a signal never finds it half imported.
    """
    numbers = _stop_signals() | ({SIGUSR1} if SIGUSR1 is not None else set())
    previous = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous)


@contextmanager
def _forwarded_signals(ranks: Sequence[_Rank]) -> Iterator[_Received]:
    """Pass each signal on to each rank, once, inside the block. A closed terminal does not end the run."""
    received = _Received()

    def forward(number: int, frame: FrameType | None) -> None:
        received.count += number in _stop_signals()
        _send(ranks, number)

    handlers = dict.fromkeys(_stop_signals() | ({SIGUSR1} if SIGUSR1 is not None else set()), forward)
    previous: dict[int, object] = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    if SIGHUP is not None:
        previous[SIGHUP] = signal.signal(SIGHUP, signal.SIG_IGN)
    mask = signal.pthread_sigmask(signal.SIG_UNBLOCK, handlers.keys())
    try:
        yield received
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, mask)
        for number, handler in previous.items():
            signal.signal(number, handler)  # type: ignore[arg-type]


def follow_launcher() -> None:
    """Take the signals that `launch` kept back, and ask this rank to stop when the launcher is gone."""
    fd = os.environ.get(PARENT)
    if fd is None:
        return
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {*_stop_signals(), *([SIGUSR1] if SIGUSR1 is not None else [])})

    def watch() -> None:
        # Nothing is ever written: reading returns when the other end is closed, also by SIGKILL.
        with suppress(OSError):
            os.read(int(fd), 1)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()
