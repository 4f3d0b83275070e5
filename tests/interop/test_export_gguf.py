"""GGUF files: content, read back with the `gguf` package, and every way to write a wrong one that we know.

What llama.cpp computes from them is tested by `make check-gguf`, and below where it is installed.
"""

import math
from collections import Counter
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
from light_llm.interop.gguf import file_parts, vocabulary_fields, write_parts
from light_llm.interop.gguf_formats import BLOCKS, dequantize, quantize, rounding_error
from light_llm.interop.gguf_mapping import interleave, rope_factors
from light_llm.interop.gguf_verify import check_file, emulate_llama_cpp, logit_tolerance, round_weights
from light_llm.interop.verify import float32_rounding
from light_llm.layers.positions import RotaryAngles, frequencies, rotate
from tests.support.export_tools import GGUF, a_tokenizer, tiny_loaded
from tests.support.gguf_reference import apply_merges, check_by_reference, merge_ranks

package = pytest.importorskip("gguf")
Change = Callable[[dict[str, Any]], dict[str, Any]]

# Rows of 64 and 96 numbers, so that q8_0 has its blocks of 32.
SHAPE: dict[str, Any] = {"n_embd": 64, "n_head": 4, "n_positions": 80}
WIDE = {"gpt2": {}, "llama": {"n_kv_head": 2, "n_inner": 96}, "qwen3": {"n_kv_head": 2, "n_inner": 96, "head_dim": 32}}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("gpt2", {}),
    "gpt2, no biases, untied, narrow": ("gpt2", {"bias": False, "tied_head": False, "n_inner": 160}),
    "gpt2, a padded table": ("gpt2", {"vocab_size": 320, "tied_head": False}),
    "llama": ("llama", {}),
    "llama, another head size": ("llama", {"head_dim": 24, "n_head": 3, "n_kv_head": 1, "norm_eps": 1e-6}),
    "llama, linear scaling": ("llama", {"rope_scaling": "linear", "rope_factor": 4.0, "n_kv_head": 4}),
    "llama, llama3 scaling": ("llama", {"rope_scaling": "llama3", "rope_factor": 4.0, "rope_base": 5e5}),
    "qwen3": ("qwen3", {"tied_head": False}),
    "qwen3, linear scaling": ("qwen3", {"rope_scaling": "linear", "rope_factor": 2.0, "window": 80}),
}


def a_model(folder: Path, family: str = "gpt2", tokenizer: Tokenizer | None = None, **changes: Any) -> LoadedModel:
    return tiny_loaded(folder, family, tokenizer, **(SHAPE | WIDE[family] | changes))


def written(folder: Path, loaded: LoadedModel, dtype: str = "f32") -> Path:
    GGUF.write(loaded, folder / "model.gguf", dtype=dtype)
    return folder / "model.gguf"


def write_wrong(loaded: LoadedModel, path: Path, *, tensors: Change = dict, fields: Change = dict) -> None:
    """Write a file with changed fields or tensors."""
    right_fields, right_tensors = file_parts(loaded, "f32")
    write_parts(path, fields(right_fields), tensors(right_tensors), "f32")


def read_back(loaded: LoadedModel, path: Path, dtype: str = "f32") -> str:
    """Check a file as an export does, and by the independent rules of gguf_reference."""
    check_by_reference(loaded, path)
    return check_file(path, *file_parts(loaded, dtype), dtype)


def count_formats(path: Path) -> Counter[str]:
    """Count the tensors of a file by number format."""
    return Counter(tensor.tensor_type.name.lower() for tensor in package.GGUFReader(path).tensors)


def read_fields(path: Path) -> dict[str, Any]:
    return {name: field.contents() for name, field in package.GGUFReader(path).fields.items()}


# --- a file is the model ---


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, dtype) for name in MODELS for dtype in ("f32", "q8_0")),
        ("gpt2", "f16"),
        ("llama", "bf16"),
        *(("llama", dtype) for dtype in BLOCKS),
    ],
)
def test_a_file_is_the_model(name: str, dtype: str, tmp_path: Path) -> None:
    family, changes = MODELS[name]
    loaded = a_model(tmp_path, family, **changes)
    path = written(tmp_path, loaded, dtype)
    assert "its 257 tokens are the tokenizer's" in read_back(loaded, path, dtype)
    formats = count_formats(path)
    assert formats["f32"], "norms are never rounded"
    assert formats[dtype] > 2 * loaded.model.config.n_layer


