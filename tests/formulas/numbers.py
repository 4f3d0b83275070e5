"""Every number and table that README-transformer-math.md quotes, computed."""

import math

import numpy as np

from light_llm.config import ModelConfig, TrainConfig, get_model_size
from light_llm.config.schedule import DECAY
from light_llm.observe.curvature import adam_threshold, gradient_descent_threshold
from light_llm.runtime.flops import training_flops

from .counting import crossing, decoding_flops
from .loss import bits_of_tales
from .optimisation import phi
from .tools import Array, gelu, gelu_tanh

MICRO, TRAIN = ModelConfig.micro(), TrainConfig()


def numbers() -> dict[str, float]:
    """By the name in the mark behind it."""
    V, T, d, L = MICRO.vocab_size, MICRO.n_positions, MICRO.n_embd, MICRO.n_layer
    N, F = get_model_size(MICRO), training_flops(MICRO, T)
    matrices, head = 12 * L * d**2, V * d
    wrong = L * (12 * d**2 + 13 * d * V)
    bits, bits_per_byte = bits_of_tales(400)
    muon = _after_five_turns(np.linspace(0.01, 1, 5000))
    grid = np.linspace(-6, 6, 20001)
    sure, unsure = (1 / (1 + math.exp(-s)) for s in (math.sqrt(64), 1.0))
    return {
        "micro_V": V,
        "micro_T": T,
        "micro_N": N,
        "gpt2_merges": V - 257,
        "weight_unscaled": sure,
        "weight_scaled": unsure,
        "slope_unscaled": sure * (1 - sure),
        "slope_scaled": unsure * (1 - unsure),
        "gelu_difference": np.abs(gelu(grid) - gelu_tanh(grid)).max(),
        "gelu_where": abs(grid[np.abs(gelu(grid) - gelu_tanh(grid)).argmax()]),
        "head_N": head,
        "head_share": 100 * head / N,
        "residual_std": 0.02 / math.sqrt(2 * L),
        "log_V": math.log(V),
        "untrained_excess": 0.02**2 * d / 2,
        "block_N": 12 * d**2 + 13 * d,
        "micro_mflop": F / 1e6,
        "six_N": 6 * N / 1e6,
        "crossing": crossing(MICRO),
        "train_MB": 16 * N / 1e6,
        "step_MB": 12 * N / 1e6,
        "logits_MB": 4 * T * V * 4 / 1e6,
        "cache_MB": 2 * 2 * L * T * d / 1e6,
        "decode_mflop": decoding_flops(MICRO, 1) / 1e6,
        "decode_MB": 2 * (matrices + head) / 1e6,
        "decode_ms": 2 * (matrices + head) / 30e9 * 1e3,
        "float32_overflow": math.ceil(math.log(float(np.finfo(np.float32).max))),
        "tale_bits": bits,
        "tale_bpb": bits_per_byte,
        "default_lr": TRAIN.lr,
        "wsd_decay": DECAY,
        "half_life": math.log(2) / (TRAIN.lr * TRAIN.weight_decay),
        "muon_low": muon.min(),
        "muon_high": muon.max(),
        "nucleus": 0.5 / (0.5 + 0.3),
        "nucleus_rest": 0.3 / (0.5 + 0.3),
        "hessian_elements": N**2 / 1e12,
        "gd_threshold": gradient_descent_threshold(TRAIN.lr),
        "adam_threshold": adam_threshold(TRAIN.lr, TRAIN.beta1),
        "wrong_N": wrong,
        "wrong_N_ratio": wrong / N,
        "window_nats": 4.0 * T,
        "ppl_low": math.exp(3.5),
        "ppl_high": math.exp(4.0),
        "ppl_high_rounded": math.exp(4.0),
        "share_1024": 100 * 6 * L * d * T / F,
        "blocks_share_1024": 100 * 6 * matrices / F,
        "head_share_1024": 100 * 6 * head / F,
        "doubling": 2 * F / training_flops(MICRO, T // 2),
    }


def _after_five_turns(s: Array) -> Array:
    for _ in range(5):
        s = phi(s)
    return s


def tables() -> dict[str, str]:
    """By the name in the mark before it."""
    return {"presets": _presets(), "where_time_goes": _where_time_goes()}


def _presets() -> str:
    rows = []
    for name in ("nano", "micro", "small"):
        config = ModelConfig.preset(name)
        d, L, H = config.n_embd, config.n_layer, config.n_head
        V, T = config.vocab_size, config.n_positions
        parts = V * d, T * d, L * (12 * d**2 + 13 * d), 2 * d
        rows.append([f"`{name}`", str(d), str(L), str(H), *(f"{n:,}" for n in (*parts, get_model_size(config)))])
    return _table(["", "C", "L", "H", "tokens", "positions", "blocks", "final norm", "N"], rows)


def _where_time_goes() -> str:
    V, d, L = MICRO.vocab_size, MICRO.n_embd, MICRO.n_layer
    rows = []
    for T in (128, 256, 512, 1024, 2048, 4096, 8192):
        F = training_flops(MICRO, T)
        blocks, head, attention = 6 * 12 * L * d**2, 6 * V * d, 6 * L * d * T
        cells = [f"{x / 1e6:.1f}" for x in (blocks, head, attention, F)]
        rows.append([f"{T:,}", *cells, f"{100 * attention / F:.1f}%", f"{4 * L * T * d / 1e6:.1f}"])
    return _table(["T", "blocks", "head", "attention", "all", "attention's share", "cache, MB"], rows)


def _table(heads: list[str], rows: list[list[str]]) -> str:
    lines = [heads, ["---", *["---:"] * (len(heads) - 1)], *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
