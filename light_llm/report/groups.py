"""Compare any number of runs: the settings that differ, and groups of runs that differ in nothing but the seed."""

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from .compare import comparable_unit, eval_difference
from .log_rows import LossUnit
from .run_log import RunLog
from .statistics import Interval, difference_of_means, mean, standard_deviation

SEEDS = ("train.seed", "data.seed")
# Settings that cannot change a result.
WITHOUT_EFFECT = frozenset(
    f"train.{name}"
    for name in (
        "save_interval",
        "save_minutes",
        "keep_every",
        "sample_interval",
        "probe_interval",
        "timeout",
        "tracker",
    )
)
_SAVED_STDIN = re.compile(r"[0-9a-f]{64}\.(txt|jsonl|json|parquet)")  # the file of a text that came through a pipe


def results_of(run: RunLog) -> dict[str, Any]:
    """Return the results of a run as plain values: its length, best evaluation, training loss, time and speed."""
    best = run.best
    return {
        "step": run.last_step,
        "max_steps": run.run.train.max_steps,
        "tokens": run.tokens,
        "held_out_loss": best.loss if best else None,
        "held_out_stderr": best.stderr if best else None,
        "held_out_bits_per_byte": best.bits_per_byte if best else None,
        "held_out_step": best.step if best else None,
        "training_loss": run.final_loss,
        "seconds": run.seconds,
        "tokens_per_second": run.tokens_per_second,
    }


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seeds at most."""

    runs: tuple[RunLog, ...]

    def values(self, unit: LossUnit) -> list[float]:
        """Return the best held-out loss of each run that has one."""
        found = [run.best.in_unit(unit)[0] for run in self.runs if run.best]
        return [value for value in found if value is not None]

    def mean(self, unit: LossUnit) -> float | None:
        values = self.values(unit)
        return mean(values) if values else None

    def deviation(self, unit: LossUnit) -> float | None:
        """Return the standard deviation over the seeds (n - 1); None for a single run."""
        return standard_deviation(self.values(unit))


def group_runs(runs: Sequence[RunLog]) -> list[Group]:
    """Put runs that differ in nothing but their seeds together, in the order in which they are given."""
    groups: dict[str, list[RunLog]] = {}
    for run in runs:
        settings = {path: value for path, value in _settings(run).items() if path not in (*SEEDS, *WITHOUT_EFFECT)}
        # A text that moved is the same text: its hash counts, and not its name.
        for path in ("data.data", "data.val_data"):
            settings.pop(path, None)
        facts = dict(run.data or {})
        facts.pop("title", None)
        groups.setdefault(repr((sorted(settings.items()), sorted(facts.items()))), []).append(run)
    return [Group(tuple(members)) for members in groups.values()]


def group_difference(a: Group, b: Group, unit: LossUnit) -> Interval | None:
    """Return the difference b - a of two means with its 95% interval over seeds; None for two single runs."""
    values = a.values(unit), b.values(unit)
    return difference_of_means(*values) if all(values) else None


def window_difference(a: Group, b: Group, unit: LossUnit) -> tuple[float | None, float | None]:
    """Return the difference b - a of two single runs, and its standard error over the held-out windows."""
    first, second = a.runs[0].best, b.runs[0].best
    return eval_difference(first, second, unit) if first and second else (None, None)


def common_unit(runs: Sequence[RunLog], names: Sequence[str]) -> tuple[LossUnit | None, str]:
    """Return the unit in which all runs may be compared, and the reason if it is not nats per token.

    Args:
        names: of the runs, for the reason.
    """
    unit: LossUnit | None = "loss"
    reason = ""
    for run, name in zip(runs[1:], names[1:], strict=True):
        found, why = comparable_unit(runs[0], run, (names[0], name))
        if found is None:
            return None, why
        if found != "loss":
            unit, reason = found, reason or why
    return unit, reason


def differing_settings(runs: Sequence[RunLog], without: Collection[str] = ()) -> dict[str, list[Any]]:
    """Return the values of each setting that differs among runs, by its name.

    A name is short, as `lr` of train.lr, where that is unambiguous. The two seeds of --seed are one here, and the
    end of the schedule is left out where it is the number of steps.

    Args:
        without: settings that do not count, by dotted name.
    """
    all_settings = [_settings(run) for run in runs]
    differing: dict[str, list[Any]] = {}
    for path in all_settings[0] if runs else ():
        values = [settings[path] for settings in all_settings]
        if path not in without and any(value != values[0] for value in values):
            differing[path] = values
    if differing.get("train.lr_horizon") == [run.run.train.max_steps for run in runs]:
        del differing["train.lr_horizon"]
    if differing.get("train.seed") == differing.get("data.seed"):
        differing.pop("data.seed", None)
    short = [path.partition(".")[2] for path in differing]
    return {
        name if short.count(name) == 1 else path: values
        for name, (path, values) in zip(short, differing.items(), strict=True)
    }


def data_names(runs: Sequence[RunLog]) -> list[str]:
    """Return text and tokenizer of each run; two texts of the same name are told apart by their hash."""
    titles = [_title(run) for run in runs]
    hashes: dict[str, set[str]] = {}
    for run, title in zip(runs, titles, strict=True):
        hashes.setdefault(title, set()).add((run.data or {}).get("sha256", ""))
    return [
        f"{title} ({run.data['sha256'][:6]}), {run.data['tokenizer']}"
        if run.data and len(hashes[title]) > 1
        else ", ".join(filter(None, (title, (run.data or {}).get("tokenizer"))))
        for run, title in zip(runs, titles, strict=True)
    ]


def _title(run: RunLog) -> str:
    if run.data is None:
        return "your own loader"
    return "standard input" if _SAVED_STDIN.fullmatch(run.data["title"]) else run.data["title"]


def _settings(run: RunLog) -> dict[str, Any]:
    return {f"{part}.{name}": value for part, values in run.run.to_dict().items() for name, value in values.items()}
