"""Every fault, many times, and one table: `make faults`. Exits with 1 when anything was lost.

python tests/support/campaign.py            all of it, some ten minutes
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

# What is counted by the tests that hold it: a fault of many kinds, each tried once or a thousand times by its test.
BY_TESTS = {
    "a loss that jumps, a step too large for the memory": "tests/train/test_recovery.py",
    "damage in a checkpoint, a run that is in the way": "tests/checkpoint/test_checkpoint.py "
    "tests/checkpoint/test_run_folder.py",
    "a setting that changes, a step that is damaged": "tests/train/test_resume.py",
    "a bit flipped or an end cut off, by kind of file": "tests/checkpoint/test_fuzz.py",
    "a hostile file": "tests/checkpoint/test_hostile.py",
    "Ctrl-C and other signals, by phase": "tests/train/test_stop_and_save.py tests/cli/test_signals.py",
    "a terminal, disk, clock or tracker that fails": "tests/observe/test_observe.py",
    "texts, prompts and sampling values": "tests/data/test_text_faults.py",
    "no network": "tests/data/test_offline.py",
    "a download that breaks off or lies": "tests/data/test_download.py",
}


def main() -> int:
    """Run the campaign; print a line as each fault is done. Returns the number of faults that lost something."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--few", action="store_true", help="each fault a few times")
    few = parser.parse_args().few
    torch.set_num_threads(1)
    bad, began = 0, time.perf_counter()
    table = ["| fault | tried | survived | bytes lost |", "|---|---:|---:|---:|"]
    print(f"{'fault':52} {'tried':>6} {'survived':>9} {'bytes lost':>11} {'seconds':>8}")
    with tempfile.TemporaryDirectory() as scratch:
        os.environ["LIGHT_LLM_CACHE"] = str(Path(scratch, "cache"))
        os.chdir(scratch)
        text = Path("poem.txt")
        text.write_text(poem(), encoding="utf-8")
        for what, make in campaign(text, few).items():
            start = time.perf_counter()
            outcome = make()
            bad += outcome.survived < outcome.tried or outcome.lost > 0
            row = f"{what:52} {outcome.tried:6,} {outcome.survived:9,} {outcome.lost:11,}"
            print(f"{row} {time.perf_counter() - start:8.1f}", flush=True)
            table.append(f"| {what} | {outcome.tried:,} | {outcome.survived:,} | {outcome.lost:,} |")
    if not few:
        seconds = time.perf_counter() - began
        table.append(
            f"\n{seconds / 60:.0f} minutes, {device_name('cpu')}, torch {torch.__version__}, {date.today()}.\n"
        )
        (CHECKOUT / "benchmarks" / "results" / "faults.md").write_text("\n".join(table), encoding="utf-8")
    print(f"{time.perf_counter() - began:.0f} s; {'nothing was lost' if not bad else f'{bad} faults lost something'}")
    return bad


def campaign(text: Path, few: bool) -> dict[str, Callable[[], Outcome]]:
    """What is tried, in this order."""
    often = 7 if few else 1
    steps = (1, 10, 17) if few else range(1, 30)
    some = (6, 17) if few else range(1, 30, 4)
    return {
        "the process ends at a file operation, or halfway": lambda: faults.dying_at_an_operation(text, often),
        "the power goes; what was not synced is lost": lambda: faults.power_cuts(text, often),
        "SIGKILL at a random moment": lambda: faults.kills(text, 3 if few else 20),
        "SIGKILL while a text is prepared": lambda: faults.killed_preparations(3 if few else 20),
        "no room at a file operation": lambda: faults.full_disk(text, often),
        "a step that is not finite, by policy": lambda: faults.not_finite(text, (0, 19) if few else range(0, 30, 3)),
        "a stop after a step, resumed": lambda: faults.resumes(text, steps),
        "the same with Muon": lambda: faults.resumes(text, some, optimizer="muon"),
        "the same in bfloat16": lambda: faults.resumes(text, some, dtype="bfloat16"),
        **{what: lambda files=files: by_tests(files, few) for what, files in BY_TESTS.items()},
    }


def by_tests(files: str, few: bool) -> Outcome:
    """The tests of some files: how many there were, and how many passed."""
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *files.split()]
    words += ["-m", "not slow"] if few else []
    child = subprocess.run(words, cwd=CHECKOUT, capture_output=True, text=True, encoding="utf-8", check=False)
    counts = {what: int(n) for n, what in re.findall(r"(\d+) (passed|failed|error|skipped)", child.stdout)}
    tried = sum(counts.values())
    return Outcome(max(tried, 1), counts.get("passed", 0))


def poem() -> str:
    """A small text."""
    return "\n".join(
        f"The {a} {b} went down to the {c},\nand what it saw there nobody knows.\n"
        for a in ("old", "young", "grey", "quick", "silent", "proud")
        for b in ("cat", "fox", "owl", "hen", "mole")
        for c in ("river", "garden", "mill", "harbour")
    )


if __name__ == "__main__":
    raise SystemExit(min(main(), 1))
