"""Measure and plot how the cost of a training step grows with each size: `python benchmarks/scaling.py`.

Each line varies one size of a small model around 2 x 512 tokens, C = 256, L = 4, V = 8,192. The measured seconds are
compared with the FLOPs of all products, attention included, over the machine's rate of products. A large step may be
faster than its line, but must not grow more steeply.
"""

import json
import subprocess
import sys
from dataclasses import asdict, dataclass, replace
from datetime import date
from itertools import pairwise
from pathlib import Path

import torch
from measure import RESULTS, best_in_turn, matmul_rate
from train_speed import flops

from light_llm.config import ModelConfig, TrainConfig, get_model_size
from light_llm.model import LightLLM
from light_llm.objective import NextTokenLoss
from light_llm.optim import build_optimizer
from light_llm.runtime import autocast, configure_malloc, peak_memory

ROOM = 1.25  # a doubling may cost this much more than its arithmetic: a cache is left, a neighbour wakes up


@dataclass(frozen=True)
class Size:
    """The sizes of a training step."""

    T: int = 512
    B: int = 2
    C: int = 256
    L: int = 4
    V: int = 8192

    @property
    def config(self) -> ModelConfig:
        """The model of this size, with heads of 64."""
        return ModelConfig(
            vocab_size=self.V, n_positions=self.T, n_embd=self.C, n_layer=self.L, n_head=max(1, self.C // 64)
        )

    @property
    def flops(self) -> float:
        """Floating-point operations of all products of a step."""
        return flops(self.config, self.B * self.T, self.T)


LINES = {
    "T": [128, 256, 512, 1024, 2048, 4096],
    "B": [1, 2, 4, 8, 16],
    "C": [128, 256, 512, 1024],
    "L": [2, 4, 8, 16],
    "V": [512, 2048, 8192, 32768, 131072],
}


@dataclass(frozen=True)
class Point:
    """The cost of one size."""

    name: str  # which size is varied
    value: int
    tokens_per_second: float
    seconds: float
    flops: float
    rate: float  # of the machine, FLOP/s, at the time
    peak: int  # bytes, of a process that only made this
    parameters: int


def measure_point(name: str, value: int) -> Point:
    """Measure one size in this process."""
    configure_malloc()
    torch.manual_seed(0)
    size = replace(Size(), **{name: value})
    config = size.config
    model = LightLLM(config, seed=0)
    objective, optimizer = NextTokenLoss(model, TrainConfig().loss_chunk), build_optimizer(model, TrainConfig())
    x = torch.randint(size.V, (size.B, size.T + 1))

    def step() -> None:
        with autocast("cpu", "bfloat16"):
            loss = objective(x[:, :-1].contiguous(), x[:, 1:].contiguous()) / (size.B * size.T)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    rate = matmul_rate(4)
    second = best_in_turn({"": step}, turns=3)[""]
    rate = max(rate, matmul_rate(4))
    n = size.B * size.T
    return Point(name, value, n / second, second, size.flops, rate, peak_memory() or 0, get_model_size(config))


def in_child(name: str, value: int) -> Point:
    """Measure one size in its own process, because peak memory is that of a whole process."""
    words = [sys.executable, __file__, "--one", name, str(value)]
    point = Point(**json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout))
    print(
        f"  {name} = {value:<7,} {point.tokens_per_second:8,.0f} tokens/s  {point.seconds * 1e3:7.0f} ms  "
        f"{point.flops / point.rate / point.seconds:4.0%} of the product rate  {point.peak / 1e9:.2f} GB",
        flush=True,
    )
    return point


def steeper(points: list[Point]) -> list[str]:
    """Name the pairs of sizes between which the seconds grew faster than the arithmetic, with a margin for noise."""
    found = []
    for small, large in pairwise(points):
        grew, must = large.seconds / small.seconds, large.flops / large.rate / (small.flops / small.rate)
        if grew > ROOM * max(must, 1.0):
            found.append(f"{large.name} from {small.value} to {large.value}: {grew:.2f}x, arithmetic {must:.2f}x")
    return found


def draw(lines: dict[str, list[Point]], path: Path) -> None:
    """Plot a panel for each size: measured seconds, and the line of the arithmetic."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    figure, panels = plt.subplots(2, len(lines), figsize=(15, 6), layout="constrained", sharey="row")
    for (top, bottom), (name, points) in zip(panels.T, lines.items(), strict=True):
        values = [p.value for p in points]
        top.loglog(values, [p.seconds * 1e3 for p in points], "o-", label="measured")
        top.loglog(values, [p.flops / p.rate * 1e3 for p in points], "--", label="products at the machine's rate")
        bottom.semilogx(values, [p.peak / 1e9 for p in points], "s-", color="tab:green")
        bottom.set_xlabel(name)
        for panel in (top, bottom):
            panel.set_xticks(values, [f"{v:,}" for v in values], rotation=45, minor=False)
            panel.minorticks_off()
            panel.grid(alpha=0.3)
    panels[0, 0].set_ylabel("ms per step")
    panels[1, 0].set_ylabel("peak memory, GB")
    panels[0, 0].legend(fontsize=8)
    base = Size()
    figure.suptitle(
        f"One training step, one size varied around B={base.B}, T={base.T}, C={base.C}, L={base.L}, V={base.V:,}"
    )
    figure.savefig(path, dpi=110)


def measure() -> dict[str, list[Point]]:
    """Measure all lines."""
    return {name: [in_child(name, value) for value in values] for name, values in LINES.items()}


def main() -> list[str]:
    """Measure, save and plot. Return a warning for each size that costs more than its arithmetic."""
    lines = measure()
    found = [line for points in lines.values() for line in steeper(points)]
    record = {
        "date": str(date.today()),
        "torch": torch.__version__,
        "points": [asdict(p) for points in lines.values() for p in points],
        "steeper than the arithmetic": found,
    }
    (RESULTS / "scaling.json").write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    draw(lines, RESULTS / "scaling.png")
    return found


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(asdict(measure_point(sys.argv[2], int(sys.argv[3])))))
    else:
        print("\n".join(main()) or "no size costs more than its arithmetic")
