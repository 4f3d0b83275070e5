"""M: what a config may choose instead. Pairs that turn are complex numbers here, and heads are loops."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from light_llm.config import ModelConfig, block_shapes, get_model_size
from light_llm.config.param_shapes import count
from light_llm.generate.cache import KVCache
from light_llm.layers.attention import attend_by_formula, repeat_kv, sliding_window_mask
from light_llm.layers.mlps import GatedMLP, SquaredReLU, SwiGLU
from light_llm.layers.norms import RMSNorm, rms_norm
from light_llm.layers.positions import RotaryAngles, RotaryPositions, frequencies, rotate
from light_llm.model import SelfAttention
from light_llm.objective import NextTokenLoss
from light_llm.runtime.flops import attended_tokens, training_flops
from tests.support.tools import TINY, gradients, some_tokens, tiny_model

from .counting import sizes
from .tools import Array, agree, array, layer_norm, normal, parameters, softmax, tensor

ROPE = ModelConfig(vocab_size=61, n_positions=32, n_embd=24, n_layer=2, n_head=3, positions="rope")
LLAMA: dict[str, Any] = {"positions": "rope", "norm": "rmsnorm", "mlp": "swiglu", "bias": False}
LLAMA_MICRO = ModelConfig.preset("llama-micro")
FAR = 1000  # tokens: how far the text of (M3) is moved at most
NAMES = ("llama-nano", "llama-micro", "llama-small")


def theta(D: int = 8, base: float = 1e4) -> Array:
    """Radians a token of each pair, i = 0 ... D/2 - 1."""
    return np.array([base ** (-2 * i / D) for i in range(D // 2)])


def as_pairs(x: Array) -> Any:
    """The halves of a head's numbers as one complex number each: (..., D) -> (..., D / 2)."""
    half = x.shape[-1] // 2
    return x[..., :half] + 1j * x[..., half:]


def M1_angles_of_the_pairs() -> None:
    places = np.array([0, 1, 2, 31])
    turn = RotaryPositions(ROPE).angles(torch.tensor(places))
    assert turn is not None
    angles = places[:, None] * theta()
    agree(frequencies(ROPE, torch.device("cpu")), theta(), rtol=1e-6)
    agree(turn.cos, np.cos(angles), rtol=0, atol=4e-6)  # the code's angles are float32
    agree(turn.sin, np.sin(angles), rtol=0, atol=4e-6)


def turned(x: Array, places: Array, **turn: Any) -> tuple[Tensor, Any]:
    """What the code and what the formula makes of (..., T, D) at T places, both in float64; the formula's in pairs."""
    angles = places[:, None] * theta(x.shape[-1])
    code = rotate(tensor(x, **turn), RotaryAngles(tensor(np.cos(angles)), tensor(np.sin(angles))))
    return code, as_pairs(x) * np.exp(1j * angles)


def M2_a_rotation() -> None:
    code, formula = turned(normal(2, 3, 5, 8), np.arange(5) * 3.0)
    agree(as_pairs(array(code)).real, formula.real)
    agree(as_pairs(array(code)).imag, formula.imag)


def M3_scores_depend_on_the_difference_alone() -> None:
    """By the formula exactly, and by the code's own float32 angles to their rounding."""
    q, k, t, s = normal(5, 8), normal(5, 8, seed=1), np.arange(5), np.array([3, 1, 2, 0, 4])
    difference = np.exp(1j * (t - s)[:, None] * theta())
    formula = (as_pairs(q) * np.conj(as_pairs(k)) * difference).real.sum(axis=-1)
    for shift in (0, 5, FAR):
        one, other = (turned(x, at + shift + 0.0)[0] for x, at in ((q, t), (k, s)))
        agree((one * other).sum(dim=-1), formula)
        at_t, at_s = (RotaryPositions(ROPE).angles(torch.tensor(at + shift)) for at in (t, s))
        agree(
            (rotate(tensor(q), at_t) * rotate(tensor(k), at_s)).sum(dim=-1), formula, rtol=0, atol=1e-5 + 1e-6 * shift
        )


