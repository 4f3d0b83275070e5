"""Compare architectures in the same time: nano, Shakespeare with 2,048 learned ids, three seeds.

    python benchmarks/architecture.py [NAME ...]     all of them, about 25 minutes; continues where it was interrupted
    python benchmarks/architecture.py micro          the two best at the size of micro, about 9 minutes

First the seconds of a step are measured in turn, on a machine that should be idle. Then each run gets as many steps as
fit into 45 s at that pace, so that other work later does not count. The optimizer is Muon, whose learning rate suits
all of them.
"""

import json
import math
import statistics
import sys
import time
from typing import Any

import numpy as np
import torch
from measure import RESULTS

from light_llm.config import ModelConfig, TrainConfig, get_model_size, preset_settings
from light_llm.data import create_dataloader, prepare_dataset
from light_llm.data.tokenizers import byte_lengths
from light_llm.evaluate import evaluate_loss
from light_llm.model import LightLLM
from light_llm.objective import NextTokenLoss, total_weight
from light_llm.optim import build_optimizer, learning_rate
from light_llm.runtime import autocast, choose_dtype, configure_malloc

SECONDS, SEEDS, V, T, B = 45.0, (1, 2, 3), 2048, 256, 8
ROUNDS, STEPS = 8, 3  # of the measurement of a step
LLAMA = preset_settings("llama-nano")
OPTIONS: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "rope": {"positions": "rope"},
    "rmsnorm": {"norm": "rmsnorm"},
    "swiglu": {"mlp": "swiglu"},
    "relu2": {"mlp": "relu2"},
    "qk-norm": {"qk_norm": True},
    "llama": LLAMA,
    "qwen3": LLAMA | {"qk_norm": True},
    "rope, relu2, qk-norm": {"positions": "rope", "mlp": "relu2", "qk_norm": True},
}
WIDE = {"n_embd": 384, "n_head": 6}
MICRO: dict[str, dict[str, Any]] = {  # the two best, of the next size
    "micro": WIDE,
    "micro, rope, relu2, qk-norm": OPTIONS["rope, relu2, qk-norm"] | WIDE,
    "micro, qwen3": preset_settings("llama-micro") | {"qk_norm": True},
}
ALL = OPTIONS | MICRO


class Training:
    """A model with its objective and optimizer, trained step by step."""

    def __init__(self, of_model: dict[str, Any], steps: int, seed: int = 1) -> None:
        self.config = ModelConfig.nano(**(of_model | {"vocab_size": V, "n_positions": T}))
        self.how = TrainConfig(max_steps=steps, warmup_steps=max(1, steps // 10), lr=4e-3, optimizer="muon")
        self.model = LightLLM(self.config, seed=seed)
        self.objective = NextTokenLoss(self.model, self.how.loss_chunk)
        self.optimizer = build_optimizer(self.model, self.how)
        self.dtype = choose_dtype("auto", "cpu").value

    def step(self, k: int, tokens: torch.Tensor, targets: torch.Tensor) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(k, self.how)
        with autocast("cpu", self.dtype):
            loss = self.objective(tokens, targets) / total_weight(targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.how.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)


def paces(names: list[str]) -> dict[str, float]:
    """Return the seconds of a step of each, the fastest of several rounds in turn."""
    trainings = {name: Training(ALL[name], 1000) for name in names}
    tokens, best = torch.randint(V, (B, T)), dict.fromkeys(names, math.inf)
    for _ in range(ROUNDS):
        for name, training in trainings.items():
            training.step(0, tokens, tokens)  # what the one before left in the caches goes
            start = time.perf_counter()
            for _ in range(STEPS):
                training.step(0, tokens, tokens)
            best[name] = min(best[name], (time.perf_counter() - start) / STEPS)
    return best


def train(name: str, steps: int, seed: int) -> float:
    """Train once; return held-out bits per byte."""
    dataset, tokenizer = prepare_dataset("shakespeare", max_length=T, tokenizer=f"bpe:{V}")
    loader, training = create_dataloader(dataset, B, seed=seed), Training(ALL[name], steps, seed)
    for k in range(steps):
        training.step(k, *loader.batch(k))
    lengths = np.array(byte_lengths(tokenizer))
    how = {"context": T, "batch_size": B, "dtype": training.dtype}
    return evaluate_loss(training.model, dataset.held_out, lengths, **how).bits_per_byte


def main(names: list[str]) -> None:
    """Train in turn, seed by seed; skip results that results/architecture.json already has."""
    configure_malloc()
    path = RESULTS / "architecture.json"
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {"step": {}, "bits": {}}
    if missing := [name for name in names if name not in found["step"]]:
        found["step"] |= paces(missing)
    for seed in SEEDS:
        for name in names:
            bits = found["bits"].setdefault(name, {})
            if str(seed) not in bits:
                bits[str(seed)] = train(name, round(SECONDS / found["step"][name]), seed)
                path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
                print(f"  {name}, seed {seed}: {bits[str(seed)]:.4f}", flush=True)
    print("| choice | parameters | ms a step | steps | bits per byte | gain |\n|---|---:|---:|---:|---:|---:|")
    for name in names:
        bits, step = found["bits"][name], found["step"][name]
        gain = [found["bits"][names[0]][seed] - value for seed, value in bits.items()]
        error = statistics.stdev(gain) / math.sqrt(len(gain))
        size = get_model_size(Training(ALL[name], 1).config)
        numbers = f"{size:,} | {1000 * step:.0f} | {round(SECONDS / step)} | {statistics.mean(bits.values()):.4f}"
        print(f"| {name} | {numbers} | {statistics.mean(gain):+.4f} ± {error:.4f} |")


if __name__ == "__main__":
    main(list(MICRO) if sys.argv[1:] == ["micro"] else sys.argv[1:] or list(OPTIONS))
