"""Parts that a config may choose instead of GPT-2's: laws of each choice. Their formulas are in formulas/modern.py."""

from itertools import combinations
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from light_llm.config import ModelConfig
from light_llm.generate import KVCache, Sampling, decode
from light_llm.layers.attention import additive_mask, attend, attend_by_formula, sliding_window_mask
from light_llm.layers.norms import RMSNorm, RMSNorm1p, rms_norm
from light_llm.layers.positions import PositionEncoding, RotaryAngles, RotaryPositions, rotate
from light_llm.model import LightLLM
from light_llm.objective import NextTokenLoss
from light_llm.optim import group_parameters
from tests.support.tools import TINY, gradients, some_tokens, tiny_model

CPU = torch.device("cpu")
LLAMA: dict[str, Any] = {"positions": "rope", "norm": "rmsnorm", "mlp": "swiglu", "bias": False, "n_kv_head": 1}
CHOICES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "rope": {"positions": "rope"},
    "rope, slowed down": {"positions": "rope", "rope_scaling": "linear", "rope_factor": 2.0},
    "rope, llama3": {"positions": "rope", "rope_scaling": "llama3", "rope_factor": 4.0, "rope_base": 50.0},
    "rmsnorm": {"norm": "rmsnorm"},
    "swiglu": {"mlp": "swiglu"},
    "relu2": {"mlp": "relu2"},
    "no biases": {"bias": False},
    "one key for all": {"n_kv_head": 1},
    "wide heads": {"head_dim": 16},
    "qk_norm": {"qk_norm": True},
    "untied": {"tied_head": False},
    "windows": {"window": 5},
    "a window": {"window": 5, "window_layers": "1"},
    "llama": LLAMA,
    "qwen3 with windows": LLAMA | {"qk_norm": True, "window": 6, "window_layers": "0", "head_dim": 16},
    "gpt-neox": {"positions": "rope", "rotary_pct": 0.5, "parallel_residual": True, "activation": "gelu"},
    "gpt-neo": {"attn_scale": 1.0, "qkv_bias": "no", "window": 5, "window_layers": "1"},
    "gemma3": LLAMA
    | {"norm": "rmsnorm1p", "qk_norm": True, "post_norms": True, "mlp": "geglu", "scale_embeddings": True}
    | {"attn_scale": 0.2, "qkv_bias": "yes", "window": 6, "window_layers": "0", "rope_local_base": 50.0},
}
EVERY = pytest.mark.parametrize("changes", CHOICES.values(), ids=CHOICES.keys())


def model_of(scale: float = 5, **changes: Any) -> LightLLM:
    """A tiny model of which a token's neighbours decide what it says: attention writes more than the table does."""
    model = tiny_model(scale=scale, **changes)
    with torch.no_grad():
        for block in model.h:
            block.attn.c_proj.weight.mul_(5.0)  # type: ignore[union-attr]
    return model


def loss_and_gradients(model: LightLLM, chunk: int = 1024, wrap: Any = lambda loss: loss) -> dict[str, Tensor]:
    """Return the loss of one batch and every gradient, always with the same dropout."""
    torch.manual_seed(1)
    loss = wrap(NextTokenLoss(model, chunk))(some_tokens(), some_tokens(seed=6))
    loss.backward()
    return {"loss": loss.detach(), **gradients(model)}


# ---- positions


@pytest.mark.parametrize("changes", [LLAMA, LLAMA | {"window": 4}, CHOICES["gpt-neox"], CHOICES["gemma3"]])
def test_a_text_further_on_is_the_same_text(changes: dict[str, Any]) -> None:
    """The learned table says another thing there: tests/test_model.py."""
    model, x, at = model_of(**changes), some_tokens(2, 12), torch.arange(12)
    torch.testing.assert_close(model.hidden_states(x, at + 5), model.hidden_states(x), rtol=1e-3, atol=1e-4)
    rows = torch.stack([at, at + 7])  # places of each row
    torch.testing.assert_close(model.hidden_states(x, rows), model.hidden_states(x), rtol=1e-3, atol=1e-4)


