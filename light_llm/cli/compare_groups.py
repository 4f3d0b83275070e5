"""The tables of `light-llm compare` for more than two runs: groups over seeds, and the differences between them."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import RenderableType
from rich.table import Column, Table
from rich.text import Text

from ..report import (
    SEEDS,
    WITHOUT_EFFECT,
    Group,
    Interval,
    LossUnit,
    RunLog,
    common_unit,
    data_names,
    differing_settings,
    exceeds_error,
    group_difference,
    group_runs,
    results_of,
    run_differences,
    window_difference,
)
from .output import new_table, number_column
from .runs import format_setting

LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
UNIT_NAMES: dict[LossUnit, str] = {"loss": "held-out loss", "bits_per_byte": "held-out bits/byte"}


@dataclass(frozen=True)
class Difference:
    """The loss of a group minus that of the best group."""

    group: int  # its index
    value: float
    interval: Interval | None  # 95%, over seeds; None for two single runs
    window_error: float | None  # of two single runs: standard error over the held-out windows

    @property
    def verdict(self) -> str:
        if self.interval:
            return "larger than seed variation" if self.interval.excludes_zero else "may be seed variation"
        words = {True: "beyond its error bar; seeds unknown", False: "within its error bar", None: ""}
        return words[exceeds_error(self.value, self.window_error)]


@dataclass(frozen=True)
class Comparison:
    """Any number of runs in groups, the lowest mean first where losses may be compared."""

    groups: tuple[Group, ...]
    labels: tuple[str, ...]  # the settings of each group that differ, as text
    settings: tuple[dict[str, Any], ...]  # the same as values
    unit: LossUnit | None
    reason: str  # why it is not nats per token
    differences: tuple[Difference, ...]  # of each other group from the best

    @property
    def runs(self) -> list[RunLog]:
        return [run for group in self.groups for run in group.runs]


def compare_runs(runs: Sequence[RunLog]) -> Comparison:
    """Group runs that differ in the seed alone, and compare the groups."""
    unit, reason = common_unit(runs, [str(run.folder) for run in runs])
    groups = group_runs(runs)
    if unit:
        means = {id(group): group.mean(unit) for group in groups}
        groups.sort(key=lambda group: (means[id(group)] is None, means[id(group)] or 0.0))
    first_runs = [group.runs[0] for group in groups]
    differing = differing_settings(first_runs, (*SEEDS, *WITHOUT_EFFECT, "data.data", "data.tokenizer"))
    texts = data_names(first_runs)
    if len(set(texts)) > 1:
        differing = {"data": texts, **differing}
    settings = [{name: values[i] for name, values in differing.items()} for i in range(len(groups))]
    return Comparison(
        groups=tuple(groups),
        labels=tuple(", ".join(_label(name, value) for name, value in s.items()) for s in settings),
        settings=tuple(settings),
        unit=unit,
        reason=reason,
        differences=tuple(_differences(groups, unit)) if unit else (),
    )


def _label(name: str, value: Any) -> str:
    return str(value) if name == "data" else f"{name} {format_setting(value)}"


def _differences(groups: Sequence[Group], unit: LossUnit) -> Iterator[Difference]:
    best, *others = groups
    lowest = best.mean(unit)
    for i, group in enumerate(others, start=1):
        mean = group.mean(unit)
        if lowest is not None and mean is not None:
            interval = group_difference(best, group, unit)
            error = None if interval else window_difference(best, group, unit)[1]
            yield Difference(i, mean - lowest, interval, error)


def tables(result: Comparison) -> Iterator[RenderableType]:
    """Yield the tables of runs, groups and differences, and the notes, with empty lines between them."""
    yield _run_table(result)
    if any(len(group.runs) > 1 for group in result.groups) or any(result.labels):
        yield from ("", _group_table(result))
    if result.unit and result.differences:
        yield from ("", _difference_table(result))
        yield from ("", Text(_conclusion(result)))
    for note in _notes(result):
        yield from ("", Text(note))


def _run_table(result: Comparison) -> Table:
    heads = [number_column(head) for head in ("seed", "steps", "held-out loss", "bits/B")]
    table = new_table("", Column("run", style="bold", overflow="fold"), *heads)
    for letter, group in zip(_letters(result), result.groups, strict=True):
        for run in group.runs:
            best, steps = run.best, f"{run.last_step:,}/{run.run.train.max_steps:,}"
            loss = "-" if best is None else f"{best.loss:.3f}"
            bits = "-" if best is None or best.bits_per_byte is None else f"{best.bits_per_byte:.3f}"
            table.add_row(letter, str(run.folder), str(run.run.train.seed), steps, loss, bits)
    return table


def _group_table(result: Comparison) -> Table:
    unit = result.unit
    heads = ["runs", *([f"mean {UNIT_NAMES[unit]}", "deviation"] if unit else [])]
    table = new_table("", "settings that differ", *map(number_column, heads))
    for letter, group, label in zip(_letters(result), result.groups, result.labels, strict=True):
        numbers = [group.mean(unit), group.deviation(unit)] if unit else []
        table.add_row(
            letter, label or "none", str(len(group.runs)), *("-" if v is None else f"{v:.3f}" for v in numbers)
        )
    return table


def _difference_table(result: Comparison) -> Table:
    letters = _letters(result)
    table = new_table("", number_column(f"minus {letters[0]}"), number_column("95% interval"), "")
    for d in result.differences:
        interval = f"{d.interval.low:+.3f} to {d.interval.high:+.3f}" if d.interval else ""
        error = "" if d.window_error is None else f" ± {d.window_error:.3f}"
        table.add_row(letters[d.group], f"{d.value:+.3f}{error}", interval, d.verdict)
    return table


def _conclusion(result: Comparison) -> str:
    """Return which group is best, and over which others its lead is more than the variation between seeds."""
    letters = _letters(result)
    sentence = f"{letters[0]} has the lowest {UNIT_NAMES[result.unit or 'loss']}"
    sentence += f" ({result.labels[0]})." if result.labels[0] else "."
    sure = [letters[d.group] for d in result.differences if d.interval and d.interval.excludes_zero]
    unsure = [letters[d.group] for d in result.differences if d.interval and not d.interval.excludes_zero]
    unknown = [letters[d.group] for d in result.differences if not d.interval]
    if sure:
        sentence += f" Its lead over {_listed(sure)} is larger than the variation between seeds."
    if unsure:
        sentence += f" Its lead over {_listed(unsure)} may be seed variation: train more seeds to find out."
    if unknown:
        sentence += f" How much of its lead over {_listed(unknown)} is seed variation is not known: one run each."
    return sentence


def _notes(result: Comparison) -> Iterator[str]:
    """Yield the caveats of the numbers."""
    runs, letters = result.runs, _letters(result)
    if result.reason:
        yield result.reason
    if any(d.interval for d in result.differences):
        note = (
            "Deviation: the standard deviation over runs that differ in the seed alone (n - 1). The interval (Welch's "
            "t) holds the difference of the means with 95% confidence."
        )
        if any(len(group.runs) == 1 for group in result.groups):
            note += " A single run is given the deviation of the group that it is compared with."
        if len(result.groups) > 2:
            note += " Each interval is for one comparison: among many, some exclude zero by chance."
        yield note
    if any(d.window_error is not None for d in result.differences):
        yield (
            "± of two single runs is the error of measuring on these held-out windows: it does not include the "
            "variation between seeds."
        )
    for letter, group in zip(letters, result.groups, strict=True):
        seeds = [(run.run.train.seed, run.run.data.seed) for run in group.runs]
        if len(set(seeds)) < len(seeds):
            yield f"{letter} has several runs of one seed: its deviation is too small, and so are the intervals."
    yield from length_notes(
        runs, [letter for letter, group in zip(letters, result.groups, strict=True) for _ in group.runs]
    )
    facts = {name for run in runs[1:] for name, *_ in run_differences(runs[0], run) if "." not in name}
    if others := sorted(facts - {"text, SHA-256", "vocabulary, SHA-256"}):
        yield f"Not the same for all runs: {', '.join(others)}."


def length_notes(runs: Sequence[RunLog], names: Sequence[str]) -> Iterator[str]:
    """Yield a note if some runs trained longer than others, and one if some were evaluated in other windows."""
    steps = {run.last_step for run in runs}
    tokens = {run.tokens for run in runs}
    if len(steps) > 1 or len(tokens) > 1:
        what, values = (
            ("steps", [run.last_step for run in runs]) if len(steps) > 1 else ("tokens", [run.tokens for run in runs])
        )
        yield (
            f"The runs did not train equally long ({what}: {_by_name(names, values)}): part of a difference can come "
            "from that."
        )
    contexts = [run.best.context if run.best else None for run in runs]
    if None not in contexts and len(set(contexts)) > 1:
        yield (
            f"They were evaluated in windows of different lengths (tokens: {_by_name(names, contexts)}). Every window "
            "starts without context, so shorter windows give the same model a higher loss."
        )


def _by_name(names: Sequence[str], values: Sequence[int | None]) -> str:
    """Return "A 100, B 50 to 60"."""
    ranges = []
    for name in dict.fromkeys(names):
        own = [value or 0 for value, other in zip(values, names, strict=True) if other == name]
        ranges.append(f"{name} {min(own):,}" + (f" to {max(own):,}" if min(own) < max(own) else ""))
    return ", ".join(ranges)


def _letters(result: Comparison) -> list[str]:
    n = len(result.groups)
    return list(LETTERS[:n]) if n <= len(LETTERS) else [str(i + 1) for i in range(n)]


def _listed(letters: Sequence[str]) -> str:
    return letters[0] if len(letters) == 1 else f"{', '.join(letters[:-1])} and {letters[-1]}"


def to_json(result: Comparison) -> dict[str, Any]:
    """Return the comparison as plain values."""
    letters, unit = _letters(result), result.unit
    return {
        "unit": unit,
        "reason": result.reason,
        "groups": [
            {
                "name": letter,
                "settings": settings,
                "n": len(group.runs),
                "mean": group.mean(unit) if unit else None,
                "standard_deviation": group.deviation(unit) if unit else None,
                "runs": [{"run": str(run.folder), "seed": run.run.train.seed, **results_of(run)} for run in group.runs],
            }
            for letter, group, settings in zip(letters, result.groups, result.settings, strict=True)
        ],
        "differences": [
            {
                "group": letters[d.group],
                "minus": letters[0],
                "difference": d.value,
                "low": d.interval.low if d.interval else None,
                "high": d.interval.high if d.interval else None,
                "window_error": d.window_error,
                "larger_than_seed_variation": d.interval.excludes_zero if d.interval else None,
            }
            for d in result.differences
        ],
        "notes": list(_notes(result)),
    }
