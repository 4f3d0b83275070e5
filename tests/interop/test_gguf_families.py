"""Published models as GGUF files: the same weights again, and the same logits in llama.cpp on the same file."""

import json
import unicodedata
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from light_llm.config import ModelConfig
from light_llm.errors import CheckpointError, ConfigError
from light_llm.interop.gguf import UNUSED, file_parts, write_parts
from light_llm.interop.gguf_config import GEMMA_27B, read_shape
from light_llm.interop.gguf_file import read_fields
from light_llm.interop.gguf_tensors import check_can_be_gguf, window_period
from light_llm.interop.gguf_verify import round_weights
from light_llm.interop.import_gguf import read_gguf
from light_llm.interop.import_model import read_folder
from light_llm.interop.tokenizer_files import tokenizer_json
from light_llm.interop.verify import TOKENIZER_TEXTS, probe_windows
from tests.interop.test_import_gguf import LLAMA, check_numbers, llama_tensors
from tests.support.export_tools import GGUF, a_tokenizer
from tests.support.gguf_files import write_gguf
from tests.support.gguf_parity import CHANGES, VARIANTS, check, quantise_by_llama_cpp, same_model
from tests.support.gguf_reference import check_by_reference
from tests.support.parity import imported
from tests.support.published import write_folder
from tests.support.texts_in_scripts import SENTENCES
from tests.support.tokenizer_kinds import tokenizer_kind

pytest.importorskip("gguf")
needs_llama_cpp = pytest.mark.skipif(find_spec("llama_cpp") is None, reason="llama-cpp-python is not installed")
GEMMA: dict[str, Any] = {
    "positions": "rope",
    "norm": "rmsnorm1p",
    "mlp": "geglu",
    "bias": False,
    "qk_norm": True,
    "post_norms": True,
    "scale_embeddings": True,
    "n_embd": 64,
    "n_head": 4,
    "head_dim": 32,
    "window": 8,
    "rope_local_base": 1e4,
    "rope_base": 1e6,
    "n_positions": 64,
}


@pytest.mark.parametrize("name", ["gpt2", "llama3.2", "mistral-v0.3", "qwen2.5", "qwen3", "pythia", "gemma3"])
def test_a_published_model_comes_back_bit_for_bit(name: str, tmp_path: Path) -> None:
    write_folder(tmp_path, name, **CHANGES[name])
    original = read_folder(tmp_path, tokenizer="none")
    GGUF.write(original, tmp_path / "m.gguf", dtype="f32")
    assert same_model(original, read_gguf(tmp_path / "m.gguf"))
    check_by_reference(original, tmp_path / "m.gguf")


# llama.cpp is compiled by `make check-gguf`, so the tests that run it are not among the quick ones.
@pytest.mark.slow
@needs_llama_cpp
@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, "f32") for name in (*CHANGES, *VARIANTS)),
        *((name, dtype) for name in CHANGES for dtype in ("f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")),
    ],
)
def test_llama_cpp_computes_the_same_from_the_file(name: str, dtype: str, tmp_path: Path) -> None:
    assert (row := check(name, tmp_path, dtype)).right, row


@pytest.mark.slow
@needs_llama_cpp
@pytest.mark.parametrize(
    ("file_type", "kinds"),
    [
        (15, {"Q4_K", "Q6_K"}),  # Q4_K_M
        (2, {"Q4_0", "Q6_K"}),
        (3, {"Q4_1", "Q6_K"}),
        (7, {"Q8_0"}),
        (8, {"Q5_0", "Q6_K"}),
        (9, {"Q5_1", "Q6_K"}),
        (10, {"Q2_K", "Q3_K", "Q6_K"}),
        (12, {"Q3_K", "Q4_K", "Q5_K", "Q6_K"}),
        (17, {"Q5_K", "Q6_K"}),
        (18, {"Q6_K"}),
        (25, {"IQ4_NL", "Q6_K"}),
        (30, {"IQ4_XS", "Q6_K"}),
        (1, {"F16"}),
        (32, {"BF16"}),
    ],
)
def test_files_of_llama_cpp_s_own_quantiser(file_type: int, kinds: set[str], tmp_path: Path) -> None:
    fields = LLAMA | {"llama.block_count": 1, "llama.vocab_size": 40, "tokenizer.ggml.model": "no_vocab"}
    tensors = llama_tensors(lambda _: "F32", layers=1)
    smaller = {
        name: (numbers / 16 if numbers.ndim == 2 else numbers, kind) for name, (numbers, kind) in tensors.items()
    }
    source = write_gguf(tmp_path / "source.gguf", fields, smaller)
    quantise_by_llama_cpp(source, tmp_path / "m.gguf", file_type)
    loaded = read_gguf(tmp_path / "m.gguf")
    assert check_numbers(tmp_path / "m.gguf", loaded.file.weights) == kinds
    # llama.cpp rounds the activations to 8 bits, so its logits are near ours, and those of another model far.
    runtime = GGUF.open(tmp_path / "m.gguf")
    try:
        ids, _ = probe_windows(40, 64)
        with torch.inference_mode():
            ours = round_weights(loaded, "f32").model(torch.tensor(ids))
        error = (ours - runtime.logits(ids)).square().mean().sqrt()
        assert error < 0.05 * ours.std()
    finally:
        runtime.close()


