"""Measure the cost of probes and metrics: the default run with all of them and with none, in turn.

    python benchmarks/probes.py                 about ten minutes
    python benchmarks/probes.py --pairs 1       one pair
    python benchmarks/probes.py --one off       one run, as JSON

With none: clipping by torch's own function, and no probes. Each run is a process, and the order alternates from pair to
pair. Neither evaluates, saves or samples, so that the share is that of the steps alone. The time of a step is the
median from callback to callback; a probe costs what its step takes longer, divided among 25 steps.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from measure import RESULTS, Row, as_table, save_results

EVERY = 25  # steps between two probes, the default
STEPS = 2 * EVERY + 2
PRESETS = ("nano", "micro")
ALLOWED = {"step": 1.02, "look": 1.03, "all": 1.05}


class PlainClip:
    """Stand-in for `StepMetrics` that only clips."""

    current = None

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model = model

    def clip(self, max_norm: float) -> torch.Tensor:
        """Clip as a plain loop does."""
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)

    def __enter__(self) -> "PlainClip":
        return self

    def __exit__(self, *error: object) -> None:
        pass


def train_one(preset: str, *, watched: bool) -> dict[str, float]:
    """Return the seconds of a step, of a probe, and of a step with its share of everything else."""
    from light_llm.config import ModelConfig
    from light_llm.data import create_dataloader, prepare_dataset
    from light_llm.model import LightLLM
    from light_llm.observe import read_rows
    from light_llm.runtime import configure_malloc
    from light_llm.train import Trainer, start

    configure_malloc()
    if not watched:
        start.StepMetrics = PlainClip  # type: ignore[assignment,misc]
    dataset, tokenizer = prepare_dataset("shakespeare", max_length=512)
    model = LightLLM(ModelConfig.preset(preset, vocab_size=tokenizer.vocab_size))
    never = {"eval_interval": 10_000, "save_interval": 10_000, "sample_interval": 0}
    probes = {} if watched else {"probe_interval": 0}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "run")
        run = Trainer(model, create_dataloader(dataset, 8), max_steps=STEPS, out=out, quiet=True, **never, **probes)
        # The last step would be evaluated, saved and looked at: the run is stopped one step before.
        ticks: list[float] = []
        run.every(1, lambda step: _tick(ticks, run))
        run.train()
        seconds = [row["seconds"] for row in read_rows(out / "metrics.jsonl") if row["kind"] == "step"]
    took = [after - before for before, after in pairwise(ticks)][1:]  # of the steps 3, 4, ...
    looked = [second for step, second in enumerate(took, start=3) if watched and step % EVERY == 0]
    step = statistics.median(took)
    look = statistics.median(looked) - step if looked else 0.0
    return {"step": statistics.median(seconds[2:]), "look": look, "all": step + look / EVERY}


def _tick(ticks: list[float], run: Any) -> str | None:
    ticks.append(time.perf_counter())
    return "stop" if len(ticks) == STEPS - 1 else None


def in_child(preset: str, which: str) -> dict[str, float]:
    """Run one variant in its own process."""
    words = [sys.executable, __file__, "--one", which, "--preset", preset]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(said.splitlines()[-1])
    print(f"  {preset} {which}: {found}", file=sys.stderr)
    return found


def measure(pairs: int) -> list[Row]:
    """Return the rows of the table: seconds with all and with none, and the median ratio of the pairs."""
    rows = []
    for preset in PRESETS:
        found: dict[str, list[dict[str, float]]] = {"on": [], "off": []}
        for pair in range(pairs):
            for which in ("on", "off") if pair % 2 == 0 else ("off", "on"):
                found[which].append(in_child(preset, which))
        for what, key in (("a step, measured", "step"), ("a step, looks included", "all")):
            ratio = statistics.median(on[key] / off[key] for on, off in zip(found["on"], found["off"], strict=True))
            off = statistics.median(run[key] for run in found["off"])
            note = f"nothing measured; at most {ALLOWED[key] - 1:.0%} more"
            rows.append(Row(f"{preset}, {what}", "s", ratio * off, off, ALLOWED[key] * off, note))
        look = statistics.median(run["look"] for run in found["on"])
        limit = (ALLOWED["look"] - 1) * EVERY * statistics.median(run["step"] for run in found["off"])
        rows.append(
            Row(f"{preset}, a look", "s", look, None, limit, f"at most {ALLOWED['look'] - 1:.0%} of {EVERY} steps")
        )
    return rows


def main() -> None:
    """Measure, print and save the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3, help="runs of each kind")
    parser.add_argument("--one", choices=("on", "off"), help="one run, as JSON")
    parser.add_argument("--preset", choices=PRESETS, default="micro", help="with --one")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(train_one(args.preset, watched=args.one == "on")))
        return
    rows = measure(args.pairs)
    result = save_results("probes", rows)
    machine = f"{result['cores']} shared cores, {result['machine']}, torch {result['torch']}, {result['date']}"
    table = f"{as_table(rows)}\n\n{machine}. {args.pairs} pairs of {STEPS} steps of 8 x 512.\n"
    (RESULTS / "probes.md").write_text(table, encoding="utf-8")
    print(table, end="")


if __name__ == "__main__":
    main()