def test_only_the_first_numbers_of_a_head_are_rotated() -> None:
    config = ModelConfig(n_embd=24, n_head=2, positions="rope", rotary_pct=0.35)  # 4 of 12
    part, at = ModelConfig(n_embd=8, n_head=2, positions="rope"), torch.arange(5)
    angles, x = RotaryPositions(config).angles(at), torch.randn(2, 3, 5, 12)
    turned = rotate(x, angles)
    assert angles.cos.shape == (5, 2) and torch.equal(turned[..., 4:], x[..., 4:])
    assert torch.equal(turned[..., :4], rotate(x[..., :4], RotaryPositions(part).angles(at)))


def test_the_layers_with_a_window_have_angles_of_their_own() -> None:
    """Each base is computed once for all layers, and scaling is of the others alone."""
    changes = {"n_layer": 4, "window": 5, "window_layers": "0,2", "rope_scaling": "linear", "rope_factor": 4.0}
    model = model_of(**CHOICES["gemma3"] | changes)
    seen: list[RotaryAngles] = []
    for block in model.h:
        block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[4]))
    model(some_tokens(1, 9))
    assert seen[0] is seen[2] and seen[1] is seen[3]
    waves = 50.0 ** -(torch.arange(0, 8, 2) / 8), 10000.0 ** -(torch.arange(0, 8, 2) / 8) / 4
    for angles, theta in zip(seen, waves, strict=False):
        torch.testing.assert_close(angles.cos, torch.cos(torch.arange(9)[:, None] * theta))


# ---- a bias of the scores


