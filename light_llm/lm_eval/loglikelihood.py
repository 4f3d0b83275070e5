"""Split texts into windows that fit a model, and score them: log-likelihood, and whether the targets are greedy."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch

from ..evaluate.windows import Window, pad_windows
from ..model import LightLLM
from ..objective import IGNORED, token_cross_entropy_from_hidden
from ..runtime import autocast

LOGIT_ROWS = 1024  # that are in memory at once


@dataclass(frozen=True)
class WindowScore:
    """The score of the targets of one window."""

    nats: float  # the sum of -log P
    greedy: bool | None  # whether each target is the most likely token; None: not computed


def split_windows(ids: Sequence[int], scored: int, context: int, *, fill_last: bool = False) -> list[Window]:
    """Return windows in which a model with a context of T tokens predicts the last `scored` of some ids.

    If the targets fit into one window, they have the T tokens before the last of them as input, so a longer left end is
    cut off. More targets are split as in `evaluate_loss`: windows of T targets each, starting cold, the last one
    shorter.

    Args:
        fill_last: fill the last window up with the tokens before it, as input only: the harness's own windows for a
            whole text.

    >>> [(w.ids, w.scored) for w in split_windows([0, 1, 2, 3, 4, 5], 5, 3)]
    [((0, 1, 2, 3), 3), ((3, 4, 5), 2)]
    >>> [(w.ids, w.scored) for w in split_windows([0, 1, 2, 3, 4, 5], 5, 3, fill_last=True)]
    [((0, 1, 2, 3), 3), ((2, 3, 4, 5), 2)]
    >>> [(w.ids, w.scored) for w in split_windows([0, 1, 2, 3, 4, 5], 2, 3)]
    [((2, 3, 4, 5), 2)]
    """
    if not scored:
        return []
    if scored <= context:
        return [Window(tuple(ids[-(context + 1) :]), scored)]
    # One more than the targets: the first is input only.
    ids = ids[-(scored + 1) :]
    windows = []
    for start in range(0, scored, context):
        end = min(start + context, scored)
        first = max(0, end - context) if fill_last else start
        windows.append(Window(tuple(ids[first : end + 1]), end - start))
    return windows


def batch_by_length(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Yield the indices of `lengths` in batches of `size`, the longest first, so that a lack of memory shows at once.

    >>> list(batch_by_length([1, 5, 2, 5], 2))
    [[1, 3], [2, 0]]
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for start in range(0, len(order), size):
        yield order[start : start + size]


def score_windows(
    model: LightLLM,
    windows: Sequence[Window],
    *,
    batch_size: int,
    dtype: str = "float32",
    n_ids: int | None = None,
    greedy: bool = True,
    progress: Callable[[int], None] | None = None,
) -> list[WindowScore]:
    """Score windows in batches of similar length. Only positions with a target reach the head: no (B, T, V) logits.

    Args:
        dtype: of matrix products.
        n_ids: ids from here on are never the most likely: for a model with a larger table than its tokenizer.
        greedy: also find the most likely tokens.
        progress: called after each batch with the number of windows scored so far.
    """
    scores: dict[int, WindowScore] = {}
    device = model.head_weight.device
    for batch in batch_by_length([len(window.ids) for window in windows], batch_size):
        tokens, targets = pad_windows([windows[i] for i in batch], device)
        is_target = targets != IGNORED  # (B, T)
        with torch.no_grad(), autocast(device.type, dtype):
            hidden, targets = model.hidden_states(tokens)[is_target], targets[is_target]  # (N, C), (N,)
            losses = token_cross_entropy_from_hidden(model, hidden[None], targets[None], LOGIT_ROWS)[0]
            # Summed in float64: a long text has thousands of terms.
            nats = losses.cpu().double().tolist()
            blocks = hidden.split(LOGIT_ROWS) if greedy else ()
            likeliest = [i for rows in blocks for i in model.logits(rows)[:, :n_ids].argmax(dim=-1).tolist()]
            right = [a == b for a, b in zip(likeliest, targets.tolist(), strict=False)]
        end = 0
        for i in batch:
            start, end = end, end + windows[i].scored
            scores[i] = WindowScore(math.fsum(nats[start:end]), all(right[start:end]) if greedy else None)
        if progress:
            progress(len(scores))
    return [scores[i] for i in range(len(windows))]