# --- models that llama.cpp would compute otherwise ---


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"window_layers": "0"}, "window_layers=0"),  # of four: full layers follow each other
        ({"attn_scale": 0.5}, "attn_scale=0.5"),
        ({"logit_cap": 30.0}, "logit_cap=30.0"),
        ({"activation": "gelu"}, "activation=gelu"),
        ({"rope_scaling": "linear", "rope_factor": 2.0, "rope_local_base": 0.0}, "rope_local_base"),
    ],
)
def test_a_gemma_that_llama_cpp_lacks_is_refused(changes: dict[str, Any], named: str) -> None:
    config = ModelConfig(**GEMMA | {"n_layer": 4, "window_layers": "0,1,2"})
    check_can_be_gguf(config)
    with pytest.raises(ConfigError, match=named):
        check_can_be_gguf(ModelConfig(**GEMMA | {"n_layer": 4, "window_layers": "0,1,2"} | changes))


def test_a_gpt_neox_without_the_order_of_its_branches_is_refused(tmp_path: Path) -> None:
    """llama.cpp does not open such a file."""
    loaded, _ = imported(tmp_path, "pythia")
    fields, tensors = file_parts(loaded, "f32")
    del fields["gptneox.use_parallel_residual"]
    write_parts(tmp_path / "m.gguf", fields, tensors, "f32")
    with pytest.raises(CheckpointError, match=r"m\.gguf has no field gptneox\.use_parallel_residual"):
        read_gguf(tmp_path / "m.gguf", tokenizer="none")


@pytest.mark.parametrize("name", ["mistral", "qwen2-windows", "tinystories"])
def test_a_family_or_window_that_llama_cpp_lacks_is_refused(name: str, tmp_path: Path) -> None:
    write_folder(tmp_path, name)
    with pytest.raises(ConfigError, match="window=20|no GPT-Neo"):
        GGUF.write(read_folder(tmp_path, tokenizer="none"), tmp_path / "m.gguf", dtype="f32")


def test_the_period_of_layers_with_a_window() -> None:
    def period(layers: str, n: int) -> int | None:
        return window_period(ModelConfig(**GEMMA | {"n_layer": n, "window_layers": layers}))

    assert period("0,1,2,3,4", 6) == 6
    assert period("0,1", 2) == 6, "Gemma's own, where it fits"
    assert period("all", 8) == 0
    assert period("0", 2) == 2
    assert period("0,2,4,6", 8) == 2
    assert period("1", 2) is None


@pytest.mark.parametrize(
    ("pattern", "layers"), [(2, "0"), ([True, False], "0"), ([False, True], "1"), (0, "all"), (None, "all")]
)
def test_windows_are_read_from_a_period_or_a_list(pattern: Any, layers: str) -> None:
    fields = {
        "general.architecture": "gemma3",
        "gemma3.context_length": 64,
        "gemma3.embedding_length": 64,
        "gemma3.block_count": 2,
        "gemma3.feed_forward_length": 96,
        "gemma3.attention.head_count": 4,
        "gemma3.attention.layer_norm_rms_epsilon": 1e-6,
        "gemma3.attention.sliding_window": 8,
    }
    fields |= {} if pattern is None else {"gemma3.attention.sliding_window_pattern": pattern}
    shapes = {"token_embd.weight": (40, 64)} | {f"blk.{i}.attn_norm.weight": (64,) for i in range(2)}
    _, config = read_shape(fields, shapes, "m.gguf", tied=True)
    assert (config.window, config.window_layers, config.rope_local_base) == (8, layers, 10000.0)
    for odd in ("x", [True], -1):
        with pytest.raises(CheckpointError, match="sliding_window_pattern="):
            read_shape(fields | {"gemma3.attention.sliding_window_pattern": odd}, shapes, "m.gguf", tied=True)


