"""A folder for transformers opens without warnings, gives the same numbers, and a wrong one is refused."""

import json
import logging
import socket
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from light_llm.checkpoint import LoadedModel
from light_llm.config import PRESETS, ModelConfig
from light_llm.errors import CheckpointError, ConfigError
from light_llm.interop.architectures import family_of
from light_llm.interop.exporter import require, rounded
from light_llm.interop.verify import verify
from tests.support.export_tools import FAMILIES, HF, MODERN, tiny_loaded

transformers = pytest.importorskip("transformers")

LONG = {"n_positions": 72}  # room for 64 greedy tokens
WINDOWS = {"window": 5, "window_layers": "1"}
GEMMA = {"norm": "rmsnorm1p", "mlp": "geglu", "post_norms": True, "scale_embeddings": True}
VARIANTS: list[tuple[str, dict[str, Any]]] = [
    ("gpt2", {}),
    ("gpt2", {"bias": False, "activation": "gelu", "n_inner": 40, "norm_eps": 1e-3}),
    ("gpt2", {"tied_head": False, "vocab_size": 300}),
    ("llama", {}),
    ("llama", {"tied_head": False, "vocab_size": 300, "head_dim": 6, "norm_eps": 1e-3}),
    ("llama", {"rope_scaling": "llama3", "rope_factor": 4.0, "rope_base": 500.0}),
    ("llama", {"rope_scaling": "linear", "rope_factor": 3.0, "rope_base": 500.0}),
    ("qwen3", WINDOWS),
    ("qwen3", {"tied_head": False, "n_embd": 30}),
    ("llama", WINDOWS | {"window_layers": "all"}),  # a Mistral
    ("llama", {"qkv_bias": "yes"} | WINDOWS),  # a Qwen2
    ("gpt2", {"positions": "rope", "rotary_pct": 0.5, "parallel_residual": True, "n_head": 2, "bias": False}),
    ("gpt2", {"positions": "rope", "tied_head": False, "vocab_size": 300, "n_head": 2}),
    ("gpt2", {"attn_scale": 1.0, "qkv_bias": "no"} | WINDOWS),  # a GPT-Neo
    ("gpt2", {"attn_scale": 1.0, "qkv_bias": "no", "bias": False}),
    ("qwen3", GEMMA | WINDOWS | {"rope_local_base": 500.0}),
    ("qwen3", GEMMA | {"attn_scale": 0.25, "rope_scaling": "linear", "rope_factor": 2.0, "logit_cap": 20.0}),
]


def exported(folder: Path, family: str = "gpt2", dtype: str = "float32", **changes: Any) -> tuple[LoadedModel, Path]:
    """A tiny model and the folder it was written to."""
    loaded = tiny_loaded(folder, family, **changes)
    out = folder / "model-hf"
    out.mkdir()
    HF.write(loaded, out, dtype=dtype)
    return loaded, out


