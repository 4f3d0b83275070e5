"""Inject faults into real training runs: for `make faults`, and less often for `make test`.

Each function trains small runs in the working folder, breaks them, resumes them, and compares them with an undisturbed
run byte for byte: weights, optimizer, generators, counters, metrics and best model.
"""

import errno
import math
import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from light_llm.atomic_io import Files, WriteFn
from light_llm.checkpoint import RunFolder, read_model
from light_llm.checkpoint.run_folder import step_number
from light_llm.errors import CheckpointError
from light_llm.model import LightLLM
from light_llm.train import Result, Trainer
from tests.support.child import Child
from tests.support.power import Disk, Recorded
from tests.support.tools import SMALL, byte_loader, byte_model, same

RUN_SETTINGS: dict[str, Any] = SMALL | {"max_steps": 30, "micro_batch": 2, "keep_every": 0}
FILES = {"tokenizer.json": b'{"version": "1.0"}\n' * 500}  # travels with the model; never read
KILLED = 137
OPERATIONS = ("write", "sync", "sync_folder", "make_folder", "rename", "remove")


@dataclass(frozen=True)
class Outcome:
    """The result of injecting a fault."""

    tried: int
    survived: int  # of those tried: the run recovered completely
    lost: int = 0  # bytes of committed files
    not_run: int = 0  # skipped tests


def train(text: Path, out: str, **changes: Any) -> Result:
    """Train a run with dropout, accumulation, evaluations and saves; resume it if it has a checkpoint."""
    files = changes.pop("files", None)
    resume = bool(RunFolder(out).steps())
    if not resume:
        # It ended before its first checkpoint: a user would start it again.
        shutil.rmtree(out, ignore_errors=True)
    # A resumed run may depend on no weight or random number that the process had before.
    model, loader = byte_model(dropout=0.2, seed=5 if resume else 0), byte_loader(text)
    return Trainer(
        model, loader, out=out, resume=resume, files=files, model_files=FILES, **(RUN_SETTINGS | changes)
    ).train()


def in_child(work: Callable[[], object]) -> int:
    """Call a function in a forked process and return its id. Its exit code is 0, or 1 after an error."""
    child = os.fork()
    if child:
        return child
    code = 1
    try:
        work()
        code = 0
    finally:
        os._exit(code)