def M4_a_rotation_goes_back_by_its_inverse() -> None:
    places, dy = np.arange(5) * 3.0, normal(5, 8, seed=1)
    angles = places[:, None] * theta()
    x = tensor(normal(5, 8), grad=True)
    rotate(x, RotaryAngles(tensor(np.cos(angles)), tensor(np.sin(angles)))).backward(tensor(dy))
    back = as_pairs(dy) * np.exp(-1j * angles)
    agree(x.grad, np.concatenate([back.real, back.imag], axis=-1))


def M5_all_waves_slower() -> None:
    config = replace(ROPE, rope_scaling="linear", rope_factor=4.0)
    agree(frequencies(config, torch.device("cpu")), theta() / 4, rtol=1e-6)


def M6_the_slow_waves_slower() -> None:
    """Heads of 64 as in the presets, trained on 1,024 tokens and read to 4,096: waves of all three kinds."""
    config = ModelConfig(positions="rope", n_positions=4096, rope_scaling="llama3", rope_factor=4.0)
    quick, expected = theta(64), []
    for wave in quick:
        turns = wave * 1024 / (2 * math.pi)
        kept = min(1.0, max(0.0, (turns - 1) / (4 - 1)))
        expected.append(kept * wave + (1 - kept) * wave / 4)
    agree(frequencies(config, torch.device("cpu")), expected, rtol=1e-5)
    ratio = np.array(expected) / quick
    assert (ratio == 1).any() and (ratio == 0.25).any() and ((ratio > 0.25) & (ratio < 1)).any()


def _rms(x: Array, eps: float) -> Array:
    return np.sqrt((x**2).mean(axis=-1, keepdims=True) + eps)


def _rms_norm_and_gradients() -> tuple[RMSNorm, Tensor, Array]:
    """A norm that has gone forward and back, its input, and the gradient of its output."""
    norm, x, dy = RMSNorm(24, 1e-5).double(), tensor(normal(5, 24), grad=True), normal(5, 24, seed=1)
    with torch.no_grad():
        norm.weight.copy_(tensor(1 + 0.1 * normal(24, seed=2)))
    norm(x).backward(tensor(dy))
    return norm, x, dy


def M7_rmsnorm() -> None:
    norm, x, _ = _rms_norm_and_gradients()
    formula = array(norm.weight) * array(x) / _rms(array(x), 1e-5)
    agree(norm(x), formula)
    agree(rms_norm(x, norm.weight, 1e-5), formula)


def M8_rmsnorm_back_to_its_input() -> None:
    norm, x, dy = _rms_norm_and_gradients()
    r = _rms(array(x), 1e-5)
    u, g = array(x) / r, dy * array(norm.weight)
    agree(x.grad, (g - u * (g * u).mean(axis=-1, keepdims=True)) / r)


def M9_rmsnorm_back_to_its_gain() -> None:
    norm, x, dy = _rms_norm_and_gradients()
    agree(norm.weight.grad, (dy * array(x) / _rms(array(x), 1e-5)).sum(axis=0))


def M10_rmsnorm_gives_nothing_along_its_input() -> None:
    """But for eps, which a large input makes small."""
    norm, x = RMSNorm(24, 1e-5).double(), tensor(100 * normal(5, 24), grad=True)
    norm(x).backward(tensor(normal(5, 24, seed=1)))
    agree((array(x.grad) * array(x)).sum(axis=-1), np.zeros(5), atol=1e-7)


def sigmoid(x: Array) -> Array:
    return 1 / (1 + np.exp(-x))


def M11_a_gated_mlp() -> None:
    mlp: GatedMLP = tiny_model(scale=3, **LLAMA).double().h[0].mlp  # type: ignore[assignment,union-attr]
    p, x = parameters(mlp), normal(5, 24)
    gate, value = x @ p["c_gate.weight"].T, x @ p["c_fc.weight"].T
    agree(mlp(tensor(x)), (gate * sigmoid(gate) * value) @ p["c_proj.weight"].T)


def M12_a_gate_goes_back() -> None:
    g, u, dy = tensor(normal(5, 7), grad=True), tensor(normal(5, 7, seed=1), grad=True), normal(5, 7, seed=2)
    SwiGLU()(g, u).backward(tensor(dy))
    s = sigmoid(array(g))
    agree(u.grad, dy * array(g) * s)
    agree(g.grad, dy * array(u) * s * (1 + array(g) * (1 - s)))


