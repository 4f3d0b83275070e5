"""Forms of config.json that people write: computed as transformers computes them, or refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from light_llm.errors import CheckpointError
from light_llm.interop.import_model import read_folder
from light_llm.interop.import_tokenizer import read_tokenizer
from tests.support.published import V, write_folder
from tests.support.tokenizer_kinds import tokenizer_kind
from tests.support.tools import some_tokens

Change = Callable[..., Path]
LINEAR = {"rope_type": "linear", "factor": 8.0}
OLD_LINEAR = {"type": "linear", "factor": 8.0}
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
GONE = object()

ACCEPTED: list[tuple[str, dict[str, Any]]] = [
    ("gemma3", {"rope_scaling": LINEAR}),
    ("gemma3", {"rope_scaling": LINEAR | OLD_LINEAR}),
    ("pythia", {"rotary_pct": GONE}),
    # As transformers 4 saved it.
    ("pythia", {"partial_rotary_factor": 0.25, "rope_theta": 10000}),
    ("pythia", {"hidden_act": "gelu_accurate"}),
    ("tinyllama", {"rope_scaling": LINEAR, "rope_parameters": LINEAR | {"rope_theta": 10000.0}}),
    ("gemma3", {"rope_scaling": LINEAR, "rope_parameters": {"full_attention": LINEAR}}),
    ("llama3.2", {"rope_scaling": LLAMA3, "original_max_position_embeddings": 16}),
    ("tinyllama", {"rope_scaling": LINEAR, "original_max_position_embeddings": 16}),
    ("tinyllama", {"hidden_act": "swish"}),
    ("qwen2.5", {"attention_bias": False, "hidden_act": "swish"}),
    ("tinystories", {"attention_bias": False, "activation_function": "gelu_python_tanh"}),
]
REFUSED: list[tuple[str, dict[str, Any], str]] = [
    # transformers ignores these.
    ("gemma3", {"rope_scaling": OLD_LINEAR}, "rope_scaling=.*'type': 'linear'.*rope_type"),
    ("pythia", {"rotary_pct": GONE, "partial_rotary_factor": 0.5}, r"partial_rotary_factor=0\.5 .*rotary_pct=0\.25"),
    ("pythia", {"rotary_emb_base": GONE, "rope_theta": 500.0}, r"rope_theta=500\.0 .*rotary_emb_base=10000"),
    (
        "tinyllama",
        {"rope_theta": GONE, "rope_scaling": LINEAR, "rope_parameters": LINEAR | {"rope_theta": 500.0}},
        r"rope_theta=500\.0 in rope_parameters",
    ),
    (
        "gemma3",
        {
            "rope_scaling": LINEAR | {"rope_theta": 5e5},
            "rope_theta": GONE,
            "rope_parameters": {"full_attention": LINEAR | {"rope_theta": 1e6}},
        },
        "rope_theta=1000000",
    ),
    # It takes the outer one, whatever the inner one says.
    (
        "llama3.2",
        {"rope_scaling": LLAMA3 | {"original_max_position_embeddings": 16}, "original_max_position_embeddings": 32},
        "original_max_position_embeddings=32 .*16",
    ),
    ("pythia", {"attention_bias": False}, "attention_bias=False"),
]


@pytest.fixture(scope="module")
def changed(tmp_path_factory: pytest.TempPathFactory) -> Change:
    """Return a function that gives the folder of a family, with changed fields of its config.json."""
    folders: dict[str, tuple[Path, dict[str, Any]]] = {}

    def change(name: str, fields: dict[str, Any]) -> Path:
        if name not in folders:
            folder = tmp_path_factory.mktemp(name)
            write_folder(folder, name, dtype="float32")
            folders[name] = folder, json.loads((folder / "config.json").read_text())
        folder, values = folders[name]
        values = {key: value for key, value in (values | fields).items() if value is not GONE}
        (folder / "config.json").write_text(json.dumps(values))
        return folder

    return change


@pytest.mark.parametrize(("name", "fields"), ACCEPTED)
@torch.inference_mode()
def test_a_form_means_what_it_means_in_transformers(name: str, fields: dict[str, Any], changed: Change) -> None:
    folder, x = changed(name, fields), some_tokens(1, 60, V)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32).eval()
    assert (read_folder(folder, tokenizer="none").model(x) - theirs(x).logits).abs().max() < 1e-4


@pytest.mark.parametrize(("name", "fields", "named"), REFUSED)
def test_a_form_that_transformers_reads_otherwise_is_refused(
    name: str, fields: dict[str, Any], named: str, changed: Change
) -> None:
    with pytest.raises(CheckpointError, match=named):
        read_folder(changed(name, fields), tokenizer="none")


@pytest.mark.parametrize("eos", [-1, [-1], 10**6])
def test_an_id_that_no_token_has_is_no_end_of_text(eos: Any, tmp_path: Path) -> None:
    """transformers never stops at it; the separator is then the token with the name of an end of text."""
    kind = tokenizer_kind("qwen2")
    (tmp_path / "tokenizer.json").write_bytes(kind.data)
    tokenizer = read_tokenizer(tmp_path, "", {"eos_token_id": eos, "vocab_size": kind.vocab_size + 5})
    assert tokenizer is not None and tokenizer.separator == kind.eos and tokenizer.stop_ids == (kind.eos,)
