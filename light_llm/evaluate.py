"""What a model knows of a text it was not trained on: one deterministic pass, exact token-weighted means."""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from .data import TokenArray, TokenDataset
from .errors import DataError
from .model import LightLLM, eval_mode
from .objective import token_cross_entropy
from .runtime import autocast


@dataclass(frozen=True)
class Bucket:
    """The targets at some positions of their windows: does more context help?"""

    upto: int  # the last position; the first is one after the bucket before. A target at position n sees n tokens
    loss: float  # mean nats per token
    tokens: int


@dataclass(frozen=True)
class Evaluation:
    """The loss over all targets of a text, and how sure it is."""

    loss: float  # nats per token: the mean over all targets
    stderr: float | None  # standard error of `loss` over windows; None with a single window
    bits_per_byte: float  # total bits / UTF-8 bytes of exactly the targets
    tokens: int  # targets
    bytes: int  # of the targets
    windows: int
    context: int  # T, tokens a window can see; each starts cold
    by_position: tuple["Bucket", ...] = ()  # the same nats by their place in the window

    @property
    def perplexity(self) -> float:
        """exp(loss): the number of equally likely tokens that would be as hard to guess."""
        return math.exp(self.loss) if self.loss < 709 else math.inf


def evaluate_loss(
    model: LightLLM,
    tokens: TokenArray,
    byte_lengths: NDArray[np.int64],
    *,
    context: int,
    batch_size: int = 4,
    dtype: str = "float32",
    progress: Callable[[int, int], None] | None = None,
    each: Callable[[int, NDArray[np.float64]], None] | None = None,
) -> Evaluation:
    """Held-out loss of n tokens: the nats of the n - 1 targets, in windows of `context`, the short last one included.

    Window j sees the tokens jT ... jT + T - 1 and nothing before them, so the first tokens of each are guessed with
    little context: a longer T gives a lower loss for the same model, which is why T is part of the result.

    Args:
        byte_lengths: UTF-8 bytes of each token id, (V,).
        progress: called with (windows done, windows in all).
        each: called with the place of a window's first target (1 ... n - 1) and the nats of its targets.

    Raises:
        DataError: fewer than two tokens.
    """
    n = len(tokens)
    if n < 2:
        raise DataError(f"an evaluation needs at least 2 tokens, this text has {n}; use a longer text")
    starts = list(range(0, n - 1, context))
    sums, counts, n_bytes = [], [], 0
    by_place, there = np.zeros(context), np.zeros(context, dtype=np.int64)  # nats and targets at each position
    device = model.head_weight.device
    with eval_mode(model):
        for i in range(0, len(starts), batch_size):
            # The short last window makes a batch of its own: no padding, so nothing to mask.
            group = starts[i : i + batch_size]
            full = [s for s in group if s + context < n]
            for batch in filter(None, (full, [s for s in group if s not in full])):
                ids = np.stack([tokens.read(s, min(s + context + 1, n)) for s in batch])  # (B, T + 1)
                n_bytes += int(byte_lengths[ids[:, 1:]].sum())
                window = torch.from_numpy(ids).to(device)
                with torch.no_grad(), autocast(device.type, dtype):
                    nats = token_cross_entropy(model, window[:, :-1], window[:, 1:])
                rows = nats.cpu().double()  # MPS has no float64
                sums += rows.sum(dim=1).tolist()
                by_place[: rows.size(1)] += rows.sum(dim=0).numpy()
                there[: rows.size(1)] += rows.size(0)
                if each:
                    for start, row in zip(batch, rows.numpy(), strict=True):
                        each(start + 1, row)
                counts += [nats.size(1)] * nats.size(0)
            if progress:
                progress(min(i + batch_size, len(starts)), len(starts))
    return replace(summarise(sums, counts, n_bytes, context), by_position=tuple(buckets(by_place, there)))


def buckets(nats: NDArray[np.float64], targets: NDArray[np.int64]) -> Iterator[Bucket]:
    """Nats and targets at each position, (T,), put together in buckets that double; their weighted mean is the loss."""
    starts = [0, *edges(len(nats))]
    for start, end in itertools.pairwise(starts):
        if n := int(targets[start:end].sum()):
            yield Bucket(end, math.fsum(nats[start:end]) / n, n)


