"""Import checkpoints of nanoGPT.

A checkpoint is a file of `torch.save`: {"model": tensors, "model_args": sizes, "optimizer", "iter_num",
"best_val_loss", "config"}. Its matrices are (out, in) as ours, its head is tied, its GELU is the exact one.
"""

import math
import zipfile
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import LoadedModel
from ..checkpoint.model_file import KIND
from ..config import ModelConfig, check_choice, repr_short
from ..config.choices import ACTIVATIONS
from ..data import Tokenizer
from ..data.tokenizers import CharTokenizer
from ..errors import CheckpointError, ConfigError, DataError
from .hf_mapping import HEAD, from_hf_tensors, same_numbers, strip_prefix
from .import_model import make_loaded
from .import_tokenizer import named_tokenizer
from .tensor_names import NANOGPT
from .weight_files import in_memory

GPT2_SIZES = (50257, 50304)  # ids, and the multiple of 64 that nanoGPT pads them to
TEXT_CHUNK = 1 << 20  # characters that are read at once
MAX_PICKLE = 8 << 20  # bytes of names and sizes in a checkpoint: a hundred times the usual
_PICKLE = "a pickle, which can run code when it is read"
_ANOTHER = "use a checkpoint that nanoGPT's train.py wrote"


def read_checkpoint(
    path: Path, *, tokenizer: str = "", text: Path | None = None, activation: str = "gelu", offline: bool = False
) -> LoadedModel:
    """Return the model in a checkpoint of nanoGPT, without running code from it.

    Args:
        tokenizer: gpt2 (the default for 50,257 or 50,304 ids), char, byte, the path of a `tokenizer.json`, or none.
        text: for char, the text that the model was trained on: its sorted alphabet is the vocabulary, which nanoGPT
            keeps in a pickle, meta.pkl. Our vocabulary has one id more, the separator. Its row is a copy of the row of
            the rarest character. A row of zeros would have the logit 0: 70 times as likely in a model of Shakespeare.
        activation: gelu, or gelu_tanh for a checkpoint from before nanoGPT changed to the exact form.

    Raises:
        CheckpointError: damaged, no checkpoint of nanoGPT, or one of a modified nanoGPT; the reason is named.
        ConfigError: an unknown tokenizer, or char without a text.
        DataError: the text cannot be read, or has another alphabet.
    """
    check_choice("activation", activation, tuple(ACTIVATIONS))
    if text is not None and tokenizer != "char":
        raise ConfigError("{--text} is for {--tokenizer char} and has no effect on another tokenizer; leave it out")
    counts = _count_characters(text) if text else Counter[str]()
    stored = _load(path)
    tensors = strip_prefix(in_memory(_tensors_of(stored, path), path), NANOGPT, path)
    head, table = tensors.get(HEAD), tensors.get("wte.weight")
    # torch.save keeps both names of the tied table; a fork may have untied them.
    tied = head is None or (table is not None and same_numbers(head, next(table.pieces(1))[1]))
    config = replace(_config_of(stored, path), activation=activation, tied_head=tied)
    weights = from_hf_tensors(tensors, NANOGPT, config, path)
    model_tokenizer = _tokenizer_of(config.vocab_size, tokenizer, "".join(sorted(counts)), path, offline=offline)
    if isinstance(model_tokenizer, CharTokenizer):
        if len(counts) != config.vocab_size:
            raise DataError(
                f"{text} has {len(counts):,} different characters, and the model vocab_size={config.vocab_size:,}: "
                "it is not the text that was prepared; name that one with {--text}"
            )
        rarest = min(range(len(counts)), key=lambda i: counts[model_tokenizer.alphabet[i]])
        for name in weights.keys() & {"wte.weight", HEAD}:
            weights[name] = torch.cat([weights[name], weights[name][rarest, None]])
        config = replace(config, vocab_size=config.vocab_size + 1)
    if model_tokenizer is not None and model_tokenizer.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{path} has vocab_size={config.vocab_size:,}, and the tokenizer {model_tokenizer.vocab_size:,} ids; name "
            "the one it was trained with, or {--tokenizer none}"
        )
    step, loss = stored.get("iter_num"), stored.get("best_val_loss")
    origin: dict[str, Any] = {"format": "nanogpt", "name": path.name}
    with suppress(TypeError, ValueError, RuntimeError):  # a record for people, so a strange value is left out
        if math.isfinite(value := float(loss)):  # type: ignore[arg-type]
            origin["best_val_loss"] = value
    # nanoGPT separates documents with GPT-2's separator, but its character data is one text without any.
    documents = 1 if isinstance(model_tokenizer, CharTokenizer) else 2
    data = {"max_length": config.n_positions, "documents": documents}
    # Beyond 2^53 a JSON reader may not return the same number.
    step = step if type(step) is int and 0 <= step < 1 << 53 else 0
    return make_loaded(path, weights, config, model_tokenizer, data=data, origin=origin, step=step)


