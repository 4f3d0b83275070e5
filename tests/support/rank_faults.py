"""Break runs on two ranks in every way, and print what was seen, how long it took, and which steps were lost.

python tests/support/rank_faults.py                 every fault, about five minutes
python tests/support/rank_faults.py "a rank hangs"  one of them

After each fault the run is resumed on one process, and must end with the bytes of a run that was never broken. Exits
with 1 if anything else happens than the table says.
"""

import argparse
import hashlib
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
sys.path.insert(0, str(CHECKOUT))

import torch  # noqa: E402

from light_llm.checkpoint import RunFolder  # noqa: E402
from light_llm.checkpoint.run_folder import step_number  # noqa: E402
from light_llm.runtime import device_name  # noqa: E402
from tests.support.tools import cache_profile  # noqa: E402

STEPS, SAVED_EVERY = 30, 10
LIMIT = 180.0  # seconds for a run on a busy machine
TIMEOUT = 8  # train.timeout of the runs in which a rank hangs
FLAGS = (
    "--data text.txt --tokenizer byte --max-length 32 --batch-size 8 --dtype float32 --set model.n_layer=1 "
    f"--set model.n_embd=48 --max-steps {STEPS} --set train.eval_interval=10 --set train.save_interval={SAVED_EVERY} "
    "--set train.probe_interval=0 --set train.sample_interval=0 --skip-doctor"
).split()
FAULTY = [sys.executable, "-m", "tests.support.faulty_rank"]
LAUNCHER = "import sys; from light_llm.cli.processes import launch; sys.exit(launch(sys.argv[2:], int(sys.argv[1])))"


@dataclass(frozen=True)
class Fault:
    """A fault, and what must be seen.

    Attributes:
        injected: NAME@STEP@RANK of `faulty_rank`.
        code: exit code of the launcher.
        message: pattern that the errors or the output of the run must have, once.
        most_lost: steps that were made and are in no checkpoint, at most; None if the run is refused at its start.
        torchrun: further words for torchrun, which then starts the ranks; None for our own launcher.
        machines: the second rank has a folder and a cache of its own.
        text: the text of the second rank, if it has another one.
        alone: only the second rank is started, and finds no other.
        damaged: a byte of the token shard of the second rank is wrong.
        tracebacks: how many the run may print; an error that is none of ours has one, on its rank.
    """

    label: str
    injected: str
    code: int
    message: str = ""
    most_lost: int | None = 0
    flags: Sequence[str] = ()
    torchrun: Sequence[str] | None = None
    machines: bool = False
    text: str = ""
    damaged: bool = False
    alone: bool = False
    tracebacks: int = 0


GONE, HANGS = r"error: process 2 of 2 .*is gone", r"error: process 2 of 2 .*answer"
FAILED = r"error: process 2 of 2 .*a fault of this process"
INTERRUPTED = r"interrupted at step 1[567]/30"
FSDP = ("--parallel", "fsdp")
FAULTS = [
    Fault("SIGKILL of rank 1, DDP", "kill@15@1", 2, GONE),
    Fault("SIGKILL of rank 1, FSDP", "kill@15@1", 2, GONE, 5, FSDP),
    Fault("SIGKILL of rank 0, DDP", "kill@15@0", 2, "process 1 of 2 was ended by SIGKILL", 5),
    Fault("a rank hangs (SIGSTOP)", "hang@15@1", 2, HANGS, 0, ("--set", f"train.timeout={TIMEOUT}")),
    Fault("SIGTERM to one rank", "terminate@15@1", 143, INTERRUPTED),
    Fault("SIGUSR1 to one rank", "save@15@1", 0, r"saved +step 1[56], as requested"),
    Fault("SIGTERM to the launcher", "terminate-parent@15@1", 143, INTERRUPTED),
    Fault("Ctrl-C to the launcher", "interrupt-parent@15@1", 130, INTERRUPTED),
    Fault("SIGUSR1 to the launcher", "save-parent@15@1", 0, r"saved +step 1[56], as requested"),
    Fault("Ctrl-C twice", "leave@15@1", 130, "", 5),
    Fault("SIGKILL of the launcher", "kill-parent@15@1", -signal.SIGKILL, INTERRUPTED),
    Fault("NaN in the loss of rank 1", "nan@15@1", 2, r"step 16 .*not finite", 5),
    Fault("an exception of rank 1, DDP", "error@15@1", 2, FAILED, tracebacks=1),
    Fault("an exception of rank 1, FSDP", "error@15@1", 2, FAILED, 5, FSDP, tracebacks=1),
    Fault("the disk of rank 0 is full", "full-disk@0@0", 2, "error: .*No space left", 10),
    Fault("rank 1 runs out of memory, DDP", "memory@0@1", 0, "sequences per process at a time do not fit: now 2"),
    Fault("rank 1 runs out of memory, FSDP", "memory@0@1", 2, "error: .*--micro-batch", None, FSDP),
    Fault("rank 1 has another version", "version@0@1", 2, r"error: .*0\.0\.9", None),
    Fault("rank 1 has another text", "none@0@1", 2, "error: .*(text|data)", None, machines=True, text="another text\n"),
    Fault("rank 1 has a damaged token shard", "none@0@1", 2, "error: .*damaged", None, machines=True, damaged=True),
    Fault("no shared folder", "terminate@15@1", 143, INTERRUPTED, machines=True),
    Fault("SIGTERM to torchrun", "terminate-parent@15@1", 1, INTERRUPTED, torchrun=()),
    Fault("a rank is killed, and torchrun restarts the ranks", "kill@15@1", 0, "", 0, torchrun=("--max-restarts=1",)),
    Fault(
        "the same with --overwrite", "kill@15@1", 0, "", 0, ("--overwrite",), torchrun=("--max-restarts=1",)
    ),
    Fault("the head cannot be reached", "none@0@1", 2, r"error: .*127\.0\.0\.1:9\b", None, alone=True),
]  # fmt: skip