def exit_code(child: int) -> int:
    """Wait for a child and return its exit code, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


class Dying(Files):
    """A file system that calls `end`, which must not return, at the n-th operation: before it or halfway through it."""

    def __init__(self, at: int, *, end: Callable[[], object], halfway: bool = False) -> None:
        self.left, self.halfway, self.end = at, halfway, end
        self.done: list[str] = []

    def __getattribute__(self, name: str) -> Any:
        if name in OPERATIONS:
            self.left -= 1
            if self.left == 0 and not (self.halfway and name in ("write", "remove")):
                self.end()
            self.done.append(name)
        return super().__getattribute__(name)

    def write(self, path: Path, write_fn: WriteFn) -> str:
        if self.left:
            return super().write(path, write_fn)

        def half(file: BinaryIO) -> None:
            write_fn(file)
            size = file.file.tell()  # type: ignore[attr-defined]
            file.file.truncate(size // 2)  # type: ignore[attr-defined]
            self.end()

        return super().write(path, half)

    def remove(self, path: Path) -> None:
        if self.left == 0 and path.is_dir():
            # A deletion that is interrupted has removed some of the files.
            for file in sorted(path.iterdir())[:2]:
                file.unlink()
            self.end()
        super().remove(path)


def operations(text: Path) -> int:
    """Count the file operations of an undisturbed run, and leave it in `whole`."""
    if not Path("whole").is_dir():
        train(text, "whole")
    files = Recorded()
    train(text, "counted", files=files)
    shutil.rmtree("counted")
    return len(files.done)


def dying_at_an_operation(text: Path, every: int = 1) -> Outcome:
    """End the process at each file operation, before it and halfway through it, and start the run again."""
    total, tried, survived, lost = operations(text), 0, 0, 0
    for at in range(1, total + 1, every):
        for halfway in (False, True):
            files = Dying(at, halfway=halfway, end=lambda: os._exit(KILLED))
            code = exit_code(in_child(lambda files=files: train(text, "run", files=files)))
            lost += bytes_lost(Path("run"))
            train(text, "run")
            tried += 1
            survived += code in (0, KILLED) and same("whole", "run")
            shutil.rmtree("run")
    return Outcome(tried, survived, lost)


def power_cuts(text: Path, every: int = 1, seed: int = 1) -> Outcome:
    """Cut the power after each operation; unsynced data is lost, partly there or complete, at random."""
    files, luck, tried, survived, lost = Recorded(), random.Random(seed), 0, 0, 0
    train(text, "recorded", files=files)
    root = Path("recorded").absolute().parent
    for n in range(1, len(files.done) + 1, every):
        committed = last_committed(files.done[:n])
        for share in (0.0, 0.3, 0.7, 1.0):
            target = Path("after")
            Disk(root, files.done[:n]).after_power_cut(target, luck, share=share)
            tried += 1
            found = what_is_left(target / "recorded")
            survived += found >= committed
            lost += found < committed
    shutil.rmtree("after")
    return Outcome(tried, survived, lost)


def last_committed(done: Sequence[tuple[Any, ...]]) -> tuple[int, bool]:
    """Return the newest step that was renamed and synced, and whether a best model was."""
    step, best, renamed = -1, False, None
    for kind, path, *more in done:
        if kind == "rename":
            renamed = more[0]
        elif kind == "sync_folder" and renamed is not None and path == renamed.parent:
            if renamed.name.startswith("step-") and "." not in renamed.name:
                step = max(step, step_number(renamed))
            best = best or renamed.name == "best_model.pt"
    return step, best


def what_is_left(folder: Path) -> tuple[int, bool]:
    """Return the newest valid step after the clean-up at the start of a run, and whether the best model is readable."""
    run = RunFolder(folder)
    run.remove_stale()
    try:
        step = step_number(run.latest_valid_step()[0])
    except CheckpointError:
        step = -1
    try:
        read_model(run.best_model)
    except CheckpointError:
        return step, False
    return step, True


def kills(text: Path, times: int, seed: int = 1) -> Outcome:
    """Send SIGKILL at random moments of a run and start it again each time, until it ends."""
    if not Path("whole").is_dir():
        train(text, "whole")
    start = time.perf_counter()
    train(text, "timed")
    takes, luck, tried, survived, lost = time.perf_counter() - start, random.Random(seed), 0, 0, 0
    while tried < times:
        before = tried
        for _ in range(times):
            child = in_child(lambda: train(text, "run"))
            time.sleep(luck.uniform(0.1, 1.0) * takes)
            os.kill(child, signal.SIGKILL)
            if exit_code(child) == 0:
                break
            tried += 1
            lost += bytes_lost(Path("run"))
        train(text, "run")
        survived += (tried - before) * same("whole", "run")
        shutil.rmtree("run")
    return Outcome(tried, survived, lost)


def killed_preparations(times: int, seed: int = 1) -> Outcome:
    """Send SIGKILL at random moments of a data preparation (reading, learning, encoding) and start it again."""
    words, luck = ("owl", "cat", "sea", "boat", "honey", "pea-green", "money"), random.Random(seed)
    text = Path("long.txt")
    text.write_text("".join(luck.choice(words) + luck.choice(" \n") for _ in range(300_000)), encoding="utf-8")

    def prepare(cache: str) -> Child:
        # Not a fork of this process: the tokenizers library has threads, which do not survive one.
        words = ["prepare", "--data", str(text), "--tokenizer", "bpe:280", "--quiet"]
        return Child(words, env={"LIGHT_LLM_CACHE": str(Path(cache).absolute())})

    Child(["--version"]).wait()  # it starts the server of the forks, which takes seconds
    start = time.perf_counter()
    codes = [prepare("straight").wait()]
    takes, tried = time.perf_counter() - start, 0
    while tried < times:
        child = prepare("again")
        time.sleep(luck.uniform(0.0, 1.0) * takes)
        child.process.kill()
        # It finished before the signal: start from the beginning.
        if child.wait() == 0:
            shutil.rmtree("again")
        tried += 1
    codes.append(prepare("again").wait())
    kept = [
        {str(p.relative_to(name)): p.read_bytes() for p in sorted(Path(name, "shards").rglob("*")) if p.is_file()}
        for name in ("straight", "again")
    ]
    return Outcome(tried, tried if codes == [0, 0] and kept[0] == kept[1] else 0)


def full_disk(text: Path, every: int = 1) -> Outcome:
    """Fail a file operation with a full disk: the run ends with an error that names it, or continues, and recovers.

    A failed save ends the run and leaves no partial files. A checkpoint that cannot be removed does not end the run; it
    is removed by the next start at the latest.
    """

    def no_room() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    total, tried, survived, lost = operations(text), 0, 0, 0
    for at in range(1, total + 1, every):
        files = Dying(at, halfway=bool(at % 2), end=no_room)
        message = ""
        try:
            status = train(text, "run", files=files).status
        except (CheckpointError, OSError) as error:
            status, message = "", str(error)
        lost += bytes_lost(Path("run"))
        is_clean = status == "done" or not partial_files(Path("run"))
        is_reported = status == "done" or "No space left" in message
        train(text, "run")
        tried += 1
        survived += is_clean and is_reported and not partial_files(Path("run")) and same("whole", "run")
        shutil.rmtree("run")
    return Outcome(tried, survived, lost)


def partial_files(folder: Path) -> list[str]:
    """Return the names of temporary files and folders below a folder."""
    return [path.name for path in folder.rglob("*") if ".tmp-" in path.name]


def resumes(text: Path, steps: Sequence[int], **how: Any) -> Outcome:
    """Stop after each of some steps, and train the rest in another Trainer."""
    os.environ.pop("LIGHT_LLM_STOP_AFTER", None)
    train(text, "straight", **how)
    survived = 0
    for step in steps:
        os.environ["LIGHT_LLM_STOP_AFTER"] = str(step)
        try:
            train(text, "run", **how)
        finally:
            del os.environ["LIGHT_LLM_STOP_AFTER"]
        train(text, "run", **how)
        survived += same("straight", "run")
        shutil.rmtree("run")
    shutil.rmtree("straight")
    return Outcome(len(steps), survived)


def bytes_lost(folder: Path) -> int:
    """Return the bytes of committed step folders that fail verification."""
    run, lost = RunFolder(folder), 0
    for path in run.steps():
        try:
            read_model(path)
        except CheckpointError:
            lost += sum(file.stat().st_size for file in path.iterdir())
    return lost


def not_finite(text: Path, batches: Sequence[int]) -> Outcome:
    """Let a layer overflow on one batch, under each policy: no weight and no checkpoint may become non-finite."""
    tried = survived = 0
    for batch in batches:
        for policy in ("stop", "skip", "rollback"):
            shutil.rmtree("run", ignore_errors=True)
            model, loader = byte_model(dropout=0.2), byte_loader(text)
            poison(model, loader.batch(batch).tokens, model.h[1].mlp)
            result = Trainer(model, loader, out="run", **(RUN_SETTINGS | {"on_nonfinite": policy})).train()
            kept = [*RunFolder("run").steps(), *Path("run").glob("best_model.pt")]
            finite = [all(t.isfinite().all() for t in read_model(path).weights.values()) for path in kept]
            tried += 1
            survived += (
                all(finite)
                and all(p.isfinite().all() for p in model.parameters())
                and result.status == ("nonfinite" if policy == "stop" else "done")
                and f"step {batch + 1} is not finite" in Path("run/train.log").read_text()
            )
    shutil.rmtree("run")
    return Outcome(tried, survived)


def poison(model: LightLLM, tokens: Tensor, layer: nn.Module, factor: float = math.inf) -> None:
    """Multiply the output of a layer by `factor` whenever the model reads these tokens."""
    is_reading = False

    def compare(module: nn.Module, args: Any, output: Tensor) -> None:
        nonlocal is_reading
        is_reading = torch.equal(args[0][: len(tokens)], tokens[: len(args[0])])

    model.wte.register_forward_hook(compare)
    layer.register_forward_hook(lambda module, args, output: output * factor if is_reading else output)