@contextmanager
def in_silence(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Fail on a warning, a logged warning or a connection in the block."""
    handler = logging.StreamHandler(logged := StringIO())
    handler.setLevel(logging.WARNING)
    loggers = [logging.getLogger(name) for name in (None, "transformers", "huggingface_hub")]

    def connect(*args: Any) -> None:
        raise AssertionError("a connection was requested")

    monkeypatch.setattr(socket.socket, "connect", connect)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for logger in loggers:
            logger.addHandler(handler)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(handler)
    assert (logged.getvalue(), [str(warning.message) for warning in warned]) == ("", [])


@pytest.mark.parametrize(("family", "changes"), VARIANTS)
def test_the_same_numbers_and_the_same_text(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    loaded, out = exported(tmp_path, family, **(LONG | changes))
    runtime = HF.open(out)
    check = verify(loaded, runtime)
    assert check.max_logit_error < 1e-4 and check.greedy_equal == check.greedy_compared == 64 and check.same_tokenizer
    assert check.runtime == f"transformers {transformers.__version__}"
    assert len(set(runtime.greedy([5, 6, 7], 64))) > 4  # a text that could have gone another way


@pytest.mark.parametrize("family", FAMILIES)
def test_it_opens_offline_without_warnings(tmp_path: Path, family: str, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded, out = exported(tmp_path, family)
    with in_silence(monkeypatch):
        model = transformers.AutoModelForCausalLM.from_pretrained(out)
        tokenizer = transformers.AutoTokenizer.from_pretrained(out)
        prompt = tokenizer("To be", return_tensors="pt")
        text = tokenizer.decode(model.generate(**prompt, max_new_tokens=9, do_sample=False)[0])
    separator = loaded.file.tokenizer.separator  # type: ignore[union-attr]
    assert text.startswith("To be") and prompt["input_ids"].shape == (1, 5)  # nothing is put in front
    assert {model.config.eos_token_id, model.generation_config.eos_token_id, tokenizer.eos_token_id} == {separator}
    assert model.generation_config.pad_token_id == separator and model.config.pad_token_id is None
    assert tokenizer.model_max_length == 24 and len(tokenizer) == model.config.vocab_size
    assert model.config.dtype == torch.float32 and type(model).__name__ == model.config.architectures[0]


def test_a_warning_would_be_noticed(monkeypatch: pytest.MonkeyPatch) -> None:
    for noise in (
        lambda: logging.getLogger("transformers.models").warning("careful"),
        lambda: warnings.warn("careful", stacklevel=1),
        lambda: socket.create_connection(("127.0.0.1", 9)),
    ):
        with pytest.raises(AssertionError), in_silence(monkeypatch):
            noise()


@pytest.mark.parametrize(("family", "changes"), VARIANTS)
def test_the_files_are_those_that_transformers_writes(tmp_path: Path, family: str, changes: dict[str, Any]) -> None:
    """Its own `save_pretrained` of the same model has the same tensors, and says nothing else in its config."""
    _, out = exported(tmp_path, family, **changes)
    transformers.AutoModelForCausalLM.from_pretrained(out).save_pretrained(tmp_path / "theirs")
    described = []
    for folder in (out, tmp_path / "theirs"):
        with safe_open(folder / "model.safetensors", framework="pt") as file:
            names = {name: (file.get_slice(name).get_shape(), file.get_slice(name).get_dtype()) for name in file.keys()}  # noqa: SIM118
            described.append((names, file.metadata()))
    assert described[0] == described[1]
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (out, tmp_path / "theirs"))
    # Names that version 5 has given up:
    older = {
        "n_ctx",
        "torch_dtype",
        "rope_theta",
        "rope_scaling",
        "rotary_emb_base",
        "rotary_pct",
        "rope_local_base_freq",
    }
    assert {name: theirs.get(name) for name in ours if name not in older} == {
        name: value for name, value in ours.items() if name not in older
    }


def test_the_older_rotary_fields_are_enough(tmp_path: Path) -> None:
    """Versions before 5 read the older fields, and version 5 reads either."""
    loaded, out = exported(tmp_path, "llama", rope_scaling="llama3", rope_factor=4.0, rope_base=500.0)
    tamper_config(out, lambda values: values.pop("rope_parameters"))
    assert verify(loaded, HF.open(out)).max_logit_error < 1e-4


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_16_bit_weights(tmp_path: Path, dtype: str) -> None:
    """It is the model of the rounded weights, exactly, and not the one of the whole weights."""
    loaded, out = exported(tmp_path, "qwen3", dtype=dtype)
    assert {str(t.dtype) for t in load_file(out / "model.safetensors").values()} == {f"torch.{dtype}"}
    assert transformers.AutoConfig.from_pretrained(out).dtype == getattr(torch, dtype)
    runtime = HF.open(out)
    assert verify(rounded(loaded, dtype), runtime).max_logit_error < 1e-5
    with pytest.raises(CheckpointError, match="its logits are off by"):
        verify(loaded, runtime)


def test_an_overflow_is_refused(tmp_path: Path) -> None:
    loaded = tiny_loaded(tmp_path)
    with torch.no_grad():
        loaded.model.wte.weight[3, 3] = 7e4
    with pytest.raises(ConfigError, match=r"wte.weight has numbers up to 7e\+04, .* float16"):
        HF.write(loaded, tmp_path, dtype="float16")
    with pytest.raises(ConfigError, match="dtype='int8'"):
        HF.write(loaded, tmp_path, dtype="int8")


def test_the_training_window_is_within_the_positions(tmp_path: Path) -> None:
    loaded = tiny_loaded(tmp_path)
    for data, window in (({"max_length": 24}, 24), ({"max_length": 999}, 32), ({}, 32)):
        assert replace(loaded.file, data=data).training_window == window


def test_a_model_with_few_positions(tmp_path: Path) -> None:
    loaded, out = exported(tmp_path, n_positions=4)
    check = verify(loaded, HF.open(out))
    assert check.greedy_compared == check.greedy_equal == 2 and check.max_logit_error < 1e-4


def test_a_model_without_a_tokenizer(tmp_path: Path) -> None:
    loaded = tiny_loaded(tmp_path, "llama")
    loaded = replace(loaded, file=replace(loaded.file, tokenizer=None))
    out = tmp_path / "out"
    out.mkdir()
    HF.write(loaded, out)
    runtime = HF.open(out)
    assert verify(loaded, runtime).same_tokenizer is None and runtime.encode("To be") is None
    assert not list(out.glob("tokenizer*"))


# --- wrong exports ---


def tamper_config(folder: Path, change: Callable[[dict[str, Any]], object]) -> None:
    path = folder / "config.json"
    values = json.loads(path.read_text())
    change(values)
    path.write_text(json.dumps(values))


def tamper_tensors(folder: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    path = folder / "model.safetensors"
    tensors = load_file(path)
    change(tensors)
    save_file({name: t.clone().contiguous() for name, t in tensors.items()}, path, {"format": "pt"})


def swap(a: str, b: str) -> Callable[[dict[str, Tensor]], None]:
    def change(tensors: dict[str, Tensor]) -> None:
        tensors[a], tensors[b] = tensors[b], tensors[a]

    return change


def transpose(name: str) -> Callable[[dict[str, Tensor]], None]:
    return lambda tensors: tensors.update({name: tensors[name].T})


def interleave(tensors: dict[str, Tensor]) -> None:
    """Put rotary pairs next to each other, the layout of other programs."""
    for name in tensors:
        if name.endswith(("q_proj.weight", "k_proj.weight")):
            D, w = 4, tensors[name]
            tensors[name] = w.view(-1, 2, D // 2, w.size(1)).transpose(1, 2).reshape(w.shape)


def copy_head(tensors: dict[str, Tensor]) -> None:
    tensors["lm_head.weight"] = tensors["transformer.wte.weight"]


def drop_prefix(tensors: dict[str, Tensor]) -> None:
    tensors["norm.weight"] = tensors.pop("model.norm.weight")


G, L, A, OFF = "transformer.h.1.", "model.layers.1.", "model.layers.1.self_attn.", "its logits are off by"
WRONG_TENSORS: dict[str, tuple[str, dict[str, Any], Callable[[dict[str, Tensor]], object], str]] = {
    "a square matrix is not transposed": ("gpt2", {}, transpose(f"{G}attn.c_proj.weight"), OFF),
    "a matrix is not transposed": ("gpt2", {}, transpose(f"{G}mlp.c_fc.weight"), r"c_fc.weight is \(96, 24\) .* \(24,"),
    "a bias is missing": ("gpt2", {"bias": False}, lambda t: t.pop(f"{G}ln_1.bias"), "ln_1.bias is None"),
    "a tied head is written": ("gpt2", {}, copy_head, r"lm_head.weight is \(257, 24\) and not None"),
    "an untied head is missing": ("gpt2", {"tied_head": False}, lambda t: t.pop("lm_head.weight"), "is None and not"),
    "a prefix is missing": ("llama", {}, drop_prefix, "model.norm.weight is None"),
    "rotary pairs are neighbours": ("llama", {"n_embd": 24}, interleave, OFF),
    "gate and up are swapped": ("llama", {}, swap(f"{L}mlp.gate_proj.weight", f"{L}mlp.up_proj.weight"), OFF),
    "keys and values are swapped": ("qwen3", {}, swap(f"{A}k_proj.weight", f"{A}v_proj.weight"), OFF),
    "two norms are swapped": ("qwen3", {}, swap(f"{A}q_norm.weight", f"{L}input_layernorm.weight"), "q_norm.weight is"),
    "one number differs": ("llama", {}, lambda t: t["model.embed_tokens.weight"].view(-1)[77].add_(0.2), OFF),
}
LINEAR = {"rope_scaling": "linear", "rope_factor": 2.0}
UNSCALED = {"rope_type": "default", "rope_theta": 1e4}
WRONG_CONFIGS: dict[str, tuple[str, dict[str, Any], dict[str, Any]]] = {
    "the other GELU": ("gpt2", {}, {"activation_function": "gelu"}),
    "another epsilon of LayerNorm": ("gpt2", {}, {"layer_norm_epsilon": 1e-3}),
    "another epsilon of RMSNorm": ("llama", {}, {"rms_norm_eps": 1e-3}),
    "another rotary base": ("llama", {}, {"rope_parameters": UNSCALED | {"rope_theta": 5e5}}),
    "no rotary scaling": ("llama", LINEAR, {"rope_parameters": UNSCALED, "rope_scaling": None}),
    "no windows": ("qwen3", WINDOWS, {"layer_types": ["full_attention", "full_attention"]}),
    "a wider window": ("qwen3", WINDOWS, {"sliding_window": 6}),
    "another layer has the window": ("qwen3", WINDOWS, {"layer_types": ["sliding_attention", "full_attention"]}),
    "an untied head is claimed to be tied": ("llama", {"tied_head": False}, {"tie_word_embeddings": True}),
}


@pytest.mark.parametrize("case", WRONG_TENSORS)
def test_wrong_weights_are_refused(tmp_path: Path, case: str) -> None:
    family, changes, change, message = WRONG_TENSORS[case]
    loaded, out = exported(tmp_path, family, **changes)
    tamper_tensors(out, change)
    with pytest.raises(CheckpointError, match=message):
        verify(loaded, HF.open(out))


@pytest.mark.parametrize("case", WRONG_CONFIGS)
def test_a_wrong_config_is_refused(tmp_path: Path, case: str) -> None:
    family, changes, wrong = WRONG_CONFIGS[case]
    loaded, out = exported(tmp_path, family, **changes)
    tamper_config(out, lambda values: values.update(wrong))
    reason = r"lm_head.weight is \(257, 24\) and not None" if "tie_word_embeddings" in wrong else OFF
    with pytest.raises(CheckpointError, match=reason):
        verify(loaded, HF.open(out))


def test_rows_of_padding_are_refused(tmp_path: Path) -> None:
    loaded, out = exported(tmp_path, vocab_size=320)
    tamper_config(out, lambda values: values.update(vocab_size=320))
    tamper_tensors(out, lambda t: t.update({"transformer.wte.weight": loaded.model.wte.weight.detach()}))
    with pytest.raises(CheckpointError, match="320 ids, and the model has 257"):
        verify(loaded, HF.open(out))


def test_another_tokenizer_is_refused(tmp_path: Path) -> None:
    loaded, out = exported(tmp_path)
    values = json.loads((out / "tokenizer.json").read_text())
    vocab = values["model"]["vocab"]
    vocab["T"], vocab["o"] = vocab["o"], vocab["T"]
    (out / "tokenizer.json").write_text(json.dumps(values))
    with pytest.raises(CheckpointError, match="its tokenizer gives other ids for 'To be"):
        verify(loaded, HF.open(out))


def test_a_damaged_folder_is_refused(tmp_path: Path) -> None:
    _, out = exported(tmp_path)
    data = (out / "model.safetensors").read_bytes()
    (out / "model.safetensors").write_bytes(data[: len(data) // 2])
    for _ in range(2):
        with pytest.raises(CheckpointError, match="transformers cannot open .*model-hf"):
            HF.open(out)
        (out / "config.json").unlink(missing_ok=True)


# --- families and packages ---


@pytest.mark.parametrize(
    ("changes", "nearest", "differences"),
    [
        ({"norm": "rmsnorm"}, "GPT-2", ["norm='rmsnorm' has to be 'layernorm'"]),
        ({"mlp": "relu2"}, "GPT-2", ["mlp='relu2'"]),
        ({"qk_norm": True}, "GPT-2", ["qk_norm=True"]),
        ({"logit_cap": 30.0}, "GPT-2", ["logit_cap=30.0"]),
        ({"n_kv_head": 2}, "GPT-2", ["n_kv_head=2 has to be n_head=6"]),
        ({"head_dim": 32}, "GPT-2", ["head_dim=32 has to be n_embd / n_head, which is 64"]),
        ({"window": 9}, "GPT-2", ["window=9 has to be 0"]),
        (MODERN | {"bias": True}, "Llama", ["bias=True has to be False"]),
        (MODERN | {"mlp": "gelu"}, "Llama", ["mlp='gelu' has to be 'swiglu'"]),
        (
            MODERN | {"window": 9, "window_layers": "1"},
            "Mistral",
            ["window_layers='1' has to be 'all'", "Qwen3, where"],
        ),
        (MODERN | {"qk_norm": True, "norm": "layernorm"}, "Qwen3", ["norm='layernorm' has to be 'rmsnorm'"]),
        (MODERN | {"logit_cap": 5.0, "bias": True}, "Llama", ["bias=True", "logit_cap=5.0"]),
    ],
)
def test_a_combination_of_no_family_is_refused(changes: dict[str, Any], nearest: str, differences: list[str]) -> None:
    with pytest.raises(ConfigError, match=f"nearest is {nearest}, where") as error:
        family_of(ModelConfig(**changes))
    for difference in differences:
        assert difference in str(error.value)


@pytest.mark.parametrize("name", ["micro", "llama-micro"])
@pytest.mark.parametrize("setting", ["positions", "norm", "mlp"])
def test_a_choice_that_is_new_belongs_to_no_family(name: str, setting: str) -> None:
    """A choice that is added later must not be taken for one of another program, whatever it is called."""
    config = ModelConfig.preset(name)
    object.__setattr__(config, setting, "new")
    with pytest.raises(ConfigError, match=f"{setting}='new' has to be"):
        family_of(config)


def test_presets_and_their_relatives_have_a_family() -> None:
    assert {family_of(ModelConfig.preset(name)).name for name in PRESETS} == {"gpt2", "llama"}
    for changes, family in (
        ({"n_kv_head": 6, "bias": False, "tied_head": False, "activation": "gelu", "norm_eps": 1e-6}, "gpt2"),
        (MODERN | {"n_kv_head": 2, "head_dim": 32, "rope_scaling": "llama3"}, "llama"),
        (MODERN | {"qk_norm": True} | WINDOWS, "qwen3"),
    ):
        assert family_of(ModelConfig(**changes)).name == family


def test_a_llama_that_transformers_refuses(tmp_path: Path) -> None:
    loaded = tiny_loaded(tmp_path, "llama", n_embd=26, head_dim=4)
    with pytest.raises(ConfigError, match=r"refuses a Llama whose n_embd=26 is not a multiple of n_head=6.*n_embd=30"):
        HF.write(loaded, tmp_path)


def test_a_missing_package_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert require("json", "hf") is json
    with pytest.raises(ConfigError, match=r'the package no_such is not installed; .* "light-llm\[onnx\]"'):
        require("no_such.part", "onnx")
    (tmp_path / "half_there.py").write_text("import no_such_part")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ConfigError, match="half_there is installed but cannot be imported .*no_such_part"):
        require("half_there", "hf")
    assert "half_there" not in sys.modules
