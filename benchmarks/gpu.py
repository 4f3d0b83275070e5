"""Train and generate with GPT-2's 124 M parameters on one GPU, in comparison with a plain compiled loop:

    python benchmarks/gpu.py [--batch 32] [--steps 20]

Prints a table with the GPU, its measured rate of products and the versions, and writes results/gpu.json. The plain loop
is the same model with torch's fused attention, `F.cross_entropy` over the full logits, `torch.compile` and fused AdamW.
"""

import argparse
import statistics
from collections.abc import Callable

import torch
from measure import Row, as_table, save_results
from train_speed import T, flops

from light_llm.config import ModelConfig, TrainConfig
from light_llm.generate import Sampling, decode
from light_llm.model import LightLLM
from light_llm.objective import NextTokenLoss
from light_llm.optim import build_optimizer
from light_llm.runtime import autocast, choose_device
from light_llm.runtime.timing import time_calls

CONFIG = ModelConfig(n_embd=768, n_layer=12, n_head=12)


def seconds(call: Callable[[], object], n: int) -> float:
    """Return the median of n calls."""
    return statistics.median(time_calls(call, device="cuda", repeats=n, min_seconds=0))


def card_rate() -> float:
    """Measure the FLOP/s of bfloat16 products of 8,192 x 8,192 matrices."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    return 2 * 8192**3 / seconds(lambda: a @ b, 20)


def card_bandwidth() -> float:
    """Measure the bytes/s of reading 4 GB."""
    block = torch.ones(1 << 30, device="cuda", dtype=torch.float32)
    return block.numel() * 4 / seconds(block.sum, 20)


def trainer(chunk: int, batch: int) -> Callable[[], None]:
    """Return a compiled training step; chunk 0 is the plain loss."""
    torch.manual_seed(0)
    model = LightLLM(CONFIG).to("cuda")
    objective, optimizer = NextTokenLoss(model, chunk), build_optimizer(model, TrainConfig())
    objective.compile(dynamic=False)
    x = torch.randint(CONFIG.vocab_size, (batch, T + 1), device="cuda")
    tokens, targets = x[:, :-1].contiguous(), x[:, 1:].contiguous()

    def step() -> None:
        with autocast("cuda", "bfloat16"):
            loss = objective(tokens, targets) / tokens.numel()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    return step


def measure(batch: int, steps: int) -> list[Row]:
    """Measure training, then generation of a single text."""
    rate, bandwidth, n = card_rate(), card_bandwidth(), batch * T
    speeds, peaks = {}, {}
    for name, chunk in (("plain", 0), ("ours", 8192)):
        torch.cuda.reset_peak_memory_stats()
        speeds[name] = n / seconds(trainer(chunk, batch), steps, settle=5)
        peaks[name] = torch.cuda.max_memory_allocated() / 1e9
        torch.cuda.empty_cache()
    limit = rate / (flops(CONFIG, n) / n)
    model = LightLLM(CONFIG).to("cuda", torch.bfloat16).eval()

    def write() -> None:
        list(decode(model, [[1]], sampling=Sampling(temperature=0.0), seeds=[0], max_new_tokens=200))

    one = 200 / seconds(write, 3, settle=1)
    weights = sum(p.numel() for p in model.parameters()) * 2
    return [
        Row("products, bfloat16", "TFLOP/s", rate / 1e12),
        Row(f"124 M, {batch} x 1,024", "tokens/s", speeds["ours"], speeds["plain"], limit, "plain, compiled; products"),
        Row("its peak", "GB", peaks["ours"], peaks["plain"], note="plain, compiled"),
        Row("one stream", "tokens/s", one, limit=bandwidth / weights, note="reading the weights once a token"),
    ]


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=20)
    asked = parser.parse_args()
    print(f"{choose_device('cuda')}, torch {torch.__version__}")
    rows = measure(asked.batch, asked.steps)
    save_results("gpu", rows)
    print(as_table(rows))
