"""Inject every fault many times and print a table: `make faults`. Exits with 1 if anything was lost.

python tests/support/campaign.py            everything, about ten minutes
python tests/support/campaign.py --few      each fault a few times
"""

import argparse
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

CHECKOUT = Path(__file__).parents[2]
sys.path.insert(0, str(CHECKOUT))

import torch  # noqa: E402

from light_llm.runtime import device_name  # noqa: E402
from tests.support import faults  # noqa: E402
from tests.support.faults import Outcome  # noqa: E402

# Faults of many kinds, counted by their tests; a test may try one fault or a thousand.
BY_TESTS = {
    "loss spikes, and steps too large for the memory": "tests/train/test_recovery.py",
    "damaged checkpoints, and folders that hold another run": "tests/checkpoint/test_checkpoint.py "
    "tests/checkpoint/test_run_folder.py",
    "resume with changed settings or damaged steps": "tests/train/test_resume.py",
    "flipped bits and truncated files, by kind of file": "tests/checkpoint/test_fuzz.py",
    "hostile files": "tests/checkpoint/test_hostile.py",
    "Ctrl-C and other signals, by phase": "tests/train/test_stop_and_save.py tests/cli/test_signals.py",
    "failing terminals, disks, clocks and trackers": "tests/observe/test_observe.py",
    "invalid texts, prompts and sampling values": "tests/data/test_text_faults.py",
    "no network": "tests/data/test_offline.py",
    "interrupted and corrupted downloads": "tests/data/test_download.py",
}


def main() -> int:
    """Run the campaign and print a line for each fault. Returns the number of faults that lost something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", action="store_true", help="each fault a few times")
    few = parser.parse_args().few
    torch.set_num_threads(1)
    n_lost, campaign_start = 0, time.perf_counter()
    table = ["| fault | tried | survived | bytes lost | not run |", "|---|---:|---:|---:|---:|"]
    print(f"{'fault':56} {'tried':>6} {'survived':>9} {'bytes lost':>11} {'not run':>8} {'seconds':>8}")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["LIGHT_LLM_CACHE"] = str(Path(scratch, "cache"))
        os.chdir(scratch)
        text = Path("poem.txt")
        text.write_text(poem(), encoding="utf-8")
        for fault, inject in campaign(text, few).items():
            start = time.perf_counter()
            outcome = inject()
            n_lost += outcome.survived < outcome.tried or outcome.lost > 0
            counts = (outcome.tried, outcome.survived, outcome.lost, outcome.not_run)
            columns = " ".join(f"{count:{width},}" for count, width in zip(counts, (6, 9, 11, 8), strict=True))
            print(f"{fault:56} {columns} {time.perf_counter() - start:8.1f}", flush=True)
            table.append(f"| {fault} | {' | '.join(f'{count:,}' for count in counts)} |")
    if not few:
        seconds = time.perf_counter() - campaign_start
        table.append(
            f"\n{seconds / 60:.0f} minutes, {device_name('cpu')}, torch {torch.__version__}, {date.today()}.\n"
        )
        (CHECKOUT / "benchmarks" / "results" / "faults.md").write_text("\n".join(table), encoding="utf-8")
    verdict = f"{n_lost} faults lost something" if n_lost else "nothing was lost"
    print(f"{time.perf_counter() - campaign_start:.0f} s; {verdict}")
    return n_lost


def campaign(text: Path, few: bool) -> dict[str, Callable[[], Outcome]]:
    """Return the faults in order, each with a function that injects it."""
    every = 7 if few else 1
    steps = (1, 10, 17) if few else range(1, 30)
    fewer_steps = (6, 17) if few else range(1, 30, 4)
    return {
        "process killed before or during a file operation": lambda: faults.dying_at_an_operation(text, every),
        "power cut after a file operation": lambda: faults.power_cuts(text, every),
        "SIGKILL at a random moment": lambda: faults.kills(text, 3 if few else 20),
        "SIGKILL during data preparation": lambda: faults.killed_preparations(3 if few else 20),
        "disk full at a file operation": lambda: faults.full_disk(text, every),
        "non-finite step, by policy": lambda: faults.not_finite(text, (0, 19) if few else range(0, 30, 3)),
        "stop after a step, and resume": lambda: faults.resumes(text, steps),
        "stop and resume with Muon": lambda: faults.resumes(text, fewer_steps, optimizer="muon"),
        "stop and resume in bfloat16": lambda: faults.resumes(text, fewer_steps, dtype="bfloat16"),
        **{fault: lambda files=files: by_tests(files, few) for fault, files in BY_TESTS.items()},
    }


def by_tests(files: str, few: bool) -> Outcome:
    """Run the tests of some files and count them. A skipped test counts as not run, not as a loss."""
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files.split()]
    words += ["-m", "not slow"] if few else []
    child = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, encoding="utf-8", check=False)
    counts = {result: int(n) for n, result in re.findall(r"(\d+) (passed|failed|error|skipped)", child.stdout)}
    # Tests that need LIGHT_LLM_OFFLINE_DIR or another system are skipped where that is missing.
    not_run = counts.pop("skipped", 0)
    # Without any result pytest itself failed: count that as one loss.
    tried = sum(counts.values()) if counts or not_run else 1
    return Outcome(tried, counts.get("passed", 0), not_run=not_run)


def poem() -> str:
    """Return a small text."""
    return "\n".join(
        f"The {a} {b} went down to the {c},\nand what it saw there nobody knows.\n"
        for a in ("old", "young", "grey", "quick", "silent", "proud")
        for b in ("cat", "fox", "owl", "hen", "mole")
        for c in ("river", "garden", "mill", "harbour")
    )


if __name__ == "__main__":
    raise SystemExit(min(main(), 1))
