"""C: parameters, floating-point operations, bytes."""

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from light_llm.config import ModelConfig, TrainConfig, get_model_size
from light_llm.generate.cache import KVCache, visible
from light_llm.generate.quantize import dequantize, quantize
from light_llm.layers.attention import attend_by_formula, should_use_blocks
from light_llm.model import LightLLM
from light_llm.plan.memory_model import StepShape, moments
from light_llm.runtime.flops import training_flops
from light_llm.train.checkpointer import OVERHEAD, step_bytes
from light_llm.train.step import Throughput
from tests.support.tools import TINY, tiny_model

from .tools import agree, array, tensor

MICRO = ModelConfig.micro()


OTHER_SHAPE = ModelConfig(vocab_size=300, n_positions=16, n_embd=48, n_layer=3, n_head=4)


def sizes(config: ModelConfig) -> dict[str, int]:
    """Parameters of each part of a model, counted."""
    model = LightLLM(config)
    block = model.h[0]
    parts = {"attn": block.attn, "mlp": block.mlp, "ln_1": block.ln_1, "ln_2": block.ln_2, "block": block, "all": model}
    return {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()}  # type: ignore[union-attr]


def C1_parameters_of_attention() -> None:
    for config in (TINY, OTHER_SHAPE):
        assert sizes(config)["attn"] == 4 * config.n_embd**2 + 4 * config.n_embd


def C2_parameters_of_the_mlp() -> None:
    for config in (TINY, OTHER_SHAPE):
        assert sizes(config)["mlp"] == 8 * config.n_embd**2 + 5 * config.n_embd


def C3_parameters_of_a_block() -> None:
    for config in (TINY, OTHER_SHAPE):
        d, found = config.n_embd, sizes(config)
        assert found["ln_1"] == found["ln_2"] == 2 * d
        assert found["block"] == 12 * d**2 + 13 * d


def C4_parameters_of_a_model() -> None:
    """Of the presets too, whose models tests/test_tiny.py counts."""
    for config in (TINY, OTHER_SHAPE, ModelConfig.nano(), MICRO, ModelConfig.small()):
        V, T, d, L = config.vocab_size, config.n_positions, config.n_embd, config.n_layer
        N = V * d + T * d + L * (12 * d**2 + 13 * d) + 2 * d
        assert get_model_size(config) == N
        if config in (TINY, OTHER_SHAPE):
            assert sizes(config)["all"] == N


def forward_products(config: ModelConfig, T: int) -> float:
    """Two operations for each multiplication of a forward pass over T tokens, product by product; causal attention."""
    V, d, L, H, D = config.vocab_size, config.n_embd, config.n_layer, config.n_head, config.head_size
    linear = L * (d * 3 * d + d * d + d * 4 * d + 4 * d * d) + V * d  # of a token
    attention = L * H * sum(2 * D * seen for seen in range(1, T + 1))  # q k and then a v, over the tokens seen
    return 2.0 * (T * linear + attention)


def _model_for_the_counter() -> LightLLM:
    """The formula in place of the fused kernel, whose products the counter does not see."""
    model = tiny_model()
    for block in model.h:
        block.attn.attend = attend_by_formula  # type: ignore[union-attr]
    return model


def C5_operations_of_a_product() -> None:
    """(n, k) (k, m): k multiplications and k additions for each of n m numbers, as torch's own counter has it."""
    model, B, T = _model_for_the_counter(), 2, 16
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model(torch.zeros(B, T, dtype=torch.long))
    d, L = TINY.n_embd, TINY.n_layer
    whole_square = 2.0 * B * L * 2 * d * T * T  # the counter does not know that half of it is masked
    linear = 2.0 * B * T * (12 * L * d**2 + TINY.vocab_size * d)
    agree(counter.get_total_flops(), linear + whole_square)


def C6_operations_of_a_token_forward() -> None:
    for T in (1, 64, 1024):
        d, L = MICRO.n_embd, MICRO.n_layer
        per_token = 2 * (12 * L * d**2 + MICRO.vocab_size * d) + 2 * L * d * (T + 1)
        agree(forward_products(MICRO, T) / T, per_token)
        agree(training_flops(MICRO, T), 3 * (per_token - 2 * L * d))  # T + 1 is taken as T


def C7_operations_of_a_token_in_training() -> None:
    for config in (ModelConfig.nano(), MICRO, TINY):
        V, d, L = config.vocab_size, config.n_embd, config.n_layer
        for T in (16, 1024, 8192):
            agree(training_flops(config, T), 6 * (12 * L * d**2 + V * d) + 6 * L * d * T)


