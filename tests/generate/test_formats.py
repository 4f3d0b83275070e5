"""Fast generation against slow references: packed products, int8, sampling in a batch, the cache."""

import math
import platform
import sys
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from light_llm.checkpoint import Files, LoadedModel, load_model, model_meta, write_model_file
from light_llm.config import ModelConfig
from light_llm.data.tokenizers import CharTokenizer
from light_llm.errors import ConfigError
from light_llm.generate import KVCache, Sampling, TextGenerator, convert_for_inference, decode
from light_llm.generate.inference import PackedLinear, can_pack
from light_llm.generate.quantize import MANY_ROWS, Int8Linear, dequantize, has_int8_kernel, quantize
from light_llm.generate.sampling import sample, sample_batch, topk_with_ties
from light_llm.model import LightLLM
from tests.support.tools import byte_loader, model_path, run_child, some_tokens, tiny_model

CPU = torch.device("cpu")


def matrix(out: int = 96, into: int = 64) -> tuple[torch.Tensor, torch.Tensor]:
    """A weight and a bias."""
    torch.manual_seed(0)
    return torch.randn(out, into), torch.randn(out)


# ---- products


def needs_packed_products(dtype: torch.dtype) -> None:
    """Skip where torch itself says that the kernels are not there; where it has them, they must work."""
    has_bfloat16 = torch.backends.mkldnn.is_available() and torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if platform.machine() not in ("x86_64", "AMD64") or not (has_bfloat16 or dtype == torch.float32):
        pytest.skip("NOT RUN: this processor has no packed products")
    assert can_pack(CPU, dtype)


