"""Split texts into windows that fit the context of a model, each target in exactly one of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """At most T + 1 ids: all but the last are the input, and the last `scored` of them are the targets."""

    ids: tuple[int, ...]
    scored: int


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
