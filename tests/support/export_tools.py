"""Tiny models of each family with each tokenizer, as they come out of a model file."""

from pathlib import Path
from typing import Any

import torch

from light_llm.checkpoint import Files, LoadedModel, load_model, model_meta, write_model_file
from light_llm.data import Tokenizer
from light_llm.data.bpe import train_bpe
from light_llm.data.hf_tokenizer import HuggingFaceTokenizer
from light_llm.data.tokenizers import ByteTokenizer, CharTokenizer, make_tokenizer
from light_llm.interop.gguf import GGUFExporter
from light_llm.interop.huggingface import HuggingFaceExporter
from light_llm.interop.onnx import OnnxExporter
from light_llm.interop.verify import TOKENIZER_TEXTS
from tests.support.tools import tiny_model

HF, GGUF, ONNX = HuggingFaceExporter(), GGUFExporter(), OnnxExporter()
ODD = (
    "a\tb  c\n\n\u00a0 𝔘nicode 𐍈 e\u0301 \u200d👩‍👩‍👧 \ufeff\x00\x7f «ß»"  # spaces of all kinds, letters beyond U+FFFF
)
MODERN = {"positions": "rope", "norm": "rmsnorm", "mlp": "swiglu", "bias": False, "n_inner": 40}
FAMILIES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "llama": MODERN | {"n_head": 6, "n_kv_head": 2},
    "qwen3": MODERN | {"n_head": 4, "n_kv_head": 2, "head_dim": 8, "qk_norm": True},
}
TOKENIZERS = ("gpt2", "bpe", "char", "byte")


def a_tokenizer(name: str) -> Tokenizer:
    """One of each kind. The byte-pair one has learnt from the texts that verify asks for.

    GPT-2's is read from the folder LIGHT_LLM_OFFLINE_DIR: ask for the fixture `offline_files` too.
    """
    if name == "bpe":
        return train_bpe([*TOKENIZER_TEXTS, ODD] * 2, 300)
    if name == "char":
        return CharTokenizer("".join(sorted({*"".join(TOKENIZER_TEXTS), *ODD})))
    return make_tokenizer(name, offline=True)


def tiny_loaded(folder: Path, family: str = "gpt2", tokenizer: Tokenizer | None = None, **changes: Any) -> LoadedModel:
    """A tiny opinionated model of a family, written to a model file and loaded from it.

    It was trained on windows of 24 tokens of the 32 (or n_positions) it has places for, and reached some loss.
    """
    tokenizer = tokenizer or ByteTokenizer()
    model = tiny_model(scale=4, **(FAMILIES[family] | {"vocab_size": tokenizer.vocab_size} | changes))
    with torch.no_grad():  # the blocks weigh more than the token itself, or a tied head says it again and again
        for name, parameter in model.named_parameters():
            parameter.mul_(3 if name.startswith("h.") and parameter.ndim == 2 else 1)
    evaluation = {"loss": 1.25, "stderr": 0.01, "bits_per_byte": 1.8, "perplexity": 3.49, "tokens": 999, "context": 24}
    meta = model_meta(model, None, step=120, dtype="bfloat16", evaluation=evaluation)
    data = {"source": "poem.txt", "title": "poem.txt", "max_length": 24, "documents": 3, "tokenizer": tokenizer.name}
    meta |= {"tokenizer": tokenizer.to_dict(), "data": data | {"sha256": "0" * 64, "train_tokens": 8000}}
    carried = {"tokenizer.json": tokenizer.data} if isinstance(tokenizer, HuggingFaceTokenizer) else {}
    write_model_file(folder / "tiny_model.pt", model.state_dict(), meta, Files(), files=carried)
    return load_model(folder / "tiny_model.pt")
