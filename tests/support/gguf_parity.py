"""Compare a published model with llama.cpp: the same GGUF file run there and imported here, and the way back."""

import subprocess
import sys
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from light_llm.checkpoint import LoadedModel
from light_llm.config import ModelConfig
from light_llm.interop.family import has_window
from light_llm.interop.gguf_formats import BLOCKS
from light_llm.interop.gguf_verify import emulate_llama_cpp, logit_tolerance
from light_llm.interop.import_gguf import read_gguf
from light_llm.interop.import_model import read_folder
from light_llm.interop.llama_cpp import LlamaCpp
from light_llm.interop.verify import verify
from tests.support.export_tools import GGUF
from tests.support.published import write_folder

# By name, those that llama.cpp has: changes of `published.CONFIGS` without which it would compute another model.
CHANGES: dict[str, dict[str, Any]] = {
    "gpt2": {},
    "smollm2": {},
    "tinyllama": {},
    "llama2-long": {},
    "llama3.2": {},
    "mistral-v0.3": {},
    "qwen2.5": {},
    "qwen3": {},
    "pythia": {},
    "gemma3": {"query_pre_attn_scalar": 32},
}
# More settings of these families.
VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "pythia, one after the other": ("pythia", {"use_parallel_residual": False, "rotary_pct": 1.0}),
    "pythia, tanh, tied": ("pythia", {"hidden_act": "gelu_new", "tie_word_embeddings": True}),
    "pythia, linear": ("pythia", {"rope_scaling": {"type": "linear", "factor": 2.0}}),
    "qwen2.5, untied, linear": (
        "qwen2.5",
        {"tie_word_embeddings": False, "rope_scaling": {"type": "linear", "factor": 3.0}},
    ),
    "gemma3, full layers only": ("gemma3", {"layer_types": ["full_attention"] * 2}),
    "gemma3, windows only": ("gemma3", {"layer_types": ["sliding_attention"] * 2}),
    "gemma3, linear": ("gemma3", {"rope_scaling": {"rope_type": "linear", "factor": 8.0}}),
    "gemma3, untied": ("gemma3", {"tie_word_embeddings": False}),
}


@dataclass(frozen=True)
class Row:
    """The comparison of one model in one format: a line of the table that `make check-interop` prints."""

    name: str
    dtype: str
    logit_error: float  # of our import from llama.cpp, activations rounded as there
    limit: float  # of logit_error
    greedy_equal: int  # of `greedy` tokens
    greedy: int
    same_way_back: bool  # f32: every weight is the one that came from the folder, and so is the shape

    @property
    def right(self) -> bool:
        """Return whether all of it is as it has to be; `verify` has raised an error for a token without a tie."""
        return self.logit_error <= self.limit and self.same_way_back


def check(name: str, folder: Path, dtype: str = "f32") -> Row:
    """Write a published model as GGUF, import the file, and compare it with llama.cpp on that file.

    Raises CheckpointError if they are not the same model, and MissingDependency without llama.cpp.
    """
    base, changes = VARIANTS.get(name, (name, {}))
    write_folder(folder / name, base, **CHANGES[base] | changes)
    original = read_folder(folder / name, tokenizer="none")
    if dtype in BLOCKS:
        _calm(original)
    path = folder / f"{name}-{dtype}.gguf"
    GGUF.write(original, path, dtype=dtype)
    loaded = read_gguf(path)
    runtime = LlamaCpp(path)
    try:
        limit = logit_tolerance(loaded, dtype)
        result = verify(emulate_llama_cpp(loaded, dtype), runtime, limit=limit)
    finally:
        runtime.close()
    return Row(
        name=name,
        dtype=dtype,
        logit_error=result.max_logit_error,
        limit=limit,
        greedy_equal=result.greedy_equal,
        greedy=result.greedy_compared,
        same_way_back=dtype != "f32" or same_model(original, loaded),
    )


@torch.no_grad()
def _calm(loaded: LoadedModel) -> None:
    """Halve the matrices of the blocks, where attention is so sharp that a rounding turns it to other tokens.

    Trained models are calm; in these random ones the small differences of two 8-bit kernels grow from layer to layer.
    """
    for name, parameter in loaded.model.named_parameters():
        if name.startswith("h.") and parameter.ndim == 2:
            parameter.mul_(0.5)


def same_model(a: LoadedModel, b: LoadedModel) -> bool:
    """Return whether two models have one shape and the same numbers, bit for bit in float32."""
    ours, theirs = a.file.weights, b.file.weights
    same_names = _shape(a) == _shape(b) and ours.keys() == theirs.keys()
    return same_names and all(torch.equal(ours[name].float(), theirs[name].float()) for name in ours)


def _shape(loaded: LoadedModel) -> ModelConfig:
    """Return the config without what a GGUF file does not have: dropout, and a base that no layer uses."""
    config = replace(loaded.model.config, dropout=0.0, attn_dropout=0.0)
    return config if has_window(config) else replace(config, rope_local_base=0.0)


def quantise_by_llama_cpp(source: Path, target: Path, file_type: int) -> None:
    """Write a GGUF file in a format of llama.cpp, by its own quantiser, in a child process: a crash ends that alone."""
    program = (
        "import ctypes, sys, llama_cpp\n"
        "params = llama_cpp.llama_model_quantize_default_params()\n"
        "params.ftype, params.nthread = int(sys.argv[3]), 1\n"
        "source, target = (path.encode() for path in sys.argv[1:3])\n"
        "sys.exit(llama_cpp.llama_model_quantize(source, target, ctypes.byref(params)))\n"
    )
    command = [sys.executable, "-c", program, str(source), str(target), str(file_type)]
    subprocess.run(command, check=True, capture_output=True)
