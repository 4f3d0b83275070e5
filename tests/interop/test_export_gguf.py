"""GGUF files: what stands in them, read back with the `gguf` package, and every way to write a wrong one that we know.

What llama.cpp computes from them is looked at by `make check-gguf`, and below where it is installed.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from light_llm.checkpoint import LoadedModel
from light_llm.config import ModelConfig
from light_llm.data import Tokenizer
from light_llm.data.bpe import BytePairTokenizer
from light_llm.data.tokenizers import ByteTokenizer, CharTokenizer
from light_llm.errors import CheckpointError, ConfigError
from light_llm.interop import gguf
from light_llm.interop.architectures import cut_to_tokenizer
from light_llm.interop.gguf_dtypes import packed, unpacked
from light_llm.interop.gguf_tensors import (
    check_can_be_gguf,
    gguf_tensors,
    interleave,
    metadata,
    rope_factors,
)
from light_llm.interop.gguf_tokens import vocabulary
from light_llm.interop.gguf_verify import joined, largest_error
from light_llm.interop.optional_deps import need
from light_llm.layers.positions import RotaryAngles, frequencies, rotate
from tests.support.export_tools import a_tokenizer, tiny_loaded

# Rows of 64 and 96 numbers, so that q8_0 has its blocks of 32.
SHAPE: dict[str, Any] = {"n_embd": 64, "n_head": 4, "n_positions": 80}
WIDE = {"gpt2": {}, "llama": {"n_kv_head": 2, "n_inner": 96}, "qwen3": {"n_kv_head": 2, "n_inner": 96, "head_dim": 32}}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2, no biases, a head of its own, narrow": ("gpt2", {"bias": False, "tied_head": False, "n_inner": 160}),
    "gpt2, a padded table": ("gpt2", {"vocab_size": 320, "tied_head": False}),
    "llama": ("llama", {}),
    "llama, heads of another size": ("llama", {"head_dim": 24, "n_head": 3, "n_kv_head": 1, "norm_eps": 1e-6}),
    "llama, slowed down": ("llama", {"rope_scaling": "linear", "rope_factor": 4.0, "n_kv_head": 4}),
    "llama, slowed down as in Llama 3": ("llama", {"rope_scaling": "llama3", "rope_factor": 4.0, "rope_base": 5e5}),
    "qwen3": ("qwen3", {"tied_head": False}),
    "qwen3, slowed down": ("qwen3", {"rope_scaling": "linear", "rope_factor": 2.0, "window": 80}),
}


def a_model(folder: Path, family: str = "gpt2", tokenizer: Tokenizer | None = None, **changes: Any) -> LoadedModel:
    return tiny_loaded(folder, family, tokenizer, **(SHAPE | WIDE[family] | changes))


def write_wrong(
    loaded: LoadedModel,
    path: Path,
    *,
    dtype: str = "f32",
    tensors: Callable[[dict[str, Tensor]], dict[str, Tensor]] = lambda tensors: tensors,
    fields: Callable[[dict[str, Any]], dict[str, Any]] = lambda fields: fields,
) -> None:
    """What `write` writes, changed."""
    config, state = cut_to_tokenizer(loaded)
    assert loaded.file.tokenizer
    said = metadata(config, loaded.file, dtype) | vocabulary(loaded.file.tokenizer).fields()
    parts = tensors(gguf_tensors(config, state))
    gguf.write_parts(need("gguf", "gguf"), path, check_can_be_gguf(config), fields(said), parts, dtype)


def read_fields(path: Path) -> dict[str, Any]:
    reader = need("gguf", "gguf").GGUFReader(path)
    return {name: field.contents() for name, field in reader.fields.items()}


# The file is the model


@pytest.mark.parametrize(
    ("name", "dtype"),
    [*((name, dtype) for name in MODELS for dtype in ("f32", "q8_0")), ("gpt2", "f16"), ("llama", "bf16")],
)
def test_what_is_written_is_read_back(name: str, dtype: str, tmp_path: Path) -> None:
    family, changes = MODELS[name]
    loaded = a_model(tmp_path, family, **changes)
    gguf.write(loaded, tmp_path / "model.gguf", dtype=dtype)
    found = gguf.read_back(loaded, tmp_path / "model.gguf", dtype=dtype)
    assert found.tokens == 257
    assert sum(found.formats.values()) == found.tensors
    assert "f32" in found.formats, "norms are never rounded"
    assert found.formats.get(dtype, 0) > 2 * loaded.model.config.n_layer
    assert found.words.endswith(" are the model's, its 257 tokens give the same ids")


@pytest.mark.parametrize("kind", ["bpe", "char", "byte"])
def test_each_tokenizer_is_read_back(kind: str, tmp_path: Path) -> None:
    tokenizer = a_tokenizer(kind)
    loaded = a_model(tmp_path, "llama", tokenizer)
    gguf.write(loaded, tmp_path / "model.gguf")
    assert gguf.read_back(loaded, tmp_path / "model.gguf").tokens == tokenizer.vocab_size
    fields = read_fields(tmp_path / "model.gguf")
    assert fields["tokenizer.ggml.tokens"][tokenizer.separator] == "<|endoftext|>"
    assert fields["tokenizer.ggml.token_type"].count(3) == 1


@pytest.mark.slow  # the package reads a list of 50,257 texts in seconds
@pytest.mark.usefixtures("offline_files")
def test_gpt2s_vocabulary_is_read_back(tmp_path: Path) -> None:
    loaded = a_model(tmp_path, "gpt2", a_tokenizer("gpt2"), n_embd=32, n_head=2, n_layer=1)
    gguf.write(loaded, tmp_path / "model.gguf")
    assert gguf.read_back(loaded, tmp_path / "model.gguf").tokens == 50257
    assert len(read_fields(tmp_path / "model.gguf")["tokenizer.ggml.merges"]) == 50000


def test_a_model_without_a_tokenizer_says_how_many_ids_it_has(tmp_path: Path) -> None:
    loaded = a_model(tmp_path)
    loaded = LoadedModel(loaded.model, replace(loaded.file, tokenizer=None))
    gguf.write(loaded, tmp_path / "model.gguf")
    fields = read_fields(tmp_path / "model.gguf")
    assert (fields["tokenizer.ggml.model"], fields["gpt2.vocab_size"]) == ("no_vocab", 257)
    assert gguf.read_back(loaded, tmp_path / "model.gguf").tokens is None


def test_rows_without_an_id_are_left_out(tmp_path: Path) -> None:
    loaded = a_model(tmp_path, vocab_size=320, tied_head=False)
    gguf.write(loaded, tmp_path / "model.gguf")
    stored = {t.name: t.data.shape for t in need("gguf", "gguf").GGUFReader(tmp_path / "model.gguf").tensors}
    assert stored["token_embd.weight"] == stored["output.weight"] == (257, 64)


def test_the_file_says_how_the_model_was_made_and_not_by_whom(tmp_path: Path) -> None:
    loaded = a_model(tmp_path, "llama", rope_scaling="linear", rope_factor=2.0)
    gguf.write(loaded, tmp_path / "model.gguf", dtype="q8_0")
    fields = read_fields(tmp_path / "model.gguf")
    for words in (
        "A Llama made with light-llm",
        "120 steps",
        "windows of 24 tokens",
        "1.250 nats",
        "1.800 bits a byte",
    ):
        assert words in fields["general.description"]
    assert fields["general.quantization_version"] == 2
    assert (fields["llama.rope.scaling.type"], fields["llama.rope.scaling.factor"]) == ("linear", 2.0)
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert not [name for name in fields if "author" in name or "url" in name]
    assert str(tmp_path) not in repr(fields)
    again = tmp_path / "again.gguf"
    gguf.write(loaded, again, dtype="q8_0")
    assert again.read_bytes() == (tmp_path / "model.gguf").read_bytes(), "the same model gives the same bytes"


# Laws of its parts


def neighbours(x: Tensor, turn: RotaryAngles) -> Tensor:
    """Rotation as llama.cpp's Llama has it: number 2i with 2i + 1."""
    first, second = x[..., ::2], x[..., 1::2]
    pairs = (first * turn.cos - second * turn.sin, first * turn.sin + second * turn.cos)
    return torch.stack(pairs, dim=-1).flatten(-2)


