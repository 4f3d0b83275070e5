"""Compare the predictions of `plan` with real runs of all kinds: peak memory and time per step.

Each run is a command line in its own process, which measures this machine again before it starts: calibration and runs
alternate, so that a machine whose speed drifts is compared with itself. Twenty minutes on an idle machine:
`make bench-plan`.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

from light_llm.plan.speed import forget_speed
from light_llm.runtime import device_name, limit_threads, versions

RESULTS = Path(__file__).parent / "results"
STEPS, SETTLE = 8, 2
MEMORY, TIME = (0.10, 0.20), (0.10, 0.25)  # allowed: memory in the median and at worst, time in the median and 90th

SHAPE = "--set model.n_embd={} --set model.n_head={} --set model.n_layer={}"
RUNS = [
    "--preset nano",
    "--preset nano --dtype float32",
    "--preset nano --batch-size 4 --max-length 1024 --dtype float32 --set train.checkpointing=true",
    "--preset nano --batch-size 32 --max-length 128 --tokenizer bpe:2048",
    "--preset nano --batch-size 16 --max-length 256 --tokenizer bpe:2048 --optimizer muon",
    "--preset nano --batch-size 8 --max-length 1024 --tokenizer byte --dtype float32",
    "--preset nano --batch-size 16 --micro-batch 4 --max-length 256 --tokenizer bpe:8192",
    "--preset nano --max-length 512 --tokenizer bpe:4096 --compile on",
    "--preset micro",
    "--preset micro --batch-size 4 --max-length 1024",
    "--preset micro --batch-size 4 --dtype float32",
    "--preset micro --micro-batch 2",
    "--preset micro --set train.checkpointing=true",
    "--preset micro --batch-size 16 --max-length 256 --tokenizer bpe:4096 --optimizer muon",
    "--preset micro --batch-size 16 --max-length 128 --tokenizer bpe:1024 --dtype float32",
    "--preset micro --tokenizer bpe:4096 --dropout 0.1",
    "--preset micro --batch-size 4 --tokenizer bpe:4096 --compile on",
    "--preset micro --batch-size 4 --tokenizer bpe:4096 --dtype float32 --compile on",
    "--preset small --batch-size 4",
    "--preset small --batch-size 2 --max-length 256",
    "--preset small --batch-size 4 --max-length 256 --dtype float32 --set train.checkpointing=true",
    "--preset small --batch-size 8 --micro-batch 4 --max-length 1024 --tokenizer bpe:1024",
    "--preset small --batch-size 8 --max-length 256 --tokenizer bpe:8192 --optimizer muon",
    f"{SHAPE.format(100, 4, 3)} --batch-size 32 --max-length 128 --tokenizer char",
    f"{SHAPE.format(320, 5, 5)} --batch-size 12 --max-length 200 --tokenizer bpe:3000",
    f"{SHAPE.format(768, 12, 4)} --batch-size 4 --max-length 256 --tokenizer bpe:8192",
    f"{SHAPE.format(256, 8, 12)} --batch-size 6 --max-length 384 --tokenizer bpe:2048 --dtype float32",
    f"{SHAPE.format(640, 10, 6)} --batch-size 4 --max-length 512 --tokenizer bpe:4096 --set train.checkpointing=true",
]


def one_run(flags: str, folder: Path) -> dict[str, Any]:
    """Return predicted and measured numbers of a run. Raises RuntimeError if the run failed."""
    forget_speed()
    words = ["--out", str(folder), "--overwrite", "--quiet", "--data", "shakespeare", "--max-steps", str(STEPS)]
    command = [sys.executable, "-m", "light_llm", "train", *words, "--set", "train.sample_interval=0", *flags.split()]
    child = subprocess.run(command, capture_output=True, text=True)
    if child.returncode:
        raise RuntimeError(f"{flags}: {child.stderr}")
    plan = json.loads((folder / "run.json").read_text())["plan"]
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    seconds = [row["seconds"] for row in rows if row["kind"] == "step"][SETTLE:]
    end = next(row for row in rows if row["kind"] == "end")
    return {
        "flags": flags,
        "memory": {"predicted": plan["memory"]["total"], "measured": end["memory"]},
        "step": {
            "predicted": plan["step_seconds"],
            "measured": statistics.median(seconds),
            "fastest": min(seconds),
            "slowest": max(seconds),
        },
    }


def off(of: dict[str, float]) -> float:
    """Return the error of a prediction as a share of the measurement."""
    return of["predicted"] / of["measured"] - 1


def verdict(runs: list[dict[str, Any]]) -> dict[str, float]:
    """Return median and largest error of memory, median and 90th percentile of those of time."""
    memory, step = (sorted(abs(off(run[what])) for run in runs) for what in ("memory", "step"))
    ninth = step[min(len(step) - 1, round(0.9 * len(step)) - 1)]
    return {
        "memory, median": statistics.median(memory),
        "memory, worst": memory[-1],
        "step, median": statistics.median(step),
        "step, 90%": ninth,
    }


def as_table(runs: list[dict[str, Any]], about: str) -> str:
    """Format the table as Markdown."""
    lines = [f"{about}\n", "| run | memory, GB: predicted | measured | off | step, s: predicted | measured | off |"]
    lines.append("|---|---:|---:|---:|---:|---:|---:|")
    for run in runs:
        m, s = run["memory"], run["step"]
        lines.append(
            f"| `{run['flags']}` | {m['predicted'] / 1e9:.2f} | {m['measured'] / 1e9:.2f} | {off(m):+.0%} "
            f"| {s['predicted']:.3f} | {s['measured']:.3f} | {off(s):+.0%} |"
        )
    found = verdict(runs)
    allowed = dict(zip(found, (*MEMORY, *TIME), strict=True))
    lines.append("\n" + "; ".join(f"{name} {value:.1%} ({allowed[name]:.0%} allowed)" for name, value in found.items()))
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run the grid, print and save the table. Return 1 if a target is missed."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="runs whose flags contain this; nothing is kept")
    only = parser.parse_args().only
    limit_threads()  # as the runs do: measurements are cached by the number of threads
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        for flags in (flags for flags in RUNS if only in flags):
            runs.append(one_run(flags, Path(folder) / "run"))
            m, s = runs[-1]["memory"], runs[-1]["step"]
            print(
                f"{flags:100} memory {m['predicted'] / 1e9:.2f} {m['measured'] / 1e9:.2f} {off(m):+.0%}"
                f"   step {s['predicted']:.3f} {s['measured']:.3f} ({s['fastest']:.3f} ... {s['slowest']:.3f})",
                f"{off(s):+.0%}",
                flush=True,
            )
    machine = f"{device_name('cpu')}, torch {versions()['torch']}, {date.today().isoformat()}"
    table = as_table(runs, f"Predicted and measured, {len(runs)} runs of {STEPS} steps: {machine}.")
    print(table)
    if not only:
        (RESULTS / "plan.json").write_text(json.dumps({"machine": machine, "runs": runs}, indent=1) + "\n")
        (RESULTS / "plan.md").write_text(table)
    found = verdict(runs)
    return int(any(value > limit for value, limit in zip(found.values(), (*MEMORY, *TIME), strict=True)))


if __name__ == "__main__":
    sys.exit(main())