@dataclass(frozen=True)
class Seen:
    """What a fault did."""

    message: str  # the line of the output that names it
    seconds: float  # from the fault, or from the start, to the end of all ranks
    lost: int | None  # steps
    problems: tuple[str, ...]  # differences from what was expected


def environment(folder: Path, more: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of a run in a folder."""
    path = os.pathsep.join(filter(None, (str(CHECKOUT), os.environ.get("PYTHONPATH"))))
    own = {"LIGHT_LLM_CACHE": str(folder / "cache"), "PYTHONPATH": path, "OMP_NUM_THREADS": "1", "COLUMNS": "400"}
    return {**os.environ, **own, **more}


def run(folder: Path, fault: Fault) -> tuple[int, str, float]:
    """Run on two ranks with a fault. Returns the exit code, the output, and the seconds from the fault to the end."""
    command = ["train", *FLAGS, *fault.flags, "--out", "run"]
    env = environment(folder, {})
    if fault.machines:
        other = folder / "other"
        shutil.copytree(folder / "cache", other / "cache")
        (other / "text.txt").write_text(fault.text * 2000 or (folder / "text.txt").read_text())
        env["FAULTY_FOLDER_1"] = str(other)
        if fault.damaged:
            damage_shard(other)
    if fault.alone:
        numbers = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
        env |= numbers | {"LIGHT_LLM_JOIN_TIMEOUT": "5"}
        words = [*FAULTY, fault.injected, *command]
    elif fault.torchrun is None:
        words = [sys.executable, "-c", LAUNCHER, "2", *FAULTY, fault.injected, *command]
    else:
        words = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", *fault.torchrun]
        env["TORCH_ELASTIC_SHUTDOWN_TIMEOUT"] = "60"
        words += ["-m", "tests.support.faulty_rank", fault.injected, *command]
    started = fault_seen = time.monotonic()
    output = folder / "output.txt"
    with output.open("wb") as file:
        launcher = subprocess.Popen(words, cwd=folder, env=env, stdout=file, stderr=subprocess.STDOUT)
        while launcher.poll() is None or ranks_alive(folder):
            if fault_seen == started and b"fault at" in output.read_bytes():
                fault_seen = time.monotonic()
            if time.monotonic() - started > LIMIT:
                launcher.kill()
                kill_ranks(folder)
                return -1, output.read_text(errors="replace"), LIMIT
            time.sleep(0.02)
    return launcher.returncode, output.read_text(errors="replace"), time.monotonic() - fault_seen


def damage_shard(folder: Path) -> None:
    """Encode the text of a folder, and change a byte of its token shard."""
    words = [sys.executable, "-m", "light_llm", "prepare", "--data", "text.txt", "--tokenizer", "byte"]
    subprocess.run(words, cwd=folder, env=environment(folder, {}), check=True, capture_output=True, timeout=LIMIT)
    (shard,) = (folder / "cache" / "shards").glob("*/train.bin")
    data = bytearray(shard.read_bytes())
    data[len(data) // 2] ^= 1
    shard.write_bytes(data)


def rank_processes(folder: Path) -> list[int]:
    """Return the ranks of a run that still exist, found by their environment."""
    marker, found = f"LIGHT_LLM_CACHE={folder}".encode(), []
    for process in Path("/proc").iterdir():
        if process.name.isdecimal() and int(process.name) != os.getpid():
            try:
                mine = marker in (process / "environ").read_bytes()
                if mine and b"faulty_rank" in (process / "cmdline").read_bytes():
                    found.append(int(process.name))
            except OSError:
                continue
    return found


def ranks_alive(folder: Path) -> bool:
    """Return whether a rank has survived its launcher."""
    return bool(rank_processes(folder))


def kill_ranks(folder: Path) -> None:
    """End what is left of a run."""
    for process in rank_processes(folder):
        os.kill(process, signal.SIGKILL)


def last_reported_step(folder: Path) -> int:
    """Return the last step in the metrics of a run."""
    steps = re.findall(r'"kind": ?"step", ?"step": ?(\d+)', (folder / "run" / "metrics.jsonl").read_text())
    return max(map(int, steps), default=0)


def single_process(folder: Path, *more: str) -> None:
    """Run or resume on one process, with the additions of two ranks: micro-batches of half the batch."""
    words = [sys.executable, "-m", "light_llm", "train", *FLAGS, "--micro-batch", "4", "--out", "run", *more]
    subprocess.run(words, cwd=folder, env=environment(folder, {}), check=True, capture_output=True, timeout=LIMIT)


def digest(folder: Path) -> str:
    """Return the SHA-256 of what a run leaves: its last step, without generators, and its best model."""
    step = folder / "run" / f"step-{STEPS:06}"
    files = [step / name for name in ("model.safetensors", "optimizer.safetensors", "state.json")]
    return hashlib.sha256(
        b"".join(file.read_bytes() for file in [*files, folder / "run" / "best_model.pt"])
    ).hexdigest()


def break_run(folder: Path, fault: Fault, expected: str) -> Seen:
    """Break a run, resume it on one process, and compare. `expected` is the digest of a run that was never broken."""
    code, output, seconds = run(folder, fault)
    problems = []
    if code != fault.code:
        problems.append(f"exit code {code}, not {fault.code}")
    lines = [line for line in output.splitlines() if fault.message and re.search(fault.message, line)]
    if fault.message and len(lines) != 1:
        problems.append(f"{len(lines)} lines with {fault.message!r}")
    # torchrun prints a traceback of its own for every exit code but 0.
    if fault.torchrun is None and output.count("Traceback") > fault.tracebacks:
        problems.append("a traceback")
    if fault.most_lost is None:
        if (folder / "run").exists() and RunFolder(folder / "run").steps():
            problems.append("a refused run has checkpoints")
        return Seen(lines[0] if lines else "", seconds, None, tuple(problems))
    steps = RunFolder(folder / "run").steps()
    lost = last_reported_step(folder) - (step_number(steps[-1]) if steps else 0)
    if lost > fault.most_lost:
        problems.append(f"{lost} steps lost")
    if step_number(steps[-1]) < STEPS:
        single_process(folder, "--resume")
    # Ranks that halved their micro-batch add up in another order.
    if "memory" not in fault.injected and FSDP[1] not in fault.flags and digest(folder) != expected:
        problems.append("the resumed run differs from one that was never broken")
    return Seen(lines[0] if lines else "", seconds, lost, tuple(problems))


def prepare(folder: Path) -> None:
    """Make a folder with the text that is trained on, and a cache in which this machine is measured."""
    lines = (f"The fox went up hill {n % 97} and saw {n % 31} hens.\n" for n in range(900))
    (folder / "cache").mkdir(parents=True)
    (folder / "text.txt").write_text("".join(lines))
    os.environ["LIGHT_LLM_CACHE"] = str(folder / "cache")
    cache_profile()


def reference(folder: Path) -> str:
    """Return the digest of a run on one process that was never broken."""
    prepare(folder)
    single_process(folder)
    return digest(folder)


def main() -> int:
    """Inject the faults and print the table. Returns 1 if something unexpected was seen."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("label", nargs="?", help="only faults whose label has these words")
    parser.add_argument("--keep", action="store_true", help="print the output of each run")
    args = parser.parse_args()
    torch.set_num_threads(1)
    table = ["| fault | seen | seconds | steps lost |", "|---|---|---:|---:|"]
    n_wrong = 0
    with tempfile.TemporaryDirectory() as scratch:
        expected = reference(Path(scratch, "reference"))
        for number, fault in enumerate(FAULTS):
            if args.label and args.label not in fault.label:
                continue
            folder = Path(scratch, str(number))
            prepare(folder)
            seen = break_run(folder, fault, expected)
            n_wrong += bool(seen.problems)
            lost = "-" if seen.lost is None else str(seen.lost)
            message = re.sub(r"\s+", " ", seen.message.replace(str(folder), "")).strip()
            print(f"{fault.label:52} {seen.seconds:6.1f} s  lost {lost:3} {'; '.join(seen.problems) or 'as expected'}")
            print(f"    {message}", flush=True)
            if args.keep or seen.problems:
                print((folder / "output.txt").read_text(errors="replace"))
            table.append(f"| {fault.label} | {message} | {seen.seconds:.1f} | {lost} |")
            shutil.rmtree(folder)
    if not args.label:
        table.append(f"\nTwo ranks on {device_name('cpu')}, torch {torch.__version__}, {date.today()}.\n")
        results = CHECKOUT / "benchmarks" / "results" / "rank_faults.md"
        results.write_text("\n".join(table), encoding="utf-8")
    print("something unexpected was seen" if n_wrong else "all as expected")
    return min(n_wrong, 1)


if __name__ == "__main__":
    raise SystemExit(main())
