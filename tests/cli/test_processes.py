"""`--processes N`: exit codes, signals, time limits and orphans, with small programs in place of a training."""

import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from light_llm.cli import processes
from light_llm.cli.processes import job_of_environment, launch, number_of_processes, restarts_of_environment
from light_llm.errors import ConfigError
from tests.support.child import Child

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="NOT RUN: --processes is refused on Windows")
START = """
import os, signal, sys, time
from pathlib import Path
from light_llm.cli.processes import follow_launcher
rank = int(os.environ["RANK"])
def note(text):
    with open(f"{rank}.txt", "a") as file:
        file.write(text + "\\n")
"""
COUNT_SIGNALS = """
ended = []
def handle(number, frame):
    note(signal.Signals(number).name)
    if number != signal.SIGUSR1:
        ended.append(number)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
    signal.signal(number, handle)
note("ready")
follow_launcher()
note("following")
limit = time.monotonic() + 100
while not ended and time.monotonic() < limit:
    time.sleep(0.01)
time.sleep(0.2)
sys.exit(128 + ended[0])
"""


def launched(words: Sequence[str]) -> int:
    """Launch a program on two ranks, with short time limits."""
    processes.EXIT_TIMEOUT = processes.LEAVE_TIMEOUT = processes.TERMINATE_TIMEOUT = 0.3
    return launch([sys.executable, "-c", START + words[0]], 2)


def notes(rank: int) -> list[str]:
    file = Path(f"{rank}.txt")
    return file.read_text().split() if file.exists() else []