def test_interleaved_rows_turn_by_neighbours_as_ours_turn_by_halves() -> None:
    config = ModelConfig(n_embd=48, n_head=3, head_dim=16, positions="rope")
    H, D, T = 3, 16, 7
    weight, x = torch.randn(2, H * D, 48), torch.randn(T, 48)
    angles = torch.arange(T)[:, None] * frequencies(config, torch.device("cpu"))
    turn = RotaryAngles(angles.cos(), angles.sin())

    def products(turned: Callable[[Tensor, RotaryAngles], Tensor], matrices: list[Tensor]) -> Tensor:
        q, k = (turned((x @ m.T).view(T, H, D).transpose(0, 1), turn) for m in matrices)  # (H, T, D)
        return q @ k.transpose(1, 2)

    ours = products(rotate, [weight[0], weight[1]])
    theirs = products(neighbours, [interleave(weight[0], H), interleave(weight[1], H)])
    assert (theirs - ours).abs().max() < 1e-3 < ours.abs().max()
    wrong = products(neighbours, [weight[0], weight[1]])
    assert (wrong - ours).abs().max() > 1, "without the other order it is another model"


def test_the_factors_of_a_longer_context_give_our_angles() -> None:
    config = ModelConfig(
        n_embd=64, n_head=1, positions="rope", rope_scaling="llama3", rope_factor=8.0, rope_trained=512
    )
    factors = rope_factors(config)
    assert factors[0] == 1, "what turns often stays"
    assert factors[-1] == pytest.approx(8.0), "what turns less than once is slowed down whole"
    assert bool((factors[1:] >= factors[:-1]).all()), "and what is between goes from one to the other"


