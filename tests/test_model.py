"""The model against its formulas, and against GPT-2 of transformers."""

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from light_llm.config import ModelConfig
from light_llm.errors import ConfigError
from light_llm.layers.attention import attend_by_formula
from light_llm.model import LightLLM, attend
from light_llm.objective import NextTokenLoss
from tests.support.tools import TINY, gradients, some_tokens, tiny_model


@pytest.mark.parametrize(("T", "S"), [(9, 9), (1, 9), (4, 9), (1, 1)])  # a prompt, a new token, a chunk on a cache
def test_fast_attention_is_the_formula(T: int, S: int) -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 3, T, 8), torch.randn(2, 3, S, 8), torch.randn(2, 3, S, 8)
    mask = (torch.rand(2, 1, T, S) > 0.5) | torch.eye(T, S, dtype=torch.bool)
    torch.testing.assert_close(attend(q, k, v), attend_by_formula(q, k, v))
    torch.testing.assert_close(attend(q, k, v, mask), attend_by_formula(q, k, v, mask))


def hugging_face(model: LightLLM) -> torch.nn.Module:
    """`GPT2LMHeadModel` of transformers with our weights: its Linear layers are stored the other way round."""
    from transformers import GPT2Config, GPT2LMHeadModel

    c = model.config
    sizes = {name: getattr(c, name) for name in ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head")}
    choices = {"n_inner": c.inner_size, "layer_norm_epsilon": c.norm_eps, "tie_word_embeddings": c.tied_head}
    choices["activation_function"] = {"gelu_tanh": "gelu_new", "gelu": "gelu"}[c.activation]
    off = dict.fromkeys(("attn_pdrop", "resid_pdrop", "embd_pdrop", "bos_token_id", "eos_token_id"), 0)
    reference = GPT2LMHeadModel(GPT2Config(**sizes, **choices, **off)).eval()
    weights = by_gpt2_names(model.state_dict())
    weights.setdefault("lm_head.weight", weights["transformer.wte.weight"])  # tied: the table again
    reference.load_state_dict(weights)
    return reference


def by_gpt2_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights, or their gradients, by transformers' names."""
    return {n if n.startswith("lm_") else f"transformer.{n}": as_conv1d(n, t) for n, t in tensors.items()}


def as_conv1d(name: str, tensor: Tensor) -> Tensor:
    """[out, in] to [in, out] for the weights of Linear layers inside the blocks."""
    return tensor.T if name.startswith("h.") and tensor.ndim == 2 else tensor


GPT2_SHAPES = [
    TINY,
    ModelConfig(vocab_size=300, n_positions=64, n_embd=48, n_layer=3, n_head=4),
    replace(TINY, tied_head=False, activation="gelu", n_inner=40, norm_eps=1e-3),
]


@pytest.mark.parametrize("tied", [True, False])
def test_a_tied_head_is_the_token_table_and_no_module(tied: bool) -> None:
    names = LightLLM(replace(TINY, tied_head=tied)).state_dict().keys()
    assert ("lm_head.weight" in names) == (not tied) and "wte.weight" in names


@pytest.mark.parametrize("shape", GPT2_SHAPES)
def test_logits_and_gradients_are_transformers(shape: ModelConfig) -> None:
    ours = tiny_model(scale=5, **{f: getattr(shape, f) for f in shape.__dataclass_fields__})
    reference = hugging_face(ours)
    x = some_tokens(2, 30, V=shape.vocab_size)
    assert (ours(x) - reference(x).logits).abs().max() < 1e-4

    (NextTokenLoss(ours)(x[:, :-1], x[:, 1:]) / 58).backward()
    reference(x, labels=x).loss.backward()
    torch.testing.assert_close(by_gpt2_names(gradients(ours)), gradients(reference), atol=2e-5, rtol=2e-4)


@pytest.mark.parametrize("chosen", [{}, {"mlp": "swiglu", "norm": "rmsnorm", "bias": False, "tied_head": False}])
def test_initialisation_is_gpt2s(chosen: dict[str, Any]) -> None:
    """N(0, 0.02), 1/sqrt(2L) of it on the way into the residual stream, zero biases, unit gains."""
    model = LightLLM(ModelConfig(vocab_size=500, n_positions=128, n_embd=128, n_layer=8, n_head=4, **chosen), seed=0)
    for name, p in model.named_parameters():
        if p.ndim == 2:
            expected = 0.02 / math.sqrt(16) if name.endswith("c_proj.weight") else 0.02
            assert p.std().item() == pytest.approx(expected, rel=0.05), name
        else:
            assert torch.equal(p, torch.ones_like(p) if "ln_" in name and "weight" in name else torch.zeros_like(p))


def test_dropout_is_off_when_evaluating_and_on_when_training() -> None:
    model, x = tiny_model(dropout=0.5, attn_dropout=0.5), some_tokens()
    assert torch.equal(model(x), model(x))
    model.train()
    assert not torch.equal(model(x), model(x))


@pytest.mark.parametrize("where", ["dropout", "attn_dropout"])
def test_dropout_keeps_the_mean_and_repeats_with_its_seed(where: str) -> None:
    """Unbiased: over many draws the attention branch averages to what it is without dropout."""
    block = tiny_model(scale=3, **{where: 0.3}).h[0]
    x = torch.randn(1, 6, TINY.n_embd, generator=torch.Generator().manual_seed(0)).expand(4000, -1, -1)
    at = torch.arange(6)
    attn, drop = block.attn.train(), block.drop.train()  # type: ignore[union-attr,operator]

    def branch() -> Tensor:
        return drop(attn(x, at, None, None))

    torch.manual_seed(1)
    first = branch()
    torch.manual_seed(1)
    assert torch.equal(branch(), first)
    with torch.no_grad():
        mean = branch().mean(0)  # 4,000 draws side by side
        attn.eval(), drop.eval()
        torch.testing.assert_close(mean, branch()[0], atol=0.06, rtol=0.1)


def test_checkpointing_changes_no_gradient() -> None:
    x, both = some_tokens(), []
    for checkpointing in (False, True):
        model = tiny_model(scale=5, dropout=0.2).train()
        model.checkpointing = checkpointing
        torch.manual_seed(2)
        NextTokenLoss(model)(x, x).backward()
        both.append(gradients(model))
    torch.testing.assert_close(*both)


def test_positions_are_a_value() -> None:
    """(T,) and (B, T) positions mean the same, and other positions another thing."""
    model, x = tiny_model(scale=5), some_tokens(2, 6)
    at = torch.arange(6)
    torch.testing.assert_close(model.hidden_states(x, at), model.hidden_states(x))
    torch.testing.assert_close(model.hidden_states(x, at.expand(2, 6)), model.hidden_states(x))
    assert not torch.allclose(model.hidden_states(x, at + 3), model.hidden_states(x), atol=1e-3)


def test_too_many_tokens_say_how_many_fit() -> None:
    with pytest.raises(ConfigError, match=r"33 tokens do not fit into n_positions=32; shorten the input"):
        tiny_model()(some_tokens(1, 33))


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (
            torch.zeros(5, dtype=torch.long),
            r"shape \(B, T\), and these are \(5,\); for one sequence write model\(tokens",
        ),
        (torch.zeros(1, 2, 3, dtype=torch.long), r"these are \(1, 2, 3\); give a batch"),
        (torch.zeros(1, 5), r"whole numbers, and these are torch.float32; use tokens.long\(\)"),
        ([[1, 2]], r"a tensor of token ids \(B, T\), not \[\[1, 2\]\]; make one with torch.tensor"),
    ],
)
def test_what_is_no_batch_of_ids_is_refused(tokens: Any, message: str) -> None:
    for call in (tiny_model(), tiny_model().hidden_states):
        with pytest.raises(ConfigError, match=message):
            call(tokens)


