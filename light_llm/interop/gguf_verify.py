"""A GGUF file read back without llama.cpp: every tensor and field of it, against the model it was made of.

It comes from the other side. The names are looked up in the table of the `gguf` package by what Hugging Face calls the
tensors, rows are put back in their order one by one, and the joins of the tokenizer are applied as GGUF defines them.
What it cannot tell is what llama.cpp computes.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import LoadedModel
from ..config import ModelConfig
from ..data import Tokenizer
from ..data.bpe import unicode_to_bytes
from ..errors import CheckpointError
from ..layers.positions import frequencies
from . import hf_mapping
from .architectures import cut_to_tokenizer, family_of
from .gguf_dtypes import unpacked
from .gguf_tensors import BLOCK, FILE_TYPES, format_of
from .optional_deps import need
from .verify import TEXTS

CONTROL = 3  # the kind of a token that stands for no text
CLOSE = 1e-6  # of two float32 numbers that were computed in other ways


@dataclass(frozen=True)
class ReadBack:
    """What was found in a file, all of it as it was meant."""

    program: str  # "gguf 0.19.0"
    tensors: int
    formats: Mapping[str, int]  # tensors by number format
    tokens: int | None  # of the vocabulary; None where the file has none

    @property
    def words(self) -> str:
        """One line."""
        formats = " and ".join(f"{n} in {kind}" for kind, n in self.formats.items())
        ids = "" if self.tokens is None else f", its {self.tokens:,} tokens give the same ids"
        return f"read back with {self.program}: {self.tensors} tensors ({formats}) are the model's{ids}"


def read_back(loaded: LoadedModel, path: Path, *, dtype: str = "f32") -> ReadBack:
    """Compare a GGUF file with the model and dtype it should hold.

    Raises:
        ConfigError: the package `gguf` is not installed.
        CheckpointError: the file is not that model; the message says in what.
    """
    gguf = need("gguf", "gguf")
    config, state = cut_to_tokenizer(loaded)
    try:
        reader = gguf.GGUFReader(path)
        fields = {name: field.contents() for name, field in reader.fields.items()}
        _check_fields(fields, config, dtype)
        formats = _check_tensors(gguf, reader.tensors, config, state, dtype)
        tokenizer = loaded.file.tokenizer
        if tokenizer is not None:
            _check_tokenizer(fields, tokenizer)
    except _Differs as error:
        raise CheckpointError(
            f"{path} was read back, and it is not the model: {error}. Do not use it; "
            "please report it, with the versions of torch and gguf"
        ) from None
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OSError) as error:
        raise CheckpointError(f"{path} cannot be read as GGUF ({error!r:.120}); export it again") from None
    version = getattr(gguf, "__version__", "") or _version()
    return ReadBack(f"gguf {version}", len(reader.tensors), formats, tokenizer.vocab_size if tokenizer else None)


class _Differs(Exception):
    """What in the file is not the model's."""


def _version() -> str:
    from importlib.metadata import version

    return version("gguf")


def _check_fields(fields: Mapping[str, Any], config: ModelConfig, dtype: str) -> None:
    """The family and every number that a program needs to build the model."""
    family = family_of(config)
    wanted: dict[str, Any] = {
        "general.architecture": family,
        "general.file_type": FILE_TYPES[dtype],
        f"{family}.vocab_size": config.vocab_size,
        f"{family}.context_length": config.n_positions,
        f"{family}.embedding_length": config.n_embd,
        f"{family}.block_count": config.n_layer,
        f"{family}.feed_forward_length": config.inner_size,
        f"{family}.attention.head_count": config.n_head,
    }
    if family == "gpt2":
        wanted["gpt2.attention.layer_norm_epsilon"] = config.norm_eps
    else:
        scaled = config.rope_scaling == "linear"
        wanted |= {
            f"{family}.attention.head_count_kv": config.kv_heads,
            f"{family}.attention.key_length": config.head_size,
            f"{family}.attention.value_length": config.head_size,
            f"{family}.rope.dimension_count": config.head_size,
            f"{family}.attention.layer_norm_rms_epsilon": config.norm_eps,
            f"{family}.rope.freq_base": config.rope_base,
            f"{family}.rope.scaling.type": "linear" if scaled else None,
            f"{family}.rope.scaling.factor": config.rope_factor if scaled else None,
        }
    for name, value in wanted.items():
        if not _equal(fields.get(name), value):
            raise _Differs(f"{name} is {fields.get(name)!r} and should be {value!r}")


def _equal(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, float) and isinstance(found, (int, float)):
        return abs(found - wanted) <= CLOSE * abs(wanted)  # the file has float32
    return type(found) is type(wanted) and bool(found == wanted)


def _check_tensors(
    gguf: ModuleType, stored: Sequence[Any], config: ModelConfig, state: Mapping[str, Tensor], dtype: str
) -> dict[str, int]:
    """Each tensor of the model is there once, in its format and within what the format rounds. Returns the formats."""
    family, found = family_of(config), {tensor.name: tensor for tensor in stored}
    known = gguf.get_tensor_name_map(gguf.MODEL_ARCH[family.upper()], config.n_layer)
    wanted = {known.get_name(n, (".weight", ".bias")): (n, t) for n, t in hf_mapping.tensors(config, state).items()}
    scaled = {"rope_freqs.weight"} if config.rope_scaling == "llama3" else set()
    if len(found) != len(stored) or found.keys() != wanted.keys() | scaled:
        odd = sorted(str(name) for name in found.keys() ^ (wanted.keys() | scaled))
        raise _Differs(
            f"it has {len(stored)} tensors and should have {len(wanted) + len(scaled)}: {', '.join(odd[:3])}"
        )
    for name, (other, meant) in wanted.items():
        if family == "gpt2" and meant.ndim == 2 and ".h." in other:  # (in, out) at Hugging Face
            meant = meant.T
        kind = found[name].tensor_type.name.lower()
        if kind != (right := format_of(name, tuple(meant.shape), dtype)):
            raise _Differs(f"{name} is in {kind} and should be in {right}")
        numbers = unpacked(gguf, found[name].data, kind)
        if family == "llama" and name.endswith(("attn_q.weight", "attn_k.weight")):
            numbers = numbers[_rows_of_halves(len(numbers), config.head_size)]
        _check_numbers(name, numbers, meant, kind)
    if scaled:
        _check_factors(unpacked(gguf, found["rope_freqs.weight"].data, "f32"), config)
    return dict(Counter(tensor.tensor_type.name.lower() for tensor in stored))


