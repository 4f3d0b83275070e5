"""Models imported from GGUF files: the numbers are the package's own, and nothing in a file is trusted or ignored."""

import struct
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from light_llm.checkpoint import load_model
from light_llm.cli.import_ import command
from light_llm.errors import CheckpointError, ConfigError
from light_llm.interop.gguf import file_parts, vocabulary_fields, write_parts
from light_llm.interop.gguf_file import GGUFFile
from light_llm.interop.import_gguf import read_gguf
from light_llm.interop.import_model import write_model
from light_llm.interop.verify import TOKENIZER_TEXTS
from tests.support.export_tools import a_tokenizer, tiny_loaded
from tests.support.gguf_files import QUANTISED, field, header, padded, random_blocks, string, tensor_info, write_gguf
from tests.support.gguf_reference import rows_of_halves

package = pytest.importorskip("gguf")
Fields = dict[str, Any]
Tensors = dict[str, tuple[Any, str]]

# Rows of 256 numbers, the longest block.
LLAMA: Fields = {
    "general.architecture": "llama",
    "llama.context_length": 64,
    "llama.embedding_length": 256,
    "llama.block_count": 4,
    "llama.feed_forward_length": 256,
    "llama.attention.head_count": 4,
    "llama.attention.head_count_kv": 2,
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "llama.rope.dimension_count": 64,
    "llama.rope.freq_base": 500000.0,
}
EPSILON = "llama.attention.layer_norm_rms_epsilon"
OURS = {  # a matrix in the file, ours, and which of its rows
    "token_embd": ("wte", slice(None)),
    "attn_q": ("h.{}.attn.c_attn", slice(0, 256)),
    "attn_k": ("h.{}.attn.c_attn", slice(256, 384)),
    "attn_v": ("h.{}.attn.c_attn", slice(384, 512)),
    "attn_output": ("h.{}.attn.c_proj", slice(None)),
    "ffn_gate": ("h.{}.mlp.c_gate", slice(None)),
    "ffn_up": ("h.{}.mlp.c_fc", slice(None)),
    "ffn_down": ("h.{}.mlp.c_proj", slice(None)),
}


def llama_tensors(kind_of: Callable[[int], str], *, layers: int = 4, rows: int = 40) -> Tensors:
    """Return the tensors of LLAMA: norms in F32, and matrix i in the format kind_of(i), random blocks."""
    draw = np.random.default_rng(0)
    shapes = {"token_embd.weight": (rows, 256), "output_norm.weight": (256,)}
    for i in range(layers):
        shapes |= {f"blk.{i}.{name}.weight": (256, 256) for name in OURS if name != "token_embd"}
        shapes |= {f"blk.{i}.attn_{name}.weight": (128, 256) for name in "kv"}
        shapes |= {f"blk.{i}.{name}.weight": (256,) for name in ("attn_norm", "ffn_norm")}
    tensors: Tensors = {}
    matrices = 0
    for name, shape in shapes.items():
        kind = kind_of(matrices) if len(shape) == 2 else "F32"
        matrices += len(shape) == 2
        if kind in QUANTISED:
            tensors[name] = (random_blocks(kind, shape, draw), kind)
        else:
            numbers = draw.standard_normal(shape, np.float32)
            tensors[name] = (package.quants.quantize(numbers, package.GGMLQuantizationType[kind]), kind)
    return tensors


def small(folder: Path, fields: Fields | None = None, tensors: Tensors | None = None, *, without: str = "") -> Path:
    """Write a Llama of one layer in F32, with changed fields and tensors."""
    all_tensors = llama_tensors(lambda _: "F32", layers=1) | (tensors or {})
    all_fields = LLAMA | {"llama.block_count": 1} | (fields or {})
    all_tensors.pop(without, None)
    all_fields.pop(without, None)
    return write_gguf(folder / "small.gguf", all_fields, all_tensors)


def zeros(*shape: int) -> tuple[Any, str]:
    return np.zeros(shape, np.float32), "F32"


# --- the numbers are those of the package ---


