"""Compare training options in the same time: nano, Shakespeare with 2,048 learned ids, 90 s, three seeds.

    python benchmarks/options.py [NAME ...]     all of them, about 25 minutes; continues where it was interrupted

Time is CPU time divided by the number of threads, so that other work does not count. The schedules follow the share of
the time that has passed.
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

from light_llm.config import ModelConfig, TrainConfig
from light_llm.data import create_dataloader, prepare_dataset
from light_llm.data.tokenizers import byte_lengths
from light_llm.evaluate import evaluate_loss
from light_llm.model import LightLLM
from light_llm.objective import NextTokenLoss, total_weight
from light_llm.optim import build_optimizer, learning_rate
from light_llm.runtime import autocast, choose_dtype, configure_malloc

SECONDS, SEEDS, PARTS = 90.0, (1, 2, 3), 10_000  # of the time, as the schedules count it
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {  # changes of the model, changes of the training
    "as it is": ({}, {}),
    "muon": ({}, {"optimizer": "muon"}),
    "wsd": ({}, {"schedule": "wsd"}),
    "z-loss": ({}, {"z_loss": 1e-4}),
    "cap": ({"logit_cap": 30.0}, {}),
}


def train(name: str, seed: int) -> dict[str, float]:
    """Train once; return held-out bits per byte and the number of steps."""
    of_model, of_training = OPTIONS[name]
    dataset, tokenizer = prepare_dataset("shakespeare", max_length=256, tokenizer="bpe:2048")
    loader = create_dataloader(dataset, 8, seed=seed)
    torch.manual_seed(seed)  # dropout
    model = LightLLM(ModelConfig.nano(vocab_size=tokenizer.vocab_size, n_positions=256, **of_model), seed=seed)
    config = TrainConfig(max_steps=PARTS, warmup_steps=PARTS // 10, lr=2.4e-3, **of_training)
    objective, optimizer = NextTokenLoss(model, config.loss_chunk, config.z_loss), build_optimizer(model, config)
    dtype, threads = choose_dtype("auto", "cpu").value, torch.get_num_threads()
    start, step = time.process_time(), 0
    while (spent := (time.process_time() - start) / threads) < SECONDS:
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(int(spent / SECONDS * PARTS), config)
        tokens, targets = loader.batch(step)
        with autocast("cpu", dtype):
            loss = objective(tokens, targets) / total_weight(targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        step += 1
    lengths = np.array(byte_lengths(tokenizer))
    found = evaluate_loss(model, dataset.held_out, lengths, context=256, batch_size=8, dtype=dtype)
    return {"bits_per_byte": found.bits_per_byte, "steps": step}


def main(names: list[str]) -> None:
    """Train in turn, so that a slower hour affects all alike; skip results that results/options.json already has."""
    configure_malloc()
    path = RESULTS / "options.json"
    found: dict[str, dict[str, dict[str, float]]] = json.loads(path.read_text()) if path.exists() else {}
    for seed in SEEDS:
        for name in names:
            runs = found.setdefault(name, {})
            if str(seed) not in runs:
                runs[str(seed)] = train(name, seed)
                path.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")
                print(f"  {name}, seed {seed}: {runs[str(seed)]}", flush=True)
    for name in names:
        bits = [run["bits_per_byte"] for run in found[name].values()]
        gain = [found[names[0]][seed]["bits_per_byte"] - run["bits_per_byte"] for seed, run in found[name].items()]
        error = statistics.stdev(gain) / math.sqrt(len(gain))
        steps = statistics.mean(run["steps"] for run in found[name].values())
        print(f"| {name} | {statistics.mean(bits):.4f} | {statistics.mean(gain):+.4f} ± {error:.4f} | {steps:.0f} |")


if __name__ == "__main__":
    main(sys.argv[1:] or list(OPTIONS))
