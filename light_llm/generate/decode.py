"""Decoding, token by token: prompts in, one new id or piece of text per row and step out."""

from collections.abc import Collection, Iterator, Sequence
from typing import Any

import torch
from torch import Generator, Tensor

from ..data import Tokenizer
from ..model import LightLLM
from .cache import KVCache, visible
from .sampling import Sampling, sample_batch


def window_start(n: int, context: int) -> int:
    """Return how many of n tokens have left the window when the next one is predicted.

    Up to `context` tokens none has. A full window keeps its last half and is read again from there, so a token is
    re-read about once, and cached and uncached decoding see the same windows.

    >>> [window_start(n, 8) for n in (7, 8, 9, 12, 13)]
    [0, 0, 4, 4, 8]
    """
    hop = max(1, context - context // 2)
    return max(0, -(-(n - context) // hop)) * hop


@torch.inference_mode()
def decode(
    model: LightLLM,
    prompts: Sequence[Sequence[int]],
    *,
    sampling: Sampling,
    seeds: Sequence[int],
    max_new_tokens: int,
    context: int | None = None,
    end: int | Collection[int] | None = None,
    n_ids: int | None = None,
    use_cache: bool = True,
) -> Iterator[list[int | None]]:
    """Continue several prompts at once; yield one new id per row and step, None for a row that has ended.

    In float32 on the CPU a row's ids depend on its prompt and seed alone: not on other rows, nor on the cache.

    Args:
        prompts: ids, at least one each, at most `context`.
        seeds: one per row.
        context: tokens that a prediction can see; by default the model's n_positions.
        end: the id that ends a row, or several of them; it is not yielded.
        n_ids: the tokenizer's ids, where the model's table is larger: no other id is sampled.
        use_cache: False reads the whole window for every token: the slow reference.
    """
    context = context or model.config.n_positions
    ends = () if end is None else (end,) if isinstance(end, int) else frozenset(end)
    rows = [list(prompt) for prompt in prompts]
    longest = max(map(len, rows), default=0) + max_new_tokens
    reader = _CachedReader(model, context, min(longest, context)) if use_cache else _UncachedReader(model, context)
    generators = [Generator().manual_seed(seed) for seed in seeds]
    alive = [True] * len(rows)
    for _ in range(max_new_tokens):
        logits = reader.next_logits(rows).float().cpu()[:, :n_ids]  # (B, V)
        step: list[int | None] = []
        for b, (row, token) in enumerate(zip(rows, sample_batch(logits, rows, sampling, generators), strict=True)):
            alive[b] = alive[b] and token not in ends
            step.append(token if alive[b] else None)
            row.append(token)
        if not any(alive):
            return
        yield step


def decode_text(
    model: LightLLM, tokenizer: Tokenizer, prompts: Sequence[Sequence[int]], *, stop: Sequence[str], **options: Any
) -> Iterator[list[str]]:
    """Continue several prompts; yield one piece of text per row and token, and a last one for text that was held back.

    A row ends at one of the tokenizer's `stop_ids`, or before a stop string. `options` are further arguments of
    `decode`.
    """
    streams = [StopStringStream(tokenizer, stop, after=prompt) for prompt in prompts]
    for step in decode(model, prompts, end=tokenizer.stop_ids, n_ids=tokenizer.vocab_size, **options):
        yield [stream.push(token) for stream, token in zip(streams, step, strict=True)]
        if all(stream.stopped or token is None for stream, token in zip(streams, step, strict=True)):
            break
    yield [stream.close() for stream in streams]


class StopStringStream:
    """Decodes the ids of one row, which follow the ids `after`, up to the first stop string."""

    def __init__(self, tokenizer: Tokenizer, stop: Sequence[str], after: Sequence[int] = ()) -> None:
        self.stream, self.stop = tokenizer.stream(after), stop
        self.held_back = ""  # it may be the beginning of a stop string
        self.stopped = False

    def push(self, token: int | None) -> str:
        """Return the text that is certain after one more id."""
        return "" if token is None else self._certain(self.stream.push(token))

    def close(self) -> str:
        """Return the text that was held back, after the last id."""
        text = self._certain(self.stream.close())
        return text if self.stopped else text + self.held_back

    def _certain(self, new: str) -> str:
        if self.stopped:
            return ""
        text = self.held_back + new
        ends = [end for s in self.stop if (end := text.find(s)) >= 0]
        if ends:
            self.stopped, self.held_back = True, ""
            return text[: min(ends)]
        n_held = max((n for s in self.stop for n in range(1, len(s)) if text.endswith(s[:n])), default=0)
        cut = len(text) - n_held
        self.held_back = text[cut:]
        return text[:cut]


class _UncachedReader:
    """Reads the whole window of each row for every token: the definition."""

    def __init__(self, model: LightLLM, context: int) -> None:
        self.model, self.context = model, context

    def next_logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return the logits after the last token of each row: (B, V)."""
        device = self.model.head_weight.device
        windows = [torch.tensor([row[window_start(len(row), self.context) :]], device=device) for row in rows]
        return torch.cat([self.model.logits(self.model.hidden_states(window)[:, -1]) for window in windows])


class _CachedReader:
    """Reads the prompts once, then one token per step on top of the cache; a full window is read again."""

    def __init__(self, model: LightLLM, context: int, capacity: int) -> None:
        self.model, self.context, self.capacity = model, context, capacity  # slots: fewer than context for a short text
        self.device, self.dtype = model.head_weight.device, next(model.ln_f.parameters()).dtype
        self.cache: KVCache | None = None
        self.starts: list[int] = []

    def next_logits(self, rows: Sequence[Sequence[int]]) -> Tensor:
        """Return the logits after the last token of each row: (B, V)."""
        starts = [window_start(len(row), self.context) for row in rows]
        windows = [row[start:] for row, start in zip(rows, starts, strict=True)]
        if self.cache is None:
            self.cache, logits = self._read(windows)
        else:
            moved = [b for b, start in enumerate(starts) if start != self.starts[b]]
            logits = self._step(windows)
            if moved:
                cache, moved_logits = self._read([windows[b] for b in moved])
                rows_moved = torch.tensor(moved, device=self.device)
                self.cache.put_rows(rows_moved, cache)
                logits[rows_moved] = moved_logits
        self.starts = starts
        return logits

    def _read(self, windows: Sequence[Sequence[int]]) -> tuple[KVCache, Tensor]:
        """Read whole windows of any lengths, padded on the right."""
        # Causal attention: no token looks at the padding, which is behind all of them.
        attention: Any = self.model.h[0].attn
        cache = KVCache(
            self.model.config, len(windows), self.capacity, self.device, self.dtype, kv_heads=attention.heads[1]
        )
        cache.lengths = [len(w) for w in windows]
        longest = max(cache.lengths)
        tokens = torch.tensor([[*w, *[0] * (longest - len(w))] for w in windows], device=self.device)
        hidden = self.model.hidden_states(tokens, torch.arange(longest, device=self.device), None, cache)  # (B, T, C)
        rows = torch.arange(len(windows), device=self.device)
        last = torch.tensor(cache.lengths, device=self.device) - 1
        return cache, self.model.logits(hidden[rows, last])

    def _step(self, windows: Sequence[Sequence[int]]) -> Tensor:
        """Read the last token of each window on top of the cache."""
        assert self.cache is not None
        # A row whose window moved may be past the end. Its result is replaced by the caller.
        slots = [min(n, self.capacity - 1) for n in self.cache.lengths]
        tokens = torch.tensor([[w[-1]] for w in windows], device=self.device)
        if min(slots) == max(slots):  # rows of one length see all slots; a mask would cost the fast kernel
            hidden = self.model.hidden_states(tokens, torch.tensor(slots[:1], device=self.device), None, self.cache)
        else:
            position_ids = torch.tensor(slots, device=self.device)[:, None]  # (B, 1)
            hidden = self.model.hidden_states(tokens, position_ids, visible(position_ids), self.cache)
        self.cache.lengths = [n + 1 for n in self.cache.lengths]
        return self.model.logits(hidden[:, -1])
