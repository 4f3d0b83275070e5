"""Train on 100 kB, 1 MB and 10 MB of text as a user would, for README's "what to expect on your laptop".

    python benchmarks/laptop.py                      all three (about 6 minutes on two cores), writes the table
    python benchmarks/laptop.py --only "100 kB"      one of them, printed only

The texts are the first 100 kB of Shakespeare, all of it, and 10 MB of the built-in corpus. Each is trained on as my.txt
by the command that the table shows. The table goes to benchmarks/results/laptop.md.
"""

import argparse
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from measure import RESULTS

from light_llm.data.download import ensure_file
from light_llm.data.sources import SOURCES
from light_llm.data.tales.corpus import ensure_corpus
from light_llm.report import RunLog, read_run_log
from light_llm.runtime import subprocess_env
from light_llm.text_format import format_bytes, format_count

# What gave the lowest held-out loss in three minutes on Shakespeare (docs/log.md), with fewer steps for a small text,
# which more passes would only memorise.
RECIPE = "light-llm train --data my.txt --config shakespeare-modern"
SAMPLE_LINES, SAMPLE_WIDTH = 2, 90


@dataclass(frozen=True)
class Case:
    """A text and the command that trains on it."""

    text: Callable[[], bytes]
    command: str


def _shakespeare() -> bytes:
    return ensure_file(SOURCES["shakespeare"].training[0]).read_bytes()  # type: ignore[arg-type]


CASES = {
    "100 kB": Case(lambda: _shakespeare()[:100_000], f"{RECIPE} --max-steps 150 --dropout 0.1"),
    "1 MB": Case(_shakespeare, RECIPE),
    "10 MB": Case(lambda: ensure_corpus(10_000_000)[0].read_bytes(), f"{RECIPE} --max-steps 1500"),
}


def main() -> None:
    """Train all cases and write the table, or train one and print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(CASES), help="one of the texts; nothing is written")
    parser.add_argument("--folder", type=Path, default=Path("runs/laptop"), help="for the texts and runs")
    parser.add_argument("--machine", default="", help="how the machine is called in the table")
    args = parser.parse_args()
    runs = {}
    for name in [args.only] if args.only else CASES:
        runs[name] = train(CASES[name], args.folder / name.replace(" ", ""))
    text = table(runs, args.machine)
    print(text, end="")
    if not args.only:
        (RESULTS / "laptop.md").write_text(text, encoding="utf-8")


def train(case: Case, folder: Path) -> tuple[RunLog, float]:
    """Run the command of a case in a folder. Returns its run, and the seconds from the command to its end."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "my.txt").write_bytes(case.text())
    words = shlex.split(case.command)[1:]
    start = time.perf_counter()
    # LIGHT_LLM_STOP_AFTER, which tries this program out, ends a run with 130.
    child = subprocess.run(
        [sys.executable, "-m", "light_llm", *words, "--out", "checkpoints", "--overwrite"],
        cwd=folder,
        env=subprocess_env(),
        check=False,
    )
    if child.returncode not in (0, 130):
        raise SystemExit(f"{case.command} failed with exit code {child.returncode}")
    return read_run_log(folder / "checkpoints"), time.perf_counter() - start


def table(runs: dict[str, tuple[RunLog, float]], machine: str = "") -> str:
    """Format the runs as Markdown: a row each, and the beginning of what each wrote last."""
    lines = [
        "| your text | command | model | steps | minutes | held-out bits/byte | peak memory |",
        "|---|---|---:|---:|---:|---:|---:|",
    ]
    for name, (run, seconds) in runs.items():
        best = run.best
        bits = "-" if best is None or best.bits_per_byte is None else f"{best.bits_per_byte:.2f}"
        memory = "-" if run.end is None or run.end.memory is None else format_bytes(run.end.memory)
        model = f"{format_count(run.parameters)} parameters"
        cells = (name, f"`{CASES[name].command}`", model, f"{run.last_step:,}", f"{seconds / 60:.1f}", bits, memory)
        lines.append(f"| {' | '.join(cells)} |")
    for name, (run, _) in runs.items():
        lines += ["", f"After {name} it writes:", "", "```text", *sample(run), "```"]
    first, _ = next(iter(runs.values()))
    decided = first.record["decided"]
    lines += [
        "",
        "Minutes are wall time, all included. The texts: the first 100 kB of Shakespeare, all of it, and 10 MB of",
        "the built-in stories, which are easier to predict. One seed.",
        f"{decided['dtype']['value']} on {decided['device']['value']}: {machine or first.machine}, "
        f"torch {first.versions['torch']}, {first.started:%Y-%m-%d}.",
    ]
    return "\n".join(lines) + "\n"


def sample(run: RunLog) -> list[str]:
    """Return the first lines of the last sample of a run."""
    text = run.samples[-1][1] if run.samples else ""
    return [line[:SAMPLE_WIDTH] for line in text.splitlines() if line.strip()][:SAMPLE_LINES] or ["-"]


if __name__ == "__main__":
    main()
