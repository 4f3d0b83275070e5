"""Compare two runs: what differs, whether their losses may be compared, and by how much they differ."""

import math
from typing import Any

from ..config import differences
from .log_rows import Evaluation, LossUnit
from .run_log import RunLog

_DATA_FACTS = {"text, SHA-256": "sha256", "vocabulary, SHA-256": "tokenizer_sha256"}


def run_differences(a: RunLog, b: RunLog) -> list[tuple[str, Any, Any]]:
    """Return the name and both values of each setting that differs, then of the text, machine and versions."""
    facts: list[tuple[str, Any, Any]] = [
        (name, (a.data or {}).get(key), (b.data or {}).get(key)) for name, key in _DATA_FACTS.items()
    ]
    facts += [("machine", a.machine, b.machine), ("processes", a.processes, b.processes)]
    facts += [(name, a.versions.get(name), b.versions.get(name)) for name in sorted({*a.versions, *b.versions})]
    return [*differences(a.run, b.run), *(fact for fact in facts if fact[1] != fact[2])]


def comparable_unit(a: RunLog, b: RunLog, names: tuple[str, str] = ("A", "B")) -> tuple[LossUnit | None, str]:
    """Return the unit in which held-out losses may be compared, and the reason if it is not nats per token.

    Nats per token compare only if text, split and tokens are the same; bits per byte compare across tokenizers. Losses
    on different texts never compare: the unit is then None.

    Args:
        names: of the two runs, for the reason.
    """
    if a.data is None or b.data is None:
        which = "neither run has a" if a.data is b.data else f"{names[a.data is not None]} has no"
        return None, (
            f"{which} known held-out text (it was trained with a data loader of your own), so there are no losses to "
            "compare."
        )
    pair = f"{names[0]} and {names[1]}"
    if a.data["sha256"] != b.data["sha256"]:
        return None, (
            f"The texts of {pair} are not the same (their SHA-256 differs): a lower loss may only mean an easier text, "
            "so the losses cannot be compared."
        )
    if a.data["held_out_sha256"] != b.data["held_out_sha256"]:
        return None, (
            f"The validation texts of {pair} are not the same (their SHA-256 differs), so the held-out losses cannot "
            "be compared."
        )
    if not a.data["held_out_sha256"] and a.run.data.held_out != b.run.data.held_out:
        return None, (
            f"{pair} hold out different parts of the same text ({a.run.data.held_out:g} and "
            f"{b.run.data.held_out:g} of it), so the losses cannot be compared."
        )
    if a.data["tokenizer_sha256"] != b.data["tokenizer_sha256"]:
        which = f"{a.data['tokenizer']} and {b.data['tokenizer']}"
        which += ", with different vocabularies" if a.data["tokenizer"] == b.data["tokenizer"] else ""
        return "bits_per_byte", (
            f"The tokenizers differ ({which}), so the losses per token cannot be compared: a longer token is harder to "
            "predict. Bits per byte measure the same text and can be compared."
        )
    return "loss", ""


def common_evals(a: RunLog, b: RunLog) -> list[tuple[Evaluation, Evaluation]]:
    """Return the evaluations at steps at which both runs were evaluated, in order."""
    by_step = {e.step: e for e in b.evals}
    return [(e, by_step[e.step]) for e in a.evals if e.step in by_step]


def eval_difference(a: Evaluation, b: Evaluation, unit: LossUnit) -> tuple[float | None, float | None]:
    """Return b - a and its standard error, sqrt(error_a^2 + error_b^2).

    That would be exact if the two were independent. Both are measured on the same windows, which are hard or easy for
    both models, so the errors are correlated and the true standard error is usually smaller. It includes the choice of
    the held-out text, not the choice of the seed.
    """
    (value_a, error_a), (value_b, error_b) = a.in_unit(unit), b.in_unit(unit)
    gap = None if value_a is None or value_b is None else value_b - value_a
    error = None if error_a is None or error_b is None else math.hypot(error_a, error_b)
    return gap, error


def exceeds_error(gap: float | None, error: float | None) -> bool | None:
    """Return whether a difference is larger than its standard error; None if either is unknown.

    >>> exceeds_error(-0.2, 0.1), exceeds_error(0.05, 0.1), exceeds_error(0.2, None)
    (True, False, None)
    """
    return None if gap is None or error is None else abs(gap) > error