def check_numbers(path: Path, weights: dict[str, Tensor]) -> set[str]:
    """Compare all matrices with the package's own, bit for bit. Returns their formats."""
    kinds = set()
    for stored in package.GGUFReader(path).tensors:
        layer, _, name = stored.name.removesuffix(".weight").rpartition(".")
        if name in OURS:
            ours, rows = OURS[name]
            expected = package.quants.dequantize(stored.data, stored.tensor_type)
            if name in ("attn_q", "attn_k"):
                expected = expected[rows_of_halves(len(expected), 64)]
            actual = weights[ours.format(layer.removeprefix("blk.")) + ".weight"][rows]
            assert np.array_equal(actual.float().numpy().view(np.uint32), expected.view(np.uint32)), stored.name
            kinds.add(stored.tensor_type.name)
    return kinds


def test_each_format_becomes_the_numbers_of_the_package(tmp_path: Path) -> None:
    kinds = ["F32", "F16", "BF16", *QUANTISED]
    path = write_gguf(tmp_path / "m.gguf", LLAMA, llama_tensors(lambda i: kinds[i % len(kinds)]))
    weights = read_gguf(path).file.weights
    assert check_numbers(path, weights) == {*kinds}


def test_quantised_by_the_package(tmp_path: Path) -> None:
    kinds = ["Q8_0", "Q4_0", "Q4_1", "Q5_0", "Q5_1"]
    tensors = llama_tensors(lambda _: "F32", layers=1)
    for i, (name, (numbers, _)) in enumerate(tensors.items()):
        if numbers.ndim == 2:
            kind = kinds[i % len(kinds)]
            tensors[name] = package.quants.quantize(numbers, package.GGMLQuantizationType[kind]), kind
    path = write_gguf(tmp_path / "m.gguf", LLAMA | {"llama.block_count": 1}, tensors)
    assert check_numbers(path, read_gguf(path).file.weights) == {*kinds}


@pytest.mark.parametrize(("kind", "dtype"), [("F16", torch.float16), ("BF16", torch.bfloat16), ("Q8_0", torch.float32)])
def test_numbers_of_16_bits_stay_so(kind: str, dtype: torch.dtype, tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "m.gguf", LLAMA | {"llama.block_count": 1}, llama_tensors(lambda _: kind, layers=1))
    weights = read_gguf(path).file.weights
    assert {weights[name].dtype for name in weights if weights[name].ndim == 2} == {dtype}
    assert weights["ln_f.weight"].dtype == torch.float32


