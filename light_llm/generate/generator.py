"""Text in, text out: a trained model with its own tokenizer, from one path."""

import copy
import os
import secrets
from collections.abc import Iterator, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import ModelFile, load_model
from ..checkpoint.load import missing_tokenizer
from ..config import DEFAULT_SAMPLING, MAX_SEED, as_plain, get_model_size, repr_short, whole_number
from ..data import Tokenizer
from ..data.python_inputs import own_tokenizer
from ..data.tokenizers import start_ids
from ..errors import ConfigError, did_you_mean
from ..model import LightLLM
from ..runtime import choose_device
from .decode import decode_text
from .inference import check_inference_dtype, convert_for_inference
from .sampling import Sampling


class TextGenerator:
    """Generates text with a model file: `best_model.pt`, a step folder, or a run folder (its best model).

    Args:
        checkpoint: the path; or a model, which is copied, so that its training can continue.
        tokenizer: of a model, or of a file without one, from a loader that is not ours.
        context: tokens that a prediction sees at most. By default those of the windows that the file's model was
            trained on; for a model, its n_positions: give its max_length if that was smaller.
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: the number format of the weights in products. auto is float32, in which a seed gives the same text alone,
            in a batch, cached or streamed; bfloat16 is several times as fast, and a seed repeats only the same call.
        quantize: none, or int8: faster still, with weights rounded to 1/127 of their row's largest.

    Raises:
        CheckpointError: nothing at the path, a damaged file, or a model without a tokenizer.
        ConfigError: an unknown dtype or quantize, or both of them; a tokenizer or context that the model cannot use.
        DeviceError: a device this machine does not have.
    """

    def __init__(
        self,
        checkpoint: str | Path | LightLLM = "checkpoints",
        *,
        tokenizer: Tokenizer | None = None,
        context: int | None = None,
        device: str = "auto",
        dtype: str = "auto",
        quantize: str = "none",
    ) -> None:
        dtype = as_plain(dtype)
        check_inference_dtype(dtype, quantize)
        self.device = choose_device(device)
        self.model, self.file = _load(checkpoint, self.device.value, _dtype_to_load(dtype, quantize))
        self.tokenizer = _choose_tokenizer(self.file, tokenizer)
        n_positions = self.model.config.n_positions
        self.context = (
            self.file.training_window if context is None else whole_number("context", context, low=1, high=n_positions)
        )
        self.format = convert_for_inference(self.model, dtype, quantize)

    def __repr__(self) -> str:
        return (
            f"TextGenerator({self.file.path}, {get_model_size(self.model.config):,} parameters, {self.tokenizer!r}, "
            f"{self.format.value} on {self.device.value})"
        )

    def generate(
        self,
        prompt: str = "",
        max_new_tokens: int = 100,
        *,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        **sampling: Any,
    ) -> str:
        """Return the prompt and its continuation.

        `generate_many` and `stream` take the same arguments.

        Args:
            prompt: the beginning of the text; empty starts a new text.
            max_new_tokens: fewer are generated if the text ends or a stop string occurs.
            stop: the text ends before the first of these.
            seed: repeats a text; None for a new one.
            sampling: settings of `Sampling`, such as temperature=0.7; the others are temperature=0.8 and top_k=40, or
                those of a `Sampling` given as sampling=...

        Raises:
            ConfigError: a value out of range, or a prompt longer than the model's context.
            DataError: a character that the model's alphabet lacks.
        """
        _check_prompt(prompt)
        (text,) = self.generate_many([prompt], max_new_tokens=max_new_tokens, stop=stop, seed=seed, **sampling)
        return prompt + text

    def generate_many(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 100,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        **sampling: Any,
    ) -> list[str]:
        """Return the continuations of several prompts, without the prompts, generated in one batch.

        Row i is the continuation that `generate` returns for seed + i. The other arguments are those of `generate`.
        """
        if not isinstance(prompts, (str, Sequence)):
            raise ConfigError(f"prompts={repr_short(prompts)} cannot be used; give a list of texts")
        prompts = [prompts] if isinstance(prompts, str) else prompts
        settings = choose_sampling(**sampling)
        if not prompts:
            return []
        pieces = self._pieces(prompts, max_new_tokens, settings, stop, seed)
        return ["".join(row) for row in zip(*pieces, strict=True)]

    def stream(
        self,
        prompt: str = "",
        max_new_tokens: int = 100,
        *,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        each_token: bool = False,
        **sampling: Any,
    ) -> Iterator[str]:
        """Yield the continuation in pieces, each as soon as it cannot change. The arguments are those of `generate`.

        A character of several bytes is yielded whole, and the possible beginning of a stop string is held back. With
        `each_token` there is one piece per token, even if it is empty, and a last one for text that was held back.
        """
        for (piece,) in self._pieces([prompt], max_new_tokens, choose_sampling(**sampling), stop, seed):
            if piece or each_token:
                yield piece

    def encode_prompt(self, prompt: str) -> list[int]:
        """Return the ids to start from, with what the model's tokenizer puts before each text.

        Raises ConfigError for a prompt longer than the context.
        """
        _check_prompt(prompt)
        ids = self.tokenizer.encode(prompt)
        if not ids:
            return start_ids(self.tokenizer, knows_separator=self.file.knows_separator)
        ids = [*self.tokenizer.prefix, *ids]
        if len(ids) > self.context:
            raise ConfigError(
                f"the prompt has {len(ids):,} tokens and this model can see {self.context:,}; "
                f"leave out at least {len(ids) - self.context:,}"
            )
        return ids

    def _pieces(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        sampling: Sampling,
        stop: str | Sequence[str],
        seed: int | None,
    ) -> Iterator[list[str]]:
        """Yield one piece of text per row and token, and a last one for text that was held back."""
        if seed is None:
            seed = secrets.randbits(32)
        stop = (stop,) if isinstance(stop, str) else stop
        max_new_tokens, seed = check_request(max_new_tokens, stop, seed, rows=len(prompts))
        yield from decode_text(
            self.model,
            self.tokenizer,
            [self.encode_prompt(prompt) for prompt in prompts],
            stop=stop,
            sampling=sampling,
            seeds=[seed + i for i in range(len(prompts))],
            max_new_tokens=max_new_tokens,
            context=self.context,
        )


