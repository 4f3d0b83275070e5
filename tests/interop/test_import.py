"""Imported models have the logits of transformers, and nothing in their files is ignored in silence."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from torch import Tensor

from light_llm.checkpoint.tensors import read_tensors
from light_llm.cli.import_ import command
from light_llm.config import ModelConfig
from light_llm.data.bpe import train_bpe
from light_llm.data.tokenizers import ByteTokenizer, Tokenizer
from light_llm.errors import CheckpointError
from light_llm.generate import TextGenerator
from light_llm.interop.hf_config import read_config
from light_llm.interop.import_model import make_loaded, read_folder
from light_llm.interop.model_card import write_card
from tests.support.export_tools import HF, tiny_loaded
from tests.support.tools import some_tokens, tiny_model

transformers = pytest.importorskip("transformers")
transformers.utils.logging.disable_progress_bar()

Change = Callable[[dict[str, Tensor]], dict[str, Tensor]]
Saved = Callable[[str], Path]
V = 61
GPT2: dict[str, Any] = {"vocab_size": V, "n_positions": 32, "n_embd": 24, "n_layer": 2, "n_head": 3}
LLAMA: dict[str, Any] = {
    "vocab_size": V,
    "max_position_embeddings": 32,
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
}
WINDOWS = {"use_sliding_window": True, "sliding_window": 5, "layer_types": ["full_attention", "sliding_attention"]}
LLAMA3 = {"rope_type": "llama3", "factor": 4.0, "original_max_position_embeddings": 8}
LLAMA3_ROPE = LLAMA3 | {"rope_theta": 500.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
MODELS: dict[str, tuple[str, dict[str, Any]]] = {
    "gpt2": ("GPT2", GPT2),
    "gpt2-exact": ("GPT2", GPT2 | {"activation_function": "gelu", "n_inner": 40, "tie_word_embeddings": False}),
    "llama": ("Llama", LLAMA | {"tie_word_embeddings": True}),
    "llama-untied": ("Llama", LLAMA | {"head_dim": 6, "num_key_value_heads": 4}),
    "llama-linear": ("Llama", LLAMA | {"rope_parameters": {"rope_type": "linear", "rope_theta": 9e3, "factor": 2.0}}),
    "llama-3.1": ("Llama", LLAMA | {"rope_parameters": LLAMA3_ROPE}),
    "qwen3": ("Qwen3", LLAMA | {"tie_word_embeddings": True}),
    "qwen3-windows": ("Qwen3", LLAMA | WINDOWS),
}


def theirs(name: str) -> Any:
    """Return a model of transformers with large random weights, none of them zero."""
    family, values = MODELS[name]
    torch.manual_seed(3)
    config = getattr(transformers, f"{family}Config")(**values, bos_token_id=0, eos_token_id=0)
    model = transformers.AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(5)
            else:
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model.eval()


@pytest.fixture(scope="module", params=[*MODELS])
def foreign(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A model of transformers, and the folder that it was saved to in shards."""
    folder = tmp_path_factory.mktemp(request.param)
    model = theirs(request.param)
    model.save_pretrained(folder, max_shard_size="20KB")
    return model, folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    """Folders by the name of a model, in one file each, written once."""
    made: dict[str, Path] = {}

    def folder_of(name: str) -> Path:
        if name not in made:
            made[name] = tmp_path_factory.mktemp(name)
            theirs(name).save_pretrained(made[name])
        return made[name]

    return folder_of


def copy_of(folder: Path, target: Path) -> Path:
    return Path(shutil.copytree(folder, target))


def change(folder: Path, **fields: Any) -> None:
    """Set fields of config.json."""
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | fields))


def rewrite(folder: Path, make: Change) -> None:
    """Replace the tensors."""
    path = folder / "model.safetensors"
    tensors = make(read_tensors(path))
    safetensors.torch.save_file({name: t.contiguous() for name, t in tensors.items()}, path)


def refused(folder: Path, named: str) -> None:
    with pytest.raises(CheckpointError, match=named):
        read_folder(folder, tokenizer="none")


@torch.inference_mode()
def test_logits_are_those_of_transformers(foreign: tuple[Any, Path]) -> None:
    model, folder = foreign
    assert len([*folder.glob("model-*.safetensors")]) > 1
    ours = read_folder(folder, tokenizer="none").model
    ids = some_tokens(T=24, V=V)
    expected = model(ids).logits
    assert expected.std() > 0.3
    torch.testing.assert_close(ours(ids), expected, atol=1e-4, rtol=0)