@pytest.mark.parametrize("kind", ["Q8_K", "Q1_0", "F64", "I32"])
def test_a_format_without_numbers_is_refused(kind: str, tmp_path: Path) -> None:
    block, size = package.GGML_QUANT_SIZES[package.GGMLQuantizationType[kind]]
    raw = np.zeros((256, 256 // block * size), np.uint8)
    path = small(tmp_path, tensors={"blk.0.ffn_up.weight": (raw, kind)})
    with pytest.raises(CheckpointError, match=rf"small\.gguf.*blk\.0\.ffn_up\.weight .*{kind}"):
        read_gguf(path)


def test_a_head_with_the_bytes_of_the_table_is_tied(tmp_path: Path) -> None:
    table = llama_tensors(lambda _: "F32", layers=1)["token_embd.weight"]
    assert read_gguf(small(tmp_path, tensors={"output.weight": table})).model.config.tied_head
    loaded = read_gguf(small(tmp_path, tensors={"output.weight": zeros(40, 256)}))
    assert not loaded.model.config.tied_head
    assert not loaded.model.head_weight.any()


# --- nothing in a file is trusted ---

BEGIN = header(1, 1) + field("general.architecture", "llama")
ONE = BEGIN + tensor_info("a.weight", (8,))
HUGE = (1 << 63) - 1
HOSTILE: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "begin with GGUF"),
    "another file": (b"GGML" + bytes(64), "begin with GGUF"),
    "version 1": (header(0, 0, version=1), "version is 1,"),
    "version 4": (header(0, 0, version=4), "version is 4,"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "byte order"),
    "cut in its counts": (header(1, 1)[:-2], "byte 16"),
    "cut in a field": (BEGIN[:-2], "byte"),
    "a count of fields": (header(0, HUGE), f"{HUGE:,}"),
    "fields that are missing": (header(0, 1 << 20) + bytes(4096), "two fields|byte"),
    "a count of tensors": (header(HUGE, 1) + field("general.architecture", "llama"), f"{HUGE:,} tensors"),
    "a long key": (header(0, 1) + struct.pack("<Q", HUGE), f"{HUGE:,}"),
    "a long string": (header(0, 1) + string("a") + struct.pack("<IQ", 8, 1 << 40), f"{1 << 40:,}"),
    "a long list": (header(0, 1) + string("a") + struct.pack("<IIQ", 9, 4, 1 << 60), f"{1 << 60:,}"),
    "a list of many strings": (header(0, 1) + string("a") + struct.pack("<IIQ", 9, 8, 1 << 60), f"{1 << 60:,}"),
    "a list of lists": (header(0, 1) + string("a") + struct.pack("<IIQ", 9, 9, 1), "list of type 9"),
    "a type of field": (header(0, 1) + string("a") + struct.pack("<I", 13), "type 13"),
    "a field twice": (header(0, 2) + field("a.b", 1) + field("a.b", 2), "'a.b'"),
    "an alignment": (header(0, 1) + field("general.alignment", 3), "general.alignment is 3"),
    "an alignment of 0": (header(0, 1) + field("general.alignment", 0), "general.alignment is 0"),
    "many dimensions": (BEGIN + tensor_info("a.weight", (1,) * 9), "'a.weight' has 9 dimensions"),
    "no dimensions": (BEGIN + tensor_info("a.weight", ()), "'a.weight' has 0 dimensions"),
    "no numbers": (BEGIN + tensor_info("a.weight", (0, 8)), r"'a.weight' has the shape \(0, 8\)"),
    "a part of a block": (BEGIN + tensor_info("a.weight", (2, 31), 8), r"'a.weight' has the shape \(2, 31\) in Q8_0"),
    "an unknown format": (BEGIN + tensor_info("a.weight", (8,), 4), "'a.weight' is in the format number 4"),
    "more numbers than the file": (BEGIN + tensor_info("a.weight", (HUGE, HUGE)), "'a.weight' would end at byte"),
    "a place beyond the end": (padded(BEGIN + tensor_info("a.weight", (8,), 0, 1 << 40)), "'a.weight' would end"),
    "a place between two": (padded(BEGIN + tensor_info("a.weight", (8,), 0, 8)) + bytes(64), "'a.weight' begins"),
    "cut in its tensor": (padded(ONE) + bytes(31), "'a.weight' would end"),
    "a tensor twice": (
        padded(header(2, 0) + tensor_info("a.weight", (8,)) + tensor_info("a.weight", (8,), 0, 32)) + bytes(64),
        "two tensors 'a.weight'",
    ),
    "one tensor in another": (
        padded(header(2, 0) + tensor_info("a.weight", (64,)) + tensor_info("b.weight", (8,), 0, 32)) + bytes(256),
        "'b.weight' begins inside 'a.weight'",
    ),
    "one of several files": (header(0, 1) + field("split.count", 3), "one of the 3 parts"),
    "no architecture": (header(0, 0), "general.architecture=None"),
    "another architecture": (header(0, 1) + field("general.architecture", "gemma2"), "'gemma2'"),
    "an adapter": (header(0, 1) + field("general.type", "adapter"), "general.type='adapter'"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_refused(name: str, tmp_path: Path) -> None:
    data, complaint = HOSTILE[name]
    path = tmp_path / "odd.gguf"
    path.write_bytes(data)
    tracemalloc.start()
    try:
        with pytest.raises(CheckpointError, match=rf"odd\.gguf.*({complaint})"):
            read_gguf(path)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = small(tmp_path).read_bytes()
    path = tmp_path / "cut.gguf"
    for left in (*range(1, 400, 13), *(len(whole) * i // 7 for i in range(1, 7)), len(whole) - 1):
        path.write_bytes(whole[:left])
        with pytest.raises(CheckpointError, match=r"cut\.gguf is no complete GGUF file"):
            read_gguf(path)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"no\.gguf cannot be read"):
        GGUFFile(tmp_path / "no.gguf")


# --- nothing in a file is ignored ---


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"llama.block_count": 2}, "no tensor blk.1"),
        ({"llama.block_count": 1_000_000}, "block_count=1000000"),
        ({"llama.block_count": 0}, "block_count=0"),
        ({"llama.embedding_length": 128, "llama.attention.head_count": 2}, r"token_embd.weight .*\(40, 256\).*128"),
        ({"llama.attention.head_count": 8}, "rope.dimension_count=64"),
        ({"llama.rope.dimension_count": 32}, "rope.dimension_count=32"),
        ({"llama.attention.head_count": "4"}, "head_count='4'"),
        ({"llama.attention.head_count": [4, 2]}, r"head_count=\[4, 2\]"),
        ({"llama.attention.value_length": 32}, "value_length=32"),
        ({"llama.vocab_size": 41}, "vocab_size=41"),
        ({"llama.rope.scaling.type": "yarn"}, "scaling.type='yarn'"),
        ({"llama.rope.freq_base": float("nan")}, "freq_base=nan"),
        ({"llama.attention.sliding_window": 16}, "--ignore-field llama.attention.sliding_window"),
        ({"llama.expert_count": 8}, "expert_count=8"),
        ({"llama.attention.causal": False}, "causal=False"),
        ({"llama.logit_scale": 0.5}, "logit_scale=0.5"),
    ],
)
def test_a_field_that_may_change_the_logits_is_refused(fields: Fields, complaint: str, tmp_path: Path) -> None:
    path = small(tmp_path, fields)
    with pytest.raises(CheckpointError) as error:
        read_gguf(path)
    assert error.match(complaint.replace("--ignore-field ", "ignore_field=.?"))
    assert "small.gguf" in str(error.value)


