"""Two runs side by side: what differs, whether their losses may be compared, and by how much they differ."""

import math
from dataclasses import dataclass
from typing import Any

from ..config import differences
from .past_run import HeldOut, Measure, PastRun


@dataclass(frozen=True)
class CurvePoint:
    """Both runs at a step where both were evaluated."""

    step: int
    a: HeldOut
    b: HeldOut


def what_differs(a: PastRun, b: PastRun) -> list[tuple[str, Any, Any]]:
    """Each setting that differs, by name; then the text, the machine and the versions, where they differ."""
    differing: list[tuple[str, Any, Any]] = list(differences(a.run, b.run))
    facts = [(name, (a.data or {}).get(key), (b.data or {}).get(key)) for name, key in _FACTS.items()]
    facts.append(("machine", a.machine, b.machine))
    facts += [(name, a.versions.get(name), b.versions.get(name)) for name in sorted({*a.versions, *b.versions})]
    return differing + [fact for fact in facts if fact[1] != fact[2]]


_FACTS = {"text, SHA-256": "sha256", "vocabulary, SHA-256": "tokenizer_sha256"}


def common_measure(a: PastRun, b: PastRun) -> tuple[Measure | None, str]:
    """By what the held-out results of two runs can be compared, and why it is not the loss (empty if it is).

    A loss is nats per token: it means the same in both runs only if text, split and tokens are the same. Bits per byte
    do not ask for the same tokens. Nothing makes two texts comparable.
    """
    if a.data is None or b.data is None:
        which = "neither run" if a.data is None and b.data is None else "A" if a.data is None else "B"
        verb = "has" if which == "neither run" else "has no"
        return None, (
            f"{which} {verb} known held-out text (it was trained on a loader that is not light-llm's): "
            "there is nothing to compare by."
        )
    if a.data["sha256"] != b.data["sha256"]:
        return None, (
            "The texts are not the same (their SHA-256 differs): a lower loss may only mean an easier text, "
            "so the losses cannot be compared."
        )
    if a.data["held_out_sha256"] != b.data["held_out_sha256"]:
        return None, (
            "The validation texts are not the same (their SHA-256 differs), so the held-out losses cannot be compared."
        )
    if not a.data["held_out_sha256"] and a.run.data.held_out != b.run.data.held_out:
        return None, (
            f"The same text, but not the same part of it is held out ({a.run.data.held_out:g} and "
            f"{b.run.data.held_out:g} of it): the losses cannot be compared."
        )
    if a.data["tokenizer_sha256"] != b.data["tokenizer_sha256"]:
        return "bits_per_byte", (
            f"The tokens are not the same ({a.data['tokenizer']} and {b.data['tokenizer']}"
            f"{', of another vocabulary' if a.data['tokenizer'] == b.data['tokenizer'] else ''}): a loss per token "
            "says nothing across them, because a longer token is harder to guess. Bits per byte are of the same text "
            "and can be compared."
        )
    return "loss", ""


def common_curve(a: PastRun, b: PastRun) -> list[CurvePoint]:
    """The steps at which both were evaluated, in order."""
    of_b = {e.step: e for e in b.evaluations}
    return [CurvePoint(e.step, e, of_b[e.step]) for e in a.evaluations if e.step in of_b]


def difference(a: HeldOut, b: HeldOut, measure: Measure) -> tuple[float | None, float | None]:
    """B - A, and sqrt(A^2 + B^2) of the two standard errors.

    That is the standard error of the difference if the two were independent. Both are measured on the same windows, and
    windows that are hard for one model are hard for the other: the errors are correlated, the covariance is left out,
    and where it is positive the true standard error is smaller. It counts the choice of the held-out text only, not the
    choice of the seed.
    """
    (value_a, error_a), (value_b, error_b) = a.by(measure), b.by(measure)
    gap = None if value_a is None or value_b is None else value_b - value_a
    error = None if error_a is None or error_b is None else math.hypot(error_a, error_b)
    return gap, error


def beyond(gap: float | None, error: float | None) -> bool | None:
    """Whether a difference is larger than its standard error. None where one of them is not known.

    >>> beyond(-0.2, 0.1), beyond(0.05, 0.1), beyond(0.2, None)
    (True, False, None)
    """
    return None if gap is None or error is None else abs(gap) > error
