"""Whole models with every choice: causality, caches, learning, number formats."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from light_llm.checkpoint import Files, load_model, read_model, write_model_file
from light_llm.config import ModelConfig, from_dict
from light_llm.data import Batch
from light_llm.generate import convert_for_inference
from light_llm.generate.cache import KVCache
from light_llm.generate.decode import decode
from light_llm.generate.inference import can_pack, pack_weights
from light_llm.generate.sampling import Sampling
from light_llm.observe.curvature import hessian_of
from light_llm.observe.flat_params import flatten, mean_loss_by_formula, trainable_parameters
from light_llm.runtime import autocast
from tests.layers.test_layers import CHOICES, CPU, EVERY, LLAMA, loss_and_gradients, model_of
from tests.support.tools import TINY, model_path, some_tokens, tiny_model

OLD = ("vocab_size", "n_positions", "n_embd", "n_layer", "n_head", "dropout", "attn_dropout", "activation", "logit_cap")


def test_a_file_from_before_there_were_choices_is_a_gpt2(tmp_path: Path) -> None:
    values = {name: value for name, value in asdict(TINY).items() if name in OLD}
    assert from_dict(ModelConfig, values, what="model") == TINY
    file = read_model(model_path(tmp_path))
    weights, meta = file.weights, file.meta
    now = load_model(tmp_path / "best_model.pt").model
    meta["config"] = {name: value for name, value in meta["config"].items() if name in OLD}
    assert len(meta["config"]) == len(OLD)
    write_model_file(tmp_path / "old.pt", weights, meta, Files())
    old = load_model(tmp_path / "old.pt").model
    assert old.config == now.config
    assert torch.equal(old(some_tokens()), now(some_tokens()))
    modules = {name.split(".")[-2] for name in weights}
    assert modules == {"wte", "wpe", "ln_f", "ln_1", "ln_2", "c_attn", "c_proj", "c_fc"}


# ---- models of every choice


@EVERY
def test_no_token_sees_what_comes_later(changes: dict[str, Any]) -> None:
    model, x = model_of(**changes), some_tokens(1, 14)
    other = x.clone()
    other[0, 9] = (x[0, 9] + 1) % TINY.vocab_size
    moved = (model(x) - model(other)).abs().amax(dim=-1)[0]
    assert (moved[:9] == 0).all() and moved[9] > 1e-3


@EVERY
def test_read_in_parts_on_a_cache_is_read_at_once(changes: dict[str, Any]) -> None:
    model, x = model_of(**changes).requires_grad_(False), some_tokens(2, 20)
    cache = KVCache(model.config, 2, 24, CPU, torch.float32)
    slices = slice(7), slice(7, 8), slice(8, 20)
    parts = [model.hidden_states(x[:, part], torch.arange(20)[part], None, cache) for part in slices]
    torch.testing.assert_close(torch.cat(parts, dim=1), model.hidden_states(x), rtol=1e-4, atol=1e-4)


@EVERY
def test_decoding_with_a_cache_is_decoding_without(changes: dict[str, Any]) -> None:
    """Rows of different lengths, each of which moves its window of 16 tokens twice or more, at its own time."""
    model = model_of(**changes, n_positions=16)
    prompts = [[1, 2, 3], [4] * 15, list(range(5, 11)), list(range(16))]
    options: dict[str, Any] = {"seeds": [1, 2, 3, 4], "sampling": Sampling(), "max_new_tokens": 36}
    rows = list(decode(model, prompts, **options))
    assert rows == list(decode(model, prompts, **options, use_cache=False))
    assert len({token for row in rows for token in row}) > 20


@EVERY
def test_every_choice_learns(changes: dict[str, Any]) -> None:
    """The blocked loss is the plain one, each parameter has its gradient, and recomputing blocks changes none."""

    def step(chunk: int, checkpointing: bool) -> dict[str, Tensor]:
        model = model_of(**changes, dropout=0.1).train()
        model.checkpointing = checkpointing
        return loss_and_gradients(model, chunk)

    blocked = step(7, False)
    assert blocked.keys() == {"loss", *model_of(**changes).state_dict()}
    assert all(gradient.abs().sum() > 0 for gradient in blocked.values())
    torch.testing.assert_close(step(0, False), blocked, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(step(7, True), blocked)


@pytest.mark.parametrize(
    ("frozen", "choice"),
    [(part, "qwen3 with windows") for part in ("nothing", "ln_", "wte")]
    + [("nothing", "gemma3"), ("ln_", "gemma3"), ("nothing", "gpt-neox")],
)
def test_curvature_is_the_change_of_the_gradient(frozen: str, choice: str) -> None:
    """Of other parts than GPT-2's, all trained or some: a product with the Hessian against two gradients nearby."""
    model = tiny_model(scale=3, **CHOICES[choice])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(frozen not in name)
    batch = Batch(some_tokens(2, 9), some_tokens(2, 9, seed=6))
    weights = flatten(trainable_parameters(model).values()).double()
    v = torch.randn(len(weights), generator=torch.Generator().manual_seed(0), dtype=torch.float64)

    def gradient(h: float) -> Tensor:
        nearby = (weights + h * v).requires_grad_()
        return torch.autograd.grad(mean_loss_by_formula(model, nearby, batch), nearby)[0]

    expected = (gradient(1e-5) - gradient(-1e-5)) / 2e-5
    assert (hessian_of(model, batch, torch.float64).product(v) - expected).norm() < 1e-4 * expected.norm()


