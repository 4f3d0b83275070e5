"""Train the runs behind the reference bands of the report: nano and micro on Shakespeare and tales, three seeds.

    python benchmarks/bands.py                       trains what is missing, some hours; continues where it was stopped
    python benchmarks/bands.py --folder runs/bands   folder of the runs; each can be resumed
    python benchmarks/bands.py --steps micro=200     micro for 200 steps, where its band then ends

A band is for the default settings of a preset on one text. It is written to light_llm/report/bands.json.
"""

import argparse
import json
import statistics
import subprocess
import sys
from datetime import date
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parent.parent
BANDS = CHECKOUT / "light_llm" / "report" / "bands.json"
SEEDS = (1, 2, 3)  # not the default one, so that the default run can lie outside
TEXTS = ("tales", "shakespeare")
EVERY = 10  # steps a point of the training band is a mean of
# What a band is of: another value, and there is no band.
SETTINGS = {
    "model": "n_positions n_embd n_layer n_head vocab_size dropout attn_dropout activation logit_cap",
    "data": "max_length held_out val_data errors",
    "train": "batch_size optimizer lr warmup_steps schedule min_lr_ratio lr_horizon weight_decay beta1 beta2 eps "
    "grad_clip z_loss init_from",
}


def train(preset: str, text: str, seed: int, out: Path, steps: int) -> None:
    """Train or resume a default run of 500 steps up to a step."""
    from light_llm.runtime.env import stop_after_env

    made = _last_step(out)
    if made >= steps:
        return
    words = [sys.executable, "-m", "light_llm", "train", "--out", str(out)]
    words += ["--resume"] if made else ["--preset", preset, "--data", text, "--seed", str(seed), "--overwrite"]
    words += ["--set", "train.sample_interval=0", "--set", "train.save_interval=1000"]
    subprocess.run(words, env=stop_after_env(steps - made), check=False)
    if _last_step(out) < steps:
        sys.exit(f"{out} did not get to step {steps}")


def band(runs: list[Path], steps: int) -> dict[str, Any]:
    """Return mean and standard deviation over seeds of training and held-out loss, up to a step."""
    records = [json.loads((run / "run.json").read_text(encoding="utf-8")) for run in runs]
    rows = [[json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()] for run in runs]
    losses = [{row["step"]: row["loss"] for row in of if row["kind"] == "step"} for of in rows]
    held_out = [{row["step"]: row["loss"] for row in of if row["kind"] == "eval"} for of in rows]
    training = []
    for end in range(EVERY, steps + 1, EVERY):
        means = [statistics.fmean(of[step] for step in range(end - EVERY + 1, end + 1)) for of in losses]
        training.append([end, *_mean_and_deviation(means)])
    evaluations = [
        [step, *_mean_and_deviation([of[step] for of in held_out])]
        for step in sorted(set.intersection(*(set(of) for of in held_out)))
        if step <= steps
    ]
    run, data = records[0]["run"], records[0]["data"]
    return {
        "settings": {f"{part}.{name}": run[part][name] for part, names in SETTINGS.items() for name in names.split()},
        "data_sha256": data["sha256"],
        "tokenizer_sha256": data["tokenizer_sha256"],
        "seeds": len(runs),
        "train": training,
        "held_out": evaluations,
    }


def _mean_and_deviation(values: list[float]) -> list[float]:
    return [round(statistics.fmean(values), 4), round(statistics.stdev(values), 4)]


def _last_step(out: Path) -> int:
    steps = [int(path.name.split("-")[1]) for path in out.glob("step-??????") if (path / "MANIFEST.json").is_file()]
    return max(steps, default=0)


def main() -> None:
    """Train what is missing, then write the bands."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/bands"), help="where the runs are")
    parser.add_argument("--steps", action="append", default=[], metavar="PRESET=N", help="steps of a preset's runs")
    args = parser.parse_args()
    upto = {"nano": 500, "micro": 500} | {p: int(n) for p, n in (word.split("=") for word in args.steps)}
    found = {}
    for preset, steps in upto.items():
        for text in TEXTS:
            runs = [args.folder / f"{preset}-{text}-{seed}" for seed in SEEDS]
            for seed, out in zip(SEEDS, runs, strict=True):
                train(preset, text, seed, out, steps)
            found[f"{preset}/{text}"] = band(runs, steps)
    records = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(args.folder.glob("*-*-?/run.json"))]
    made = {
        "date": str(date.today()),
        "machines": sorted({record["machine"] for record in records}),
        "torch": sorted({record["versions"]["torch"] for record in records}),
    }
    BANDS.write_text(json.dumps({"made": made, "bands": found}, indent=1) + "\n", encoding="utf-8")
    for name, values in found.items():
        print(f"{name}: to step {values['train'][-1][0]}, held out {values['held_out'][-1]}")


if __name__ == "__main__":
    main()