def M13_the_square_of_a_relu() -> None:
    x, dy = tensor(np.linspace(-3, 3, 31), grad=True), normal(31)
    y = SquaredReLU()(x)
    y.backward(tensor(dy))
    agree(y, [max(0.0, v) ** 2 for v in array(x)])
    agree(x.grad, dy * 2 * np.maximum(0, array(x)))


def M14_a_gated_mlp_is_narrower() -> None:
    for d in (24, 192, 384, 510, 768):
        assert ModelConfig(n_embd=d, mlp="swiglu").inner_size == 64 * math.ceil(8 * d / (3 * 64))
        assert ModelConfig(n_embd=d).inner_size == ModelConfig(n_embd=d, mlp="relu2").inner_size == 4 * d


def M15_heads_share_keys_and_values() -> None:
    """Six heads of queries, two of keys: 0 0 0 1 1 1, through the whole of attention."""
    config = replace(TINY, n_head=6, n_kv_head=2, head_dim=4)
    attn, x, D = SelfAttention(config, 0).double().requires_grad_(False), normal(5, 24), 4
    p = parameters(attn)
    qkv = x @ p["c_attn.weight"].T + p["c_attn.bias"]
    kv = [h * 2 // 6 for h in range(6)]
    assert kv == [0, 0, 0, 1, 1, 1]
    agree(repeat_kv(tensor(np.arange(2.0)).view(1, 2, 1, 1), 6).flatten(), kv)
    heads = []
    for h in range(6):
        q, k, v = (qkv[:, D * i : D * i + D] for i in (h, 6 + kv[h], 8 + kv[h]))
        scores = np.where(np.tri(5) > 0, q @ k.T / 2, -np.inf)
        heads.append(softmax(scores) @ v)
    y = np.concatenate(heads, axis=-1) @ p["c_proj.weight"].T + p["c_proj.bias"]
    agree(attn(tensor(x)[None], torch.arange(5), None, None)[0], y)


def M16_shared_keys_collect_from_all_their_queries() -> None:
    k, d = tensor(normal(2, 2, 5, 4), grad=True), normal(2, 6, 5, 4, seed=1)
    repeat_kv(k, 6).backward(tensor(d))
    agree(k.grad, np.stack([d[:, 3 * j : 3 * j + 3].sum(axis=1) for j in range(2)], axis=1))


def M17_bytes_of_a_cache_of_shared_heads() -> None:
    for config in (LLAMA_MICRO, replace(LLAMA_MICRO, n_kv_head=1, head_dim=32)):
        cache = KVCache(config, 3, 100, torch.device("meta"), torch.bfloat16)
        held = sum(x.numel() * x.element_size() for x in (cache.keys, cache.values))
        assert held == 2 * 2 * config.n_layer * 3 * 100 * config.n_kv_head * config.head_size


def M18_queries_and_keys_of_one_size() -> None:
    """What attention is given, normed and then turned, and that no score goes beyond sqrt(D) times the gains."""
    config, seen = replace(ROPE, qk_norm=True, norm="rmsnorm", bias=False), []
    attn, x = SelfAttention(config, 0).double(), 50 * normal(5, 24)
    with torch.no_grad():
        attn.q_norm.weight.copy_(tensor(1 + 0.1 * normal(8, seed=2)))
        attn.k_norm.weight.copy_(tensor(1 + 0.1 * normal(8, seed=3)))

    def watching(q, k, v, *_):  # type: ignore[no-untyped-def]
        seen.extend((array(q[0]), array(k[0])))
        return attend_by_formula(q, k, v)

    attn.attend = watching
    places = np.arange(5) * 3.0
    turn = RotaryAngles(*(tensor(f(places[:, None] * theta())) for f in (np.cos, np.sin)))
    attn(tensor(x)[None], torch.arange(5), None, None, turn)
    p = parameters(attn)
    qkv = x @ p["c_attn.weight"].T
    for found, start, gain in zip(seen, (0, 24), (p["q_norm.weight"], p["k_norm.weight"]), strict=True):
        for h in range(3):
            part = qkv[:, start + 8 * h : start + 8 * h + 8]
            formula = as_pairs(gain * part / _rms(part, 1e-5)) * np.exp(1j * places[:, None] * theta())
            agree(found[h], np.concatenate([formula.real, formula.imag], axis=-1))
    scores = np.einsum("htd,hsd->hts", seen[0], seen[1]) / math.sqrt(8)
    bound = math.sqrt(8) * p["q_norm.weight"].max() * p["k_norm.weight"].max()
    assert 0.5 * bound < np.abs(scores).max() <= bound


def M19_a_window() -> None:
    for T, w in ((6, 3), (6, 1), (4, 9)):
        mask = sliding_window_mask(None, torch.arange(T), T, w, cached=False)
        formula = np.array([[0 <= t - s < w for s in range(T)] for t in range(T)])
        agree(formula.sum(axis=1), [min(t + 1, w) for t in range(T)])
        assert (mask is None) if w >= T else (mask.numpy() == formula).all()  # type: ignore[union-attr]


def M20_how_far_a_token_is_carried() -> None:
    """The derivative of the last state with respect to each token's embedding: none before the reach."""
    for L, w in ((1, 3), (2, 4), (3, 2)):
        model = tiny_model(scale=5, window=w, n_layer=L).double()
        held: list[Tensor] = []
        model.wte.register_forward_hook(lambda _m, _a, y, held=held: (y.retain_grad(), held.append(y))[0])
        model.hidden_states(some_tokens(1, 14))[0, -1].sum().backward()
        assert held[0].grad is not None
        moved = array(held[0].grad[0]).any(axis=-1)
        assert np.flatnonzero(moved).tolist() == list(range(13 - L * (w - 1), 14))


def M21_a_head_of_its_own() -> None:
    model, ids, ends = tiny_model(scale=3, tied_head=False).double(), some_tokens(1, 5), []
    model.ln_f.register_forward_hook(lambda *args: ends.append(array(args[2])))
    logits = model(ids)
    head = array(model.head_weight)
    assert not np.allclose(head, array(model.wte.weight))
    agree(logits, ends[0] @ head.T)
    NextTokenLoss(model, 0)(ids, ids).backward()
    dz = softmax(ends[0][0] @ head.T) - np.eye(61)[ids[0]]
    found = gradients(model)
    agree(found["lm_head.weight"], dz.T @ ends[0][0], rtol=1e-5, atol=1e-6)  # the loss is a float32
    assert set(np.flatnonzero(array(found["wte.weight"]).any(axis=-1))) == set(ids[0].tolist())


def M22_without_biases() -> None:
    """The same as with biases of 0, in the products and in the norms."""
    bare, ids = tiny_model(scale=3, bias=False).double(), some_tokens(1, 5)
    full = tiny_model(scale=3).double()
    state = bare.state_dict()
    zeros = {n: torch.zeros_like(p) for n, p in full.state_dict().items() if n.endswith("bias")}
    full.load_state_dict(state | zeros)
    agree(bare(ids), full(ids))
    x = normal(5, 24)
    agree(bare.ln_f(tensor(x)), layer_norm(x, array(bare.ln_f.weight), np.zeros(24)))


def n_attention(c: ModelConfig) -> int:
    """Its products, with biases where there are any, and the gains of queries and keys."""
    d, D, H, H_kv = c.n_embd, c.head_size, c.n_head, c.kv_heads
    norms = 2 * D * (1 + (c.norm == "layernorm" and c.bias)) if c.qk_norm else 0
    return (d + c.bias) * (H + 2 * H_kv) * D + (H * D + c.bias) * d + norms


def n_mlp(c: ModelConfig) -> int:
    d, n = c.n_embd, c.inner_size
    into = 2 if c.mlp == "swiglu" else 1
    return into * (d + c.bias) * n + (n + c.bias) * d


def n_norm(c: ModelConfig) -> int:
    return c.n_embd * (1 + (c.norm == "layernorm" and c.bias))


MIXES = [
    replace(TINY, **changes)
    for changes in (
        {},
        LLAMA,
        LLAMA | {"n_head": 6, "n_kv_head": 2, "head_dim": 10, "n_inner": 33, "tied_head": False},
        {"qk_norm": True, "n_kv_head": 1},
        {"qk_norm": True, "norm": "rmsnorm", "positions": "rope", "mlp": "relu2"},
        {"bias": False, "mlp": "swiglu", "qk_norm": True, "tied_head": False},
    )
]


def M23_parameters_of_attention_by_its_heads() -> None:
    for config in MIXES:
        shapes = {name: shape for name, shape in block_shapes(config).items() if name.startswith("attn.")}
        assert count(shapes) == sizes(config)["attn"] == n_attention(config)


def M24_parameters_of_an_mlp_by_its_kind() -> None:
    for config in MIXES:
        shapes = {name: shape for name, shape in block_shapes(config).items() if name.startswith("mlp.")}
        assert count(shapes) == sizes(config)["mlp"] == n_mlp(config)


def n_model(c: ModelConfig) -> int:
    tables = c.vocab_size * (1 if c.tied_head else 2) + (c.n_positions if c.positions == "learned" else 0)
    blocks = c.n_layer * (n_attention(c) + n_mlp(c) + 2 * n_norm(c))
    return tables * c.n_embd + blocks + n_norm(c)


def M25_parameters_of_a_model_of_any_choices() -> None:
    for config in MIXES:
        assert get_model_size(config) == sizes(config)["all"] == n_model(config)
    for name in ("nano", "micro", "small", *NAMES):
        assert get_model_size(ModelConfig.preset(name)) == n_model(ModelConfig.preset(name))


def n_products(c: ModelConfig) -> int:
    """Numbers in the matrices of the blocks, without biases and norms."""
    d, D, n = c.n_embd, c.head_size, c.inner_size
    return c.n_layer * ((2 * c.n_head + 2 * c.kv_heads) * D * d + (3 if c.mlp == "swiglu" else 2) * n * d)


def M26_tokens_that_a_query_sees() -> None:
    """T / 2, or w - w^2 / (2 T): the sum of min(t, w) over t, but for half a token."""
    for T, w in ((16, 0), (1024, 0), (1024, 256), (100, 256), (64, 1)):
        end = min(w or T, T)
        exact = sum(min(t, end) for t in range(1, T + 1)) / T
        agree(attended_tokens(T, w), end - end**2 / (2 * T))
        agree(attended_tokens(T, w) + end / (2 * T), exact)


def M27_operations_of_any_choices() -> None:
    for config in (*MIXES, LLAMA_MICRO, replace(LLAMA_MICRO, window=256, window_layers="0,2,4")):
        for T in (16, 1024):
            of_windows = [min(config.window_size(layer) or T, T) for layer in range(config.n_layer)]
            seen = sum(w - w**2 / (2 * T) for w in of_windows)
            products = n_products(config) + config.vocab_size * config.n_embd
            agree(training_flops(config, T), 6 * products + 12 * config.n_head * config.head_size * seen)
    agree(n_products(MIXES[0]), 12 * TINY.n_layer * TINY.n_embd**2)


def numbers() -> dict[str, float]:
    """Those that the page quotes in this chapter."""
    c, T = LLAMA_MICRO, LLAMA_MICRO.n_positions
    N, whole = get_model_size(c), training_flops(c, T)
    windows = training_flops(replace(c, window=256, window_layers="0,2,4"), T)
    return {
        "rope_base": c.rope_base,
        "quickest_wave": 2 * math.pi / theta(64)[0],
        "slowest_wave": 2 * math.pi / theta(64)[-1],
        "far_place": FAR,
        "llama_N": N,
        "llama_fewer": 100 * (1 - N / get_model_size(ModelConfig.micro())),
        "llama_inner": c.inner_size,
        "llama_default_inner": replace(c, n_inner=0).inner_size,
        "llama_cache_MB": 2 * 2 * c.n_layer * T * c.kv_heads * c.head_size / 1e6,
        "llama_mflop": whole / 1e6,
        "llama_windows_mflop": windows / 1e6,
        "llama_head_N": c.vocab_size * c.n_embd,
    }


def tables() -> dict[str, str]:
    """Those of this chapter."""
    heads = ["", "C", "L", "H", "H_kv", "n", "tokens", "attention", "MLP", "norms", "N"]
    rows = [heads, ["---", *["---:"] * (len(heads) - 1)]]
    for name in NAMES:
        c = ModelConfig.preset(name)
        d, L = c.n_embd, c.n_layer
        shape = (d, L, c.n_head, c.kv_heads, c.inner_size)
        parts = (c.vocab_size * d, L * n_attention(c), L * n_mlp(c), (2 * L + 1) * n_norm(c), get_model_size(c))
        rows.append([f"`{name}`", *(f"{n:,}" for n in shape), *(f"{n:,}" for n in parts)])
    return {"llama_presets": "".join(f"| {' | '.join(row)} |\n" for row in rows)}