def test_fields_without_an_effect_are_not_read(tmp_path: Path) -> None:
    harmless: Fields = {"llama.expert_count": 0, "llama.rope.scaling.type": "none", "quantize.imatrix.file": "a.dat"}
    harmless |= {"llama.attention.sliding_window": 64}  # as long as the context
    plain, more = read_gguf(small(tmp_path)), read_gguf(small(tmp_path, harmless | {"general.author": "A"}))
    assert plain.model.config == more.model.config
    assert plain.model.config.norm_eps == 1e-5, "the float32 next to 1e-5 is 9.999999747378752e-06"


@pytest.mark.parametrize(
    ("fields", "scaling"),
    [
        ({"llama.rope.scaling.type": "linear", "llama.rope.scaling.factor": 4.0}, ("linear", 4.0)),
        ({"llama.rope.scaling.factor": 4.0}, ("linear", 4.0)),  # the type that llama.cpp takes
        ({"llama.rope.scale_linear": 4.0}, ("linear", 4.0)),  # the name of old files
        ({"llama.rope.scaling.type": "none", "llama.rope.scaling.factor": 4.0}, ("none", 1.0)),
        ({"llama.rope.scaling.type": "linear"}, ("none", 1.0)),
        ({"llama.rope.scaling.factor": 1.0}, ("none", 1.0)),
    ],
)
def test_a_scaled_rotation_is_read_as_llama_cpp_does(fields: Fields, scaling: Any, tmp_path: Path) -> None:
    config = read_gguf(small(tmp_path, fields)).model.config
    assert (config.rope_scaling, config.rope_factor) == scaling


def test_a_field_can_be_ignored(tmp_path: Path) -> None:
    path = small(tmp_path, {"llama.logit_scale": 0.5})
    assert read_gguf(path, ignore_fields=["llama.logit_scale"]).model.config == read_gguf(small(tmp_path)).model.config


@pytest.mark.parametrize("name", ["llama.context_length", "llama.attention.head_count", EPSILON])
def test_a_missing_field_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=name):
        read_gguf(small(tmp_path, without=name))


@pytest.mark.parametrize("name", ["token_embd.weight", "blk.0.attn_k.weight", "output_norm.weight"])
def test_a_missing_tensor_is_named(name: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=f"no tensor {name}"):
        read_gguf(small(tmp_path, without=name))


@pytest.mark.parametrize(
    ("tensors", "complaint"),
    [
        ({"blk.0.attn_q.bias": zeros(256)}, "blk.0.attn_q.bias"),
        ({"blk.0.ffn_gate_inp.weight": zeros(8, 256)}, "blk.0.ffn_gate_inp.weight"),
        ({"blk.0.ffn_down.weight": zeros(256, 128)}, r"blk.0.ffn_down.weight has the shape \(256, 128\)"),
        ({"token_embd.weight": zeros(256)}, "token_embd.weight"),
        ({"rope_freqs.weight": zeros(32)}, "rope_freqs.weight"),
        ({"rope_freqs.weight": (np.linspace(1, 9, 32, dtype=np.float32), "F32")}, "rope_freqs.weight .*9"),
        ({"rope_freqs.weight": zeros(7)}, "rope_freqs.weight"),
        ({"blk.0.ffn_norm.weight": (np.full(256, np.nan, np.float32), "F32")}, "h.0.ln_2.weight"),
    ],
)
def test_a_tensor_that_does_not_fit_is_refused(tensors: Tensors, complaint: str, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=rf"small\.gguf.*{complaint}"):
        read_gguf(small(tmp_path, tensors=tensors))


