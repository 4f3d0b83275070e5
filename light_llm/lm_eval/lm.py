"""The three requests of the harness: likelihoods of continuations, likelihoods of whole texts, and generated texts."""

import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from typing import Any

from ..checkpoint import LoadedModel, ModelFile
from ..checkpoint.load import missing_tokenizer
from ..config import MAX_SEED, Sampling, check_choice, check_range, repr_short, settings_of
from ..data.tokenizers import Tokenizer, start_ids
from ..errors import ConfigError
from ..evaluate.windows import Window
from ..generate.decode import decode_text
from ..json_io import parse_json
from .loglikelihood import WindowScore, batch_by_length, score_windows, split_windows

Progress = Callable[[str, int, int], None]  # the kind of request, the number done, the number in all
DEFAULT_MAX_TOKENS = 256  # the harness's default
LENGTHS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first that is given counts
NO_EFFECT = {  # values of other settings that change nothing here
    "num_beams": (1,),
    "early_stopping": (False,),
    "num_return_sequences": (1,),
    "use_cache": (True, False),
}
SAMPLING_SETTINGS = settings_of(Sampling).keys() - {"temperature"}


@dataclass(frozen=True)
class GenerationRequest:
    """The parsed `generation_kwargs` of a task."""

    until: tuple[str, ...]  # the text ends before the first of these
    max_tokens: int
    sampling: Sampling


