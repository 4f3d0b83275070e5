"""What the harness asks a model, answered: likelihoods of continuations and of whole texts, and texts."""

import math
from collections.abc import Callable, Sequence
from typing import Any

from ..checkpoint import LoadedModel
from ..config import MAX_SEED, check_range
from ..data.tokenizers import start_ids
from ..errors import CheckpointError, ConfigError
from ..generate.decode import decode
from .generation import Ending, Wanted, read_wanted, room_for_prompt
from .loglikelihood import Score, score
from .windows import Window, by_length, split

LAST_WINDOWS = ("cold", "full")
Progress = Callable[[str, int, int], None]  # what is done, how many of them, of how many


class Answers:
    """A model with its tokenizer, and how it is asked.

    Args:
        batch_size: windows, or texts that are written side by side.
        dtype: the number format of the products for likelihoods, by default the one it was trained in, as in
            `light-llm eval`. Texts are written in float32.
        last_window: of a text longer than the context. cold: it starts cold, as in `evaluate_loss`; full: it sees
            tokens of the window before, as in the harness's own models.
        seed: of texts that are sampled.

    Raises:
        CheckpointError: the model has no tokenizer.
        ConfigError: a value that cannot be used.
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
        if last_window not in LAST_WINDOWS:
            raise ConfigError(f"last_window={last_window!r} is not known. It can be {' or '.join(LAST_WINDOWS)}")
        if loaded.file.tokenizer is None:
            raise CheckpointError(
                f"{loaded.file.path} has no tokenizer, so it cannot read the text of a task: "
                "it was trained from a loader that is not ours"
            )
        self.model, self.tokenizer, data = loaded.model, loaded.file.tokenizer, loaded.file.data
        n_positions = loaded.model.config.n_positions
        self.context = min(int(data.get("max_length") or n_positions), n_positions)  # beyond, nothing was trained
        starts = start_ids(self.tokenizer, knows_separator=int(data.get("documents") or 1) > 1)
        self.start = starts[-1]  # stands before a text that nothing stands before
        self.batch_size, self.seed, self.progress = batch_size, seed, progress
        self.dtype = dtype or str(loaded.file.meta.get("dtype") or "float32")
        self.full = last_window == "full"
        self.cut = 0  # requests that were longer than the context, and lost their left end

    @property
    def start_name(self) -> str:
        """The start token for a reader."""
        if self.start == self.tokenizer.separator:
            return "the separator of documents"
        return f"the token {self.tokenizer.token_bytes(self.start).decode('utf-8', errors='replace')!r}"

    def likelihoods(self, pairs: Sequence[tuple[str, str]]) -> list[tuple[float, bool]]:
        """For each context and continuation: log P(continuation | context) in nats, and whether it is the greedy one.

        Nothing has the probability 1. A continuation that is longer than the model's context is scored in windows.
        """
        windows = []
        for context, continuation in pairs:
            before, after = self.pair_ids(context, continuation)
            self.cut += len(before) + len(after) > self.context + 1
            windows.append(split([*before, *after], len(after), self.context))
        scores = self._scores("continuations", windows, greedy=True)
        return [(-math.fsum(s.nats for s in one), all(s.greedy for s in one)) for one in scores]

    def texts(self, texts: Sequence[str]) -> list[float]:
        """log P of each text in nats, all its tokens, the first one after the start token."""
        ids = [self.tokenizer.encode(text) for text in texts]
        windows = [split([self.start, *row], len(row), self.context, full=self.full) for row in ids]
        return [-math.fsum(s.nats for s in one) for one in self._scores("windows", windows, greedy=False)]

    def continuations(self, requests: Sequence[tuple[str, dict[str, Any]]]) -> list[str]:
        """What the model writes after each context; see `read_wanted`. The i-th request is drawn with seed + i."""
        groups: dict[Wanted, list[int]] = {}
        for i, (_, kwargs) in enumerate(requests):
            groups.setdefault(read_wanted(kwargs), []).append(i)
        found: dict[int, str] = {}
        for wanted, places in groups.items():
            room = room_for_prompt(self.context, wanted.max_tokens)
            ids = [self.tokenizer.encode(requests[i][0]) or [self.start] for i in places]
            self.cut += sum(len(row) > room for row in ids)
            for batch in by_length(list(map(len, ids)), self.batch_size):
                texts = self._written([ids[j][-room:] for j in batch], wanted, [places[j] for j in batch])
                found |= zip((places[j] for j in batch), texts, strict=True)
                self._say("texts", len(found), len(requests))
        return [found[i] for i in range(len(requests))]

    def pair_ids(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        """Ids of a context and its continuation, as the harness divides them.

        Spaces at the end of the context belong to the continuation, whose word they begin, and both are encoded
        together. What has no context stands after the start token.
        """
        bare = context.rstrip()
        continuation = context[len(bare) :] + continuation
        if not bare:
            return [self.start], self.tokenizer.encode(continuation)
        before = self.tokenizer.encode(bare)
        after = self.tokenizer.encode(bare + continuation)[len(before) :]
        # Where the two melt into fewer tokens, nothing would be left to score.
        return before, after or self.tokenizer.encode(continuation)

    def _scores(self, what: str, groups: Sequence[list[Window]], *, greedy: bool) -> list[list[Score]]:
        """The scores of each request's windows."""
        flat = [window for windows in groups for window in windows]
        done = 0

        def count(n: int) -> None:
            nonlocal done
            done += n
            self._say(what, done, len(flat))

        scores = iter(
            score(
                self.model,
                flat,
                batch_size=self.batch_size,
                dtype=self.dtype,
                n_ids=self.tokenizer.vocab_size,
                greedy=greedy,
                progress=count,
            )
        )
        return [[next(scores) for _ in windows] for windows in groups]

    def _written(self, prompts: Sequence[list[int]], wanted: Wanted, places: Sequence[int]) -> list[str]:
        """The texts after some prompts, written side by side."""
        endings = [Ending(self.tokenizer, wanted.until) for _ in prompts]
        steps = decode(
            self.model,
            prompts,
            sampling=wanted.sampling,
            seeds=[(self.seed + i) % (MAX_SEED + 1) for i in places],
            max_new_tokens=wanted.max_tokens,
            context=self.context,
            end=self.tokenizer.separator,
            n_ids=self.tokenizer.vocab_size,
        )
        for step in steps:
            for ending, token in zip(endings, step, strict=True):
                ending.push(token)
            if all(ending.ended for ending in endings):
                break
        return [ending.close() for ending in endings]

    def _say(self, what: str, done: int, total: int) -> None:
        if self.progress:
            self.progress(what, done, total)
