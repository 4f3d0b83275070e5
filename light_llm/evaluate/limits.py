"""Evaluate on documents whose probability is known: the distance of a model to the entropy of the text."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..data import TokenArray, TokenDataset
from ..model import LightLLM
from .loss import Evaluation, evaluate_loss


@dataclass(frozen=True)
class LimitDistance:
    """The distance of a model from the entropy of a text whose probability is known, in bits per byte."""

    limit: float  # -log2 P(text) / bytes: no model does better in expectation (Shannon, 1948)
    model: float
    in_whole: float | None  # distance in documents that lie in one window; None without such documents
    in_cut: float | None  # distance in documents that a window's edge cuts, so that their beginning is not seen
    by_kind: tuple[tuple[str, float], ...]  # distance by kind of document, the farthest first

    @property
    def distance(self) -> float:
        """Return how far the model is above the limit."""
        return self.model - self.limit


def evaluate_against_limits(
    model: LightLLM,
    tokens: TokenArray,
    byte_lengths: NDArray[np.int64],
    limits: Sequence[tuple[float, str]],
    separator: int,
    *,
    context: int,
    **options: Any,
) -> tuple[Evaluation, LimitDistance]:
    """Return the held-out loss of documents whose probabilities are known, and its distance to their limit.

    Args:
        tokens: documents with the separator before each and after the last.
        limits: -log2 P of each document, its end included, and its kind.
        options: further arguments of `evaluate_loss`.
    """
    nats = np.zeros(len(tokens))

    def store(first: int, row: NDArray[np.float64]) -> None:
        nats[first : first + len(row)] = row

    evaluation = evaluate_loss(model, tokens, byte_lengths, context=context, on_window=store, **options)
    ids = tokens.read(0, len(tokens))
    ends = np.flatnonzero(ids == separator)
    assert len(ends) == len(limits) + 1, "each document has a limit"
    # The targets of document j are its own tokens and the separator after it: ends[j] + 1 ... ends[j + 1].
    bits = np.diff(np.cumsum(nats)[ends]) / math.log(2)
    counts = byte_lengths[ids] if tokens.byte_counts is None else tokens.byte_counts.read(0, len(tokens))
    n_bytes = np.diff(np.cumsum(counts)[ends])
    is_whole = ends[:-1] // context == (ends[1:] - 1) // context
    known_bits = np.array([document_bits for document_bits, _ in limits])
    names = np.array([kind for _, kind in limits])

    def distance(selected: NDArray[np.bool_]) -> float | None:
        if not selected.any():
            return None
        return float((bits - known_bits)[selected].sum() / n_bytes[selected].sum())

    kinds = [(str(kind), distance(names == kind) or 0.0) for kind in np.unique(names)]
    return evaluation, LimitDistance(
        limit=float(known_bits.sum() / n_bytes.sum()),
        model=float(bits.sum() / n_bytes.sum()),
        in_whole=distance(is_whole),
        in_cut=distance(~is_whole),
        by_kind=tuple(sorted(kinds, key=lambda kind: -kind[1])),
    )


def evaluate_held_out(
    model: LightLLM, dataset: TokenDataset, byte_lengths: NDArray[np.int64], **options: Any
) -> tuple[Evaluation, LimitDistance | None]:
    """Return the held-out loss of a dataset, and its distance to the limit if the text's probability is known.

    Args:
        byte_lengths: UTF-8 bytes of each token id, (V,).
        options: further arguments of `evaluate_loss`.
    """
    held_out, limits = dataset.held_out, dataset.limits
    if not limits:
        return evaluate_loss(model, held_out, byte_lengths, **options), None
    return evaluate_against_limits(model, held_out, byte_lengths, limits, dataset.tokenizer.separator, **options)