@pytest.mark.parametrize("rows", [(1,), (1, 1), (3,), (2, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_packed_product_is_the_product(dtype: torch.dtype, rows: tuple[int, ...]) -> None:
    needs_packed_products(dtype)
    weight, bias = matrix()
    x = torch.randn(*rows, 64)
    for b in (bias, None):
        expected = F.linear(x, weight.to(dtype).float(), b)
        result = PackedLinear(weight, b, dtype)(x)
        assert result.dtype == x.dtype and result.shape == expected.shape
        torch.testing.assert_close(result, expected, rtol=1e-5, atol=1e-4 if dtype == torch.float32 else 0.15)


def test_a_weight_beyond_float16_is_multiplied_in_bfloat16() -> None:
    needs_packed_products(torch.bfloat16)
    weight = torch.full((32, 32), 1e6)
    assert PackedLinear(weight, None, torch.bfloat16)(torch.ones(1, 32)).isfinite().all()


def test_int8_rounds_by_half_a_step_at_most() -> None:
    weight, _ = matrix()
    weight[3] = 0.0
    stored, scale = quantize(weight)
    assert stored.dtype == torch.int8 and stored.min() >= -127
    assert ((dequantize(stored, scale) - weight).abs() <= scale.float()[:, None] * 0.51 + weight.abs() * 0.004).all()


@pytest.mark.parametrize("rows", [(1,), (1, 1), (2, 3), (MANY_ROWS + 1,)])
def test_an_int8_product_is_that_of_its_dequantised_weights(rows: tuple[int, ...]) -> None:
    weight, bias = matrix()
    linear, x = Int8Linear(weight, bias), torch.randn(*rows, 64)
    expected = F.linear(x, dequantize(linear.weight, linear.scale), bias)
    for result in (linear(x), linear.dequantized(x)):
        assert result.dtype == x.dtype
        torch.testing.assert_close(result, expected, rtol=0.01, atol=0.15)  # rows and results are rounded to bfloat16
    linear.has_kernel = False  # another torch, another device
    assert torch.equal(linear(x), linear.dequantized(x))
    assert not has_int8_kernel(torch.device("meta"))
    assert not Int8Linear(weight[:, :40], bias).has_kernel  # which would read past the end of a row


# ---- whole models


def converted(dtype: str = "auto", quantize: str = "none", **config: Any) -> LightLLM:
    model = tiny_model(**({"scale": 6} | config))
    convert_for_inference(model, dtype, quantize)
    return model


def written(model: LightLLM, **options: bool) -> list[list[int | None]]:
    prompts, sampling = [[1, 2, 3], [4] * 15], Sampling(temperature=0.9, top_k=20)
    return list(decode(model, prompts, seeds=[1, 2], sampling=sampling, max_new_tokens=60, **options))


def test_a_converted_float32_model_writes_the_same() -> None:
    """Over two windows; and it saves the very numbers it was made from."""
    model, plain = converted(), tiny_model(scale=6)
    assert written(model) == written(plain) == written(model, use_cache=False)
    saved = model.state_dict()
    assert saved.keys() == plain.state_dict().keys()
    assert all(torch.equal(saved[name], weight) for name, weight in plain.state_dict().items())


@pytest.mark.parametrize(("dtype", "quantize"), [("bfloat16", "none"), ("auto", "int8")])
def test_fewer_bits_change_little(dtype: str, quantize: str) -> None:
    tokens = some_tokens(2, 20)
    if dtype == "bfloat16":
        needs_packed_products(torch.bfloat16)
    model, expected = converted(dtype, quantize), tiny_model(scale=6)(tokens)
    with torch.inference_mode():
        result, hidden = model(tokens), model.hidden_states(tokens)
        assert not torch.equal(model.logits(hidden), F.linear(hidden, model.head_weight))  # the head's product too
    assert 0 < (result - expected).pow(2).mean() < 1e-3 * expected.var()
    assert torch.equal(model.head_weight, tiny_model(scale=6).head_weight)  # looked up as before


@pytest.mark.parametrize(("dtype", "quantize"), [("auto", "none"), ("bfloat16", "none"), ("auto", "int8")])
def test_a_converted_model_keeps_its_soft_cap(dtype: str, quantize: str) -> None:
    logits = converted(dtype, quantize, scale=20, logit_cap=1.5)(some_tokens(2, 20))
    assert 1.4 < logits.abs().max() <= 1.5


def test_int8_costs_less_than_half_a_percent_of_bits_per_byte(poem: Path) -> None:
    """Of a model that has learned something: far from uniform, so that a wrong weight would show."""
    torch.manual_seed(0)
    model = LightLLM(ModelConfig(vocab_size=257, n_positions=32, n_embd=64, n_layer=2, n_head=2))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    batches = [byte_loader(poem, batch_size=16).batch(k) for k in range(16)]
    for x, y in [*batches] * 6:
        optimizer.zero_grad()
        F.cross_entropy(model(x).flatten(0, 1), y.flatten()).backward()
        optimizer.step()
    model.eval()

    def bits() -> float:
        with torch.inference_mode():
            nats = [F.cross_entropy(model(x).flatten(0, 1), y.flatten()).item() for x, y in batches]
        return sum(nats) / len(nats) / math.log(2)

    before = bits()
    convert_for_inference(model, quantize="int8")
    assert before < 2.5 and abs(bits() / before - 1) < 0.005


def test_where_nothing_can_be_packed_the_plain_model_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    model = tiny_model(scale=6)
    decision = convert_for_inference(model)
    assert decision.value == "float32" and "no packed products" in str(decision)
    assert written(model) == written(tiny_model(scale=6))
    half = converted("bfloat16")
    assert half.head_weight.dtype == torch.bfloat16 and len(written(half)) == 60


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtype": "bfloat"}, "dtype='bfloat'.*bfloat16.*auto, float32, bfloat16"),
        ({"quantize": "int4"}, "quantize='int4'.*int8.*none, int8"),
        ({"quantize": "int8", "dtype": "float32"}, "quantize='int8'.*dtype='float32'"),
    ],
)
def test_a_refused_format_is_named(options: dict[str, str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TextGenerator("no file is read", **options)


def test_a_text_in_each_format(tmp_path: Path) -> None:
    path = model_path(tmp_path)
    for options in ({}, {"dtype": "bfloat16"}, {"quantize": "int8"}):
        writer = TextGenerator(path, device="cpu", **options)
        assert writer.generate("abc", 40, seed=4) == writer.generate("abc", 40, seed=4)
        assert writer.format.value == options.get("dtype", options.get("quantize", "float32"))


def test_a_file_in_bfloat16_is_never_widened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its matrices are packed as they are, one at a time, and the residual stream between them is float32."""
    needs_packed_products(torch.bfloat16)
    model, path, left = tiny_model(scale=6), tmp_path / "best_model.pt", list[int]()
    weights = {name: t.bfloat16() for name, t in model.state_dict().items()}
    meta = model_meta(model, None, step=1, dtype="float32", evaluation=None, tokenizer=CharTokenizer("abc"))
    write_model_file(path, weights, meta, Files())

    def load(*args: Any) -> LoadedModel:
        loaded = load_model(*args)
        layers.extend(weakref.ref(m) for m in loaded.model.modules() if isinstance(m, torch.nn.Linear))
        return loaded

    def pack(weight: torch.Tensor, *args: Any, **kwargs: Any) -> PackedLinear:
        assert weight.dtype == torch.bfloat16 or not left
        left.append(sum(layer() is not None for layer in layers))
        return PackedLinear(weight, *args, **kwargs)

    layers = list[Callable[[], object]]()
    monkeypatch.setattr("light_llm.generate.generator.load_model", load)
    monkeypatch.setattr("light_llm.generate.inference.PackedLinear", pack)
    writer = TextGenerator(path, device="cpu", dtype="bfloat16")
    # The small product of `can_pack`, the layers, of which the last may be held by the loop, and the head.
    assert left[0] == len(layers) and len(left) == len(layers) + 2
    assert all(n <= len(layers) - i + 1 for i, n in enumerate(left[1:]))
    tokens = some_tokens(2, 20)
    with torch.inference_mode():
        hidden, expected = writer.model.hidden_states(tokens), model(tokens)
        assert hidden.dtype == torch.float32 and writer.model.head_weight.dtype == torch.bfloat16
        assert 0 < (writer.model(tokens) - expected).pow(2).mean() < 1e-3 * expected.var()
    assert len(written(writer.model)) == 60


def test_int8_from_16_bits_is_int8_from_the_same_numbers(tmp_path: Path) -> None:
    """Read in the number formats of the file, of which float32 holds all."""
    model, texts = tiny_model(scale=6), list[str]()
    weights = {
        name: t.to((torch.bfloat16, torch.float16)[i % 2]) for i, (name, t) in enumerate(model.state_dict().items())
    }
    tokenizer = CharTokenizer("".join(chr(97 + i) for i in range(60)))
    meta = model_meta(model, None, step=1, dtype="float32", evaluation=None, tokenizer=tokenizer)
    for name, stored in (("few.pt", weights), ("many.pt", {name: t.float() for name, t in weights.items()})):
        write_model_file(Path(name), stored, meta, Files())
        writer = TextGenerator(name, device="cpu", quantize="int8")
        assert writer.model.hidden_states(some_tokens()).dtype == torch.float32
        texts.append(writer.generate("abc", 50, seed=3))
    assert texts[0] == texts[1] and len(texts[0]) > 10


def test_a_large_model_has_its_matrices_once(monkeypatch: pytest.MonkeyPatch) -> None:
    needs_packed_products(torch.bfloat16)
    monkeypatch.setattr("light_llm.generate.inference.MAX_TWICE", 1000)
    tokens, model = some_tokens(2, 20), converted("bfloat16")
    expected = tiny_model(scale=6)(tokens)
    assert [layer.few for layer in model.modules() if isinstance(layer, PackedLinear)] == [None] * 8
    with torch.inference_mode():
        assert 0 < (model(tokens) - expected).pow(2).mean() < 1e-3 * expected.var()


# ---- choosing


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize(
    "sampling",
    [
        Sampling(),
        Sampling(temperature=0.0),
        Sampling(temperature=0.8, top_k=40),
        Sampling(temperature=1e-300, top_k=3),
        Sampling(top_k=10_000),
        Sampling(top_k=30, top_p=0.7, min_p=0.01, repetition_penalty=1.4),
        Sampling(temperature=0.0, repetition_penalty=1.4),
    ],
)
def test_rows_chosen_together_are_rows_chosen_alone(sampling: Sampling, ties: bool) -> None:
    """For many draws; with ties there are far more at the edge of the top k than the fast way looks for at first."""
    B = 40
    logits = 3 * torch.randn(B, 500, generator=torch.Generator().manual_seed(1))
    logits = logits.round() if ties else logits
    seen = [list(range(b)) for b in range(B)]
    alone, together = ([torch.Generator().manual_seed(b) for b in range(B)] for _ in range(2))
    for _ in range(5):
        expected = [sample(z, ids, sampling, g) for z, ids, g in zip(logits, seen, alone, strict=True)]
        assert sample_batch(logits, seen, sampling, together) == expected


def test_the_largest_are_those_of_a_full_sort() -> None:
    logits = torch.randint(30, (20, 300), generator=torch.Generator().manual_seed(2)).float()
    ids, kept = topk_with_ties(logits, 7)
    for z, row, values in zip(logits, ids, kept, strict=True):
        expected = (z >= z.sort(descending=True).values[6]).nonzero()[:, 0]
        assert torch.equal(row[values > -math.inf], expected)
        assert torch.equal(values[values > -math.inf], z[expected])


# ---- the cache


def test_a_step_copies_nothing_and_both_ways_to_write_agree() -> None:
    """Positions for all rows at once, or one by one: the same slots."""
    config = tiny_model().config
    caches = [KVCache(config, 2, 16, CPU, torch.float32) for _ in range(2)]
    for at in (torch.arange(5), torch.tensor([5])):
        k, v = torch.randn(2, 2, 3, len(at), 8)
        for cache, positions in zip(caches, (at, at.expand(2, -1)), strict=True):
            keys, values = cache.extend(1, k, v, positions)
    assert torch.equal(caches[0].keys, caches[1].keys) and torch.equal(caches[0].values, caches[1].values)
    assert keys.shape == (2, 3, 6, 8) and keys.data_ptr() == caches[1].keys[1].data_ptr()
    assert values.data_ptr() == caches[1].values[1].data_ptr()


def test_loading_a_model_does_not_wait_for_the_compiler(tmp_path: Path) -> None:
    program = f"""
import sys; from light_llm import TextGenerator
TextGenerator({str(model_path(tmp_path))!r}, device='cpu').generate('a', 2)
print('torch._dynamo' in sys.modules)
"""
    child = run_child([sys.executable, "-c", program])
    assert (child.returncode, child.stdout) == (0, "False\n"), child.stderr