def test_the_largest_gemma_has_another_scale() -> None:
    config = ModelConfig(**GEMMA | {"n_layer": GEMMA_27B, "window_layers": "all", "attn_scale": 0.25})
    check_can_be_gguf(config)  # 1 / sqrt(64 / 4)
    with pytest.raises(ConfigError, match="attn_scale"):
        check_can_be_gguf(ModelConfig(**GEMMA | {"n_layer": 4, "window_layers": "all", "attn_scale": 0.25}))


def test_a_padded_table_gets_tokens_of_padding(tmp_path: Path) -> None:
    """The published model has more rows than its tokenizer has ids, and llama.cpp asks for a token for each."""
    tokenizer = a_tokenizer("bpe")
    data = json.dumps(tokenizer_json(tokenizer)).encode()
    ends = {"bos_token_id": tokenizer.separator, "eos_token_id": tokenizer.separator}
    write_folder(tmp_path, "pythia", files={"tokenizer.json": data}, **ends)
    original = read_folder(tmp_path)
    GGUF.write(original, tmp_path / "m.gguf", dtype="f32")
    fields = read_fields(tmp_path / "m.gguf")
    V = original.model.config.vocab_size
    assert tokenizer.vocab_size < V == len(fields["tokenizer.ggml.tokens"])
    assert fields["tokenizer.ggml.token_type"].count(UNUSED) == V - tokenizer.vocab_size
    loaded = read_gguf(tmp_path / "m.gguf")
    assert same_model(original, loaded)
    assert loaded.file.tokenizer
    assert loaded.file.tokenizer.vocab_size == tokenizer.vocab_size, "no token of padding is ever generated"
    assert loaded.file.tokenizer.encode("To be, or not") == tokenizer.encode("To be, or not")


@pytest.mark.parametrize(("name", "kind"), [("tinyllama", "llama2"), ("qwen2.5", "qwen2")])
def test_a_published_model_with_its_tokenizer_comes_back(name: str, kind: str, tmp_path: Path) -> None:
    """From a folder to a GGUF file and back: the same ids, around a text too, and the same chat."""
    published = tokenizer_kind(kind)
    sizes = {"vocab_size": published.vocab_size + 5, "bos_token_id": published.bos, "eos_token_id": published.eos}
    write_folder(tmp_path, name, files=published.files(), **sizes)
    original = read_folder(tmp_path)
    GGUF.write(original, tmp_path / "m.gguf", dtype="f32")
    loaded = read_gguf(tmp_path / "m.gguf")
    assert same_model(original, loaded)
    ours, theirs = original.file.tokenizer, loaded.file.tokenizer
    assert ours and theirs
    # Named after the folder, without its path; nothing is claimed about its training.
    assert f"converted from {tmp_path.name} by" in read_fields(tmp_path / "m.gguf")["general.description"]
    assert (tuple(theirs.prefix), theirs.separator, theirs.vocab_size) == (
        published.prefix,
        published.eos,
        published.vocab_size,
    )
    for text in (*TOKENIZER_TEXTS, *SENTENCES.values(), "<|im_start|> </s>"):
        text = unicodedata.normalize("NFC", text).strip()
        assert theirs.encode(text) == ours.encode(text)
        assert theirs.decode(theirs.encode(text)) == ours.decode(ours.encode(text))


def test_exact_gelu_is_noted(tmp_path: Path) -> None:
    write_folder(tmp_path, "pythia")
    loaded = read_folder(tmp_path, tokenizer="none")
    assert [note for note in GGUF.notes(loaded) if "GELU" in note]
    config = replace(loaded.model.config, activation="gelu_tanh")
    assert not GGUF.notes(replace(loaded, model=SimpleNamespace(config=config)))
