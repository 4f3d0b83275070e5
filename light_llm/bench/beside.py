"""Two machines side by side: how many times as fast, and what else differs between the two measurements."""

from .result import Figure, Result

SPEEDS = ("GFLOP/s", "GB/s", "tokens/s")


def ratio(here: Figure | None, there: Figure | None) -> float | None:
    """How many times as fast this is as that. None where one is missing, or no speed."""
    if here is None or there is None or here.unit != there.unit or here.unit not in SPEEDS:
        return None
    return here.value / there.value


def as_times(ratio: float | None) -> str:
    """A ratio in few letters.

    >>> [as_times(r) for r in (1.34, 0.766, 12.6, 1234.0, 0.0123, None)]
    ['1.3x', '0.77x', '13x', '1,234x', '0.012x', '-']
    """
    if ratio is None:
        return "-"
    return f"{ratio:,.0f}x" if ratio >= 9.95 else f"{ratio:.1f}x" if ratio >= 0.995 else f"{ratio:.2g}x"


def remarks(here: Result, there: Result) -> list[str]:
    """What a ratio of the two measures besides the machines, as parts of a sentence. Empty where there is nothing."""
    found = [
        f"{what} {theirs} there, {ours} here"
        for what, theirs, ours in (
            ("torch", there.torch, here.torch),
            ("light-llm", there.light_llm, here.light_llm),
            ("threads", there.threads, here.threads),
        )
        if theirs != ours
    ]
    kinds: dict[str, None] = {}
    for figure in here.figures:
        other = there.figure(figure.name)
        if other and other.unit in SPEEDS and other.how != figure.how:
            kinds[f"{figure.kind}: {other.how} there, {figure.how} here"] = None
    busy = [figure.name for figure in there.figures if figure.busy]
    return [*found, *kinds, *([f"that machine was busy in {', '.join(busy)}"] if busy else [])]
