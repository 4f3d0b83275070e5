"""Measure how soon the report names a problem, on runs made to collapse, to memorise, and to succeed.

    python benchmarks/verdicts.py --folder runs/verdicts      trains what is missing, some ten minutes on a CPU

Each run is read as it was after every tenth step. A problem *shows* from the step at which it begins in the whole
curve. Memorising: the best evaluation. Collapse: the mean loss of 10 steps is half a nat above its lowest, or, if it
never rises, within 0.2 nats of its end. It is *named* from the first step from which on every report names it.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import date
from pathlib import Path

from measure import RESULTS

from light_llm.report import judge
from light_llm.report.run_log import read_run_log

EVERY = 10  # steps between two readings
TINY = 8_000  # characters of the text that is memorised
MEAN_OF = 10
RISE, STANDS = 0.5, 0.2  # nats


@dataclass(frozen=True)
class Case:
    """A run, and the rule that is to name what is wrong with it; none for a run that does well."""

    what: str
    flags: tuple[str, ...]
    rule: str


SMALL = ("--tokenizer", "bpe:512", "--max-length", "64", "--eval-interval", "20", "--warmup-steps", "20")
CASES = {
    "collapse": Case(
        "nano on Shakespeare, 30 times the rate",
        ("--preset", "nano", "--lr", "4.5e-2", "--max-steps", "150", "--eval-interval", "50"),
        "collapse",
    ),
    "collapse-small": Case(
        "nano, bpe:512, windows of 64, 30 times the rate",
        ("--preset", "nano", *SMALL, "--lr", "4.5e-2", "--max-steps", "200"),
        "collapse",
    ),
    "memorise": Case(
        "nano on 8 kB, bpe:512, windows of 64",
        ("--preset", "nano", "--data", "tiny.txt", *SMALL, "--max-steps", "300"),
        "memorising",
    ),
    "healthy": Case("nano on tales, as it comes", ("--preset", "nano", "--data", "tales:1", "--max-steps", "200"), ""),
}


def train(case: Case, out: Path) -> None:
    """The run, unless it is there."""
    if (out / "report.html").is_file():
        return
    out.parent.mkdir(parents=True, exist_ok=True)
    tiny = out.parent / "tiny.txt"
    tiny.write_text(shakespeare()[:TINY], encoding="utf-8")
    words = ["train", *case.flags, "--out", out.name, "--overwrite", "--set", "train.sample_interval=0"]
    subprocess.run([sys.executable, "-m", "light_llm", *words], cwd=out.parent, check=True)


def shakespeare() -> str:
    """The text, where `--data shakespeare` finds it."""
    from light_llm.data import prepare_dataset

    dataset, _ = prepare_dataset("shakespeare", tokenizer="byte")
    path = dataset.source.path
    assert path is not None
    return Path(path).read_text(encoding="utf-8")


def shows_at(rows: list[dict[str, float]], rule: str) -> int:
    """The step from which it can be seen by one who knows how it goes on."""
    if rule == "memorising":
        return int(min((r for r in rows if r["kind"] == "eval"), key=lambda r: r["loss"])["step"])
    losses = [r["loss"] for r in rows if r["kind"] == "step"]
    means = [sum(losses[i - MEAN_OF : i]) / MEAN_OF for i in range(MEAN_OF, len(losses) + 1)]
    risen = [i for i, mean in enumerate(means) if mean > min(means[: i + 1]) + RISE]
    level = [i for i, mean in enumerate(means) if mean < means[-1] + STANDS]
    return MEAN_OF + (risen or level)[0]


def names_at(folder: Path, rule: str) -> tuple[int | None, set[str]]:
    """The step from which the report always names it, and everything that is called bad at the end."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    last = max(row["step"] for row in rows)
    named, bad = None, set()
    with tempfile.TemporaryDirectory() as scratch:
        part = Path(scratch, "run")
        part.mkdir()
        shutil.copy(folder / "run.json", part)
        for step in range(EVERY, last + 1, EVERY):
            kept = [row for row in rows if row["step"] <= step and not (row["kind"] == "end" and step < last)]
            (part / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in kept), encoding="utf-8")
            bad = {v.rule for v in judge(read_run_log(part)) if v.level == "bad"}
            named = None if rule not in bad else named or step
    return named, bad


def main() -> None:
    """Train what is missing, read every run step by step, write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/verdicts"), help="where the runs are")
    args = parser.parse_args()
    os.environ["PYTHONPATH"] = str(Path(__file__).parent.parent)
    lines = ["| run | shows at step | named from step | called bad at the end |", "|---|---:|---:|---|"]
    for name, case in CASES.items():
        folder = args.folder / name
        train(case, folder)
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
        named, bad = names_at(folder, case.rule)
        shows = str(shows_at(rows, case.rule)) if case.rule else "-"
        called = ", ".join(sorted(bad)) or "nothing"
        lines.append(f"| {case.what} | {shows} | {named or ('-' if not case.rule else 'never')} | {called} |")
        print(lines[-1], flush=True)
    table = "\n".join(lines) + f"\n\nRead as it was after every tenth step. One seed, {date.today()}.\n"
    (RESULTS / "verdicts.md").write_text(table, encoding="utf-8")


if __name__ == "__main__":
    main()
