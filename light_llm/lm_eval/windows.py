"""Which tokens a guess can see: a text cut into windows that fit the model, each target in exactly one of them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Window:
    """At most T + 1 ids: all but the last are read, and the last `scored` of them are guessed."""

    ids: tuple[int, ...]
    scored: int


def split(ids: Sequence[int], scored: int, context: int, *, full: bool = False) -> list[Window]:
    """The windows in which the last `scored` of some ids are guessed by a model that sees `context` tokens, T.

    Targets that fit into one window have the T tokens before the last of them, so the left end is cut off where it is
    too long. More targets are cut as `evaluate_loss` cuts them: windows of T targets each, starting cold, the last
    one shorter.

    Args:
        full: the last window is filled up with the tokens before it, which are read and not scored: the harness's own
            windows for a whole text.

    >>> [(w.ids, w.scored) for w in split([0, 1, 2, 3, 4, 5], 5, 3)]
    [((0, 1, 2, 3), 3), ((3, 4, 5), 2)]
    >>> [(w.ids, w.scored) for w in split([0, 1, 2, 3, 4, 5], 5, 3, full=True)]
    [((0, 1, 2, 3), 3), ((2, 3, 4, 5), 2)]
    >>> [(w.ids, w.scored) for w in split([0, 1, 2, 3, 4, 5], 2, 3)]
    [((2, 3, 4, 5), 2)]
    """
    if not scored:
        return []
    if scored <= context:
        return [Window(tuple(ids[-(context + 1) :]), scored)]
    ids = ids[-(scored + 1) :]  # the first of them is only read
    found = []
    for start in range(0, scored, context):
        end = min(start + context, scored)
        found.append(Window(tuple(ids[max(0, end - context) if full else start : end + 1]), end - start))
    return found


def by_length(lengths: Sequence[int], size: int) -> Iterator[list[int]]:
    """Places of things in batches of `size` of nearly one length, the longest first: what fits then, fits to the end.

    >>> list(by_length([1, 5, 2, 5], 2))
    [[1, 3], [2, 0]]
    """
    order = sorted(range(len(lengths)), key=lambda i: -lengths[i])
    for start in range(0, len(order), size):
        yield order[start : start + size]
