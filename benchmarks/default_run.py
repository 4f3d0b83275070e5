"""Train the default run on Shakespeare and on the built-in corpus, and three recipes: the tables of docs/results.md.

    python benchmarks/default_run.py                      trains all (an hour and a half), writes the tables
    python benchmarks/default_run.py --only tales         one of them
    python benchmarks/default_run.py --only tales --folder checkpoints   of a finished run

The tables go to benchmarks/results/; a test compares the pages with them.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
RUNS = {  # what is asked for, and the name of its table
    "shakespeare": (["--data", "shakespeare"], "default_run"),
    "tales": (["--data", "tales"], "tales_run"),
    "3min": (["--config", "shakespeare-3min"], "recipe_3min"),
    "modern": (["--config", "shakespeare-modern"], "recipe_modern"),
    "best": (["--config", "shakespeare-best"], "recipe_best"),
}


def main() -> None:
    """Train unless a folder is given, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=list(RUNS), help="one of the runs")
    parser.add_argument("--folder", type=Path, help="with --only: a finished run to make the table of")
    parser.add_argument("--machine", default="", help="how the machine is called in the table")
    args = parser.parse_args()
    for name in [args.only] if args.only else RUNS:
        flags, result = RUNS[name]
        folder = args.folder or Path("runs") / result
        if args.folder is None:
            subprocess.run([sys.executable, str(HERE.parent / "train.py"), *flags, "--out", str(folder)], check=True)
        text = table(folder, args.machine, timed="--config" in flags)
        (HERE / "results" / f"{result}.md").write_text(text, encoding="utf-8")
        print(text, end="")


def table(folder: Path, machine: str, *, timed: bool = False) -> str:
    """Format curve, time and memory of a finished run as Markdown; `timed` adds the training time so far."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    steps: list[dict[str, Any]] = [row for row in rows if row["kind"] == "step"]
    evaluations = [row for row in rows if row["kind"] == "eval"]
    known = "limit" in evaluations[0]
    last = "above the limit" if known else "perplexity"
    after = "after | " if timed else ""
    lines = [f"| step | {after}training loss | held-out loss | bits/byte | {last} |", "|---:" * (5 + timed) + "|"]
    for row in evaluations:
        recent = [s["loss"] for s in steps if row["step"] - 50 < s["step"] <= row["step"]]
        loss = f"{sum(recent) / len(recent):.2f} | {row['loss']:.3f} ± {row['stderr']:.3f}"
        spent = sum(s["seconds"] for s in steps if s["step"] <= row["step"])
        clock = f"{spent:.0f} s | " if timed else ""
        end = f"{row['distance']:.3f}" if known else f"{row['perplexity']:.0f}"
        lines.append(f"| {row['step']} | {clock}{loss} | {row['bits_per_byte']:.3f} | {end} |")
    done = re.findall(r"^done at step .*?  (.*) tokens/s, (.*) in all, peak memory (.* [kMGT]B)$", _log(folder), re.M)
    speed, clock, memory = done[-1]
    versions, decided = record["versions"], record["decided"]
    lines += [
        "",
        *([f"The limit is {evaluations[0]['limit']:.4f} bits/byte."] if known else []),
        f"Training loss: mean of the 50 steps before. {clock} in all, {speed} tokens/s, peak memory {memory},",
        f"{decided['dtype']['value']} on {decided['device']['value']}: {machine or record['machine']}, "
        f"torch {versions['torch']}, {record['started'][:10]}. One seed.",
    ]
    return "\n".join(lines) + "\n"


def _log(folder: Path) -> str:
    return (folder / "train.log").read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
