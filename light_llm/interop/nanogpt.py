"""nanoGPT's checkpoints to models of ours.

A checkpoint is a file of `torch.save`: {"model": tensors, "model_args": sizes, "optimizer", "iter_num",
"best_val_loss", "config"}. Its matrices are as ours, (out, in), its head is tied, its GELU is the exact one.
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
from .import_model import as_loaded
from .import_tokenizer import named_tokenizer
from .import_weights import renamed, same, to_ours

GPT2_SIZES = (50257, 50304)  # ids, and the round number that nanoGPT makes of it
SIZES = {"n_layer": "n_layer", "n_head": "n_head", "n_embd": "n_embd", "block_size": "n_positions"}
CHUNK = 1 << 20  # characters that are counted together
MOST_PICKLE = 8 << 20  # bytes of names and sizes in a checkpoint: a hundred times what one has
_PICKLE = "a pickle, which can run code when it is read"


def read_checkpoint(
    path: Path, *, tokenizer: str = "", text: Path | None = None, activation: str = "gelu", offline: bool = False
) -> LoadedModel:
    """The model in a checkpoint of nanoGPT. No code in it is run.

    Args:
        tokenizer: gpt2 (the default for 50,257 or 50,304 ids), char, byte, the path of a `tokenizer.json`, or none.
        text: for char, the text that was prepared: its alphabet, sorted, is the vocabulary. nanoGPT keeps that in
            meta.pkl, a pickle. Ours has one id more, the separator, and its row is that of the rarest character: as
            unlikely. A row of zeros would have the logit 0, 70 times as likely in a model of Shakespeare.
        activation: gelu, or gelu_tanh for a checkpoint from before nanoGPT changed to the exact form.

    Raises:
        CheckpointError: damaged, no checkpoint of nanoGPT, or of a changed one: what is strange is named.
        ConfigError: a tokenizer that does not exist, or char without a text.
        DataError: the text cannot be read, or has another alphabet.
    """
    check_choice("activation", activation, tuple(ACTIVATIONS))
    stored = _load(path)
    theirs = renamed(_tensors_of(stored, path), "nanogpt", path)
    head = theirs.pop("lm_head.weight", None)
    tied = head is None or ("wte.weight" in theirs and same(head, theirs["wte.weight"]))
    if not tied and head is not None:
        theirs["lm_head.weight"] = head
    config = replace(_config_of(stored, path), activation=activation, tied_head=tied)
    weights = to_ours(theirs, "nanogpt", config, path)
    found = _tokenizer_of(config.vocab_size, tokenizer, text, path, offline=offline)
    if isinstance(found, CharTokenizer) and text is not None:
        config, weights = _with_separator(config, weights, found, text)
    if found is not None and found.vocab_size > config.vocab_size:
        raise CheckpointError(
            f"{path} has vocab_size={config.vocab_size:,}, and the tokenizer {found.vocab_size:,} ids; name the one it "
            "was trained with, or --tokenizer none"
        )
    step, loss = stored.get("iter_num"), stored.get("best_val_loss")
    origin: dict[str, Any] = {"format": "nanogpt", "name": path.name}
    with suppress(TypeError, ValueError, RuntimeError):  # it is for people to read
        if math.isfinite(value := float(loss)):  # type: ignore[arg-type]
            origin["best_val_loss"] = value
    documents = 1 if isinstance(found, CharTokenizer) else 2
    data = {"max_length": config.n_positions, "documents": documents}
    step = step if type(step) is int and 0 <= step < 1 << 53 else 0
    return as_loaded(path, weights, config, found, data=data, origin=origin, step=step)


def _load(path: Path) -> dict[str, Any]:
    """The values of the file, whose parts are looked at first: it must not be larger in memory than it is."""
    way_out = "use a checkpoint that nanoGPT's train.py wrote"
    try:
        with zipfile.ZipFile(path) as archive:
            records = archive.infolist()
            packed = any(record.compress_type != zipfile.ZIP_STORED for record in records)
            if packed or any(r.file_size > MOST_PICKLE for r in records if r.filename.endswith("data.pkl")):
                raise CheckpointError(
                    f"{path} is no checkpoint of nanoGPT: its records are packed or too large; {way_out}"
                )
        stored = torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}; {way_out}") from None
    except CheckpointError:
        raise
    except Exception as error:  # damaged and foreign files raise several unrelated types
        reason = (str(error).splitlines() or [type(error).__name__])[0][:160]
        if reason.startswith("Weights only"):  # what torch advises then is to run the file's code
            reason = "objects that only running its code would make"
        raise CheckpointError(
            f"{path} is damaged, or holds more than numbers and names ({reason}); {way_out}"
        ) from None
    missing = [name for name in ("model", "model_args") if not isinstance(stored, dict) or name not in stored]
    if isinstance(stored, dict) and stored.get("kind") == KIND:
        raise CheckpointError(f"{path} is a model of light-llm already; use it as it is: --checkpoint {path}")
    if missing:
        raise CheckpointError(f"{path} is no checkpoint of nanoGPT: it has no {missing[0]}; {way_out}")
    return dict(stored)


def _tensors_of(stored: dict[str, Any], path: Path) -> dict[str, Tensor]:
    """The tensors by name, without what torch.compile puts before each."""
    tensors = stored["model"]
    if not isinstance(tensors, dict) or not all(isinstance(name, str) and _is_plain(t) for name, t in tensors.items()):
        raise CheckpointError(f"{path} is no checkpoint of nanoGPT: its model is no table of plain tensors")
    return {name.removeprefix("_orig_mod."): tensor for name, tensor in tensors.items()}


def _is_plain(tensor: Any) -> bool:
    """Whether something is a tensor with all its numbers in the file: no view of fewer, and none without numbers."""
    return (
        type(tensor) is Tensor
        and tensor.layout == torch.strided
        and tensor.device.type == "cpu"
        and tensor.is_contiguous()
    )


def _config_of(stored: dict[str, Any], path: Path) -> ModelConfig:
    """nanoGPT's sizes as ours. Raises CheckpointError for one that is missing, or not nanoGPT's."""
    sizes = stored["model_args"]
    if not isinstance(sizes, dict):
        raise CheckpointError(f"{path} is no checkpoint of nanoGPT: its model_args are no table")
    known = (*SIZES, "bias", "vocab_size", "dropout")
    for name, value in sizes.items():
        if name not in known:
            raise CheckpointError(
                f"{path}: model_args has {repr_short(name)}={repr_short(value)}, which nanoGPT's GPT does not: a "
                "changed nanoGPT "
                "cannot be imported, as nobody knows what it computes"
            )
    if missing := [name for name in known if name not in sizes and name != "dropout"]:
        raise CheckpointError(f"{path}: model_args has no {missing[0]}; use a checkpoint that nanoGPT's train.py wrote")
    shape = {ours: sizes[theirs] for theirs, ours in SIZES.items()}
    if type(sizes["bias"]) is not bool:
        raise CheckpointError(f"{path}: model_args has bias={repr_short(sizes['bias'])}; it has to be True or False")
    try:
        return ModelConfig(
            **shape, vocab_size=sizes["vocab_size"], bias=sizes["bias"], dropout=sizes.get("dropout", 0.0), n_inner=0
        )
    except ConfigError as error:
        raise CheckpointError(f"{path} describes no model of ours: {error}") from None


def _tokenizer_of(size: int, spec: str, text: Path | None, path: Path, *, offline: bool) -> Tokenizer | None:
    if text is not None and spec != "char":
        raise ConfigError("--text is for the alphabet of --tokenizer char and has no effect on another; leave it out")
    if spec == "none":
        return None
    if spec == "char":
        if text is None:
            raise ConfigError(
                "--tokenizer char needs the text that was prepared, as in --text input.txt: nanoGPT keeps its "
                f"alphabet in meta.pkl, {_PICKLE}"
            )
        return CharTokenizer("".join(sorted(_count(text))))
    if spec or size in GPT2_SIZES:
        return named_tokenizer(spec or "gpt2", offline=offline)
    raise ConfigError(
        f"{path} has vocab_size={size:,}, which is not GPT-2's, and does not say which characters its ids are: nanoGPT "
        f"keeps that in meta.pkl, {_PICKLE}; name the text it was prepared from, --tokenizer char --text input.txt, or "
        "--tokenizer none"
    )


def _count(text: Path) -> Counter[str]:
    """How often each character occurs."""
    try:
        with open(text, encoding="utf-8", newline=None) as file:  # line ends as nanoGPT's prepare.py reads them
            found = Counter[str]()
            while part := file.read(CHUNK):
                found.update(part)
    except OSError as error:
        raise DataError(f"{text} cannot be read: {error.strerror or error}; name the text with --text") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{text} is not UTF-8 ({error.reason}); name the text that was prepared with --text") from None
    return found


def _with_separator(
    config: ModelConfig, weights: dict[str, Tensor], tokenizer: CharTokenizer, text: Path
) -> tuple[ModelConfig, dict[str, Tensor]]:
    """A model with one row more. Raises DataError where the text has not as many characters as the model has ids."""
    if len(tokenizer.alphabet) != config.vocab_size:
        raise DataError(
            f"{text} has {len(tokenizer.alphabet):,} different characters, and the model "
            f"vocab_size={config.vocab_size:,}: it is not the text that was prepared; name that one with --text"
        )
    counts = _count(text)
    rarest = min(range(config.vocab_size), key=lambda i: counts[tokenizer.alphabet[i]])
    longer = {
        n: torch.cat([weights[n], weights[n][rarest, None]]) for n in weights if n in ("wte.weight", "lm_head.weight")
    }
    return replace(config, vocab_size=config.vocab_size + 1), weights | longer