def edges(T: int) -> list[int]:
    """The last position of each bucket, doubling: 1, 2, 4, ... T.

    >>> edges(12)
    [1, 2, 4, 8, 12]
    """
    doubling = itertools.takewhile(lambda n: n < T, (1 << i for i in itertools.count()))
    return [*doubling, T]


def summarise(sums: list[float], counts: list[int], n_bytes: int, context: int) -> Evaluation:
    """From the nats and targets of each window to the means.

    The standard error is that of a ratio of sums over windows (Cochran, 1977, section 6.3): windows are taken as the
    independent draws, because tokens within one are not.
    """
    total, n, W = math.fsum(sums), sum(counts), len(sums)
    loss = total / n
    stderr = None
    if W > 1:
        spread = math.fsum((s - loss * c) ** 2 for s, c in zip(sums, counts, strict=True))
        stderr = math.sqrt(spread * W / (W - 1)) / n
    bits = total / math.log(2)
    return Evaluation(loss, stderr, bits / n_bytes if n_bytes else math.nan, n, n_bytes, W, context)


@dataclass(frozen=True)
class Distance:
    """How far a model is from a text whose probability is known, in bits per byte."""

    limit: float  # -log2 P(text) / bytes: no model does better in expectation (Shannon, 1948)
    model: float
    whole: float | None  # the distance in documents that one window holds whole; None if there is none
    cut: float | None  # the distance in documents that a window's edge cuts, so that their beginning is not seen
    kinds: tuple[tuple[str, float], ...]  # the distance by kind of document, the farthest first

    @property
    def distance(self) -> float:
        """What the model has still to learn."""
        return self.model - self.limit


def evaluate_against_limits(
    model: LightLLM,
    tokens: TokenArray,
    byte_lengths: NDArray[np.int64],
    limits: Sequence[tuple[float, str]],
    separator: int,
    *,
    context: int,
    **how: Any,
) -> tuple[Evaluation, Distance]:
    """The held-out loss of documents whose probabilities are known, and where the distance to them lies.

    Args:
        tokens: documents with the separator before each and after the last.
        limits: of each document -log2 P, its end included, and its kind.
        how: further arguments of `evaluate_loss`.
    """
    nats = np.zeros(len(tokens))

    def keep(first: int, row: NDArray[np.float64]) -> None:
        nats[first : first + len(row)] = row

    evaluation = evaluate_loss(model, tokens, byte_lengths, context=context, each=keep, **how)
    ids = tokens.read(0, len(tokens))
    ends = np.flatnonzero(ids == separator)
    assert len(ends) == len(limits) + 1, "each document has a limit"
    # The targets of document j are its own tokens and the separator after it: ends[j] + 1 ... ends[j + 1].
    paid = np.diff(np.cumsum(nats)[ends]) / math.log(2)  # bits
    size = np.diff(np.cumsum(byte_lengths[ids])[ends])
    known = np.array([bits for bits, _ in limits])
    is_whole = ends[:-1] // context == (ends[1:] - 1) // context

    def distance(chosen: NDArray[np.bool_]) -> float | None:
        return float((paid - known)[chosen].sum() / size[chosen].sum()) if chosen.any() else None

    names = np.array([kind for _, kind in limits])
    kinds = [(str(kind), distance(names == kind) or 0.0) for kind in np.unique(names)]
    return evaluation, Distance(
        limit=float(known.sum() / size.sum()),
        model=float(paid.sum() / size.sum()),
        whole=distance(is_whole),
        cut=distance(~is_whole),
        kinds=tuple(sorted(kinds, key=lambda kind: -kind[1])),
    )


def evaluate_held_out(
    model: LightLLM, dataset: TokenDataset, lengths: NDArray[np.int64], **how: Any
) -> tuple[Evaluation, Distance | None]:
    """The held-out loss, and where the text's true probability is known, the distance to it."""
    held_out, limits = dataset.held_out, dataset.limits
    if not limits:
        return evaluate_loss(model, held_out, lengths, **how), None
    return evaluate_against_limits(model, held_out, lengths, limits, dataset.tokenizer.separator, **how)
