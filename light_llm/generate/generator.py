"""Text in, text out: a trained model with its own tokenizer, from one path."""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..checkpoint import load_model
from ..config import DEFAULT_SAMPLING, MAX_SEED, check_range, repr_short
from ..data.tokenizers import start_ids
from ..errors import CheckpointError, ConfigError
from ..runtime import choose_device
from .decode import decode_text
from .inference import check_inference_dtype, convert_for_inference
from .sampling import Sampling


class TextGenerator:
    """Generates text with a model file: `best_model.pt`, a step folder, or a run folder (its best model).

    Args:
        device: auto, cpu, cuda, cuda:N or mps.
        dtype: the number format of the weights in products. auto is float32, in which a seed gives the same text alone,
            in a batch, cached or streamed; bfloat16 is several times as fast, and a seed repeats only the same call.
        quantize: none, or int8: faster still, with weights rounded to 1/127 of their row's largest.

    Raises:
        CheckpointError: nothing at the path, a damaged file, or a model without a tokenizer.
        ConfigError: an unknown dtype or quantize, or both of them.
        DeviceError: a device this machine does not have.
    """

    def __init__(
        self,
        checkpoint: str | Path = "checkpoints",
        *,
        device: str = "auto",
        dtype: str = "auto",
        quantize: str = "none",
    ) -> None:
        check_inference_dtype(dtype, quantize)
        self.device = choose_device(device)
        loaded = load_model(checkpoint, self.device.value)
        self.model = loaded.model
        self.format = convert_for_inference(self.model, dtype, quantize)
        self.file = replace(loaded.file, weights={})  # the model has them, possibly in another format
        if self.file.tokenizer is None:
            raise CheckpointError(
                f"{self.file.path} has no tokenizer: it was trained from a loader that is not ours; "
                "use light_llm.checkpoint.load_model and decode its ids yourself"
            )
        self.tokenizer = self.file.tokenizer
        self.context = self.file.training_window

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

        Args:
            prompt: the beginning of the text; empty starts a new text.
            max_new_tokens: fewer are generated if the text ends or a stop string occurs.
            stop: the text ends before the first of these.
            seed: repeats a text; None for a new one.
            sampling: settings of `Sampling`, such as temperature=0.7; the others are those of DEFAULT_SAMPLING.

        Raises:
            ConfigError: a value out of range, or a prompt longer than the model's context.
            DataError: a character that the model's alphabet lacks.
        """
        settings = replace(DEFAULT_SAMPLING, **sampling)
        (text,) = self.generate_many([prompt], max_new_tokens=max_new_tokens, sampling=settings, stop=stop, seed=seed)
        return prompt + text

    def generate_many(
        self,
        prompts: Sequence[str],
        *,
        max_new_tokens: int = 100,
        sampling: Sampling | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
    ) -> list[str]:
        """Return the continuations of several prompts, without the prompts, generated in one batch.

        Row i is the continuation that `generate` returns for seed + i.
        """
        prompts = [prompts] if isinstance(prompts, str) else prompts
        if not prompts:
            return []
        pieces = self._pieces(prompts, max_new_tokens, sampling or Sampling(), stop, seed)
        return ["".join(row) for row in zip(*pieces, strict=True)]

    def stream(
        self,
        prompt: str = "",
        *,
        max_new_tokens: int = 100,
        sampling: Sampling | None = None,
        stop: str | Sequence[str] = (),
        seed: int | None = None,
        each_token: bool = False,
    ) -> Iterator[str]:
        """Yield the continuation in pieces, each as soon as it cannot change.

        A character of several bytes is yielded whole, and the possible beginning of a stop string is held back. With
        `each_token` there is one piece per token, even if it is empty, and a last one for text that was held back.
        """
        for (piece,) in self._pieces([prompt], max_new_tokens, sampling or Sampling(), stop, seed):
            if piece or each_token:
                yield piece

    def encode_prompt(self, prompt: str) -> list[int]:
        """Return the ids to start from. Raises ConfigError for a prompt longer than the context."""
        ids = self.tokenizer.encode(prompt)
        if not ids:
            return start_ids(self.tokenizer, knows_separator=self.file.knows_separator)
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
        check_request(max_new_tokens, stop, seed, rows=len(prompts))
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


def check_request(max_new_tokens: int, stop: Sequence[str], seed: int, *, rows: int = 1) -> None:
    """Raise ConfigError for an unusable length or stop string, or a seed so large that that of a row overflows."""
    check_range("max_new_tokens", max_new_tokens, low=1, integer=True)
    check_range("seed", seed, low=0, high=MAX_SEED - rows, integer=True)
    if not isinstance(stop, (list, tuple)) or not all(isinstance(s, str) for s in stop):
        raise ConfigError(f"stop={repr_short(stop)} cannot be used; it must be a text, or a list of them")
    if any(not s for s in stop):
        raise ConfigError("stop='' cannot be used: every text contains it; leave it out or write a word")
