"""What watching costs: the default run with everything measured, and with nothing, in turn.

    python benchmarks/probes.py                 about ten minutes
    python benchmarks/probes.py --pairs 1       a quick look
    python benchmarks/probes.py --one off       one run, as JSON

With nothing: clipping by torch's own function and no look inside. Runs are processes of their own, in turn and with the
order changed from pair to pair; evaluation, saving and samples are left out of both, so that the share is not of more.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
from measure import RESULTS, Row, as_table, keep

STEPS = 50  # two looks at the default interval
PRESETS = ("nano", "micro")
ALLOWED = {"steps": 1.02, "looks": 1.03, "all": 1.05}


class PlainClip:
    """In place of the meter: clips, and measures nothing."""

    current = None

    def __init__(self, model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        self.model = model

    def clip(self, max_norm: float) -> torch.Tensor:
        """As a plain loop does."""
        return torch.nn.utils.clip_grad_norm_(self.model.parameters(), max_norm)

    def __enter__(self) -> "PlainClip":
        return self

    def __exit__(self, *error: object) -> None:
        pass


def train_one(preset: str, *, watched: bool) -> dict[str, float]:
    """Seconds a step, by the steps alone and by the clock on the wall."""
    from light_llm.config import ModelConfig
    from light_llm.data import create_dataloader, prepare_dataset
    from light_llm.model import LightLLM
    from light_llm.observe import read_rows
    from light_llm.runtime import keep_memory
    from light_llm.train import Trainer, trainer

    keep_memory()
    if not watched:
        trainer.Meter = PlainClip  # type: ignore[assignment,misc]
    dataset, tokenizer = prepare_dataset("shakespeare", max_length=512)
    model = LightLLM(ModelConfig.preset(preset, vocab_size=tokenizer.vocab_size))
    never = {"eval_interval": 10_000, "save_interval": 10_000, "sample_interval": 0}
    probes = {} if watched else {"probe_interval": 0}
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch, "run")
        run = Trainer(model, create_dataloader(dataset, 8), max_steps=STEPS, out=out, quiet=True, **never, **probes)
        # The last step would be evaluated, saved and looked at: the run is stopped one step before, and the clock read.
        ticks: list[float] = []
        run.every(1, lambda step: _tick(ticks, run))
        run.train()
        seconds = [row["seconds"] for row in read_rows(out / "metrics.jsonl") if row["kind"] == "step"]
    return {"steps": statistics.median(seconds[2:]), "wall": (ticks[-1] - ticks[1]) / (len(ticks) - 2)}


def _tick(ticks: list[float], run: Any) -> str | None:
    import time

    ticks.append(time.perf_counter())
    return "stop" if len(ticks) == STEPS - 1 else None


def in_child(preset: str, which: str) -> dict[str, float]:
    """A run in a process of its own."""
    words = [sys.executable, __file__, "--one", which, "--preset", preset]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    found: dict[str, float] = json.loads(said.splitlines()[-1])
    print(f"  {preset} {which}: {found}", file=sys.stderr)
    return found


def measure(pairs: int) -> list[Row]:
    """The rows of the table: seconds with everything beside seconds with nothing, the median of the pairs' ratios."""
    rows = []
    for preset in PRESETS:
        found: dict[str, list[dict[str, float]]] = {"on": [], "off": []}
        for pair in range(pairs):
            for which in ("on", "off") if pair % 2 == 0 else ("off", "on"):
                found[which].append(in_child(preset, which))
        for what, key, limit in (("a step, measured", "steps", "steps"), ("a step, looks included", "wall", "all")):
            ratio = statistics.median(on[key] / off[key] for on, off in zip(found["on"], found["off"], strict=True))
            off = statistics.median(run[key] for run in found["off"])
            note = f"nothing measured; at most {ALLOWED[limit] - 1:.0%} more"
            rows.append(Row(f"{preset}, {what}", "s", ratio * off, off, ALLOWED[limit] * off, note))
    return rows


def main() -> None:
    """Measure, print and keep the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=3, help="runs of each kind")
    parser.add_argument("--one", choices=("on", "off"), help="one run, as JSON")
    parser.add_argument("--preset", choices=PRESETS, default="micro", help="with --one")
    args = parser.parse_args()
    if args.one:
        print(json.dumps(train_one(args.preset, watched=args.one == "on")))
        return
    rows = measure(args.pairs)
    result = keep("probes", rows)
    machine = f"{result['cores']} shared cores, {result['machine']}, torch {result['torch']}, {result['date']}"
    table = f"{as_table(rows)}\n\n{machine}. {args.pairs} pairs of {STEPS} steps of 8 x 512.\n"
    (RESULTS / "probes.md").write_text(table, encoding="utf-8")
    print(table, end="")


if __name__ == "__main__":
    main()
