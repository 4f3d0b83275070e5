"""Export to GGUF, the file format of llama.cpp: written with the `gguf` package, opened by llama.cpp if installed."""

import errno
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

from torch import Tensor

from ..atomic_io import atomic_path
from ..checkpoint import LoadedModel
from ..config import check_choice
from ..config.choices import MLPS
from ..data import Tokenizer
from ..data.bpe import SEPARATOR, BytePairTokenizer, GPT2Tokenizer, bytes_to_unicode
from ..data.hf_tokenizer import HuggingFaceTokenizer
from ..data.tokenizer_json import to_tokenizer_json
from ..errors import ConfigError
from .architectures import trim_vocab
from .exporter import TOKENIZER_TEXTS, Exporter, require
from .gguf_formats import DTYPES, quantize, tensor_dtype
from .gguf_tensors import check_can_be_gguf, gguf_tensors, metadata
from .gguf_verify import check_file, emulate_llama_cpp, logit_tolerance, round_weights
from .llama_cpp import LlamaCpp
from .tokenizer_to_gguf import LEADING_SPACE, GGUFVocabulary, gguf_fields_from_tokenizer_json

# Token types. A control token is never found in a text and never shown, and an unused one belongs to no text.
NORMAL, CONTROL, UNUSED = 1, 3, 5
PADDING_SCORE = -10000.0  # in a vocabulary with scores


class GGUFExporter(Exporter):
    """Writes one file with tokenizer and weights: f32, f16, bf16, or 8, 5 or 4 bits with a scale for 32 numbers."""

    name = "gguf"
    program = "llama.cpp"
    out = "model.gguf"
    dtypes = DTYPES
    is_folder = False
    magic = b"GGUF"
    package = "llama_cpp"

    def write(self, loaded: LoadedModel, path: Path, *, dtype: str = "f32") -> None:
        """Write the file atomically. Norms, biases and the position table stay f32."""
        check_choice("dtype", dtype, DTYPES)
        check_can_be_gguf(loaded.model.config)
        write_parts(path, *file_parts(loaded, dtype), dtype)

    def open(self, path: Path) -> LlamaCpp:
        """Open the file with llama.cpp."""
        return LlamaCpp(path)

    def try_command(self, path: str, prompt: str, n: int, *, has_tokenizer: bool = True) -> list[str]:
        """Return a call of llama.cpp's own program, which takes no ids."""
        return ["llama-cli", "-m", path, "-p", prompt, "-n", str(n)] if has_tokenizer else []

    def read_back(self, loaded: LoadedModel, path: Path, *, dtype: str = "f32") -> str:
        """Compare all fields and numbers of the file with the model, because llama.cpp is often not installed."""
        return check_file(path, *file_parts(loaded, dtype), dtype)

    def rounded_weights(self, loaded: LoadedModel, dtype: str) -> LoadedModel:
        """Return our model with the weights of a file in this dtype; the model itself for f32."""
        return loaded if dtype == "f32" else round_weights(loaded, dtype)

    def reference(self, loaded: LoadedModel, dtype: str) -> LoadedModel:
        """Return our model with the roundings of llama.cpp's kernels."""
        return emulate_llama_cpp(loaded, dtype)

    def tolerance(self, loaded: LoadedModel, dtype: str) -> float:
        """Return the limit, measured for this model: see `logit_tolerance`."""
        return logit_tolerance(loaded, dtype)

    def notes(self, loaded: LoadedModel) -> Sequence[str]:
        """Return what llama.cpp does differently: with a published tokenizer, and with exact GELU."""
        tokenizer, config = loaded.file.tokenizer, loaded.model.config
        notes = [*_published_vocabulary(tokenizer).notes] if isinstance(tokenizer, HuggingFaceTokenizer) else []
        if config.activation == "gelu" and MLPS[config.mlp].uses_activation:
            notes.append("llama.cpp computes GELU's tanh form, and the model exact GELU: logits differ slightly")
        return notes

    def tokenizer_texts(self, loaded: LoadedModel) -> Sequence[str]:
        """Return the texts that have the same ids in llama.cpp."""
        differs = LEADING_SPACE in self.notes(loaded)
        return [text for text in TOKENIZER_TEXTS if not (differs and text.startswith(" "))]


def file_parts(loaded: LoadedModel, dtype: str) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the fields of the file and its tensors, float32, both by GGUF's names. Raises ConfigError."""
    config, state = trim_vocab(loaded)
    tokenizer = loaded.file.tokenizer
    tokens: dict[str, Any] = {"tokenizer.ggml.model": "no_vocab"}
    if tokenizer:
        tokens = with_padding(vocabulary_fields(tokenizer), config.vocab_size)
    return metadata(config, loaded.file, dtype) | tokens, gguf_tensors(config, state)


def with_padding(fields: Mapping[str, Any], n: int) -> dict[str, Any]:
    """Return the fields of a vocabulary with a token for each of n rows of the table, as llama.cpp's converter does."""
    names = fields["tokenizer.ggml.tokens"]
    missing = range(len(names), n)
    values: dict[str, list[Any]] = {
        "tokens": [f"[PAD{i}]" for i in missing],
        "token_type": [UNUSED] * len(missing),
        "scores": [PADDING_SCORE] * len(missing),
    }
    added = {f"tokenizer.ggml.{name}": value for name, value in values.items()}
    return {**fields, **{name: [*fields[name], *added[name]] for name in added if name in fields}}