@pytest.mark.parametrize("config", ["nano", {"n_layer": 2}, None])
def test_a_model_is_made_of_a_config(config: Any) -> None:
    with pytest.raises(ConfigError, match="LightLLM takes a ModelConfig, not .*ModelConfig.nano()"):
        LightLLM(config)


def test_attention_can_be_replaced_from_outside() -> None:
    """What a probe does: the formula instead of the kernel, and the same logits."""
    model, x = tiny_model(scale=5), some_tokens()
    plain = model(x)
    for block in model.h:
        block.attn.attend = attend_by_formula  # type: ignore[union-attr]
    torch.testing.assert_close(model(x), plain)


def test_formula_has_a_second_derivative() -> None:
    q = torch.randn(1, 1, 4, 8, dtype=torch.float64, requires_grad=True)
    k, v = torch.randn(1, 1, 4, 8, dtype=torch.float64), torch.randn(1, 1, 4, 8, dtype=torch.float64)
    assert torch.autograd.gradgradcheck(lambda q: attend_by_formula(q, k, v), (q,))


def test_a_seed_of_numpy_is_a_seed() -> None:
    seed: Any = np.int64(3)
    weights = [LightLLM(TINY, seed=s).wte.weight for s in (3, seed)]
    assert torch.equal(*weights)
    wrong: Any = "three"
    with pytest.raises(ConfigError, match="seed='three' cannot be used"):
        LightLLM(TINY, seed=wrong)


@pytest.mark.parametrize(
    ("tokens", "message"),
    [
        (torch.tensor([[1, TINY.vocab_size]]), f"ids 0 ... {TINY.vocab_size - 1}, and these go from 1 to"),
        (torch.tensor([[-1, 2]]), "these go from -1 to 2"),
        (torch.zeros(1, 0, dtype=torch.long), "at least one token"),
        (torch.zeros(1, 2, dtype=torch.uint8), r"use tokens.long\(\)"),
    ],
)
def test_ids_that_the_model_lacks_are_refused(tokens: Tensor, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        tiny_model()(tokens)