def test_untrained_biases_stay(tmp_path: Path) -> None:
    """Zeros with gains of 1 are a fresh initialization, and not a model without biases."""
    config = transformers.GPT2Config(**GPT2, bos_token_id=0, eos_token_id=0)
    transformers.GPT2LMHeadModel(config).save_pretrained(tmp_path)
    assert read_folder(tmp_path, tokenizer="none").model.config.bias


def test_usual_sizes_are_zero(saved: Saved) -> None:
    """As in our presets."""
    gpt2 = read_folder(saved("gpt2"), tokenizer="none").model.config
    assert gpt2 == ModelConfig(**GPT2, dropout=0.1, attn_dropout=0.1)
    untied = read_folder(saved("llama-untied"), tokenizer="none").model.config
    assert (untied.n_kv_head, untied.head_dim, untied.n_inner, untied.tied_head) == (0, 0, 40, False)
    windows = read_folder(saved("qwen3-windows"), tokenizer="none").model.config
    assert (windows.window, windows.window_layers, windows.qk_norm) == (5, "1", True)
    scaled = read_folder(saved("llama-3.1"), tokenizer="none").model.config
    assert (scaled.rope_base, scaled.rope_factor, scaled.rope_trained) == (500.0, 4.0, 0)  # 32 / 4 is the usual one


# --- older files ---


def test_older_rotary_fields_mean_the_same(saved: Saved) -> None:
    values = json.loads((saved("llama-3.1") / "config.json").read_text())
    new = read_config(values, "config.json")
    rope = values.pop("rope_parameters")
    for kind in ("rope_type", "type"):
        scaling = {kind if k == "rope_type" else k: v for k, v in rope.items() if k != "rope_theta"}
        old = values | {"rope_theta": 500, "rope_scaling": scaling}
        assert read_config(old, "config.json") == new
    plain = values | {"rope_theta": 500, "rope_scaling": None}
    assert read_config(plain, "config.json")[1] == replace(new[1], rope_scaling="none", rope_factor=1.0)


def test_missing_fields_have_the_defaults_of_transformers() -> None:
    rope = {k: v for k, v in LLAMA3_ROPE.items() if k != "original_max_position_embeddings"}
    values = LLAMA | {"model_type": "llama", "rope_parameters": rope}
    found, theirs = read_config(values, "c")[1], transformers.LlamaConfig(**values)
    assert found.rope_trained == theirs.rope_parameters["original_max_position_embeddings"] == 32
    for family, there in (("gpt2", "GPT2"), ("llama", "Llama"), ("qwen3", "Qwen3")):
        usual = getattr(transformers, f"{there}Config")()
        found = read_config((GPT2 if family == "gpt2" else LLAMA) | {"model_type": family}, "c")[1]
        assert found.tied_head == usual.tie_word_embeddings
        assert found.norm_eps == (usual.layer_norm_epsilon if family == "gpt2" else usual.rms_norm_eps)
        if family != "gpt2":
            assert found.rope_base == usual.rope_parameters["rope_theta"]


def test_older_names_of_gpt2s_sizes_mean_the_same() -> None:
    old = {"model_type": "gpt2", "vocab_size": V, "n_ctx": 32, "hidden_size": 24, "num_hidden_layers": 2}
    assert read_config(old | {"num_attention_heads": 3}, "c")[1] == ModelConfig(**GPT2, dropout=0.1, attn_dropout=0.1)
    assert read_config(GPT2 | {"architectures": ["GPT2LMHeadModel"]}, "c")[0].name == "gpt2"
    with pytest.raises(CheckpointError, match="n_embd=24 and hidden_size=32 are one field by two names"):
        read_config(GPT2 | {"model_type": "gpt2", "hidden_size": 32}, "c")


def test_windows_from_the_first_layer_that_has_one() -> None:
    """Qwen3's older form: the layers from max_window_layers on."""
    values = LLAMA | {"model_type": "qwen3", "use_sliding_window": True, "sliding_window": 7}
    assert read_config(values | {"max_window_layers": 1}, "c")[1].window_layers == "1"
    assert read_config(values | {"max_window_layers": 0}, "c")[1].window_layers == "all"
    assert read_config(values | {"max_window_layers": 2}, "c")[1].window == 0
    assert read_config(values | {"max_window_layers": 0, "use_sliding_window": False}, "c")[1].window == 0
    assert read_config({k: v for k, v in values.items() if k != "head_dim"}, "c")[1].head_dim == 128