def vocabulary_fields(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the vocabulary of a tokenizer as fields of a GGUF file; ids stay the same.

    For a published tokenizer, see `gguf_fields_from_tokenizer_json`. All of ours are byte-pair encodings there, of
    llama.cpp's kind "gpt2". It splits a text by GPT-2's pattern, writes each byte as a visible character, and merges
    neighbours by a list of merges, the earliest first. The result of a merge need not be a token unless it remains at
    the end. So
      - bytes are 256 tokens and no merge;
      - a character of several bytes is merged from them, the first two first. A merge always begins at a first byte,
        and no byte is both first and later, so two characters never merge;
      - for a trained vocabulary each way to make a token from two others is listed.
    """
    if isinstance(tokenizer, HuggingFaceTokenizer):
        return _published_vocabulary(tokenizer).fields
    char_of = bytes_to_unicode()
    texts = ["".join(char_of[b] for b in tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)]
    names = {i: f"<|no-text-{i}|>" for i, text in enumerate(texts) if not text} | {tokenizer.separator: SEPARATOR}
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": [names.get(i, text) for i, text in enumerate(texts)],
        "tokenizer.ggml.token_type": [NORMAL if text else CONTROL for text in texts],
        # The writer skips an empty list. This merge never applies, because no text contains the separator.
        "tokenizer.ggml.merges": _merges(tokenizer, texts) or [f"{SEPARATOR} {SEPARATOR}"],
        "tokenizer.ggml.bos_token_id": tokenizer.separator,
        "tokenizer.ggml.eos_token_id": tokenizer.separator,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.ggml.add_eos_token": False,
    }


def without_padding(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return the fields of a file without the tokens that `with_padding`, or llama.cpp's converter, has added."""
    names, kinds = fields.get("tokenizer.ggml.tokens"), fields.get("tokenizer.ggml.token_type")
    if not isinstance(names, list) or not isinstance(kinds, list) or len(names) != len(kinds):
        return dict(fields)
    n = len(names)
    while n and kinds[n - 1] == UNUSED and names[n - 1] == f"[PAD{n - 1}]":
        n -= 1
    lists = [f"tokenizer.ggml.{name}" for name in ("tokens", "token_type", "scores")]
    cut = {name: fields[name][:n] for name in lists if isinstance(fields.get(name), list)}
    return {**fields, **cut}


@lru_cache(maxsize=1)
def _published_vocabulary(tokenizer: HuggingFaceTokenizer) -> GGUFVocabulary:
    return gguf_fields_from_tokenizer_json(
        tokenizer.data,
        vocab_size=tokenizer.vocab_size,
        separator=tokenizer.separator,
        prefix=tokenizer.prefix,
        suffix=tokenizer.suffix,
        stop_ids=tokenizer.stop_ids,
        control=tokenizer.control,
    )


def _merges(tokenizer: Tokenizer, texts: list[str]) -> list[str]:
    """Return the merges, "left right" each."""
    if isinstance(tokenizer, GPT2Tokenizer):
        return [line for line in tokenizer.merges.split("\n")[1:] if line]
    if isinstance(tokenizer, BytePairTokenizer):
        return [f"{left} {right}" for left, right in to_tokenizer_json(tokenizer)["model"]["merges"]]
    # Byte by byte from the left: a merge needs both of its sides to exist already.
    merges = (f"{text[:cut]} {text[cut]}" for text in texts for cut in range(1, len(text)))
    return list(dict.fromkeys(merges))


def write_parts(path: Path, fields: Mapping[str, Any], tensors: Mapping[str, Tensor], dtype: str) -> None:
    """Write fields and tensors (float32) as given. Raises ConfigError for a weight that the dtype cannot hold."""
    gguf = require("gguf", "gguf")
    with atomic_path(path) as partial:
        writer = gguf.GGUFWriter(partial, fields["general.architecture"])
        for key, value in fields.items():
            if key != "general.architecture":  # the writer adds it
                _add_field(writer, key, value)
        for name, tensor in tensors.items():
            kind = tensor_dtype(name, tuple(tensor.shape), dtype)
            writer.add_tensor(name, quantize(name, tensor, kind), raw_dtype=gguf.GGMLQuantizationType[kind.upper()])
        try:
            writer.write_header_to_file()
            writer.write_kv_data_to_file()
            writer.write_tensors_to_file()
            writer.close()
        except OSError as error:
            raise _reason(error, partial) from None


def _reason(error: OSError, path: Path) -> OSError:
    """Return the reason why a file cannot be written. NumPy does not say it: that of another write to the same file."""
    if error.errno is not None:
        return error
    try:
        with open(path, "ab") as file:
            file.write(bytes(1 << 20))
    except OSError as reason:
        return reason
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _add_field(writer: Any, key: str, value: Any) -> None:
    """Add a field in the type that llama.cpp reads: unsigned 32 bits for whole numbers, float32 for others."""
    # struct.pack would fail later, without the name of the field.
    if type(value) is int and not 0 <= value < 1 << 32:
        raise ConfigError(f"{key} is {value}, and a GGUF file can store only numbers from 0 to {(1 << 32) - 1}")
    add = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    add.get(type(value), writer.add_array)(key, value)
