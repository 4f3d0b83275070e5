"""Per-sample gradients and traces: under torch.func and torch.jit.trace the layers compute by their formulas."""

import warnings
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, grad, vmap

from light_llm import LightLLM, NextTokenLoss
from tests.support.tools import gradients, some_tokens, tiny_model

CHOICES: list[dict[str, Any]] = [
    {"scale": 4.0},
    {"positions": "rope", "norm": "rmsnorm", "mlp": "swiglu", "bias": False, "n_kv_head": 1, "window": 5},
    {"positions": "rope", "norm": "rmsnorm1p", "mlp": "geglu", "post_norms": True, "scale_embeddings": True}
    | {"rope_local_base": 50.0, "window": 5, "window_layers": "1", "rotary_pct": 0.5, "attn_scale": 0.5},
]


@pytest.mark.parametrize("choices", CHOICES, ids=["gpt2", "llama", "gemma3"])
def test_gradients_of_single_samples_are_those_of_batches_of_one(choices: dict[str, Any]) -> None:
    objective = NextTokenLoss(tiny_model(**choices).train())
    x, y = some_tokens(3, 12), some_tokens(3, 12, seed=6)
    parameters = {name: p.detach() for name, p in objective.named_parameters()}

    def loss(parameters: dict[str, Tensor], tokens: Tensor, targets: Tensor) -> Tensor:
        return functional_call(objective, parameters, (tokens[None], targets[None]))  # type: ignore[no-any-return]

    per_sample = vmap(grad(loss), in_dims=(None, 0, 0))(parameters, x, y)
    for i in range(3):
        objective.zero_grad()
        objective(x[i : i + 1], y[i : i + 1]).backward()
        for name, expected in gradients(objective).items():
            torch.testing.assert_close(per_sample[name][i], expected, rtol=1e-4, atol=1e-5)


def test_dropout_is_different_for_each_sample() -> None:
    model = tiny_model(dropout=0.5).train()
    states = vmap(model, randomness="different")(some_tokens(1, 8).expand(2, 8)[:, None])
    assert not torch.equal(states[0], states[1])


@pytest.mark.parametrize("choices", CHOICES, ids=["gpt2", "llama", "gemma3"])
def test_a_trace_in_training_is_the_model(choices: dict[str, Any]) -> None:
    model, tokens = tiny_model(**choices), some_tokens(2, 12)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a trace keeps the shapes it was made with, and torch says so
        traced = torch.jit.trace(model, tokens, check_trace=False)
    other = some_tokens(2, 12, seed=9)
    torch.testing.assert_close(traced(other), model(other))
    assert isinstance(model, LightLLM) and model(other).requires_grad