@pytest.mark.parametrize("name", ["gpt2", "llama"])
def test_prefixes_buffers_and_a_tied_head_make_no_difference(name: str, saved: Saved, tmp_path: Path) -> None:
    folder = copy_of(saved(name), tmp_path / "old")
    expected = read_folder(folder, tokenizer="none").file.weights

    def older(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        bare = {full.removeprefix("transformer.").removeprefix("model."): t for full, t in tensors.items()}
        head = bare["wte.weight" if name == "gpt2" else "embed_tokens.weight"].clone()
        mask, minus = torch.ones(1, 1, 32, 32, dtype=torch.uint8), torch.tensor(-1e4)
        buffers = {"h.0.attn.bias": mask, "h.1.attn.masked_bias": minus}
        buffers |= {"layers.1.self_attn.rotary_emb.inv_freq": torch.ones(4)}
        return bare | buffers | {"lm_head.weight": head}

    rewrite(folder, older)
    weights = read_folder(folder, tokenizer="none").file.weights
    assert weights.keys() == expected.keys() and all(torch.equal(weights[n], expected[n]) for n in weights)


def test_half_precision_stays_as_it_is(saved: Saved, tmp_path: Path) -> None:
    folder = copy_of(saved("llama"), tmp_path / "half")
    rewrite(folder, lambda tensors: {n: t.to(torch.bfloat16) for n, t in tensors.items()})
    found = read_folder(folder, tokenizer="none").file.weights
    full = read_folder(saved("llama"), tokenizer="none").file.weights
    for name, tensor in found.items():
        assert tensor.dtype == torch.bfloat16 and torch.equal(tensor, full[name].to(torch.bfloat16)), name


def test_biases_of_zeros_add_nothing(saved: Saved, tmp_path: Path) -> None:
    folder = copy_of(saved("llama"), tmp_path / "biases")
    change(folder, attention_bias=True, mlp_bias=True)
    bias = {"model.layers.0.self_attn.q_proj.bias": torch.zeros(32), "model.layers.1.mlp.up_proj.bias": torch.zeros(40)}
    rewrite(folder, lambda tensors: tensors | bias)
    assert not read_folder(folder, tokenizer="none").model.config.bias
    bias["model.layers.1.mlp.up_proj.bias"][3] = 1e-3
    rewrite(folder, lambda tensors: tensors | bias)
    refused(folder, r"mlp_bias=True .*layers\.1\.mlp\.up_proj\.bias")


# --- fields that are refused ---


REFUSED_FIELDS: list[tuple[str, dict[str, Any], str]] = [
    ("gpt2", {"activation_function": "relu"}, "activation_function='relu' cannot be imported"),
    ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
    ("gpt2", {"scale_attn_weights": False}, "scale_attn_weights=False"),
    ("gpt2", {"add_cross_attention": True}, "add_cross_attention=True"),
    ("gpt2", {"pruned_heads": {"0": [1]}}, "pruned_heads="),
    ("gpt2", {"mup_scale": 8.0}, r"mup_scale=8\.0"),
    ("gpt2", {"n_head": 5}, "n_embd=24 .*n_head=5"),
    ("gpt2", {"n_embd": "24"}, "n_embd='24'"),
    ("gpt2", {"tie_word_embeddings": 1}, "tie_word_embeddings=1"),
    ("gpt2", {"architectures": ["GPT2ForSequenceClassification"]}, "GPT2ForSequenceClassification' is not GPT2LM"),
    ("llama", {"model_type": "mixtral", "architectures": ["MixtralForCausalLM"]}, "'mixtral', .*nearest .* mistral"),
    ("llama", {"model_type": ["llama"]}, r"model_type=\['llama'\], .*gpt2, llama, mistral"),
    ("llama", {"hidden_act": "gelu"}, "hidden_act='gelu'"),
    ("llama", {"quantization_config": {"bits": 4}}, "quantization_config="),
    ("llama", {"quantization": {"bits": 4}}, "quantization="),
    ("llama", {"partial_rotary_factor": 0.5}, r"partial_rotary_factor=0\.5"),
    ("llama", {"rope_parameters": {"rope_type": "yarn", "factor": 2.0}}, "rope_parameters: rope_type='yarn'"),
    ("llama", {"rope_parameters": None, "rope_scaling": {"type": "dynamic"}}, "rope_scaling: rope_type='dynamic'"),
    ("llama", {"rope_scaling": {"type": "linear", "factor": 2.0}}, "rope_scaling=.*rope_parameters"),
    ("llama", {"rope_parameters": LLAMA3_ROPE | {"low_freq_factor": 2.0}}, r"low_freq_factor=2\.0 .* 1"),
    ("llama", {"rope_parameters": {"rope_theta": 1e4, "beta": 2}}, "rope_parameters: beta=2"),
    ("llama", {"rope_theta": 7.0}, "rope_theta=7.0 .*rope_parameters"),
    ("llama", {"attention_bias": True}, "attention_bias=True, .* no such tensors"),
    ("qwen3", {"mlp_bias": True}, "mlp_bias=True, .* no such tensors"),
    ("llama", {"rope_parameters": {"full_attention": {}}}, "rope_parameters="),
    ("qwen3", {"layer_types": ["full_attention", "linear"]}, "layer_types=.* 2 layers"),
    ("qwen3", {"num_hidden_layers": 10**9}, "num_hidden_layers=1000000000"),
    ("llama", {"num_hidden_layers": 10**9}, "1000000000 layers, .* 20 tensors"),
    ("llama", {"attention_bias": "yes"}, "attention_bias='yes'"),
]


@pytest.mark.parametrize(("name", "fields", "named"), REFUSED_FIELDS)
def test_a_field_that_ours_cannot_express_is_named(
    name: str, fields: dict[str, Any], named: str, saved: Saved, tmp_path: Path
) -> None:
    folder = copy_of(saved(name), tmp_path / "changed")
    change(folder, **fields)
    refused(folder, named)


def test_a_size_that_is_left_out_is_named() -> None:
    for family, values in (("gpt2", GPT2), ("llama", LLAMA), ("qwen3", LLAMA)):
        optional = {"head_dim"} | ({"num_key_value_heads"} if family == "llama" else set())
        for name in values.keys() - optional:
            rest = {k: v for k, v in values.items() if k != name}
            with pytest.raises(CheckpointError, match=name):
                read_config({"model_type": family, **rest}, "config.json")


def test_null_means_that_a_field_is_off() -> None:
    assert read_config(GPT2 | {"model_type": "gpt2", "some_new_feature": None}, "c")[1].n_layer == 2


# --- tensors that are refused ---


def without(name: str) -> Change:
    return lambda tensors: {n: t for n, t in tensors.items() if n != name}


def with_(**more: Tensor) -> Change:
    return lambda tensors: tensors | {name.replace("__", "."): t for name, t in more.items()}


REFUSED_TENSORS: list[tuple[str, Change, str]] = [
    ("gpt2", without("transformer.h.1.ln_2.bias"), r"no tensor h\.1\.ln_2\.bias"),
    ("llama", without("model.layers.0.self_attn.k_proj.weight"), r"no tensor layers\.0\.self_attn\.k_proj"),
    ("llama-untied", without("lm_head.weight"), r'no tensor lm_head\.weight; .*"tie_word_embeddings": true'),
    # (out, in), as ours
    ("gpt2", with_(transformer__h__0__attn__c_attn__weight=torch.zeros(72, 24)), r"c_attn.* \(72, 24\).* \(24, 72\)"),
    ("llama", with_(model__layers__0__self_attn__k_proj__weight=torch.zeros(32, 24)), r"\(32, 24\).* \(16, 24\)"),
    ("gpt2", with_(transformer__h__0__adapter=torch.ones(2)), r"'h\.0\.adapter'"),
    ("gpt2", with_(wte__weight=torch.ones(V, 24)), r"wte\.weight twice"),
    ("gpt2", with_(lm_head__weight=torch.ones(V, 24)), r"lm_head\.weight"),
    ("llama", with_(model__norm__weight=torch.ones(24, dtype=torch.int32)), "int32"),
]


@pytest.mark.parametrize(("name", "make", "named"), REFUSED_TENSORS)
def test_a_tensor_at_odds_with_the_config_is_named(
    name: str, make: Change, named: str, saved: Saved, tmp_path: Path
) -> None:
    folder = copy_of(saved(name), tmp_path / "changed")
    rewrite(folder, make)
    refused(folder, named)


# --- files that are missing, damaged or of another kind ---


def test_a_missing_shard_is_named(foreign: tuple[Any, Path], tmp_path: Path) -> None:
    folder = copy_of(foreign[1], tmp_path / "copy")
    shards = sorted(folder.glob("model-*.safetensors"))
    shards[1].unlink()
    refused(folder, rf"lacks {shards[1].name}, one of the {len(shards)} files")
    shards[0].rename(shards[1])
    index = folder / "model.safetensors.index.json"
    index.write_text(index.read_text().replace(shards[0].name, shards[1].name))
    refused(folder, "and the index differ in ")


def test_a_tensor_that_the_index_has_in_another_shard_is_named(foreign: tuple[Any, Path], tmp_path: Path) -> None:
    folder = copy_of(foreign[1], tmp_path / "copy")
    first, second, *_ = sorted(folder.glob("model-*.safetensors"))
    tensors, name = read_tensors(second), min(read_tensors(first))
    safetensors.torch.save_file(tensors | {name: read_tensors(first)[name]}, second)
    refused(folder, f"{second.name} holds '{name}', which the index has in {first.name}")


@pytest.mark.parametrize(
    ("index", "named"),
    [
        ("{}", "weight_map"),
        ("[1]", "index.json is damaged"),
        ("{", "not JSON"),
        ('{"weight_map": {"a": "../secret.safetensors"}}', r"'\.\./secret\.safetensors'"),
        ('{"weight_map": {"a": "pytorch_model.bin"}}', "'pytorch_model.bin'"),
        ('{"weight_map": {"a": 1}}', "weight_map"),
    ],
)
def test_a_wrong_index_is_refused(index: str, named: str, saved: Saved, tmp_path: Path) -> None:
    folder = copy_of(saved("gpt2"), tmp_path / "copy")
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors.index.json").write_text(index)
    refused(folder, named)


def test_damaged_weights_are_refused(saved: Saved, tmp_path: Path) -> None:
    folder = copy_of(saved("gpt2"), tmp_path / "copy")
    file = folder / "model.safetensors"
    whole = file.read_bytes()
    for damaged in (
        (1 << 40).to_bytes(8, "little") + whole[8:],  # a header of a terabyte
        whole[:-100],
        whole.replace(b'"data_offsets":[0,', b'"data_offsets":[9,'),
    ):
        file.write_bytes(damaged)
        refused(folder, "model.safetensors is damaged")


@pytest.mark.parametrize(
    ("file", "named"),
    [
        ("pytorch_model.bin", "pytorch_model.bin: .*save_pretrained"),
        ("adapter_model.safetensors", "adapter_model.safetensors: .*merge"),
        ("x.gguf", r"x\.gguf: "),
        ("tf_model.h5", "tf_model.h5: TensorFlow"),
        ("flax_model.msgpack", "flax_model.msgpack: Flax"),
        ("model.fp16.safetensors", r"only model\.fp16\.safetensors; .*rename it to model\.safetensors"),
        ("model-00001-of-00002.safetensors", r"no model\.safetensors\.index\.json"),
        ("readme.txt", r"has no model\.safetensors"),
    ],
)
def test_other_formats_are_refused_with_what_to_do(file: str, named: str, tmp_path: Path) -> None:
    (tmp_path / file).write_text("x")
    refused(tmp_path, named)
    refused(tmp_path / "gpt2", "no folder .*gpt2; .*light-llm import OWNER/NAME")


def test_a_missing_or_wrong_config_is_refused(saved: Saved, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(saved("gpt2"), tmp_path / "copy"))
    (folder / "config.json").write_text("[]")
    refused(folder, r"config\.json is damaged")
    (folder / "config.json").unlink()
    refused(folder, r"config\.json cannot be read")


# --- export and import ---

BPE = train_bpe(["the cat and the dog and the bird sat there, 1234 times; don't ask why\n"] * 3, 300)


def exported(folder: Path, tokenizer: Tokenizer, *, max_length: int = 16, **changes: Any) -> tuple[Any, Path]:
    """A model of ours with more rows than its tokenizer has ids, and its export."""
    model = tiny_model(scale=4, **({"vocab_size": tokenizer.vocab_size + 7} | changes))
    data = {"max_length": max_length, "documents": 1}
    folder.mkdir()
    HF.write(make_loaded(folder, dict(model.state_dict()), model.config, tokenizer, data=data, origin={}), folder)
    return model, folder


ROPE: dict[str, Any] = {"positions": "rope", "norm": "rmsnorm", "mlp": "swiglu", "bias": False, "n_kv_head": 1}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"activation": "gelu", "tied_head": False, "dropout": 0.2, "n_inner": 50},
        {"bias": False},
        ROPE,
        ROPE | {"tied_head": False, "rope_scaling": "llama3", "rope_factor": 4.0, "rope_base": 500.0},
        ROPE | {"rope_scaling": "linear", "rope_factor": 2.0, "attn_dropout": 0.1},
        ROPE | {"qk_norm": True, "window": 5, "window_layers": "1", "norm_eps": 1e-6},
        ROPE | {"qk_norm": True, "window": 5, "head_dim": 10, "n_inner": 17},
    ],
)
def test_an_export_comes_back_bit_for_bit(changes: dict[str, Any], tmp_path: Path) -> None:
    model, folder = exported(tmp_path / "out", ByteTokenizer(), **changes)
    back = read_folder(folder)
    assert back.model.config == replace(model.config, vocab_size=257)  # without the rows that no text has an id for
    state = model.state_dict()
    assert back.file.weights.keys() == state.keys()
    for name, tensor in back.file.weights.items():
        expected = state[name][:257] if name in ("wte.weight", "lm_head.weight") else state[name]
        assert torch.equal(tensor, expected), name
    assert back.file.data["max_length"] == 16