class LightLLMForEval:
    """A model with its tokenizer, with the methods of the harness's `LM` over plain values.

    Args:
        batch_size: windows, or texts that are generated together.
        dtype: of matrix products for likelihoods, by default the one it was trained in, as in `light-llm eval`. Texts
            are generated in float32.
        last_window: of a text longer than the context. cold: it starts cold, as in `evaluate_loss`; full: it also
            reads tokens of the window before, as in the harness's own models.
        seed: of texts that are sampled.

    Raises:
        CheckpointError: the model has no tokenizer.
        ConfigError: a value out of range.
    """

    def __init__(
        self,
        loaded: LoadedModel,
        *,
        batch_size: int = 16,
        dtype: str | None = None,
        last_window: str = "cold",
        seed: int = 1234,
        progress: Progress | None = None,
    ) -> None:
        check_range("batch_size", batch_size, low=1, integer=True)
        check_range("seed", seed, low=0, high=MAX_SEED, integer=True)
        check_choice("last_window", last_window, ("cold", "full"))
        if loaded.file.tokenizer is None:
            raise missing_tokenizer(loaded.file)
        self.model, self.tokenizer = loaded.model, loaded.file.tokenizer
        self.context = loaded.file.training_window
        self.start = find_start(loaded.file)  # the token before a text without context
        self.batch_size, self.seed, self.progress = batch_size, seed, progress
        self.dtype = dtype or str(loaded.file.meta.get("dtype") or "float32")
        self.fill_last_window = last_window == "full"
        self.truncated = 0  # requests longer than the context, which lost their left end

    @property
    def start_name(self) -> str:
        """The start token in words."""
        if self.start in self.tokenizer.prefix:
            return "the token that begins each text (BOS)"
        if self.start == self.tokenizer.separator:
            return "the separator of documents"
        name = self.tokenizer.token_bytes(self.start).decode("utf-8", errors="replace")
        if not name and (library := getattr(self.tokenizer, "library", None)):  # a special token
            name = library.id_to_token(self.start)
        return f"the token {name!r}"

    def loglikelihood(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """Return log P(continuation | context) in nats, and whether the continuation is the greedy one, for each pair.

        An empty continuation has probability 1. One that is longer than the model's context is scored in windows.
        """
        windows = []
        for context, continuation in pairs:
            context_ids, ids = self.encode_pair(context, continuation)
            self.truncated += len(context_ids) + len(ids) > self.context + 1
            windows.append(split_windows([*context_ids, *ids], len(ids), self.context))
        per_pair = self._score("continuations", windows, greedy=True)
        return [(-math.fsum(s.nats for s in scores), all(s.greedy for s in scores)) for scores in per_pair]

    def loglikelihood_rolling(self, texts: Sequence[str]) -> list[float]:
        """Return log P of each text in nats: of all its tokens, the first one after the start token.

        As in the harness's own models, the tokens of a text are those that the model's tokenizer gives, with BOS if it
        puts one there, which is then scored too, after another BOS.
        """
        ids = [[*self.tokenizer.prefix, *self.tokenizer.encode(text), *self.tokenizer.suffix] for text in texts]
        windows = [
            split_windows([self.start, *row], len(row), self.context, fill_last=self.fill_last_window) for row in ids
        ]
        return [-math.fsum(s.nats for s in scores) for scores in self._score("windows", windows, greedy=False)]

    def generate_until(self, requests: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
        """Return the text after each context; see `parse_generation_kwargs`. Request i is sampled with seed + i."""
        groups: dict[GenerationRequest, list[int]] = {}
        # decode() takes one set of sampling settings for a batch.
        for i, (_, kwargs) in enumerate(requests):
            groups.setdefault(parse_generation_kwargs(kwargs), []).append(i)
        texts: dict[int, str] = {}
        for request, indices in groups.items():
            n = max_prompt_tokens(self.context, request.max_tokens)
            ids = [[*self.tokenizer.prefix, *self.tokenizer.encode(requests[i][0])] or [self.start] for i in indices]
            self.truncated += sum(len(row) > n for row in ids)
            for batch in batch_by_length(list(map(len, ids)), self.batch_size):
                new = self._generate([ids[j][-n:] for j in batch], request, [indices[j] for j in batch])
                texts |= zip((indices[j] for j in batch), new, strict=True)
                self._report("texts", len(texts), len(requests))
        return [texts[i] for i in range(len(requests))]

    def encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Return the ids of a context and its continuation, divided as in the harness.

        Spaces at the end of the context belong to the continuation, whose first word they begin, and both are encoded
        together. A continuation without context follows the start token.
        """
        bare = context.rstrip()
        continuation = context[len(bare) :] + continuation
        if not bare:
            return [self.start], self.tokenizer.encode(continuation)
        context_ids = self.tokenizer.encode(bare)
        ids = self.tokenizer.encode(bare + continuation)[len(context_ids) :]
        # If both merge into no more tokens than the context has, no token would be left to score.
        return [*self.tokenizer.prefix, *context_ids], ids or self.tokenizer.encode(continuation)

    def _score(self, kind: str, requests: Sequence[list[Window]], *, greedy: bool) -> list[list[WindowScore]]:
        """Return the scores of the windows of each request."""
        windows = [window for request in requests for window in request]
        scores = score_windows(
            self.model,
            windows,
            batch_size=self.batch_size,
            dtype=self.dtype,
            n_ids=self.tokenizer.vocab_size,
            greedy=greedy,
            progress=lambda done: self._report(kind, done, len(windows)),
        )
        remaining = iter(scores)
        return [list(islice(remaining, len(request))) for request in requests]

    def _generate(self, prompts: Sequence[list[int]], request: GenerationRequest, indices: Sequence[int]) -> list[str]:
        """Return the texts after some prompts, generated together."""
        pieces = decode_text(
            self.model,
            self.tokenizer,
            prompts,
            stop=request.until,
            sampling=request.sampling,
            # By the index of the request, so that a text does not depend on the batch size.
            seeds=[(self.seed + i) % (MAX_SEED + 1) for i in indices],
            max_new_tokens=request.max_tokens,
            context=self.context,
        )
        texts = ["".join(row) for row in zip(*pieces, strict=True)]
        # The harness decodes the new tokens alone.
        return [text.removeprefix(" ") for text in texts] if drops_first_space(self.tokenizer) else texts

    def _report(self, kind: str, done: int, total: int) -> None:
        if self.progress:
            self.progress(kind, done, total)


def find_start(file: ModelFile) -> int:
    """Return the token before a text without context: BOS, else EOS, as in the harness's own models.

    Of a model of ours it is the token that an empty prompt starts from in `generate`.
    """
    assert file.tokenizer is not None
    if file.tokenizer.prefix:
        return file.tokenizer.prefix[0]
    if library := getattr(file.tokenizer, "library", None):
        with suppress(ValueError, AttributeError):  # a damaged tokenizer_config.json
            config = parse_json(file.files.get("tokenizer_config.json", b"{}"))
            for token in (config.get("bos_token"), config.get("eos_token")):
                name = token.get("content") if isinstance(token, dict) else token
                if isinstance(name, str) and (found := library.token_to_id(name)) is not None:
                    return int(found)
    return start_ids(file.tokenizer, knows_separator=file.knows_separator)[-1]


def drops_first_space(tokenizer: Tokenizer) -> bool:
    """Return whether decoding takes away a space at the beginning, which encoding puts there (SentencePiece)."""
    if not hasattr(tokenizer, "library"):
        return False
    first = tokenizer.encode("x")[:1]
    return tokenizer.token_bytes(first[0]).startswith(b" ") and not tokenizer.decode(first).startswith(" ")


def parse_generation_kwargs(kwargs: Mapping[str, Any]) -> GenerationRequest:
    """Parse the `generation_kwargs` of a task by the harness's rules.

    Texts are greedy unless `do_sample` is true, or is missing and the temperature is above 0.

    Raises ConfigError for a value out of range, or a setting that would be ignored, such as `num_beams: 10`.
    """
    given = {name: value for name, value in kwargs.items() if value is not None}
    until = given.pop("until", [])
    until = [until] if isinstance(until, str) else until
    if not isinstance(until, (list, tuple)) or not all(isinstance(text, str) for text in until):
        raise ConfigError(f"the task's until={repr_short(until)} cannot be used; it must be a text, or a list of them")
    lengths = [given.pop(name) for name in LENGTHS if name in given]
    max_tokens = int(lengths[0]) if lengths else DEFAULT_MAX_TOKENS
    if max_tokens < 1:
        raise ConfigError(f"the task's max_gen_toks={max_tokens} cannot be used; it must be at least 1")
    temperature = float(given.pop("temperature", 1.0 if given.get("do_sample") else 0.0))
    do_sample = given.pop("do_sample", temperature > 0)
    # Taken from Sampling, so that a new sampling setting works in tasks too.
    settings = {name: given.pop(name) for name in SAMPLING_SETTINGS & given.keys()}
    # A setting that was ignored in silence would give numbers that are not comparable.
    for name, value in given.items():
        if value not in NO_EFFECT.get(name, ()):
            raise ConfigError(
                f"the task wants {repr_short(name)}={repr_short(value)}, which this model cannot do; take it out of "
                "the task's generation_kwargs, or leave the task out"
            )
    sampling = Sampling(temperature=temperature if do_sample else 0.0, **settings)
    return GenerationRequest(tuple(filter(None, until)), max_tokens, sampling)


def max_prompt_tokens(context: int, max_tokens: int) -> int:
    """Return how many of a prompt's last tokens are read: the context less the tokens to generate, as in the harness.

    The harness refuses a task whose text leaves no room for a prompt. Here it gets half of the context, and the window
    moves as the text grows.

    >>> max_prompt_tokens(512, 256), max_prompt_tokens(128, 256)
    (256, 64)
    """
    return context - max_tokens if max_tokens < context else max(1, context // 2)