def _rows_of_halves(rows: int, D: int) -> list[int]:
    """Where in the file each row of ours stands, (rows,): pair i of a head is ours i and i + D/2, there 2i and 2i + 1.

    >>> _rows_of_halves(4, 4)
    [0, 2, 1, 3]
    """
    return [start + 2 * i + half for start in range(0, rows, D) for half in (0, 1) for i in range(D // 2)]


def _check_numbers(name: str, found: Tensor, meant: Tensor, kind: str) -> None:
    if found.shape != meant.shape:
        raise _Differs(f"{name} has the shape {tuple(found.shape)} and should have {tuple(meant.shape)}")
    off = (found - meant).abs() - largest_error(meant, kind)
    if not bool((off <= 0).all()):  # NaN is not
        worst = float((found - meant).abs().max())
        raise _Differs(f"{name} is off by {worst:.1e}, more than {kind} rounds")


def largest_error(x: Tensor, kind: str) -> Tensor:
    """How far a format may move each number of (rows, n): half of its last digit, and half of the smallest number.

    float16 has 11 digits (bits), bfloat16 has 8. q8_0 has whole numbers up to 127 of a scale that 32 numbers share,
    half of one being lost, and the scale is a float16.
    """
    if kind == "f16":
        return x.abs() * 2**-11 + 2**-25
    if kind == "bf16":
        return x.abs() * 2**-8 + 2**-134
    if kind == "q8_0":
        largest = x.reshape(-1, BLOCK).abs().amax(dim=-1, keepdim=True).expand(-1, BLOCK).reshape(x.shape)
        return largest * (0.5 / 127 * (1 + CLOSE) + 2**-11) + 127 * 2**-25
    return torch.zeros_like(x)


def _check_factors(found: Tensor, config: ModelConfig) -> None:
    """The angles that follow from the file's factors are ours."""
    D = config.head_size
    plain = config.rope_base ** -(torch.arange(0, D, 2, dtype=torch.float64) / D)
    meant = frequencies(config, torch.device("cpu")).double()
    if found.shape != meant.shape or not torch.allclose(plain / found, meant, rtol=10 * CLOSE, atol=0):
        raise _Differs("rope_freqs.weight turns by other angles")


def _check_tokenizer(fields: Mapping[str, Any], tokenizer: Tokenizer) -> None:
    """Each id has its text, and texts have their ids by the joins of the file."""
    prefix = "tokenizer.ggml."
    plain = {"model": "gpt2", "pre": "gpt-2", "add_bos_token": False, "add_eos_token": False}
    ends = {"bos_token_id": tokenizer.separator, "eos_token_id": tokenizer.separator}
    for name, value in (plain | ends).items():
        if not _equal(fields.get(prefix + name), value):
            raise _Differs(f"{prefix}{name} is {fields.get(prefix + name)!r} and should be {value!r}")
    tokens, kinds = fields[f"{prefix}tokens"], fields[f"{prefix}token_type"]
    if not len(tokens) == len(kinds) == tokenizer.vocab_size or len(set(tokens)) != len(tokens):
        raise _Differs(f"it has {len(set(tokens)):,} tokens and should have {tokenizer.vocab_size:,}")
    shown = unicode_to_bytes("" if kind == CONTROL else token for token, kind in zip(tokens, kinds, strict=True))
    for i, text in enumerate(shown):
        if text != tokenizer.token_bytes(i):
            raise _Differs(f"token {i} is {text!r} and should be {tokenizer.token_bytes(i)!r}")
    ids, ranks = {token: i for i, token in enumerate(tokens)}, _ranks(fields[f"{prefix}merges"])
    alphabet = getattr(tokenizer, "alphabet", None)
    for whole in TEXTS:
        known = whole if alphabet is None else "".join(c for c in whole if c in alphabet)
        found = [ids.get(part, -1) for word in _words(known) for part in joined(word, ranks)]
        if found != tokenizer.encode(known):
            raise _Differs(f"its joins make other ids of {known!r}: {found[:8]}")


def _ranks(merges: Sequence[str]) -> dict[tuple[str, str], int]:
    """The place of each join in the list, by what it joins."""
    pairs = (merge.partition(" ") for merge in merges)
    return {(left, right): i for i, (left, _, right) in reversed(list(enumerate(pairs)))}


def _words(text: str) -> list[str]:
    """A text cut by GPT-2's pattern, each byte a visible character."""
    from tokenizers.pre_tokenizers import ByteLevel

    return [word for word, _ in ByteLevel(add_prefix_space=False, use_regex=True).pre_tokenize_str(text)]


def joined(word: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """The parts of a word when the earliest join of the list is made, the leftmost first, until none is left.

    >>> joined("abcab", {("a", "b"): 0, ("ab", "c"): 1})
    ['abc', 'ab']
    """
    parts = list(word)
    while True:
        found = [(ranks[pair], i) for i, pair in enumerate(pairwise(parts)) if pair in ranks]
        if not found:
            return parts
        _, i = min(found)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