# The package needs seconds for a list of 50,257 strings.
@pytest.mark.parametrize("kind", ["bpe", "char", "byte", pytest.param("gpt2", marks=pytest.mark.slow)])
def test_each_tokenizer_is_in_the_file(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if kind == "gpt2":
        request.getfixturevalue("offline_files")
    tokenizer = a_tokenizer(kind)
    loaded = a_model(tmp_path, "llama", tokenizer)
    path = written(tmp_path, loaded)
    assert f"its {tokenizer.vocab_size:,} tokens" in read_back(loaded, path)
    fields = read_fields(path)
    assert fields["tokenizer.ggml.tokens"][tokenizer.separator] == "<|endoftext|>"
    assert fields["tokenizer.ggml.token_type"].count(3) == 1
    assert kind != "gpt2" or len(fields["tokenizer.ggml.merges"]) == 50000


def test_a_model_without_a_tokenizer_has_its_number_of_ids(tmp_path: Path) -> None:
    loaded = a_model(tmp_path)
    loaded = LoadedModel(loaded.model, replace(loaded.file, tokenizer=None))
    path = written(tmp_path, loaded)
    fields = read_fields(path)
    assert (fields["tokenizer.ggml.model"], fields["gpt2.vocab_size"]) == ("no_vocab", 257)
    assert "tokens" not in read_back(loaded, path)


def test_metadata_has_the_training_and_no_author_or_path(tmp_path: Path) -> None:
    loaded = a_model(tmp_path, "llama", rope_scaling="linear", rope_factor=2.0)
    path = written(tmp_path, loaded, "q8_0")
    fields = read_fields(path)
    for fact in ("A Llama made with light-llm", "120 steps", "24 tokens", "1.250 nats", "1.800 bits a byte"):
        assert fact in fields["general.description"]
    assert fields["general.quantization_version"] == 2
    assert (fields["llama.rope.scaling.type"], fields["llama.rope.scaling.factor"]) == ("linear", 2.0)
    assert fields["tokenizer.ggml.add_bos_token"] is False
    assert not [name for name in fields if "author" in name or "url" in name]
    assert str(tmp_path) not in repr(fields)
    first = path.read_bytes()
    assert written(tmp_path, loaded, "q8_0").read_bytes() == first, "the same model gives the same bytes"


# --- laws of its parts ---


def rotate_neighbours(x: Tensor, angles: RotaryAngles) -> Tensor:
    """Rotation of llama.cpp's Llama: number 2i with 2i + 1."""
    first, second = x[..., ::2], x[..., 1::2]
    pairs = (first * angles.cos - second * angles.sin, first * angles.sin + second * angles.cos)
    return torch.stack(pairs, dim=-1).flatten(-2)


def test_interleaved_rows_rotate_by_neighbours_as_ours_by_halves() -> None:
    config = ModelConfig(n_embd=48, n_head=3, head_dim=16, positions="rope")
    H, D, T = 3, 16, 7
    weight, x = torch.randn(2, H * D, 48), torch.randn(T, 48)
    phases = torch.arange(T)[:, None] * frequencies(config, torch.device("cpu"))
    angles = RotaryAngles(phases.cos(), phases.sin())

    def products(rotation: Callable[[Tensor, RotaryAngles], Tensor], matrices: list[Tensor]) -> Tensor:
        q, k = (rotation((x @ m.T).view(T, H, D).transpose(0, 1), angles) for m in matrices)  # (H, T, D)
        return q @ k.transpose(1, 2)

    ours = products(rotate, [weight[0], weight[1]])
    theirs = products(rotate_neighbours, [interleave(weight[0], H), interleave(weight[1], H)])
    assert (theirs - ours).abs().max() < 1e-3 < ours.abs().max()
    wrong = products(rotate_neighbours, [weight[0], weight[1]])
    assert (wrong - ours).abs().max() > 1, "without the other order it is another model"


def test_rope_factors_of_llama3_scaling() -> None:
    rope = {"positions": "rope", "rope_scaling": "llama3", "rope_factor": 8.0, "rope_trained": 512}
    factors = rope_factors(ModelConfig(n_embd=64, n_head=1, **rope))
    assert factors[0] == 1, "high frequencies stay"
    assert factors[-1] == pytest.approx(8.0), "low frequencies are divided by the factor"
    assert bool((factors[1:] >= factors[:-1]).all())


@pytest.mark.parametrize("powers", [(-8, -5), (-2, 2)])
@pytest.mark.parametrize("kind", ["f16", "bf16", *BLOCKS])
def test_the_bound_of_a_format_is_tight(kind: str, powers: tuple[int, int]) -> None:
    """The bound holds, and some number comes near it: half of it would be wrong. Tiny numbers have their own."""
    x = torch.randn(200, 64, generator=torch.Generator().manual_seed(0)) * torch.logspace(*powers, 200)[:, None]
    off = (dequantize(quantize("x", x, kind), kind) - x).abs() / rounding_error(x, kind)
    assert 0.8 < float(off.max()) <= 1


def test_rounded_weights_are_those_of_the_file(tmp_path: Path) -> None:
    """Read with the package alone: matrices are rounded, norms, biases and positions are not."""
    loaded = a_model(tmp_path)
    stored = {t.name: t for t in package.GGUFReader(written(tmp_path, loaded, "q8_0")).tensors}
    weights = round_weights(loaded, "q8_0").model.state_dict()
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


def test_the_tolerance_grows_with_the_rounding(tmp_path: Path) -> None:
    """A Llama in f32 is computed exactly; GELU comes from a table of 16-bit numbers; 8-bit activations are coarse."""
    llama, gpt2 = a_model(tmp_path, "llama"), a_model(tmp_path, "gpt2")
    limits = [logit_tolerance(llama, dtype) for dtype in ("f32", "f16", "bf16", "q8_0")]
    assert 0 < float32_rounding(emulate_llama_cpp(llama, "f32").model, [[1, 2, 3]]) < limits[0]
    assert limits[0] == 1e-4 < limits[1] < limits[2] < limits[3] < 1
    assert logit_tolerance(llama, "q4_1") > limits[2], "its activations are rounded to 8 bits too"
    assert 1e-4 < logit_tolerance(gpt2, "f32") < logit_tolerance(gpt2, "q8_0")


def test_characters_are_merged_from_their_bytes_and_never_with_each_other() -> None:
    tokenizer = CharTokenizer("aé東亭—–Ã🙂🙃 \n\x00")
    fields = vocabulary_fields(tokenizer)
    ranks, tokens = merge_ranks(fields["tokenizer.ggml.merges"]), fields["tokenizer.ggml.tokens"]
    ids = {token: i for i, token in enumerate(tokens)}
    for first in tokenizer.alphabet:
        for second in tokenizer.alphabet:
            visible = tokens[tokenizer.ids[first]] + tokens[tokenizer.ids[second]]
            assert [ids[part] for part in apply_merges(visible, ranks)] == tokenizer.encode(first + second)


def test_bytes_need_no_merge_and_ids_without_a_text_are_control_tokens() -> None:
    fields = vocabulary_fields(ByteTokenizer())
    assert fields["tokenizer.ggml.merges"] == ["<|endoftext|> <|endoftext|>"], "the writer skips an empty list"
    assert [fields["tokenizer.ggml.tokens"][i] for i in b"A "] == ["A", "Ġ"]
    tokens = [b"", *(bytes([b]) for b in range(256)), b"ab", b""]
    fields = vocabulary_fields(BytePairTokenizer(tokens, separator=258))
    assert [fields["tokenizer.ggml.tokens"][i] for i in (0, 258)] == ["<|no-text-0|>", "<|endoftext|>"]
    assert [i for i, kind in enumerate(fields["tokenizer.ggml.token_type"]) if kind == 3] == [0, 258]
    assert fields["tokenizer.ggml.merges"] == ["a b"]


# --- wrong files are refused ---


def undo_interleave(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    rotated = [name for name in tensors if name.endswith(("attn_q.weight", "attn_k.weight"))]
    return tensors | {n: tensors[n].view(-1, 8, 2, 64).transpose(1, 2).reshape(tensors[n].shape) for n in rotated}


def swap_gate_and_up(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    gate, up = "blk.0.ffn_gate.weight", "blk.0.ffn_up.weight"
    return tensors | {gate: tensors[up], up: tensors[gate]}


def change_one_weight(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    weight = tensors["blk.0.attn_v.weight"].clone()
    weight[3, 5] += 1e-6
    return tensors | {"blk.0.attn_v.weight": weight}


WRONG_TENSORS: list[tuple[str, Change, str]] = [
    ("llama", undo_interleave, "attn_[qk].weight is off"),
    ("llama", lambda ts: {n.replace("blk.1.ffn_up", "blk.1.ffn_upp"): t for n, t in ts.items()}, "blk.1.ffn_up.weight"),
    ("llama", swap_gate_and_up, "blk.0.ffn_(gate|up).weight is off"),
    ("llama", change_one_weight, "blk.0.attn_v.weight is off"),
    ("llama", lambda ts: ts | {"token_embd.weight": torch.zeros(320, 64)}, "token_embd.weight has the shape"),
    ("llama", lambda ts: {n: t for n, t in ts.items() if n != "blk.1.attn_norm.weight"}, "blk.1.attn_norm.weight"),
    ("llama", lambda ts: ts | {"output.weight": ts["token_embd.weight"]}, "output.weight"),
    # (in, out) as in transformers: a square matrix has the right shape, and is another model
    ("gpt2", lambda ts: ts | {(n := "blk.0.attn_output.weight"): ts[n].T.contiguous()}, "attn_output.weight is off"),
]


@pytest.mark.parametrize(("family", "change", "complaint"), WRONG_TENSORS)
def test_a_wrong_tensor_is_refused(family: str, change: Change, complaint: str, tmp_path: Path) -> None:
    loaded, path = a_model(tmp_path, family), tmp_path / "model.gguf"
    write_wrong(loaded, path)
    read_back(loaded, path)  # without the change it is right
    write_wrong(loaded, path, tensors=change)
    with pytest.raises(CheckpointError, match=complaint):
        GGUF.read_back(loaded, path)
    with pytest.raises(Exception):  # noqa: B017  (an assertion, or Mismatch)
        check_by_reference(loaded, path)


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
    with pytest.raises(CheckpointError, match=name):
        GGUF.read_back(loaded, tmp_path / "model.gguf")


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("merges", lambda merges: merges[::-1]),
        ("tokens", lambda tokens: [tokens[1], tokens[0], *tokens[2:]]),
        ("tokens", lambda tokens: [*tokens, "<|pad|>"]),
        ("token_type", lambda kinds: [3, *kinds[1:]]),
    ],
)
def test_a_wrong_vocabulary_is_refused(field: str, change: Callable[[list[Any]], list[Any]], tmp_path: Path) -> None:
    loaded, name, path = a_model(tmp_path, "gpt2", a_tokenizer("bpe")), f"tokenizer.ggml.{field}", tmp_path / "m.gguf"
    write_wrong(loaded, path, fields=lambda fields: fields | {name: change(fields[name])})
    with pytest.raises(CheckpointError, match=name):
        GGUF.read_back(loaded, path)
    with pytest.raises((AssertionError, ValueError)):
        check_by_reference(loaded, path)


def test_another_dtype_than_requested_is_refused(tmp_path: Path) -> None:
    loaded = a_model(tmp_path)
    with pytest.raises(CheckpointError, match=r"general\.file_type is 1"):
        GGUF.read_back(loaded, written(tmp_path, loaded, "f16"))


@pytest.mark.parametrize("left", [0, 4, 200, 0.5, 0.99])
def test_a_cut_file_is_refused(left: float, tmp_path: Path) -> None:
    loaded = a_model(tmp_path)
    path = written(tmp_path, loaded)
    data = path.read_bytes()
    path.write_bytes(data[: int(left if left >= 1 else left * len(data))])
    with pytest.raises(CheckpointError, match="cannot be read as GGUF"):
        GGUF.read_back(loaded, path)


# --- models and numbers that GGUF does not have ---


@pytest.mark.parametrize(
    ("family", "changes", "dtype", "named"),
    [
        ("gpt2", {"activation": "gelu"}, "f32", "activation=gelu .*gelu_tanh"),
        ("qwen3", {"window": 16}, "f32", "window=16"),
        ("qwen3", {"window": 16, "window_layers": "1"}, "f32", "window=16"),
        ("qwen3", {"rope_scaling": "llama3", "rope_factor": 2.0}, "f32", "rope_scaling=llama3"),
        ("gpt2", {"logit_cap": 30.0}, "f32", "logit_cap=30.0"),
        ("gpt2", {}, "q8", r"dtype='q8'.*q8_0"),
        ("llama", {"n_positions": 1 << 40}, "f32", "llama.context_length is 1099511627776"),
    ],
)
def test_a_model_that_llama_cpp_lacks_is_refused(
    family: str, changes: dict[str, Any], dtype: str, named: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match=named):
        written(tmp_path, a_model(tmp_path, family, **changes), dtype)
    assert not list(tmp_path.glob("*.gguf*"))


@pytest.mark.parametrize(("value", "dtype"), [(1e5, "f16"), (1e38, "q8_0"), (math.inf, "f32")])
def test_a_weight_that_the_format_cannot_hold_is_refused(value: float, dtype: str, tmp_path: Path) -> None:
    loaded = a_model(tmp_path)
    with torch.no_grad():
        loaded.model.h[0].mlp.c_fc.weight[0, 0] = value
    with pytest.raises(ConfigError, match=f"ffn_up.weight .*{dtype}"):
        written(tmp_path, loaded, dtype)
    assert not list(tmp_path.glob("*gguf*"))


def test_rows_without_whole_blocks_are_in_16_bits(tmp_path: Path) -> None:
    path = written(tmp_path, a_model(tmp_path, n_inner=100), "q8_0")
    assert count_formats(path)["f16"] == 2


def test_a_file_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    loaded = a_model(tmp_path)
    (tmp_path / "model.gguf").mkdir()
    with pytest.raises(OSError):
        written(tmp_path, loaded)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["model.gguf", "tiny_model.pt"]