@pytest.mark.parametrize("powers", [(-8, -5), (-2, 2)])
@pytest.mark.parametrize("kind", ["f16", "bf16", "q8_0"])
def test_a_format_rounds_as_far_as_is_allowed_and_no_farther(kind: str, powers: tuple[int, int]) -> None:
    """The bound holds, and some number comes near it: half of it would be wrong. Tiny numbers have their own."""
    x = torch.randn(200, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(*powers, 200)[:, None]
    package = need("gguf", "gguf")
    off = (unpacked(package, packed(package, "x", x, kind), kind) - x).abs() / largest_error(x, kind)
    assert 0.8 < float(off.max()) <= 1


def test_rounded_is_what_stands_in_the_file(tmp_path: Path) -> None:
    """Read with the package alone: matrices are rounded, norms, biases and positions are not."""
    loaded = a_model(tmp_path)
    gguf.write(loaded, tmp_path / "model.gguf", dtype="q8_0")
    package = need("gguf", "gguf")
    stored = {t.name: t for t in package.GGUFReader(tmp_path / "model.gguf").tensors}
    weights = gguf.rounded(loaded, "q8_0").model.state_dict()
    for theirs, ours in {
        "token_embd.weight": "wte.weight",
        "blk.1.attn_qkv.weight": "h.1.attn.c_attn.weight",
        "blk.0.ffn_down.weight": "h.0.mlp.c_proj.weight",
        "position_embd.weight": "wpe.weight",
        "blk.0.ffn_up.bias": "h.0.mlp.c_fc.bias",
    }.items():
        numbers = torch.from_numpy(package.quants.dequantize(stored[theirs].data, stored[theirs].tensor_type).copy())
        assert torch.equal(numbers, weights[ours]), theirs
    assert torch.equal(weights["wpe.weight"], loaded.model.wpe.weight)
    assert not torch.equal(weights["wte.weight"], loaded.model.wte.weight)


def test_more_is_allowed_where_more_is_rounded(tmp_path: Path) -> None:
    """A Llama in f32 is computed exactly; GELU is looked up by 16 bits there; 8 bits of what is multiplied are few."""
    llama, gpt2 = a_model(tmp_path, "llama"), a_model(tmp_path, "gpt2")
    limits = [gguf.allowed(llama, dtype) for dtype in ("f32", "f16", "bf16", "q8_0")]
    assert limits[0] == 1e-4 < limits[1] < limits[2] < limits[3] < 1
    assert 1e-4 < gguf.allowed(gpt2, "f32") < gguf.allowed(gpt2, "q8_0")


def test_characters_are_joined_from_their_bytes_and_never_with_each_other() -> None:
    tokenizer = CharTokenizer("aé東亭—–Ã🙂🙃 \n\x00")
    words = vocabulary(tokenizer)
    ranks = {tuple(merge.split(" ")): i for i, merge in enumerate(words.merges)}
    ids = {token: i for i, token in enumerate(words.tokens)}
    for first in tokenizer.alphabet:
        for second in tokenizer.alphabet:
            visible = words.tokens[tokenizer.ids[first]] + words.tokens[tokenizer.ids[second]]
            assert [ids[part] for part in joined(visible, ranks)] == tokenizer.encode(first + second)


def test_bytes_need_no_join_and_have_one_that_never_applies() -> None:
    words = vocabulary(ByteTokenizer())
    assert words.merges == ("<|endoftext|> <|endoftext|>",), "an empty list cannot be written"
    assert words.tokens[ord("A")] == "A"
    assert words.tokens[ord(" ")] == "Ġ"


def test_ids_without_a_text_are_control_tokens_with_names_of_their_own() -> None:
    tokens = [b"", *(bytes([b]) for b in range(256)), b"ab", b""]
    words = vocabulary(BytePairTokenizer(tokens, separator=258))
    assert [words.tokens[0], words.tokens[258]] == ["<|no-text-0|>", "<|endoftext|>"]
    assert [i for i, kind in enumerate(words.kinds) if kind == 3] == [0, 258]
    assert words.merges == ("a b",)


# Wrong files are refused


def without_the_permutation(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    undone = {
        name: t.view(-1, 8, 2, 64).transpose(1, 2).reshape(t.shape)
        for name, t in tensors.items()
        if name.endswith(("attn_q.weight", "attn_k.weight"))
    }
    return tensors | undone


def renamed(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name.replace("blk.1.ffn_up", "blk.1.ffn_upp"): t for name, t in tensors.items()}


def gate_and_up_swapped(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    gate, up = "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"
    return tensors | {gate: tensors[up], up: tensors[gate]}


def one_weight_off(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    weight = tensors["blk.0.attn_v.weight"].clone()
    weight[3, 5] += 1e-6
    return tensors | {"blk.0.attn_v.weight": weight}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (without_the_permutation, "attn_q.weight is off"),
        (renamed, "blk.1.ffn_up.weight"),
        (gate_and_up_swapped, "blk.0.ffn_(gate|up).weight is off"),
        (one_weight_off, "blk.0.attn_v.weight is off"),
        (lambda tensors: tensors | {"token_embd.weight": torch.zeros(320, 64)}, "the shape"),
        (
            lambda tensors: {n: t for n, t in tensors.items() if n != "blk.1.attn_norm.weight"},
            "tensors and should have",
        ),
        (lambda tensors: tensors | {"output.weight": tensors["token_embd.weight"]}, "output.weight"),
    ],
)
def test_a_wrong_tensor_is_refused(
    change: Callable[[dict[str, Tensor]], dict[str, Tensor]], complaint: str, tmp_path: Path
) -> None:
    loaded = a_model(tmp_path, "llama")
    write_wrong(loaded, tmp_path / "model.gguf")
    gguf.read_back(loaded, tmp_path / "model.gguf")  # so that what is refused below is the change
    write_wrong(loaded, tmp_path / "model.gguf", tensors=change)
    with pytest.raises(CheckpointError, match=complaint):
        gguf.read_back(loaded, tmp_path / "model.gguf")


def test_a_transposed_matrix_is_refused(tmp_path: Path) -> None:
    """(in, out) as Hugging Face has it: a square one has the right shape, and is another model."""
    loaded, name = a_model(tmp_path), "blk.0.attn_output.weight"
    write_wrong(loaded, tmp_path / "model.gguf", tensors=lambda ts: ts | {name: ts[name].T.contiguous()})
    with pytest.raises(CheckpointError, match="attn_output.weight is off"):
        gguf.read_back(loaded, tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("llama.vocab_size", 320),
        ("llama.context_length", 81),
        ("llama.attention.head_count_kv", 4),
        ("llama.attention.layer_norm_rms_epsilon", 1.1e-5),
        ("llama.rope.freq_base", 500000.0),
        ("llama.rope.dimension_count", 8),
        ("llama.rope.scaling.type", "linear"),
        ("llama.feed_forward_length", 64),
        ("general.file_type", 1),
        ("tokenizer.ggml.pre", "default"),
        ("tokenizer.ggml.add_bos_token", True),
        ("tokenizer.ggml.eos_token_id", 0),
    ],
)
def test_a_wrong_field_is_refused(name: str, value: Any, tmp_path: Path) -> None:
    loaded = a_model(tmp_path, "llama")
    write_wrong(loaded, tmp_path / "model.gguf", fields=lambda fields: fields | {name: value})
    with pytest.raises(CheckpointError, match=f"{name} is .* and should be"):
        gguf.read_back(loaded, tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("field", "change", "complaint"),
    [
        ("merges", lambda merges: merges[::-1], "other ids"),
        ("tokens", lambda tokens: [tokens[1], tokens[0], *tokens[2:]], "token 0 is"),
        ("tokens", lambda tokens: [*tokens, "<|pad|>"], "tokens and should have"),
        ("token_type", lambda kinds: [3, *kinds[1:]], "token 0 is"),
    ],
)
def test_a_wrong_vocabulary_is_refused(
    field: str, change: Callable[[list[Any]], list[Any]], complaint: str, tmp_path: Path
) -> None:
    loaded, name = a_model(tmp_path, "gpt2", a_tokenizer("bpe")), f"tokenizer.ggml.{field}"
    write_wrong(loaded, tmp_path / "model.gguf", fields=lambda fields: fields | {name: change(fields[name])})
    with pytest.raises(CheckpointError, match=complaint):
        gguf.read_back(loaded, tmp_path / "model.gguf")


def test_another_dtype_than_was_asked_for_is_refused(tmp_path: Path) -> None:
    loaded = a_model(tmp_path)
    gguf.write(loaded, tmp_path / "model.gguf", dtype="f16")
    with pytest.raises(CheckpointError, match="file_type is 1 and should be 0"):
        gguf.read_back(loaded, tmp_path / "model.gguf")


@pytest.mark.parametrize("left", [0, 4, 200, 0.5, 0.99])
def test_a_cut_file_is_refused(left: float, tmp_path: Path) -> None:
    loaded, path = a_model(tmp_path), tmp_path / "model.gguf"
    gguf.write(loaded, path)
    data = path.read_bytes()
    path.write_bytes(data[: int(left if left >= 1 else left * len(data))])
    with pytest.raises(CheckpointError, match="cannot be read as GGUF"):
        gguf.read_back(loaded, path)


# What cannot be said in GGUF


@pytest.mark.parametrize(
    ("family", "changes", "complaint"),
    [
        ("gpt2", {"activation": "gelu"}, "activation=gelu is gelu_tanh there"),
        ("qwen3", {"window": 16}, "window=16 is not read there"),
        ("qwen3", {"window": 16, "window_layers": "1"}, "window=16 is not read there"),
        ("qwen3", {"rope_scaling": "llama3", "rope_factor": 2.0}, "rope_scaling=llama3"),
        ("gpt2", {"logit_cap": 30.0}, "logit_cap=30.0"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(
    family: str, changes: dict[str, Any], complaint: str, tmp_path: Path
) -> None:
    loaded = a_model(tmp_path, family, **changes)
    with pytest.raises(ConfigError, match=complaint):
        gguf.write(loaded, tmp_path / "model.gguf")
    assert not list(tmp_path.glob("*.gguf*"))


def test_an_unknown_dtype_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="dtype='q8' is not known; did you mean q8_0"):
        gguf.write(a_model(tmp_path), tmp_path / "model.gguf", dtype="q8")


@pytest.mark.parametrize(("value", "dtype"), [(1e5, "f16"), (1e38, "q8_0")])
def test_a_weight_that_the_format_cannot_hold_is_refused(value: float, dtype: str, tmp_path: Path) -> None:
    loaded = a_model(tmp_path)
    with torch.no_grad():
        loaded.model.h[0].mlp.c_fc.weight[0, 0] = value
    with pytest.raises(
        ConfigError, match=f"ffn_up.weight has a weight of .* and {dtype} holds .*; export with dtype f32"
    ):
        gguf.write(loaded, tmp_path / "model.gguf", dtype=dtype)
    assert not list(tmp_path.glob("*gguf*"))


def test_a_broken_model_is_refused(tmp_path: Path) -> None:
    loaded = a_model(tmp_path)
    with torch.no_grad():
        loaded.model.ln_f.weight[5] = math.inf
    with pytest.raises(ConfigError, match="output_norm.weight has a weight of inf, .*; export another checkpoint"):
        gguf.write(loaded, tmp_path / "model.gguf")


def test_rows_that_have_no_blocks_of_32_are_in_16_bits(tmp_path: Path) -> None:
    loaded = a_model(tmp_path, n_inner=100)
    gguf.write(loaded, tmp_path / "model.gguf", dtype="q8_0")
    assert gguf.read_back(loaded, tmp_path / "model.gguf", dtype="q8_0").formats["f16"] == 2


def test_a_number_that_has_no_room_is_named(tmp_path: Path) -> None:
    loaded = a_model(tmp_path, "llama", n_positions=1 << 40)
    with pytest.raises(ConfigError, match="llama.context_length is 1099511627776, and a GGUF file has room"):
        gguf.write(loaded, tmp_path / "model.gguf")


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    loaded = a_model(tmp_path)
    (tmp_path / "model.gguf").mkdir()
    with pytest.raises(OSError):
        gguf.write(loaded, tmp_path / "model.gguf")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.gguf", "tiny_model.pt"]
    with pytest.raises(OSError):
        gguf.write(loaded, tmp_path / "no folder" / "model.gguf")