def test_a_tokenizer_with_too_many_ids_is_refused(saved: Saved, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="its tokenizer has 257 ids and config.json says vocab_size=61"):
        read_folder(saved("gpt2"), tokenizer="byte")


def test_a_context_that_the_factor_does_not_divide(tmp_path: Path) -> None:
    """100 positions by 3: a whole number of tokens was trained on, in every program."""
    scaled = ROPE | {"n_positions": 100, "rope_scaling": "llama3", "rope_factor": 3.0}
    model, folder = exported(tmp_path / "out", ByteTokenizer(), **scaled)
    assert json.loads((folder / "config.json").read_text())["rope_parameters"]["original_max_position_embeddings"] == 33
    assert read_folder(folder).model.config == replace(model.config, vocab_size=257)
    assert ModelConfig(**(scaled | {"n_positions": 2, "rope_factor": 64.0})).rope_trained_on == 1


def test_weights_with_another_hash_than_the_card_are_refused(tmp_path: Path) -> None:
    """One flipped bit gives a model that nearly works."""
    _, folder = exported(tmp_path / "out", ByteTokenizer())
    write_card(read_folder(folder), folder, "checked")
    whole = (folder / "model.safetensors").read_bytes()
    assert read_folder(folder)
    (folder / "model.safetensors").write_bytes(whole[:-9] + bytes([whole[-9] ^ 1]) + whole[-8:])
    with pytest.raises(CheckpointError, match="does not have the SHA-256 that README.md lists"):
        read_folder(folder)
    card = (folder / "README.md").read_text()
    (folder / "README.md").write_text("".join(line for line in card.splitlines(True) if "safetensors`" not in line))
    assert read_folder(folder)
    (folder / "tokenizer_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="tokenizer_config.json is damaged, or not JSON"):
        read_folder(folder)


def test_weights_without_a_tokenizer(saved: Saved, capsys: pytest.CaptureFixture[str]) -> None:
    command([str(saved("qwen3")), "--tokenizer", "none", "--out", "alone.pt"])
    said = capsys.readouterr().out
    assert "none: the model can be trained further" in said and "train --init-from alone.pt" in said
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        TextGenerator("alone.pt", device="cpu")


def test_nan_is_refused(tmp_path: Path) -> None:
    loaded = tiny_loaded(tmp_path, "llama")
    with torch.no_grad():
        loaded.model.ln_f.weight[3] = torch.nan
    (tmp_path / "out").mkdir()
    HF.write(loaded, tmp_path / "out")
    with pytest.raises(CheckpointError, match=r"model\.safetensors has NaN or infinite numbers in norm\.weight"):
        read_folder(tmp_path / "out")
