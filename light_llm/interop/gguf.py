"""GGUF, the file of llama.cpp: written with the `gguf` package, opened again by llama.cpp where that is installed."""

from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from torch import Tensor

from ..atomic_io import atomic_path
from ..checkpoint import LoadedModel
from ..config.validation import check_choice
from ..errors import ConfigError
from .architectures import cut_to_tokenizer
from .gguf_dtypes import allowed as allowed
from .gguf_dtypes import as_computed as as_computed
from .gguf_dtypes import packed
from .gguf_dtypes import rounded as rounded
from .gguf_tensors import DTYPES, check_can_be_gguf, format_of, gguf_tensors, metadata
from .gguf_tokens import vocabulary
from .gguf_verify import read_back as read_back
from .llama_cpp import LlamaCpp as LlamaCpp
from .llama_cpp import has_llama_cpp as has_llama_cpp
from .llama_cpp import open_export as open_export
from .optional_deps import need


def write(loaded: LoadedModel, path: Path, *, dtype: str = "f32") -> None:
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
    with atomic_path(path) as partial:
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


def _add_field(writer: Any, key: str, value: Any) -> None:
    """A field of the type that llama.cpp reads: whole numbers have 32 bits and no sign, others are float32.

    Raises ConfigError for a number that has no room there.
    """
    if type(value) is int and not 0 <= value < 1 << 32:
        raise ConfigError(f"{key} is {value}, and a GGUF file has room for numbers below {1 << 32}")
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add.get(type(value), writer.add_array)(key, value)
