"""The default run in full, and the table README shows of it.

    python benchmarks/default_run.py                      trains (half an hour on two cores) and writes the table
    python benchmarks/default_run.py --folder checkpoints makes the table of a run that is already there

The table goes to benchmarks/results/default_run.md; a test holds README to it.
"""

import argparse
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent


def main() -> None:
    """Train unless a folder is given, then write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="a finished run to make the table of")
    parser.add_argument("--machine", default="", help="how the machine is called in the table")
    args = parser.parse_args()
    folder = args.folder or Path("checkpoints")
    if args.folder is None:
        subprocess.run([sys.executable, str(HERE.parent / "train.py")], check=True)
    text = table(folder, args.machine)
    (HERE / "results" / "default_run.md").write_text(text, encoding="utf-8")
    print(text, end="")


def table(folder: Path, machine: str) -> str:
    """The curve, the time and the memory of a finished run, as Markdown."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    record = json.loads((folder / "run.json").read_text(encoding="utf-8"))
    steps: list[dict[str, Any]] = [row for row in rows if row["kind"] == "step"]
    lines = ["| step | training loss | held-out loss | bits/byte | perplexity |", "|---:|---:|---:|---:|---:|"]
    for row in rows:
        if row["kind"] == "eval":
            recent = [s["loss"] for s in steps if row["step"] - 50 < s["step"] <= row["step"]]
            lines.append(
                f"| {row['step']} | {sum(recent) / len(recent):.2f} | {row['loss']:.3f} ± {row['stderr']:.3f} | "
                f"{row['bits_per_byte']:.3f} | {row['perplexity']:.0f} |"
            )
    done = re.findall(r"^done at step .*?  (.*) tokens/s, (.*) in all, peak memory (.*) GB$", _log(folder), re.M)
    speed, clock, memory = done[-1]
    versions, decided = record["versions"], record["decided"]
    lines += [
        "",
        f"Training loss: mean of the 50 steps before. {clock} (h:mm:ss or m:ss) in all, {speed} tokens/s, peak memory "
        f"{memory} GB,",
        f"{decided['dtype']['value']} on {decided['device']['value']}: {machine or record['machine']}, "
        f"torch {versions['torch']}, {record['started'][:10]}. One seed.",
    ]
    return "\n".join(lines) + "\n"


def _log(folder: Path) -> str:
    return (folder / "train.log").read_text(encoding="utf-8")


if __name__ == "__main__":
    main()
