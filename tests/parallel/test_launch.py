"""Runs on two ranks from the command line: what is printed, saved and returned, and the faults of processes."""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from light_llm.checkpoint import RunFolder
from light_llm.cli.signals import SIGUSR1
from tests.support.child import PATIENCE, Child
from tests.support.ranks import rank_env

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="NOT RUN: --processes is refused on Windows")
SHAPE = "--tokenizer char --max-length 16 --batch-size 4 --dtype float32 --skip-doctor --set train.probe_interval=0"
SHAPE += " --set model.n_layer=1 --set model.n_embd=24 --set model.n_head=3 --set train.timeout=5"
LONG = "--max-steps 100000 --eval-interval 100000 --save-interval 100000 --out r"
SHORT = "--max-steps 8 --eval-interval 4 --save-interval 4 --out r"


@pytest.fixture
def words(poem: Path) -> list[str]:
    return ["train", "--data", str(poem), *SHAPE.split()]


def ranks_of(launcher: int) -> list[int]:
    """Return the process ids of the ranks, in the order of their start."""
    task = Path(f"/proc/{launcher}/task/{launcher}/children").read_text()
    return [int(pid) for pid in task.split() if b"light_llm" in Path(f"/proc/{pid}/cmdline").read_bytes()]


@pytest.fixture
def run(words: list[str]) -> Iterator[Child]:
    """A long run on two ranks, in its tenth step or later. Its ranks are gone after the test."""
    child = Child([*words, *LONG.split(), "--processes", "2"])
    child.wait_until(lambda: "step 10/" in child.output[0])
    ranks = ranks_of(child.pid)
    assert len(ranks) == 2
    yield child
    for pid in ranks:
        if Path(f"/proc/{pid}").exists():
            os.kill(pid, signal.SIGKILL)


def saved_step(child: Child) -> int:
    """Return the newest step in the folder, which must be intact."""
    step, damaged = RunFolder("r").verify_steps()
    assert step is not None and not damaged, child.output
    return int(step.name[5:])


def test_ctrl_c_stops_all_ranks_after_one_step(run: Child) -> None:
    code, out, err = run.end(signal.SIGINT)
    assert code == 130 and f"interrupted at step {saved_step(run)}/" in out, (out, err)
    # Each line once: the header, the announcement, the summary.
    assert [out.count(text) for text in ("world    2 processes", "light-llm train --resume", "report  ")] == [1, 1, 1]
    assert err.count("stopping after this step") == 1 and len(err.split("\n")) < 5, err


@pytest.mark.slow
def test_signals_of_the_launcher_and_of_one_rank(run: Child) -> None:
    assert SIGUSR1 is not None
    ranks = ranks_of(run.pid)
    for pid in (run.pid, ranks[1], ranks[0]):
        steps = len(RunFolder("r").steps())
        newest = RunFolder("r").steps()[-1:]
        os.kill(pid, SIGUSR1)
        run.wait_until(lambda newest=newest: RunFolder("r").steps()[-1:] != newest)  # type: ignore[misc]
        assert steps <= len(RunFolder("r").steps())
    os.kill(ranks[1], signal.SIGTERM)
    assert run.wait() == 143 and "Traceback" not in run.output[1]
    assert f"interrupted at step {saved_step(run)}/" in run.output[0]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("rank", "number", "words_of_error", "seconds"),
    [
        (1, signal.SIGKILL, r"process 2 of 2 \(rank 1 on \S+\) is gone; .*step-\d+.*--resume", 15),
        (0, signal.SIGKILL, r"process 1 of 2 \(rank 0 on \S+\) is gone; .*--resume", 15),
        (1, signal.SIGSTOP, r"process 2 of 2 \(rank 1 on \S+\) did not answer for 5 s; .*step-\d+.*--resume", 60),
    ],
)
def test_a_rank_that_is_lost(run: Child, rank: int, number: int, words_of_error: str, seconds: float) -> None:
    start = time.monotonic()
    os.kill(ranks_of(run.pid)[rank], number)
    code, (out, err) = run.wait(), run.output
    assert code == 2 and time.monotonic() - start < seconds * 3, (out, err)
    assert re.search(words_of_error, err) and err.count(" (rank ") == 1 and "Traceback" not in out + err, err
    assert "was ended by SIGKILL" in err or "was killed" in err
    # Under DDP rank 0 has the whole model, and saves it by itself.
    if rank == 1:
        assert saved_step(run) >= 10


@pytest.mark.slow
def test_ranks_save_and_leave_when_the_launcher_is_killed(run: Child) -> None:
    ranks = ranks_of(run.pid)
    os.kill(run.pid, signal.SIGKILL)
    run.process.join()
    deadline = time.monotonic() + PATIENCE
    while any(Path(f"/proc/{pid}").exists() for pid in ranks):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert saved_step(run) >= 10 and "Traceback" not in run.output[1]