def crossing(config: ModelConfig) -> float:
    """The T at which attention's own products cost as much as all others."""
    return 12 * config.n_embd + config.vocab_size / config.n_layer


def C8_where_attention_costs_as_much_as_the_rest() -> None:
    T = crossing(MICRO)
    rest = training_flops(MICRO, 0)
    agree(training_flops(MICRO, T) - rest, rest)  # type: ignore[arg-type]


def C9_bytes_of_training() -> None:
    """Weight, gradient and two moments in float32: what the optimizer's step holds, whatever the batch."""
    config = TrainConfig(batch_size=1, device="cpu", dtype="float32", compile="off")
    *_, update = moments(StepShape.of(TINY, config, 16))
    assert update.weights + update.gradients + update.optimizer == 16 * get_model_size(TINY)


def C10_bytes_of_a_checkpoint() -> None:
    model = tiny_model()
    matrices = sum(p.numel() for n, p in model.named_parameters() if p.ndim == 2 and n.startswith("h."))
    N = get_model_size(TINY)
    assert step_bytes(model, TrainConfig()) - OVERHEAD == 12 * N
    assert step_bytes(model, TrainConfig(optimizer="muon")) - OVERHEAD == 12 * N - 4 * matrices


def C11_bytes_of_attention_weights() -> None:
    """B H T^2 / 2 numbers a layer: kept up to 160 x 2^20 bytes, which 160 heads of 1,024 tokens in bfloat16 reach."""
    for B, H, T, dtype in (
        (4, 6, 2048, torch.bfloat16),
        (8, 6, 2048, torch.bfloat16),
        (4, 6, 2048, torch.float32),
        (160, 1, 1024, torch.bfloat16),
        (161, 1, 1024, torch.bfloat16),
    ):
        q = torch.empty(B, H, T, 1, dtype=dtype, requires_grad=True)
        assert should_use_blocks(q, q) == (dtype.itemsize * B * H * T**2 / 2 <= 160 * 2**20)


def C12_bytes_of_a_cache() -> None:
    for B, S, dtype in ((1, 1024, torch.float32), (3, 100, torch.bfloat16)):
        cache = KVCache(MICRO, B, S, torch.device("meta"), dtype)
        held = sum(x.numel() * x.element_size() for x in (cache.keys, cache.values))
        assert held == 2 * MICRO.n_layer * B * S * MICRO.n_embd * dtype.itemsize


def decoding_flops(config: ModelConfig, S: int) -> float:
    """Of one new token that sees S."""
    d, L = config.n_embd, config.n_layer
    return 2 * (12 * L * d**2 + config.vocab_size * d) + 4 * L * d * S


def C13_operations_of_a_new_token() -> None:
    """By torch's counter, on a cache; and one more token costs what a longer text costs more."""
    model = _model_for_the_counter()
    for S in (1, 5, 20):
        cache = KVCache(TINY, 1, 32, torch.device("cpu"), torch.float32)
        with torch.no_grad():
            for start, stop in ((0, S - 1), (S - 1, S)):
                at = torch.arange(start, stop)[None]
                if at.numel():
                    with FlopCounterMode(display=False) as counter:
                        model.logits(model.hidden_states(at, at, visible(at), cache))
        agree(counter.get_total_flops(), decoding_flops(TINY, S))
        agree(forward_products(TINY, S) - forward_products(TINY, S - 1), decoding_flops(TINY, S))


def C14_int8_weights() -> None:
    w = np.random.default_rng(0).standard_normal((5, 40))
    stored, scale = quantize(tensor(w))
    largest = np.abs(w).max(axis=1)
    agree(scale, largest / 127, rtol=2**-8)  # a bfloat16 has 8 bits
    step = array(scale)[:, None]
    agree(stored, np.clip(np.round(w / step), -127, 127))
    assert (np.abs(array(dequantize(stored, scale)) - w) <= step / 2 + largest[:, None] * 2**-8).all()


def C15_model_flops_utilisation() -> None:
    throughput = Throughput(MICRO, flops_per_second=4e11)
    V, d, L = MICRO.vocab_size, MICRO.n_embd, MICRO.n_layer
    for speed, T in ((1478.0, 1024), (10.0, 64)):
        agree(throughput.mfu(speed, T), speed * (6 * (12 * L * d**2 + V * d) + 6 * L * d * T) / 4e11)