def has_ended(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    return False


@pytest.mark.parametrize(
    ("program", "code", "error"),
    [
        ("sys.exit([0, 3][rank])", 0, ""),
        ("sys.exit([143, 0][rank])", 143, ""),
        ("os.kill(os.getpid(), signal.SIGKILL) if rank else sys.exit(2)", 2, "process 2 of 2 was ended by SIGKILL"),
        ("sys.exit(3) if rank else os.kill(os.getpid(), signal.SIGSEGV)", 2, "process 1 of 2 was ended by SIGSEGV"),
        # One that waits in vain is asked to stop, then killed.
        ("follow_launcher(); sys.exit(2) if rank else time.sleep(60)", 2, "process 1 of 2 was ended by SIGTERM"),
        ("sys.exit(2) if rank else time.sleep(60)", 2, "process 1 of 2 did not end after the others, and was killed"),
    ],
)
def test_the_exit_code_is_rank_0s(program: str, code: int, error: str) -> None:
    start = time.monotonic()
    child = Child([program], function=launched)
    assert child.wait() == code and time.monotonic() - start < 50
    lines = child.output[1].splitlines()
    assert len(lines) == bool(error) and error in "".join(lines), lines


def test_the_environment_and_input_of_ranks() -> None:
    reader, writer = os.pipe()
    os.write(writer, b"text")
    os.close(writer)
    names = "RANK WORLD_SIZE LOCAL_RANK LOCAL_WORLD_SIZE"
    program = f"note(' '.join(os.environ[name] for name in {names.split()!r})); note('read:' + sys.stdin.read())"
    child = Child([program + "; note(os.environ['LIGHT_LLM_STORE'])"], function=launched, stdin=reader)
    os.close(reader)
    assert child.wait() == 0
    assert notes(0)[:5] == ["0", "2", "0", "2", "read:text"] and notes(1)[:5] == ["1", "2", "1", "2", "read:"]
    store = Path(notes(0)[5])
    assert notes(1)[5] == str(store) and not store.parent.exists(), "what the launcher made is removed"


def launched_without_input(words: Sequence[str]) -> int:
    os.close(0)
    return launched(words)


def test_ranks_of_a_launcher_without_standard_input_find_it() -> None:
    """As under schedulers that close it."""
    child = Child(["follow_launcher(); time.sleep(0.5)"], function=launched_without_input)
    assert (child.wait(), child.output[1]) == (0, "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_each_rank_gets_each_signal_once(number: int, code: int) -> None:
    child = Child([COUNT_SIGNALS], function=launched)
    child.wait_until(lambda: "following" in notes(0) and "following" in notes(1))
    for i in (1, 2):
        child.send(signal.SIGUSR1)
        child.wait_until(lambda i=i: all(notes(rank).count("SIGUSR1") == i for rank in (0, 1)))  # type: ignore[misc]
    assert child.end(number)[0] == code
    for rank in (0, 1):
        assert notes(rank) == ["ready", "following", "SIGUSR1", "SIGUSR1", signal.Signals(number).name]


def test_a_signal_before_a_rank_is_ready_is_kept() -> None:
    child = Child(["time.sleep(1)\n" + COUNT_SIGNALS], function=launched)
    time.sleep(0.5)
    assert child.end(signal.SIGTERM)[0] == 143
    assert notes(0) == notes(1) == ["ready", "SIGTERM", "following"]


def test_a_second_ctrl_c_ends_ranks_that_do_not_listen() -> None:
    child = Child(
        ["signal.signal(signal.SIGTERM, lambda *_: note('TERM')); note('deaf'); time.sleep(60)"], function=launched
    )
    child.wait_until(lambda: bool(notes(0) and notes(1)))
    child.send(signal.SIGTERM)
    time.sleep(0.2)
    start = time.monotonic()
    assert child.end(signal.SIGTERM)[0] == 2 and time.monotonic() - start < 20


def test_no_rank_outlives_the_launcher() -> None:
    child = Child(["note(str(os.getpid()))\n" + COUNT_SIGNALS], function=launched)
    child.wait_until(lambda: "following" in notes(0) and "following" in notes(1))
    os.kill(child.pid, signal.SIGKILL)
    child.process.join()
    deadline = time.monotonic() + 60
    while not all(has_ended(int(notes(rank)[0])) for rank in (0, 1)):
        assert time.monotonic() < deadline, (notes(0), notes(1))
        time.sleep(0.05)
    assert notes(0)[-1] == notes(1)[-1] == "SIGTERM"


@pytest.mark.parametrize(
    ("asked", "device", "env", "words"),
    [
        ("0", "cpu", {}, "--processes 0"),
        ("-1", "cpu", {}, "--processes -1"),
        ("many", "cpu", {}, "--processes many"),
        ("2000", "cpu", {}, "from 1 to 1024"),
        ("2", "cpu", {"RANK": "0", "WORLD_SIZE": "4"}, "one of 4 processes already"),
        ("auto", "cpu", {"RANK": "0", "WORLD_SIZE": "4"}, "one of 4 processes already"),
        ("3", "cuda", {}, "needs 3 GPUs, one for each process, and this machine has 2"),
        ("2", "cuda:1", {}, "--device cuda:1 is one GPU"),
    ],
)
def test_processes_that_cannot_be_started(
    asked: str, device: str, env: dict[str, str], words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "_number_of_gpus", lambda: 2)
    for name, value in env.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=words):
        number_of_processes(asked, device)


def test_the_number_of_processes(monkeypatch: pytest.MonkeyPatch) -> None:
    gpus = {"n": 0}
    monkeypatch.setattr(processes, "_number_of_gpus", lambda: gpus["n"])
    assert [number_of_processes(asked, "auto") for asked in ("1", "3", "auto")] == [1, 3, 1]
    gpus["n"] = 8
    assert [number_of_processes("auto", device) for device in ("auto", "cuda", "cpu")] == [8, 8, 1]
    assert number_of_processes("4", "cuda") == 4
    monkeypatch.setattr(sys, "platform", "win32")
    with pytest.raises(ConfigError, match="Windows"):
        number_of_processes("2", "cpu")
    monkeypatch.setenv(processes.PARENT, "3")
    assert number_of_processes("8", "cuda") == 1, "a rank starts no ranks"


def test_restarts_of_a_job(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (restarts_of_environment(), job_of_environment()) == (0, "")
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "0")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "run-7")
    assert (restarts_of_environment(), job_of_environment()) == (0, "torchrun run-7")
    monkeypatch.setenv("TORCHELASTIC_RUN_ID", "none")
    assert job_of_environment() == f"torchrun none {os.getppid()}"
    monkeypatch.setenv("SLURM_JOB_ID", "99")
    monkeypatch.setenv("SLURM_RESTART_COUNT", "2")
    assert (restarts_of_environment(), job_of_environment()) == (2, "slurm 99")