@pytest.mark.parametrize(("factor", "trained"), [(8.0, 8192), (32.0, 8192), (4.0, 20)])
def test_llama_3_scaling_is_recognised_by_its_divisors(factor: float, trained: int, tmp_path: Path) -> None:
    rope: dict[str, Any] = {"rope_scaling": "llama3", "rope_factor": factor, "rope_trained": trained}
    loaded = tiny_loaded(tmp_path, "llama", n_embd=96, rope_base=500.0 if trained < 100 else 500000.0, **rope)
    write_parts(tmp_path / "m.gguf", *file_parts(loaded, "f32"), "f32")
    config = read_gguf(tmp_path / "m.gguf", tokenizer="none").model.config
    assert (config.rope_scaling, config.rope_factor, config.rope_trained_on) == ("llama3", factor, trained)


def test_divisors_of_1_are_no_scaling(tmp_path: Path) -> None:
    loaded = read_gguf(small(tmp_path, tensors={"rope_freqs.weight": (np.ones(32, np.float32), "F32")}))
    assert loaded.model.config.rope_scaling == "none"


# --- the vocabulary ---


def test_the_vocabulary_of_a_file_is_the_tokenizer(tmp_path: Path) -> None:
    tokenizer = a_tokenizer("bpe")
    fields = vocabulary_fields(tokenizer)
    fields |= {"tokenizer.ggml.add_bos_token": True, "tokenizer.chat_template": "{{ messages }}"}
    path = small(tmp_path, fields, {"token_embd.weight": zeros(tokenizer.vocab_size + 7, 256)})
    loaded = read_gguf(path)
    write_model(loaded, tmp_path / "m.pt")
    file = load_model(tmp_path / "m.pt").file
    assert file.tokenizer
    for text in (*TOKENIZER_TEXTS, "<|endoftext|>"):
        assert file.tokenizer.encode(text) == tokenizer.encode(text)
    assert file.tokenizer.separator == tokenizer.separator
    assert tuple(file.tokenizer.prefix) == (tokenizer.separator,)
    assert file.files["chat_template.jinja"] == b"{{ messages }}"


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"tokenizer.ggml.model": "rwkv"}, "'rwkv'"),
        ({"tokenizer.ggml.eos_token_id": 100_000}, "eos_token_id=100000"),
        ({"tokenizer.ggml.token_type": [1, 2]}, "token_type"),
        ({}, r"300 ids and token_embd.weight 40 rows"),
    ],
)
def test_a_vocabulary_that_does_not_fit_is_refused(fields: Fields, complaint: str, tmp_path: Path) -> None:
    path = small(tmp_path, vocabulary_fields(a_tokenizer("bpe")) | fields)
    with pytest.raises(CheckpointError, match=rf"small\.gguf.*{complaint}.*tokenizer='none'"):
        read_gguf(path)
    assert read_gguf(path, tokenizer="none").file.tokenizer is None


# --- the command ---


def test_the_command_imports_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = small(tmp_path)
    out = tmp_path / "back"
    assert command([str(path), "--out", str(out), "--tokenizer", "none"]) == 0
    assert "GGUF file in F32" in capsys.readouterr().out
    with pytest.raises(ConfigError, match="--text"):
        command([str(path), "--out", str(tmp_path / "other"), "--text", "a.txt"])
    loaded = read_gguf(path)
    saved = torch.load(out / "best_model.pt", weights_only=True)["model"]
    assert all(torch.equal(saved[name], tensor) for name, tensor in loaded.file.weights.items())


def test_a_file_by_its_first_bytes(tmp_path: Path) -> None:
    """Ollama's files are named by their hash."""
    path = small(tmp_path).rename(tmp_path / "sha256-0123")
    assert command([str(path), "--out", str(tmp_path / "back"), "--tokenizer", "none"]) == 0
