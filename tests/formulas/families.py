"""F: what other published models choose. Pairs that turn are complex numbers, as in modern.py."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from light_llm.config import ModelConfig, TrainConfig, get_model_size
from light_llm.layers.attention import attend, attend_by_formula, blocked_causal_attention
from light_llm.layers.mlps import GatedMLP, GeGLU
from light_llm.layers.norms import RMSNorm1p
from light_llm.layers.positions import RotaryAngles, RotaryPositions, frequencies, rotate
from light_llm.model import Block, LightLLM, SelfAttention
from light_llm.plan.memory_model import StepShape, saved_bytes_of_layer
from tests.support.tools import TINY, some_tokens, tiny_model

from .modern import LLAMA, as_pairs, n_model, n_norm, theta
from .tools import (
    Array,
    agree,
    array,
    causal,
    gelu,
    gelu_tanh,
    gelu_tanh_slope,
    layer_norm,
    normal,
    parameters,
    softmax,
    tensor,
)

AT = torch.arange(5)
CPU = torch.device("cpu")


def F1_a_part_of_each_head_is_rotated() -> None:
    """A third of 24 numbers, and of 26, where 8.67 become 8."""
    for D in (24, 26):
        config = ModelConfig(n_embd=2 * D, n_head=2, positions="rope", rotary_pct=1 / 3 + 1e-6)
        assert config.rotary_dims == math.floor(D / 3 + 1e-6 * D) == 8
        agree(frequencies(config, CPU), [1e4 ** (-2 * i / 8) for i in range(4)], rtol=1e-6)
        x, angles = normal(2, 5, D), np.arange(5)[:, None] * theta(8)
        turned = as_pairs(x[..., :8]) * np.exp(1j * angles)
        formula = np.concatenate([turned.real, turned.imag, x[..., 8:]], axis=-1)
        agree(rotate(tensor(x), RotaryAngles(tensor(np.cos(angles)), tensor(np.sin(angles)))), formula)


def F2_layers_with_a_window_have_their_own_base() -> None:
    changes: dict[str, Any] = {"window": 3, "window_layers": "1,2", "rope_local_base": 100.0, "rope_base": 5e5}
    changes |= {"positions": "rope", "n_layer": 4, "rope_scaling": "linear", "rope_factor": 8.0}
    model = tiny_model(**changes)
    seen: list[RotaryAngles] = []
    for block in model.h:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[4]))
    LightLLM.hidden_states(model, some_tokens(1, 9))
    for layer, angles in enumerate(seen):
        waves = theta(8, 100.0) if layer in (1, 2) else theta(8, 5e5) / 8
        agree(angles.cos, np.cos(np.arange(9)[:, None] * waves), rtol=0, atol=4e-6)
        agree(angles.sin, np.sin(np.arange(9)[:, None] * waves), rtol=0, atol=4e-6)
    agree(RotaryPositions(model.config).local_angles(AT).sin, np.sin(np.arange(5)[:, None] * theta(8, 100.0)), 0, 4e-6)


def _scaled_attention(s: float) -> tuple[list[Array], Array, Array]:
    """q, k and v of two heads, their weights P and the result."""
    q, k, v = (normal(1, 2, 5, 8, seed=i) for i in range(3))
    P = softmax(s * q @ np.swapaxes(k, -1, -2) + causal(5, 5))
    return [q, k, v], P, P @ v


def F3_scores_have_a_factor() -> None:
    for s in (1.0, 0.2, 1 / math.sqrt(8)):
        qkv, _, y = _scaled_attention(s)
        for attention in (attend_by_formula, attend):
            agree(attention(*map(tensor, qkv), scale=s), y)
    agree(attend_by_formula(*map(tensor, qkv)), y)  # the last one is the usual
    neo: SelfAttention = tiny_model(attn_scale=1.0, scale=3).double().h[0].attn  # type: ignore[assignment,union-attr]
    usual: SelfAttention = tiny_model(scale=3).double().h[0].attn  # type: ignore[assignment,union-attr]
    with torch.no_grad():
        usual.c_attn.weight[:24] *= math.sqrt(8)
        usual.c_attn.bias[:24] *= math.sqrt(8)
    agree(neo(tensor(normal(1, 5, 24)), AT, None, None), usual(tensor(normal(1, 5, 24)), AT, None, None))


def F4_the_factor_goes_back_to_queries_and_keys() -> None:
    s = 0.7
    qkv, P, _ = _scaled_attention(s)
    dy = normal(1, 2, 5, 8, seed=9)
    parts = [tensor(x, grad=True) for x in qkv]
    blocked_causal_attention(*parts, queries=2, scale=s).backward(tensor(dy))
    dP = dy @ np.swapaxes(qkv[2], -1, -2)
    dS = P * (dP - (P * dP).sum(axis=-1, keepdims=True))
    # The code sums some of it in float32.
    agree(parts[0].grad, s * dS @ qkv[1], rtol=1e-5, atol=1e-6)
    agree(parts[1].grad, s * np.swapaxes(dS, -1, -2) @ qkv[0], rtol=1e-5, atol=1e-6)


def F5_biases_of_queries_keys_and_values() -> None:
    """The bias of the keys is not seen, unless keys are rotated."""
    config = replace(TINY, bias=False, qkv_bias="yes")
    attn, x, seen = SelfAttention(config, 0).double(), normal(5, 24), []
    with torch.no_grad():
        attn.c_attn.bias.copy_(tensor(normal(72, seed=3)))

    def watching(q, k, v, *_):  # type: ignore[no-untyped-def]
        seen.append(torch.cat([part[0].transpose(0, 1).flatten(1) for part in (q, k, v)], dim=-1))
        return attend_by_formula(q, k, v)

    attn.attend = watching
    before = attn(tensor(x)[None], AT, None, None)
    p = parameters(attn)
    agree(seen[0], x @ p["c_attn.weight"].T + p["c_attn.bias"])
    assert "c_proj.bias" not in p
    places = RotaryPositions(replace(config, positions="rope")).angles(AT)
    rotated = attn(tensor(x)[None], AT, None, None, places)
    with torch.no_grad():
        attn.c_attn.bias[24:48] += 3.0
    agree(attn(tensor(x)[None], AT, None, None), before)
    assert not torch.allclose(attn(tensor(x)[None], AT, None, None, places), rotated, atol=1e-2)


def _block(**changes: Any) -> tuple[Block, Array]:
    block: Block = tiny_model(scale=3, **changes).double().h[0]  # type: ignore[assignment]
    return block, normal(5, 24)


def _branches(block: Block, h: Array) -> tuple[Array, Array]:
    """What attention and the MLP make of the normed h: (5, 24)."""
    one, two = (layer_norm(h, array(n.weight), array(n.bias)) for n in (block.ln_1, block.ln_2))
    return array(block.attn(tensor(one)[None], AT, None, None)[0]), array(block.mlp(tensor(two)))


def F6_parallel_branches() -> None:
    block, x = _block(parallel_residual=True)
    attention, mlp = _branches(block, x)
    agree(block(tensor(x)[None], AT, None, None)[0], x + attention + mlp)


def F7_norms_after_the_branches() -> None:
    block, x = _block(post_norms=True)
    assert block.ln_1_post is not None and block.ln_2_post is not None
    (g1, b1), (g2, b2) = ((array(n.weight), array(n.bias)) for n in (block.ln_1_post, block.ln_2_post))
    h = x + layer_norm(_branches(block, x)[0], g1, b1)
    agree(block(tensor(x)[None], AT, None, None)[0], h + layer_norm(_branches(block, h)[1], g2, b2))


def F8_scaled_embeddings() -> None:
    model, ids, streams = tiny_model(scale_embeddings=True, positions="rope").double(), some_tokens(1, 5), []
    model.drop.register_forward_hook(lambda *args: streams.append(args[2]))
    hidden = LightLLM.hidden_states(model, ids)
    table = array(model.wte.weight)
    agree(streams[0][0], math.sqrt(24) * table[ids[0]])
    agree(model.logits(hidden), array(hidden) @ table.T)


def F9_a_gain_around_1() -> None:
    norm, x, dy = RMSNorm1p(24, 1e-5).double(), tensor(normal(5, 24), grad=True), normal(5, 24, seed=1)
    assert not norm.weight.any()
    with torch.no_grad():
        norm.weight.copy_(tensor(0.3 * normal(24, seed=2)))
    y = norm(x)
    y.backward(tensor(dy))
    u = array(x) / np.sqrt((array(x) ** 2).mean(axis=-1, keepdims=True) + 1e-5)
    agree(norm.gain(), 1 + array(norm.weight))
    agree(y, (1 + array(norm.weight)) * u)
    agree(norm.weight.grad, (dy * u).sum(axis=0))


def F10_a_gate_of_gelu() -> None:
    for activation, formula in (("gelu_tanh", gelu_tanh), ("gelu", gelu)):
        changes = LLAMA | {"mlp": "geglu", "activation": activation}
        mlp: GatedMLP = tiny_model(scale=3, **changes).double().h[0].mlp  # type: ignore[assignment,union-attr]
        p, x = parameters(mlp), normal(5, 24)
        inside = formula(x @ p["c_gate.weight"].T) * (x @ p["c_fc.weight"].T)
        agree(mlp(tensor(x)), inside @ p["c_proj.weight"].T)


def F11_a_gate_of_gelu_goes_back() -> None:
    g, u, dy = tensor(normal(5, 7), grad=True), tensor(normal(5, 7, seed=1), grad=True), normal(5, 7, seed=2)
    GeGLU("tanh")(g, u).backward(tensor(dy))
    agree(u.grad, dy * gelu_tanh(array(g)))
    agree(g.grad, dy * array(u) * gelu_tanh_slope(array(g)))


def F12_parameters_of_biases_and_norms() -> None:
    for changes in ({}, LLAMA, LLAMA | {"n_head": 6, "n_kv_head": 2, "head_dim": 10}):
        for qkv, post in (("auto", False), ("yes", False), ("no", True), ("yes", True)):
            c = replace(TINY, **changes, qkv_bias=qkv, post_norms=post)
            b_qkv = c.bias if qkv == "auto" else qkv == "yes"
            rows = (c.n_head + 2 * c.kv_heads) * c.head_size
            added = c.n_layer * ((b_qkv - c.bias) * rows + post * 2 * n_norm(c))
            plain = replace(c, qkv_bias="auto", post_norms=False)
            assert get_model_size(c) == n_model(plain) + added == get_model_size(plain) + added
            assert get_model_size(c) == sum(p.numel() for p in LightLLM(c).parameters())
    for free in ({"parallel_residual": True}, {"attn_scale": 1.0}, {"scale_embeddings": True}, {"norm": "rmsnorm1p"}):
        like = replace(TINY, norm="rmsnorm") if "norm" in free else TINY
        assert get_model_size(replace(TINY, **free)) == get_model_size(like)


def F13_bytes_of_norms_and_of_parallel_branches() -> None:
    train = TrainConfig(device="cpu", dtype="float32", compile="off", batch_size=4)

    def saved(**changes: Any) -> int:
        return saved_bytes_of_layer(StepShape.of(replace(TINY, **changes), train, 16))

    tokens = 4 * 16
    for norm, statistics in (("layernorm", 8), ("rmsnorm", 4)):
        extra = saved(norm=norm, post_norms=True) - saved(norm=norm)
        assert extra == (4 * 24 * 2 + 2 * statistics) * tokens
        assert saved(norm=norm, parallel_residual=True) - saved(norm=norm) == -4 * 24 * tokens
