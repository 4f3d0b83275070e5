"""Try training settings on a short run and print a line of a table for each: how the defaults were chosen.

    python benchmarks/tune_default.py lr=2.4e-3 eps=1e-5 n_embd=192
    python benchmarks/tune_default.py "lr=2.4e-3" "lr=2.4e-3 dropout=0.1"        several, one after the other

The text is Shakespeare with the whole vocabulary of GPT-2: the 38,000 ids that do not occur in it influence the best
settings (docs/log.md). All fields of TrainConfig and ModelConfig can be set, `max_length`, and two standard deviations
of the initial weights: `std` of matrices, `table_std` of the token table.
"""

import math
import sys
import time
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch

from light_llm.config import DataConfig, ModelConfig, TrainConfig
from light_llm.config.validation import parse_as
from light_llm.data import prepare_dataset
from light_llm.data.order import WindowOrder
from light_llm.data.tokenizers import byte_lengths
from light_llm.evaluate import evaluate_loss
from light_llm.model import LightLLM
from light_llm.objective import NextTokenLoss
from light_llm.optim import build_optimizer, learning_rate
from light_llm.runtime import autocast, choose_dtype


def main() -> None:
    """Train each line and print its row."""
    lines = sys.argv[1:] if any(" " in word for word in sys.argv[1:]) else [" ".join(sys.argv[1:])]
    print("| settings | training | held out at 100, 200, ... | bits/byte | seconds |\n|---|---:|---|---:|---:|")
    for line in lines:
        print(row(line), flush=True)


def row(line: str) -> str:
    """Train with the settings of a line."""
    model, config, T = build(line)
    dataset, tokenizer = prepare_dataset("shakespeare", T, "gpt2")
    train = dataset.tokens.read(0, len(dataset.tokens))
    lengths = np.array(byte_lengths(tokenizer))
    optimizer, objective = build_optimizer(model, config), NextTokenLoss(model, config.loss_chunk)
    order = WindowOrder(len(train), T, config.seed)
    dtype = choose_dtype("auto", "cpu").value
    losses, curve, bits, start = [], [], math.nan, time.perf_counter()
    for step in range(config.max_steps):
        lr = learning_rate(step, config)
        for group in optimizer.param_groups:
            group["lr"] = lr
        starts = [order.start(step * config.batch_size + r) for r in range(config.batch_size)]
        windows = torch.from_numpy(np.stack([train[s : s + T + 1] for s in starts]))
        with autocast("cpu", dtype):
            loss = objective(windows[:, :-1].contiguous(), windows[:, 1:].contiguous()) / (len(starts) * T)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), config.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(loss.item())
        if (step + 1) % config.eval_interval == 0 or step + 1 == config.max_steps:
            found = evaluate_loss(model, dataset.held_out, lengths, context=T, dtype=dtype)
            curve.append(f"{found.loss:.3f}")
            bits = found.bits_per_byte
    trained = sum(losses[-50:]) / len(losses[-50:])
    spent = time.perf_counter() - start
    return f"| {line or 'as they are'} | {trained:.2f} | {', '.join(curve)} | {bits:.3f} | {spent:.0f} |"


def build(line: str) -> tuple[LightLLM, TrainConfig, int]:
    """Return model, config and window length for the settings of a line."""
    settings: dict[str, dict[str, Any]] = {"model": {}, "train": {}}
    stds, T = {"std": 0.02, "table_std": 0.02}, DataConfig().max_length
    for word in line.split():
        key, _, text = word.partition("=")
        if key in stds:
            stds[key] = float(text)
            continue
        if key == "max_length":
            T = parse_as(DataConfig, key, text, what="data")
            continue
        part, kind = ("model", ModelConfig) if key in {f.name for f in fields(ModelConfig)} else ("train", TrainConfig)
        settings[part][key] = parse_as(kind, key, text, what=part)
    config = replace(TrainConfig(), **settings["train"])
    width = settings["model"].get("n_embd", ModelConfig().n_embd)
    model = LightLLM(ModelConfig(**({"n_head": width // 64} | settings["model"])), seed=config.seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim > 1 and "wpe" not in name:
                parameter.mul_(stds["table_std" if "wte" in name else "std"] / 0.02)
    torch.manual_seed(config.seed)  # dropout
    return model.train(), config, T


if __name__ == "__main__":
    main()