class NearIsLoud(PositionEncoding):
    """A bias that is -slope * distance, another slope in each head."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.slopes = 0.7 / torch.arange(1, config.n_head + 1)

    def score_bias(self, position_ids: Tensor) -> Any:
        return lambda keys: (
            -self.slopes[:, None, None] * (position_ids[..., :, None] - keys[..., None, :]).unsqueeze(-3)
        )


def biased(**changes: Any) -> LightLLM:
    model = model_of(**changes)
    model.wpe = NearIsLoud(model.config)
    return model


@pytest.mark.parametrize("changes", [{}, {"n_kv_head": 1}, {"window": 5}, {"dropout": 0.1}, LLAMA | {"window": 5}])
def test_a_biased_score_is_the_formula_in_every_path(changes: dict[str, Any]) -> None:
    """The fast path with its gradients, recomputed activations, and read in parts on a cache."""
    results, x = [], some_tokens(2, 14)
    for attention, checkpointing in ((attend, False), (attend_by_formula, False), (attend, True)):
        model = biased(**changes).train()
        model.checkpointing = checkpointing
        for block in model.h:
            block.attn.attend = attention  # type: ignore[union-attr]
        results.append(loss_and_gradients(model))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(results[2], results[0])
    model.eval().requires_grad_(False)
    expected, cache, at = model.hidden_states(x), KVCache(model.config, 2, 16, CPU, torch.float32), torch.arange(14)
    parts = [model.hidden_states(x[:, part], at[part], None, cache) for part in (slice(6), slice(6, 7), slice(7, 14))]
    torch.testing.assert_close(torch.cat(parts, dim=1), expected, rtol=1e-4, atol=1e-4)
    plain = model_of(**changes).eval()
    plain.wpe = PositionEncoding()
    assert not torch.allclose(plain.hidden_states(x), expected, atol=1e-2)


def test_a_bias_is_added_to_the_scores_of_each_head_and_row() -> None:
    q, k, v = torch.randn(3, 2, 3, 5, 8)
    places = torch.stack([torch.arange(5), torch.arange(5) * 2])
    bias = NearIsLoud(TINY).score_bias(places)(places)
    assert bias.shape == (2, 3, 5, 5) and bias[1, 2, 4, 1] == pytest.approx(-0.7 / 3 * 6)
    scores = q @ k.transpose(-2, -1) / 8**0.5 + bias
    expected = scores.masked_fill(torch.ones(5, 5).triu(1) > 0, -torch.inf).softmax(-1) @ v
    for attention in (attend, attend_by_formula):
        torch.testing.assert_close(attention(q, k, v, additive_mask(None, bias)), expected)


def test_rows_of_different_lengths_have_their_own_biases() -> None:
    model = biased(n_positions=16)
    options: dict[str, Any] = {"seeds": [1, 2, 3], "sampling": Sampling(), "max_new_tokens": 30}
    prompts = [[1, 2, 3], [4] * 15, list(range(9))]
    assert list(decode(model, prompts, **options)) == list(decode(model, prompts, **options, use_cache=False))


# ---- norms


@pytest.mark.parametrize("kind", [RMSNorm, RMSNorm1p])
@pytest.mark.parametrize("free", [("x", "gain"), ("x",), ("gain",)])
def test_rmsnorm_has_first_and_second_derivatives(free: tuple[str, ...], kind: type[RMSNorm]) -> None:
    """Curvature may be over some of the parameters. Values and gradients by formula: M7 ... M9."""
    torch.manual_seed(0)
    norm = kind(7, 1e-3).double().requires_grad_(False)
    parts = {"x": torch.randn(3, 7, dtype=torch.float64), "gain": torch.randn(7, dtype=torch.float64)}

    def quick(*values: Tensor) -> Tensor:
        now = parts | dict(zip(free, values, strict=True))
        return torch.func.functional_call(norm, {"weight": now["gain"]}, now["x"])

    inputs = tuple(parts[name].requires_grad_() for name in free)
    assert "_RMSNormBackward" in str(quick(*inputs).grad_fn), "training goes by the quick form"
    assert torch.autograd.gradcheck(quick, inputs)
    assert torch.autograd.gradgradcheck(quick, inputs)


def test_rmsnorm_computes_in_float32() -> None:
    """Of halves too, as LayerNorm does under autocast: their squares would lose what they add up to."""
    x = (torch.randn(5, 24) * 3).bfloat16().requires_grad_()
    norm = RMSNorm(24, 1e-6)
    y = norm(x)
    assert y.dtype == torch.float32
    torch.testing.assert_close(y, rms_norm(x.float(), norm.weight, 1e-6))
    y.sum().backward()
    assert x.grad is not None and x.grad.dtype == torch.bfloat16
    assert norm.weight.grad is not None and norm.weight.grad.dtype == torch.float32


def test_a_gain_around_1_is_added_in_float32() -> None:
    """In bfloat16 the sum 1 + w would lose most of w; the result has the format of the weights."""
    norm, x = RMSNorm1p(24, 1e-6), torch.randn(5, 24)
    torch.testing.assert_close(norm(x), rms_norm(x, torch.ones(24), 1e-6))
    w = torch.full((24,), 0.0029).bfloat16()
    norm.to(torch.bfloat16).weight.data.copy_(w)
    y = norm(x.bfloat16())
    assert torch.equal(y, rms_norm(x.bfloat16(), 1 + w.float(), 1e-6).bfloat16())
    assert not torch.equal(y, rms_norm(x.bfloat16(), (1 + w).float(), 1e-6).bfloat16())


def test_embeddings_are_scaled_in_the_format_of_the_weights() -> None:
    """By sqrt(C), rounded as transformers rounds it for Gemma; the head has the table as it is."""
    for dtype in (torch.float32, torch.bfloat16):
        plain, scaled = (tiny_model(scale_embeddings=scale, positions="rope").to(dtype) for scale in (False, True))
        embedded: list[Tensor] = []
        scaled.drop.register_forward_hook(lambda *args, kept=embedded: kept.append(args[2]))
        x = some_tokens()
        scaled.hidden_states(x)
        assert torch.equal(embedded[0], plain.wte(x) * torch.tensor(24**0.5).to(dtype))
        assert torch.equal(scaled.logits(plain.wte(x)), plain.logits(plain.wte(x)))


def test_qk_norm_takes_the_size_out_of_queries_and_keys() -> None:
    for changes in (LLAMA, {}):
        model, x = model_of(qk_norm=True, norm_eps=1e-10, **changes), some_tokens()
        other = model_of(qk_norm=False, norm_eps=1e-10, **changes)
        before, before_other = model(x), other(x)
        with torch.no_grad():
            for block in (*model.h, *other.h):
                of_queries = block.attn.heads[0] * block.attn.head_size  # type: ignore[union-attr,index,operator]
                for parameter in block.attn.c_attn.parameters():  # type: ignore[union-attr]
                    parameter[:of_queries] *= 7.0
        torch.testing.assert_close(model(x), before, rtol=1e-4, atol=1e-5)
        assert not torch.allclose(other(x), before_other, atol=1e-2)


# ---- heads and windows


def test_a_window_is_of_the_layers_that_are_named() -> None:
    assert [ModelConfig(window=9, window_layers="0,2, 5").window_size(i) for i in range(6)] == [9, 0, 9, 0, 0, 9]
    assert [ModelConfig(window=9).window_size(i) for i in range(6)] == [9] * 6
    assert [ModelConfig(window_layers="0").window_size(i) for i in range(6)] == [0] * 6
    whole, x = model_of(), some_tokens(1, 12)
    assert torch.equal(model_of(window=32)(x), whole(x)), "wider than the text"
    said = [whole(x), *(model_of(window=3, window_layers=layers)(x) for layers in ("0", "1", "0,1"))]
    assert not any(torch.allclose(a, b, atol=1e-4) for a, b in combinations(said, 2))


@pytest.mark.parametrize("changes", [{}, LLAMA])
def test_attention_in_a_window_is_the_formula_with_a_mask(changes: dict[str, Any]) -> None:
    model = model_of(**changes, window=5)
    plain = model_of(**changes)
    at = torch.arange(14)
    mask = (at[:, None] - at < 5) & (at[:, None] >= at)
    for block in plain.h:
        block.attn.attend = lambda q, k, v, *_: attend_by_formula(q, k, v, mask)  # type: ignore[union-attr]
    x = some_tokens(2, 14)
    for training in (True, False):  # by blocks of queries, and by the kernel
        with torch.set_grad_enabled(training):
            torch.testing.assert_close(model(x), plain(x), rtol=1e-4, atol=1e-4)


@given(st.integers(1, 3), st.integers(1, 9), st.integers(1, 9), st.booleans(), st.booleans(), st.integers(0, 99))
def test_the_mask_of_a_window_is_its_definition(
    B: int, T: int, window: int, cached: bool, masked: bool, seed: int
) -> None:
    """Query t sees the keys t - window + 1 ... t that it might see anyway."""
    generator = torch.Generator().manual_seed(seed)
    if cached:
        at = torch.randint(0, 9, (B, T), generator=generator)
        S, places = int(at.max()) + 1, torch.arange(int(at.max()) + 1).expand(B, -1)
    else:
        at = torch.arange(T) + torch.randint(0, 9, (B, 1), generator=generator)
        S, places = T, at
    mask = torch.rand(B, 1, T, S, generator=generator) < 0.7 if masked else None
    result = sliding_window_mask(mask, at, S, window, cached=cached)
    allowed = mask[:, 0] if mask is not None else (places[:, None] <= at[:, :, None])
    expected = allowed & (at[:, :, None] - places[:, None] < window)
    if S <= window:  # the fastest attention takes the mask as it is
        assert result is mask and torch.equal(expected, allowed)
    else:
        assert result is not None and torch.equal(result.expand(B, 1, T, S)[:, 0], expected)


# ---- the parts that are no attention


def test_a_head_of_its_own_is_a_table() -> None:
    """Its gradient is M21."""
    model = tiny_model(tied_head=False)
    assert model.head_weight is model.lm_head.weight is not model.wte.weight  # type: ignore[union-attr]
    roles = group_parameters(model)
    assert {"wte.weight", "wpe.weight", "lm_head.weight"} == roles["table"].keys()
    assert roles["matrix"].keys() == {n for n, p in model.named_parameters() if n.startswith("h.") and p.ndim == 2}
    tied = tiny_model()
    assert tied.lm_head is None and group_parameters(tied)["table"].keys() == {"wte.weight", "wpe.weight"}