def choose_sampling(sampling: Sampling | None = None, **changes: Any) -> Sampling:
    """Return sampling settings, by default DEFAULT_SAMPLING, with some of them changed.

    >>> choose_sampling(temperature=0.5) == Sampling(temperature=0.5, top_k=40)
    True

    Raises:
        ConfigError: an unknown setting, or a value out of range.
    """
    names = [field.name for field in fields(Sampling)]
    for name in changes:
        if name not in names:
            known = ["prompt", "max_new_tokens", "stop", "seed", *names]
            raise ConfigError(
                f"there is no argument {name!r} of generation{did_you_mean(name, known)} There are {', '.join(known)}"
            )
    if sampling is not None and not isinstance(sampling, Sampling):
        raise ConfigError(f"sampling={repr_short(sampling)} cannot be used; give a Sampling, or its settings by name")
    return replace(sampling or DEFAULT_SAMPLING, **changes)


def _dtype_to_load(dtype: str, quantize: str) -> torch.dtype | None:
    """Return the number format to read weights into: none with more bits than needed; None for those of the file."""
    if quantize == "int8":
        return None
    return torch.bfloat16 if dtype == "bfloat16" else torch.float32


def _load(checkpoint: str | Path | LightLLM, device: str, dtype: torch.dtype | None) -> tuple[LightLLM, ModelFile]:
    """Return a model of our own to convert, and the facts about it, without its weights."""
    checkpoint = getattr(checkpoint, "_orig_mod", checkpoint)  # of torch.compile
    if isinstance(checkpoint, LightLLM):
        # A copy, because the conversion for inference would end its training.
        model = copy.deepcopy(checkpoint).to(device).eval()
        return model, ModelFile(Path("model"), {}, model.config, None, {}, {})
    if not isinstance(checkpoint, (str, os.PathLike)):
        raise ConfigError(f"TextGenerator takes a path or a LightLLM, not {repr_short(checkpoint)}")
    loaded = load_model(checkpoint, device, dtype)
    # The model has the weights, and soon possibly in another format.
    return loaded.model, replace(loaded.file, weights={})


def _choose_tokenizer(file: ModelFile, given: Tokenizer | None) -> Tokenizer:
    """Return the tokenizer to use. Raises CheckpointError without one, ConfigError if the model has too few ids."""
    tokenizer = file.tokenizer if given is None else own_tokenizer(given)
    if tokenizer is None and not file.meta:
        raise ConfigError("a model alone has no tokenizer; give it as well: TextGenerator(model, tokenizer=tokenizer)")
    if tokenizer is None:
        raise missing_tokenizer(file, ". In Python: TextGenerator(path, tokenizer=tokenizer)")
    if tokenizer.vocab_size > file.config.vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size:,} ids and the model {file.config.vocab_size:,}; "
            "give the one that the model was trained with"
        )
    return tokenizer


def _check_prompt(prompt: object) -> None:
    """Raise ConfigError for a prompt that is not a string."""
    if isinstance(prompt, (list, tuple)):
        raise ConfigError(f"prompt={repr_short(prompt)} is not a text; for several prompts use generate_many")
    if not isinstance(prompt, str):
        raise ConfigError(f"prompt={repr_short(prompt)} is not a text (str); leave it out to start a new text")


def check_request(max_new_tokens: int, stop: Sequence[str], seed: int, *, rows: int = 1) -> tuple[int, int]:
    """Return the length and the seed as ints.

    Raises:
        ConfigError: an unusable length or stop string, or a seed so large that that of a row overflows.
    """
    max_new_tokens = whole_number("max_new_tokens", max_new_tokens, low=1)
    seed = whole_number("seed", seed, low=0, high=MAX_SEED - rows)
    if not isinstance(stop, (list, tuple)) or not all(isinstance(s, str) for s in stop):
        raise ConfigError(f"stop={repr_short(stop)} cannot be used; it must be a text, or a list of them")
    if any(not s for s in stop):
        raise ConfigError("stop='' cannot be used: every text contains it; leave it out or write a word")
    return max_new_tokens, seed