def _load(path: Path) -> dict[str, Any]:
    """Return the values of the file. Compressed records are refused: they could fill the memory."""
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            compressed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
            if compressed or any(r.file_size > MAX_PICKLE for r in records if r.filename.endswith("data.pkl")):
                raise CheckpointError(
                    f"{path} is not a checkpoint of nanoGPT: its records are compressed or too large; {_ANOTHER}"
                )
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}; {_ANOTHER}") from None
    except CheckpointError:
        raise
    except Exception as error:  # damaged and foreign files raise several unrelated types
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        if reason.startswith("Weights only"):  # torch's message advises to run the code in the file
            reason = "objects that only running its code would make"
        raise CheckpointError(
            f"{path} is damaged, or holds more than numbers and names ({reason}); {_ANOTHER}"
        ) from None
    values = stored if isinstance(stored, dict) else {}
    if values.get("kind") == KIND:
        raise CheckpointError(f"{path} is a model of light-llm already; use it as it is: {{--checkpoint {path}}}")
    if missing := [name for name in ("model", "model_args") if name not in values]:
        raise CheckpointError(f"{path} is not a checkpoint of nanoGPT: it has no {missing[0]}; {_ANOTHER}")
    return values


def _tensors_of(stored: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """Return the tensors by name, without the prefix that torch.compile adds. Raises CheckpointError."""
    tensors = stored["model"]
    if not isinstance(tensors, dict) or not all(isinstance(name, str) and _is_plain(t) for name, t in tensors.items()):
        raise CheckpointError(f"{path} is not a checkpoint of nanoGPT: its model is not a table of plain tensors")
    return {name.removeprefix("_orig_mod."): tensor for name, tensor in tensors.items()}


def _is_plain(tensor: Any) -> bool:
    """Return whether all numbers of a tensor are in the file: an expanded view of one byte can claim any size."""
    is_dense = type(tensor) is Tensor and tensor.layout == torch.strided and tensor.device.type == "cpu"
    return is_dense and tensor.is_contiguous()


def _config_of(stored: dict[str, Any], path: Path) -> ModelConfig:
    """Return nanoGPT's sizes as our config. Raises CheckpointError for a size that is missing or unknown."""
    sizes = stored["model_args"]
    if not isinstance(sizes, dict):
        raise CheckpointError(f"{path} is not a checkpoint of nanoGPT: its model_args are not a table")
    # An unknown size belongs to a modified GPT, which this import would compute wrongly.
    needed = ("n_layer", "n_head", "n_embd", "block_size", "vocab_size", "bias")
    for name, value in sizes.items():
        if name not in (*needed, "dropout"):
            raise CheckpointError(
                f"{path}: model_args has {repr_short(name)}={repr_short(value)}, which nanoGPT's GPT does not: a "
                "changed nanoGPT cannot be imported, because what it computes is unknown"
            )
    if missing := [name for name in needed if name not in sizes]:
        raise CheckpointError(f"{path}: model_args has no {missing[0]}; {_ANOTHER}")
    if type(sizes["bias"]) is not bool:
        raise CheckpointError(f"{path}: model_args has bias={repr_short(sizes['bias'])}; it has to be True or False")
    try:
        return ModelConfig(**{"n_positions" if name == "block_size" else name: value for name, value in sizes.items()})
    except ConfigError as error:
        raise CheckpointError(f"{path} describes a model that light-llm does not have: {error}") from None


def _tokenizer_of(size: int, spec: str, alphabet: str, path: Path, *, offline: bool) -> Tokenizer | None:
    """Return the tokenizer of a model with `size` ids; None for `--tokenizer none`. Raises ConfigError."""
    if spec == "none":
        return None
    if spec == "char":
        if not alphabet:
            raise ConfigError(
                "{--tokenizer char} needs the text that was prepared, as in {--text input.txt}: nanoGPT stores its "
                f"alphabet in meta.pkl, {_PICKLE}"
            )
        return CharTokenizer(alphabet)
    if spec or size in GPT2_SIZES:
        return named_tokenizer(spec or "gpt2", offline=offline)
    raise ConfigError(
        f"{path} has vocab_size={size:,}, which is not GPT-2's, and does not say which characters its ids are: nanoGPT "
        f"stores that in meta.pkl, {_PICKLE}; name the text it was prepared from ({{--tokenizer char}} and "
        "{--text input.txt}), or use {--tokenizer none}"
    )


def _count_characters(text: Path) -> Counter[str]:
    """Count each character of a text file. Raises DataError."""
    counts = Counter[str]()
    try:
        with open(text, encoding="utf-8", newline=None) as file:  # nanoGPT's prepare.py reads with newline=None too
            while chunk := file.read(TEXT_CHUNK):
                counts.update(chunk)
    except OSError as error:
        raise DataError(f"{text} cannot be read: {error.strerror or error}; name the text with {{--text}}") from None
    except UnicodeDecodeError as error:
        raise DataError(
            f"{text} is not UTF-8 ({error.reason}); name the text that was prepared with {{--text}}"
        ) from None
    return counts
