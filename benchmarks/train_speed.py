"""Measure training speed and memory on this CPU, in comparison with a plain loop, each variant in its own process.

    python benchmarks/train_speed.py            all of it, about 5 minutes
    python benchmarks/train_speed.py --one fast one variant, as JSON

Every process measures the machine's rate of products between its steps, so that shares do not depend on other work that
runs meanwhile. The plain loop is the same GPT-2 with torch's attention kernel, `F.cross_entropy` over
the full logits and torch's default AdamW.
"""

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from measure import Row, as_table, matmul_rate, save_results
from torch import Tensor

from light_llm.config import ModelConfig, TrainConfig
from light_llm.model import LightLLM
from light_llm.objective import NextTokenLoss
from light_llm.optim import build_optimizer
from light_llm.runtime import autocast, configure_malloc, peak_memory, training_flops

T = 1024  # tokens of a window


@dataclass(frozen=True)
class Variant:
    """One way to train."""

    what: str
    config: ModelConfig
    batch_size: int = 4
    dtype: str = "bfloat16"
    plain: bool = False
    compiled: bool = False
    frugal: bool = False
    steps: int = 5


VARIANTS = {
    "fast": Variant("ours", ModelConfig.micro()),
    "frugal": Variant("ours, frugal", ModelConfig.micro(), frugal=True),
    "dropout": Variant("ours, dropout 0.1", ModelConfig.micro(dropout=0.1)),
    "float32": Variant("ours, float32", ModelConfig.micro(), dtype="float32", steps=3),
    "plain": Variant("plain, float32", ModelConfig.micro(), dtype="float32", plain=True, steps=2),
    "plain bf16": Variant("plain, bfloat16", ModelConfig.micro(), plain=True, steps=3),
    "plain compiled": Variant("plain, bfloat16, compiled", ModelConfig.micro(), plain=True, compiled=True, steps=4),
    "124 M": Variant(
        "ours, frugal, 124 M 1 x 1,024", ModelConfig(n_embd=768, n_layer=12, n_head=12), 1, frugal=True, steps=3
    ),
}


@dataclass(frozen=True)
class Measured:
    """The result of one process."""

    tokens_per_second: float  # by the median step
    share: float  # of the product rate, medians of both
    rate: float  # FLOP/s of products, median
    peak: int  # bytes


def flops(config: ModelConfig, n_tokens: int, window: int = T) -> float:
    """Return the floating-point operations of the products in one step.

    >>> round(flops(ModelConfig.micro(), 4096) / 1e12, 2)
    0.79
    """
    return training_flops(config, window) * n_tokens


def plain_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Call torch's fused attention kernel."""
    return F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=True)


def steps_of(variant: Variant) -> Iterator[float]:
    """Train on random tokens; yield the seconds of each step."""
    torch.manual_seed(0)
    model = LightLLM(variant.config, seed=0)
    model.checkpointing = variant.frugal
    objective = NextTokenLoss(model, 0 if variant.plain else 512 if variant.frugal else TrainConfig().loss_chunk)
    optimizer = torch.optim.AdamW(model.parameters()) if variant.plain else build_optimizer(model, TrainConfig())
    if variant.plain:
        for block in model.h:
            block.attn.attend = plain_attention  # type: ignore[union-attr]
    if variant.compiled:
        objective.compile(dynamic=False)
    while True:
        x = torch.randint(variant.config.vocab_size, (variant.batch_size, T + 1))
        start = time.perf_counter()
        with autocast("cpu", variant.dtype):
            loss = objective(x[:, :-1].contiguous(), x[:, 1:].contiguous()) / (variant.batch_size * T)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0).item()
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        yield time.perf_counter() - start


def measure_one(variant: Variant) -> Measured:
    """Measure in this process: two steps of warm-up, then the rate of products between any two steps."""
    if not variant.plain:
        configure_malloc()
    steps = steps_of(variant)
    next(steps), next(steps)
    seconds, rates = [], [matmul_rate(4)]
    for _ in range(variant.steps):
        seconds.append(next(steps))
        rates.append(matmul_rate(4))
    second, rate, n = statistics.median(seconds), statistics.median(rates), variant.batch_size * T
    return Measured(n / second, flops(variant.config, n) / second / rate, rate, peak_memory() or 0)


def in_child(name: str) -> Measured:
    """Run `measure_one` in its own process, because peak memory is that of a whole process."""
    words = [sys.executable, __file__, "--one", name]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    print(f"  {VARIANTS[name].what}: {said.strip()}", file=sys.stderr)
    return Measured(**json.loads(said.splitlines()[-1]))


def measure() -> list[Row]:
    """Measure all variants and return the rows of the table."""
    found = {name: in_child(name) for name in [*VARIANTS, "fast"]}  # ours first and last: the later one counts

    def speed(name: str, beside: str) -> Row:
        mine, other = found[name], found[beside]
        # As tokens/s of a machine that multiplies as fast as it did while `mine` was measured.
        scaled = other.tokens_per_second * mine.rate / other.rate
        what = f"{VARIANTS[name].what}, micro 4 x 1,024, beside {VARIANTS[beside].what}"
        limit = mine.tokens_per_second / mine.share
        return Row(what, "tokens/s", mine.tokens_per_second, scaled, limit, "limit: all at the rate of products")

    def memory(name: str, limit: float, plain_peak: int | None = None) -> Row:
        what = f"{VARIANTS[name].what}, peak"
        return Row(what, "GB", found[name].peak / 1e9, plain_peak and plain_peak / 1e9, limit, "plain; allowed")

    return [
        Row("products, bfloat16", "GFLOP/s", found["fast"].rate / 1e9),
        speed("fast", "plain"),
        speed("fast", "plain bf16"),
        speed("fast", "plain compiled"),
        speed("dropout", "fast"),
        speed("frugal", "fast"),
        speed("float32", "plain"),
        memory("fast", 2.0, found["plain"].peak),
        memory("frugal", 1.5, found["plain"].peak),
        memory("124 M", 3.0),
    ]


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        print(json.dumps(vars(measure_one(VARIANTS[sys.argv[2]]))))
    else:
        rows = measure()
        save_results("train_speed", rows)
        print(as_table(rows))
