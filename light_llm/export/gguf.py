"""GGUF, the file of llama.cpp: written with the `gguf` package, opened again by llama.cpp where that is installed."""

import io
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr
from ctypes import create_string_buffer
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..checkpoint import Loaded
from ..config.values import check_choice
from ..errors import CheckpointError, ConfigError
from ..files import Files, commit_path
from .extras import need
from .families import cut_to_tokenizer
from .gguf_back import read_back as read_back
from .gguf_parts import DTYPES, check_can_be_gguf, format_of, gguf_tensors, metadata
from .gguf_rounding import allowed as allowed
from .gguf_rounding import as_computed as as_computed
from .gguf_rounding import packed
from .gguf_rounding import rounded as rounded
from .gguf_tokens import vocabulary

F32_CACHE = 0  # ggml's number for float32: keys and values are kept as they are


def write(loaded: Loaded, path: Path, *, dtype: str = "f32") -> None:
    """Write a model as one GGUF file, whole or not at all.

    Args:
        loaded: a model of the families gpt2, llama or qwen3, with or without a tokenizer. Rows of the token table
            that the tokenizer has no id for are left out.
        path: of the file.
        dtype: of the matrices: f32, f16, bf16, or q8_0 (8 bits and a scale for each 32 numbers). Norms, biases and
            the position table stay f32.

    Raises:
        ConfigError: no such dtype, a model that llama.cpp would compute otherwise, weights that the dtype cannot hold,
            or the package `gguf` is not installed.
        OSError: the file cannot be written.
    """
    check_choice("dtype", dtype, DTYPES)
    check_can_be_gguf(loaded.model.config)
    gguf = need("gguf", "gguf")
    config, state = cut_to_tokenizer(loaded)
    tokenizer = loaded.file.tokenizer
    words = vocabulary(tokenizer).fields() if tokenizer else {"tokenizer.ggml.model": "no_vocab"}
    fields = metadata(config, loaded.file, dtype) | words
    write_parts(gguf, path, check_can_be_gguf(config), fields, gguf_tensors(config, state), dtype)


def write_parts(
    gguf: ModuleType, path: Path, family: str, fields: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: str
) -> None:
    """Write fields and tensors (float32) as they are given. Raises ConfigError for a weight that dtype cannot hold."""

    def make(partial: Path) -> None:
        writer = gguf.GGUFWriter(partial, family)
        for key, value in fields.items():
            _add_field(writer, key, value)
        for name, tensor in tensors.items():
            kind = format_of(name, tuple(tensor.shape), dtype)
            numbers = packed(gguf, name, tensor, kind)
            writer.add_tensor(name, numbers, raw_dtype=gguf.GGMLQuantizationType[kind.upper()])
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()

    commit_path(path, make, Files())


def _add_field(writer: Any, key: str, value: Any) -> None:
    """A field of the type that llama.cpp reads: whole numbers have 32 bits and no sign, others are float32."""
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add.get(type(value), writer.add_array)(key, value)


def has_llama_cpp() -> bool:
    """Whether llama-cpp-python is installed."""
    return find_spec("llama_cpp") is not None


class LlamaCpp:
    """A GGUF file as llama.cpp computes it on the CPU, keys and values in float32: the `Runtime` of this format."""

    def __init__(self, path: Path, llama_cpp: Any) -> None:
        self.name = f"llama.cpp (llama-cpp-python {llama_cpp.__version__})"
        self.api = llama_cpp
        threads = torch.get_num_threads()
        with redirect_stderr(io.StringIO()):  # it warns of a context below 256 tokens, which it makes 256 of
            self.llama = llama_cpp.Llama(
                str(path),
                n_ctx=0,  # as long as the model's
                n_threads=threads,
                n_threads_batch=threads,
                logits_all=True,
                type_k=F32_CACHE,
                type_v=F32_CACHE,
                verbose=False,
            )
        self.vocab = llama_cpp.llama_model_get_vocab(self.llama.model)
        self.has_tokenizer = llama_cpp.llama_vocab_type(self.vocab) != llama_cpp.LLAMA_VOCAB_TYPE_NONE

    def logits(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """(B, T) ids -> (B, T, V) float32, row by row."""
        return torch.stack([self._after(row) for row in ids])

    def _after(self, row: Sequence[int], *, more: bool = False) -> Tensor:
        """(T, V) logits of a row, or of what goes on after the tokens before."""
        if not more:
            self.llama.reset()
        seen = self.llama.n_tokens
        self.llama.eval(list(row))
        return torch.from_numpy(np.array(self.llama.scores[seen : seen + len(row)], np.float32))

    def greedy(self, ids: Sequence[int], n: int) -> list[int]:
        """The n likeliest tokens after ids, one by one, with its cache."""
        written: list[int] = []
        after = self._after(ids)
        while len(written) < n:
            written.append(int(after[-1].argmax()))
            if len(written) < n:
                after = self._after(written[-1:], more=True)
        return written

    def encode(self, text: str) -> list[int] | None:
        """Ids by the tokenizer in the file; None where it has none."""
        if not self.has_tokenizer:
            return None
        return [int(i) for i in self.llama.tokenize(text.encode("utf-8"), add_bos=False, special=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        return b"".join(self._piece(i) for i in ids).decode("utf-8", errors="replace")

    def _piece(self, token: int) -> bytes:
        """The bytes of one token, however many."""
        size = 64
        while True:
            buffer = create_string_buffer(size)
            n = int(self.api.llama_token_to_piece(self.vocab, token, buffer, size, 0, False))
            if n >= 0:
                return buffer.raw[:n]
            size = -n  # what it needs

    def close(self) -> None:
        """Give the memory back."""
        self.llama.close()


def open_export(path: Path) -> LlamaCpp:
    """Open a GGUF file with llama.cpp.

    Raises:
        ConfigError: llama-cpp-python is not installed.
        CheckpointError: llama.cpp does not open the file.
    """
    if not has_llama_cpp():
        raise ConfigError(
            "this needs the package llama-cpp-python, which is not installed; install it with: "
            "pip install llama-cpp-python (it is compiled there, in some minutes)"
        )
    try:
        return LlamaCpp(path, import_module("llama_cpp"))
    except (ValueError, RuntimeError, OSError) as error:
        raise CheckpointError(f"llama.cpp does not open {path}: {error}; export it again") from None
