"""Parts that a config may choose instead of GPT-2's: laws of each choice, alone and in a whole model."""

from dataclasses import replace
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
from light_llm.layers.mlps import SquaredReLU, SwiGLU
from light_llm.layers.norms import RMSNorm, rms_norm
from light_llm.layers.positions import PositionEncoding, RotaryAngles, frequencies, rotate
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


@pytest.mark.parametrize("scaling", ["none", "linear", "llama3"])
def test_a_rotation_keeps_lengths_and_scores_depend_on_differences(scaling: str) -> None:
    model = tiny_model(positions="rope", rope_scaling=scaling, rope_factor=1.0 if scaling == "none" else 2.0)
    q, k, at = torch.randn(2, 3, 9, 8), torch.randn(2, 3, 9, 8), torch.arange(9)
    scores = []
    for shift in (0, 5, 1000):
        turn = model.wpe.angles(at + shift)  # type: ignore[operator]
        turned_q, turned_k = rotate(q, turn), rotate(k, turn)
        torch.testing.assert_close(turned_q.norm(dim=-1), q.norm(dim=-1))
        assert not torch.allclose(turned_q[:, :, 1:], q[:, :, 1:])
        scores.append(turned_q @ turned_k.transpose(-2, -1))
    torch.testing.assert_close(scores[1], scores[0], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(scores[2], scores[0], rtol=1e-3, atol=2e-3)  # angles of 1000 in float32
    assert not torch.allclose(scores[0], q @ k.transpose(-2, -1), atol=1e-2)


def test_rotations_add_up_and_have_an_inverse_and_an_identity() -> None:
    x, angles = torch.randn(1, 3, 4, 8), tiny_model(positions="rope").wpe.angles
    zero, a, b, both = (angles(torch.full((4,), n)) for n in (0, 3, 8, 11))  # type: ignore[operator]
    torch.testing.assert_close(rotate(rotate(x, a), b), rotate(x, both))
    torch.testing.assert_close(rotate(rotate(x, a), RotaryAngles(a.cos, -a.sin)), x)
    assert torch.equal(rotate(x, zero), x) and rotate(x, None) is x


@pytest.mark.parametrize("changes", [LLAMA, LLAMA | {"window": 4}, {"positions": "rope"}])
def test_a_text_further_on_is_the_same_text(changes: dict[str, Any]) -> None:
    """The learned table says another thing there: tests/test_model.py."""
    model, x, at = model_of(**changes), some_tokens(2, 12), torch.arange(12)
    torch.testing.assert_close(model.hidden_states(x, at + 5), model.hidden_states(x), rtol=1e-3, atol=1e-4)
    rows = torch.stack([at, at + 7])  # places of each row
    torch.testing.assert_close(model.hidden_states(x, rows), model.hidden_states(x), rtol=1e-3, atol=1e-4)


def test_a_rope_of_longer_contexts_leaves_the_quick_waves_alone() -> None:
    base = {"positions": "rope", "n_embd": 192, "n_head": 1, "n_positions": 4096}
    plain, linear, llama3 = (
        frequencies(ModelConfig(**base, rope_scaling=scaling, rope_factor=factor), CPU)
        for scaling, factor in (("none", 1.0), ("linear", 4.0), ("llama3", 4.0))
    )
    torch.testing.assert_close(linear, plain / 4)
    turns = plain * 1024 / (2 * torch.pi)  # trained on 4,096 / 4 tokens
    assert torch.equal(llama3[turns > 4.001], plain[turns > 4.001])
    torch.testing.assert_close(llama3[turns < 0.999], plain[turns < 0.999] / 4)
    assert (llama3.diff() < 0).all() and (llama3 <= plain).all() and (llama3 >= plain / 4).all()
    stated = ModelConfig(**base, rope_scaling="llama3", rope_factor=4.0, rope_trained=1024)
    torch.testing.assert_close(frequencies(replace(stated, rope_factor=1.0), CPU), plain)
    assert torch.equal(frequencies(stated, CPU), llama3)
    assert not torch.equal(frequencies(replace(stated, rope_trained=2048), CPU), llama3)


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


def test_the_fast_rmsnorm_is_its_formula() -> None:
    """Values, first and second derivatives, by finite differences and against the formula's."""
    torch.manual_seed(0)
    norm = RMSNorm(7, 1e-3).double()
    x = torch.randn(2, 3, 7, dtype=torch.float64, requires_grad=True)
    gain = torch.randn(7, dtype=torch.float64, requires_grad=True)
    d_y = torch.randn(2, 3, 7, dtype=torch.float64)

    def quick(x: Tensor, gain: Tensor) -> Tensor:
        return torch.func.functional_call(norm, {"weight": gain}, x)

    assert "RMSNorm" in type(quick(x, gain).grad_fn).__name__, "training goes by the quick form"
    torch.testing.assert_close(quick(x, gain), rms_norm(x, gain, 1e-3))
    result = torch.autograd.grad(quick(x, gain), (x, gain), d_y)
    torch.testing.assert_close(result, torch.autograd.grad(rms_norm(x, gain, 1e-3), (x, gain), d_y))
    assert torch.autograd.gradcheck(quick, (x, gain))
    assert torch.autograd.gradgradcheck(quick, (x, gain))
    with torch.no_grad():  # reading goes by the formula
        torch.testing.assert_close(norm(x), rms_norm(x, torch.ones(7, dtype=torch.float64), 1e-3))


@pytest.mark.parametrize("frozen", ["x", "gain"])
def test_an_rmsnorm_of_which_a_part_is_frozen_has_a_second_derivative(frozen: str) -> None:
    """Curvature over some of the parameters."""
    parts = {"x": torch.randn(3, 7, dtype=torch.float64), "gain": torch.randn(7, dtype=torch.float64)}
    free = next(name for name in parts if name != frozen)
    norm = RMSNorm(7, 1e-3).double()

    def quick(part: Tensor) -> Tensor:
        now = parts | {free: part}
        return torch.func.functional_call(norm, {"weight": now["gain"]}, now["x"])

    norm.requires_grad_(False)
    assert torch.autograd.gradgradcheck(quick, (parts[free].requires_grad_(),))


def test_rmsnorm_makes_the_root_mean_square_1_and_ignores_size() -> None:
    norm, x = RMSNorm(24, 1e-12), torch.randn(5, 24)
    torch.testing.assert_close(norm(x).square().mean(dim=-1), torch.ones(5))
    torch.testing.assert_close(norm(1000 * x), norm(x))
    torch.testing.assert_close(norm(-x), -norm(x))
    assert not torch.allclose(norm(x + 1), norm(x), atol=0.1), "it does see a shift, which LayerNorm does not"
    assert torch.equal(norm(torch.zeros(1, 24)), torch.zeros(1, 24))


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


@pytest.mark.parametrize("changes", [{}, {"positions": "rope"}, LLAMA | {"n_kv_head": 0, "qk_norm": True}])
def test_grouped_heads_are_heads_with_the_same_keys(changes: dict[str, Any]) -> None:
    """All heads: the same model. Two for six queries: one whose rows of keys and values stand there three times."""
    wide = {"n_head": 6, "n_embd": 24, "head_dim": 4} | changes
    plain, every = (model_of(**{**wide, "n_kv_head": n}) for n in (0, 6))
    x = some_tokens()
    assert torch.equal(every(x), plain(x))
    grouped = model_of(**{**wide, "n_kv_head": 2})
    with torch.no_grad():
        state = grouped.state_dict()
        for name in [n for n in state if "c_attn" in n]:
            q, k, v = state[name].split([24, 8, 8])
            k, v = (torch.cat([part[4 * (h // 3) : 4 * (h // 3) + 4] for h in range(6)]) for part in (k, v))
            state[name] = torch.cat([q, k, v])
        plain.load_state_dict(state)
    torch.testing.assert_close(grouped(x), plain(x))


@pytest.mark.parametrize("changes", [{}, LLAMA])
@pytest.mark.parametrize("L", [1, 3])
def test_a_window_carries_a_token_so_far_and_no_further(changes: dict[str, Any], L: int) -> None:
    """In a layer a token reaches window - 1 places on, in L of them L times as far."""
    model = model_of(**changes, window=4, n_layer=L)
    x = some_tokens(1, 20)
    other = x.clone()
    other[0, 2] = (x[0, 2] + 1) % TINY.vocab_size
    moved = (model(x) - model(other)).abs().amax(dim=-1)[0]
    reach = 2 + L * (4 - 1)
    assert (moved[:2] == 0).all() and (moved[2 : reach + 1] > 1e-5).all() and (moved[reach + 1 :] == 0).all()


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
        block.attn.attend = lambda q, k, v, _, dropout: attend_by_formula(q, k, v, mask)  # type: ignore[union-attr]
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


def test_activations_by_hand() -> None:
    x = torch.tensor([-2.0, 0.0, 0.5, 3.0])
    assert SquaredReLU()(x).tolist() == [0.0, 0.0, 0.25, 9.0]
    gates = x * torch.tensor([1 / (1 + 2.718281828459045 ** -float(g)) for g in x])
    torch.testing.assert_close(SwiGLU()(x, torch.full((4,), 3.0)), 3 * gates)
    assert not torch.allclose(SwiGLU()(x, x + 1), SwiGLU()(x + 1, x), atol=0.1), "gate and value are two things"


def test_a_gated_mlp_is_narrower_by_a_third_and_as_large() -> None:
    for C in (192, 384, 768):
        gated, plain = (ModelConfig(n_embd=C, mlp=mlp, bias=False) for mlp in ("swiglu", "gelu"))
        assert gated.inner_size % 64 == 0
        assert 3 * C * gated.inner_size == pytest.approx(2 * C * plain.inner_size, rel=0.01)
    assert ModelConfig(n_inner=77, mlp="swiglu").inner_size == ModelConfig(n_inner=77).inner_size == 77


def test_a_head_of_its_own_has_its_own_gradient() -> None:
    model, x, y = tiny_model(tied_head=False), some_tokens(2, 5), some_tokens(2, 5, seed=9)
    assert model.head_weight is model.lm_head.weight is not model.wte.weight  # type: ignore[union-attr]
    NextTokenLoss(model)(x, y).backward()
    result = gradients(model)
    read = sorted(set(x.flatten().tolist()))
    assert result["wte.weight"].abs().sum(dim=1).nonzero().flatten().tolist() == read, "only the tokens that were read"
    assert (result["lm_head.weight"].abs().sum(dim=1) > 0).all(), "and every token that might have come"
    roles = group_parameters(model)
    assert {"wte.weight", "wpe.weight", "lm_head.weight"} == roles["table"].keys()
    assert roles["matrix"].keys() == {n for n, g in result.items() if n.startswith("h.") and g.ndim == 2}
    tied = tiny_model()
    assert tied.lm_head is None and group_parameters(tied)["table"].keys() == {"wte.weight", "wpe.weight"}


@pytest.mark.parametrize("changes", [{}, LLAMA, {"qk_norm": True}])
def test_without_biases_there_is_none(changes: dict[str, Any]) -> None:
    names = tiny_model(**{**changes, "bias": False}).state_dict()
    assert names and not any(name.endswith("bias") for name in names)
    assert any(name.endswith("attn.c_attn.bias") for name in tiny_model(**{**changes, "bias": True}).state_dict())