@EVERY
def test_in_bfloat16_it_is_nearly_the_same(changes: dict[str, Any]) -> None:
    exact = loss_and_gradients(tiny_model(scale=4, **changes))
    model = tiny_model(scale=4, **changes)
    with autocast("cpu", "bfloat16"):
        half = loss_and_gradients(model)
        assert model(some_tokens()).dtype == torch.bfloat16
    assert not torch.equal(half["loss"], exact["loss"]), "the products are in another format"
    torch.testing.assert_close(half["loss"], exact["loss"], rtol=2e-3, atol=0)
    for name, gradient in exact.items():
        assert half[name].dtype == torch.float32
        assert (half[name] - gradient).norm() < 0.05 * gradient.norm() + 0.02, name


@pytest.mark.parametrize(
    "changes",
    [LLAMA, LLAMA | {"tied_head": False, "qk_norm": True}, {"tied_head": False}, CHOICES["gemma3"] | {"n_kv_head": 2}],
)
def test_weights_in_other_formats(changes: dict[str, Any]) -> None:
    """Packed they are the same weights; in int8, rounded ones, of the head of its own as well."""
    x = some_tokens(2, 9)
    right = model_of(**changes, n_embd=64, n_head=4)(x)
    packed, rounded = (model_of(**changes, n_embd=64, n_head=4) for _ in range(2))
    with torch.no_grad():
        assert pack_weights(packed) == can_pack(CPU, torch.float32)
        torch.testing.assert_close(packed(x), right, rtol=1e-4, atol=1e-4)
        convert_for_inference(rounded, quantize="int8")
        error = (rounded(x) - right).norm() / right.norm()
    assert 1e-4 < error < 0.1


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", ["llama", "qwen3 with windows", "gpt-neox", "gemma3"])
def test_compiled_it_is_the_same(name: str) -> None:
    eager, compiled = (
        loss_and_gradients(model_of(**CHOICES[name], tied_head=False).train(), wrap=wrap)
        for wrap in (lambda loss: loss, torch.compile)
    )
    torch.testing.assert_close(compiled, eager, rtol=1e-3, atol=1e-3)


@pytest.mark.slow  # three runs from the command line
def test_a_rotary_model_may_go_on_with_a_longer_context(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """No weight of it knows how far its context goes; a table of positions does."""
    from light_llm.cli import main

    (tmp_path / "t.txt").write_text("To be, or not to be. " * 200)
    words = ["--data", str(tmp_path / "t.txt"), "--tokenizer", "byte", "--max-steps", "2", "--skip-doctor", "--quiet"]
    for preset in ("llama-nano", "nano"):
        out = str(tmp_path / preset)
        small = ["--set", "model.n_layer=1", "--set", "train.sample_interval=0"]
        assert main(["train", "--preset", preset, "--max-length", "16", "--out", out, *small, *words]) == 0
    longer = ["--max-length", "32", "--set", "model.rope_scaling=linear", "--set", "model.rope_factor=2", *words]
    origin = str(tmp_path / "llama-nano")
    assert main(["train", "--init-from", origin, "--out", str(tmp_path / "longer"), *longer]) == 0
    resumed = load_model(tmp_path / "longer").model.config
    assert (resumed.n_positions, resumed.rope_scaling, resumed.rope_factor) == (32, "linear", 2.0)
    capsys.readouterr()
    assert main(["train", "--init-from", str(tmp_path / "nano"), "--out", str(tmp_path / "x"), *longer]) == 2
    assert "decides the shape of the model; leave out model.rope_factor" in capsys.readouterr().err