def as_ranks(words: list[str], folder: Path, changes: Mapping[int, Mapping[str, str]]) -> list[Child]:
    """Run a command as two ranks that a scheduler has started. `changes` of the environment, by rank."""
    children = []
    for rank in (0, 1):
        os.chdir(folder if rank == 0 else folder / "elsewhere")
        children.append(Child(words, env={**rank_env(rank, 2, folder / "store"), **changes.get(rank, {})}))
    os.chdir(folder)
    for child in children:
        child.wait()
    (folder / "store").unlink(missing_ok=True)
    return children


@pytest.mark.slow
def test_only_rank_0_needs_the_run_folder(words: list[str], tmp_path: Path) -> None:
    """Rank 1 works in another, empty folder, where no recipe, run or model is; resumed on two, as one process whole."""
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "recipe.toml").write_text("[train]\nlr = 0.002\n")
    command = [*words, *SHORT.split(), "--config", "recipe.toml"]
    first = as_ranks(command, tmp_path, {rank: {"LIGHT_LLM_STOP_AFTER": "5"} for rank in (0, 1)})
    assert [child.process.exitcode for child in first] == [130, 130], [child.output for child in first]
    second = as_ranks([*words, *SHORT.split(), "--resume"], tmp_path, {})
    assert [child.process.exitcode for child in second] == [0, 0], [child.output for child in second]
    init = ["--init-from", "r", "--overwrite", "--out", "q", "--max-steps", "2"]
    third = as_ranks([*words, *init], tmp_path, {})
    assert [child.process.exitcode for child in third] == [0, 0], [child.output for child in third]
    assert [child.output for child in (first[1], second[1], third[1])] == [("", "")] * 3
    assert list((tmp_path / "elsewhere").iterdir()) == []
    # One process with the same micro-batches writes the same bytes.
    whole = Child([*command[:-3], "whole", *command[-2:], "--micro-batch", "2"])
    assert whole.wait() == 0, whole.output
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        assert Path("r/step-000008", name).read_bytes() == Path("whole/step-000008", name).read_bytes(), name


@pytest.mark.slow
def test_another_text_on_one_machine_is_refused(words: list[str], tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "text.txt").write_text("one text. " * 300)
    (tmp_path / "elsewhere" / "text.txt").write_text("one texx. " * 300)
    words = ["train", "--data", "text.txt", *words[3:], *SHORT.split()]
    # Local rank 0: this rank prepares the text of a machine of its own.
    machine = {rank: {"LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"} for rank in (0, 1)}
    children = as_ranks(words, tmp_path, machine)
    assert [child.process.exitcode for child in children] == [2, 2]
    assert re.search(r"rank 1 on \S+ has another (text|tokenizer)", children[0].output[1]), children[0].output
    assert children[1].output == ("", "") and not Path("r").exists()


@pytest.mark.slow
def test_torchrun_restarts_continue_the_run(words: list[str], tmp_path: Path) -> None:
    """Rank 1 is killed: torchrun starts both again with --overwrite, and the run is not started over."""
    command = [*words, "--max-steps", "200", "--eval-interval", "100", "--save-interval", "20", "--overwrite"]
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "1"]
    with open("out.txt", "w") as out:
        child = subprocess.Popen(
            [sys.executable, *torchrun, "-m", "light_llm", *command, "--out", "r"], stdout=out, stderr=out
        )
        deadline = time.monotonic() + PATIENCE
        while not RunFolder("r").steps():
            assert child.poll() is None and time.monotonic() < deadline, Path("out.txt").read_text()
            time.sleep(0.01)
        os.kill(ranks_of(child.pid)[1], signal.SIGKILL)
        code = child.wait(PATIENCE)
    text = Path("out.txt").read_text()
    assert code == 0 and re.search(r"resumed  at step \d+ from", text) and "is gone" in text, text
    whole = Child([*command, "--out", "whole", "--micro-batch", "2"])
    assert whole.wait() == 0, whole.output
    assert Path("r/best_model.pt").read_bytes() == Path("whole/best_model.pt").read_bytes()


@pytest.mark.slow
def test_requeue_starts_a_run_and_then_continues_it(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    command = [*words, *SHORT.split(), "--requeue"]
    stopped = Child(command, env={"LIGHT_LLM_STOP_AFTER": "3"})
    assert stopped.wait() == 130 and "resumed" not in stopped.output[0]
    again = Child(command)
    assert again.wait() == 0 and "resumed  at step 3 from" in again.output[0], again.output
    finished = Child(command)
    assert finished.wait() == 0 and "8" in finished.output[0]
    refused = Child([*command, "--overwrite"])
    assert refused.wait() == 2 and "--requeue and --overwrite" in refused.output[1]
    # A job that Slurm started again continues its own run, and replaces that of another job as it was asked to.
    for job, restarts, resumes in (("7", "0", False), ("7", "1", True), ("8", "1", False)):
        env = {"SLURM_JOB_ID": job, "SLURM_RESTART_COUNT": restarts, "LIGHT_LLM_STOP_AFTER": "2"}
        child = Child([*words, *SHORT.split(), "--overwrite"], env=env)
        assert child.wait() == 130 and ("resumed" in child.output[0]) == resumes, child.output
