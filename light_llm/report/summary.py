"""The head and the tail of a report as text: facts, key numbers, the plan, and the command that repeats the run."""

import shlex
from collections.abc import Callable
from statistics import median_high
from typing import Any

from ..config import FLAGS, PRESETS, DataConfig, Run, TrainConfig, differences
from ..text_format import format_bytes, format_count, format_duration
from .coerce import as_int, as_mapping, as_number, as_text, drop_none, mean_of
from .progress import status_line
from .run_log import FINAL_STEPS, RunLog

HASHES = {"text": "sha256", "held-out text": "held_out_sha256", "vocabulary": "tokenizer_sha256"}


def run_facts(log: RunLog) -> dict[str, str]:
    """Return model, text, device and status as words."""
    model, data = log.run.model, as_mapping(log.record.get("data"))
    shape = f"{model.n_layer} layers of {model.n_embd}, {model.n_head} heads, {log.parameters:,} parameters"
    variant = model.describe_variant()
    shape += f" ({variant})" if variant else ""
    tokens = f", {as_text(data.get('tokenizer'))} tokens (V = {model.vocab_size:,})" if data else ""
    decided = as_mapping(log.record.get("decided"))
    dtype = as_text(as_mapping(decided.get("dtype")).get("value")) or log.run.train.dtype
    device = as_text(as_mapping(decided.get("device")).get("value")) or log.run.train.device
    facts = {
        "model": shape,
        "text": (as_text(data.get("title")) or "a loader of your own") + tokens,
        "device": ", ".join(word for word in (device, log.machine, dtype) if word),
        **_process_facts(log),
        "started": f"{log.started:%Y-%m-%d %H:%M} {log.started.tzname() or ''}".strip(),
        "status": status_line(log),
    }
    if log.skipped_rows:
        facts["metrics"] = f"{log.skipped_rows:,} lines of metrics.jsonl could not be read and were skipped"
    return facts


def _process_facts(log: RunLog) -> dict[str, str]:
    """Return how many processes trained, where and how; nothing for one process."""
    if log.processes == 1:
        return {}
    world = as_mapping(log.record.get("world"))
    n, tensor = as_int(world.get("machines")) or 1, as_int(world.get("tensor")) or 1
    shared = f", {tensor} share each matrix (tensor)" if tensor > 1 else ""
    how = as_text(world.get("parallel")) if tensor < log.processes else ""
    return {"world": f"{log.processes} processes on {n} machine{'s' * (n != 1)}{shared}{', ' * bool(how)}{how}"}


def key_numbers(log: RunLog) -> list[dict[str, str]]:
    """Return the numbers of the head row: label, value, and a note in small print."""
    numbers, best = [], log.best

    def add(label: str, value: str, note: str = "") -> None:
        numbers.append({"label": label, "value": value, "note": note})

    if best:
        error = f"± {best.stderr:.3f}, " if best.stderr is not None else ""
        add("best held-out loss", f"{best.loss:.3f}", f"{error}step {best.step:,}")
        if best.bits_per_byte is not None:
            note = f"limit {best.limit:.3f}" if best.limit is not None else "held out"
            add("bits per byte", f"{best.bits_per_byte:.3f}", note)
    if log.final_loss is not None:
        n = min(FINAL_STEPS, len(log.steps))
        add("training loss", f"{log.final_loss:.3f}", f"mean of the last {n} steps" if n > 1 else "the only step")
    add("steps", f"{log.last_step:,}", f"of {log.run.train.max_steps:,}, {format_count(log.tokens)} tokens")
    whole = f", {format_duration(log.all_seconds)} in all" if log.all_seconds is not None else ""
    add("time", format_duration(log.seconds), f"in steps{whole}")
    if log.tokens_per_second:
        add("speed", f"{log.tokens_per_second:,.0f} tokens/s", "mean")
    mfu, peak = mean_of(log.steps.mfu), peak_memory(log)
    if mfu is not None:
        add(
            "MFU", f"{100 * mfu:.0f}%", "of this machine's FLOP/s" if log.processes == 1 else "of all processes' FLOP/s"
        )
    if peak:
        add("peak memory", format_bytes(peak), "" if log.processes == 1 else "of one process")
    return numbers


def peak_memory(log: RunLog) -> float | None:
    """Return the largest memory of any step or of the whole process, bytes; None if it was not measured."""
    return max(drop_none([*log.steps.memory, log.end.memory if log.end else None]), default=None)


def plan_table(log: RunLog) -> dict[str, Any]:
    """Return the table of predicted and measured values, both of the whole run."""
    train, plan = log.run.train, log.plan
    rows = [
        ["steps", f"{train.max_steps:,}", f"{log.last_step:,}"],
        ["parameters", _integer(plan.get("parameters")), f"{log.parameters:,}"],
        ["tokens", _integer(plan.get("tokens")), f"{log.tokens:,}"],
    ]
    passes, size = as_number(plan.get("passes")), as_number(as_mapping(log.record.get("data")).get("train_tokens"))
    if passes is not None and size:
        rows.append(["passes over the text", f"{passes:g}", f"{log.tokens / size:.2f}"])
    if flops := log.flops_per_token:
        planned = flops * log.tokens_per_step * train.max_steps
        rows.append(["arithmetic, FLOPs", f"{planned:.3g}", f"{flops * log.tokens:.3g}"])
    measured = drop_none(log.steps.seconds)
    median_step = median_high(measured) if measured else None
    rows.append(["time of a step, median", *_pair(format_duration, plan.get("step_seconds"), median_step)])
    rows.append(["time in steps", *_pair(format_duration, plan.get("seconds"), log.seconds)])
    if log.all_seconds is not None:
        label = "time with start, evaluation and saving"
        rows.append([label, *_pair(format_duration, planned_all_seconds(log), log.all_seconds)])
    if peak := peak_memory(log):
        rows.append(["peak memory", *_pair(format_bytes, as_mapping(plan.get("memory")).get("total"), peak)])
    # The last step is evaluated too.
    rows.append(["evaluations", f"{-(-train.max_steps // train.eval_interval):,}", f"{len(log.evals):,}"])
    rows.append(["rollbacks", "0", f"{len(log.rollbacks):,}"])
    return {"heads": ["", "predicted", "measured"], "rows": rows}


def planned_all_seconds(log: RunLog) -> float | None:
    """Return the predicted time of the whole run with everything beside the steps; None if it is not known.

    The plan of a resumed run predicts the steps that were left; the time beside the steps grows in proportion.
    """
    plan = log.plan
    all_left, steps = as_number(plan.get("all_seconds")), as_number(plan.get("seconds"))
    steps_left = as_number(as_mapping(plan.get("left")).get("steps"))
    if all_left is None or steps is None:
        return None
    if steps_left:
        return steps + (all_left - steps_left) * steps / steps_left
    return all_left if len(log.ends) == 1 else None  # older plans do not say how many steps were left


def repro_tables(log: RunLog) -> dict[str, Any]:
    """Return the command and the tables needed to make the run again."""
    run, data = log.run, as_mapping(log.record.get("data"))
    hashes = [[label, as_text(data.get(key))] for label, key in HASHES.items() if as_text(data.get(key))]
    if run.train.init_from:
        hashes.append(["weights to start from", run.train.init_from])
    decisions = [
        [name, as_text(as_mapping(decision).get("value")), as_text(as_mapping(decision).get("reason"))]
        for name, decision in as_mapping(log.record.get("decided")).items()
    ]
    changed = [[name, value, default] for name, default, value in changed_settings(run)]
    return {
        "command": repro_command(run, local_processes(log)),
        "tables": [
            _table("What differs from the defaults", ("setting", "value", "default"), changed),
            _table("Text and vocabulary", ("what", "SHA-256"), hashes),
            _table("Versions", ("what", "version"), [list(pair) for pair in sorted(log.versions.items())]),
            _table("Decided on this machine", ("what", "value", "why"), decisions),
            _table("All settings", ("setting", "value", "default"), [list(row) for row in all_settings(run)]),
        ],
    }


def changed_settings(run: Run) -> list[tuple[str, Any, Any]]:
    """Return "part.name", default and value of each setting that is not at its default, in the order of the config."""
    changed = differences(Run(), run)
    # lr_horizon follows max_steps unless it was set to something else.
    return [entry for entry in changed if entry[0] != "train.lr_horizon" or entry[2] != run.train.max_steps]


def local_processes(log: RunLog) -> int:
    """Return how many processes `--processes` has to start to repeat a run: 1 if it ran on several machines."""
    machines = as_int(as_mapping(log.record.get("world")).get("machines")) or 1
    return log.processes if machines == 1 else 1


def repro_command(run: Run, processes: int = 1) -> str:
    """Return the command line that trains with these settings.

    >>> repro_command(Run().with_settings(train__lr=0.003, train__beta2=0.99, model__n_layer=2))
    'light-llm train --data shakespeare --set model.n_layer=2 --lr 0.003 --set train.beta2=0.99'
    """
    words = ["light-llm", "train"]
    preset = next((name for name, sizes in PRESETS.items() if sizes.items() <= vars(run.model).items()), None)
    if preset not in (None, "micro"):
        words += ["--preset", str(preset)]
    words += ["--data", run.data.data]
    if run.data.tokenizer != DataConfig().tokenizer:
        # The size of a trained vocabulary is that of the model's table.
        size = f":{run.model.vocab_size}" if run.data.tokenizer == "bpe" else ""
        words += ["--tokenizer", f"{run.data.tokenizer}{size}"]
    if run.train.seed == run.data.seed != TrainConfig().seed:
        words += ["--seed", str(run.train.seed)]
    for name, _, value in changed_settings(run):
        if _is_implied(name, run, preset):
            continue
        flag, text = name.partition(".")[2], "none" if value is None else str(value)
        # --seed sets two settings, and cannot give them different values.
        if FLAGS.get(flag) == [name]:
            words += [f"--{flag.replace('_', '-')}", text]
        else:
            words += ["--set", f"{name}={text}"]
    if processes > 1:
        words += ["--processes", str(processes)]
    return shlex.join(words)


def all_settings(run: Run) -> list[tuple[str, Any, Any]]:
    """Return "part.name", value and default of every setting."""
    defaults = Run().to_dict()
    return [
        (f"{part}.{name}", value, defaults[part][name])
        for part, values in run.to_dict().items()
        for name, value in values.items()
    ]


def _is_implied(name: str, run: Run, preset: str | None) -> bool:
    """Return whether a setting follows from the preset, the data, the tokenizer or the seed of the command."""
    if preset is not None and name.removeprefix("model.") in PRESETS[preset]:
        return True
    if name in ("train.seed", "data.seed"):
        return run.train.seed == run.data.seed
    if name == "model.vocab_size":
        return run.data.tokenizer != DataConfig().tokenizer
    return name in ("data.data", "data.tokenizer")


def _table(title: str, heads: tuple[str, ...], rows: list[list[Any]]) -> dict[str, Any]:
    cells = [["none" if cell is None else str(cell) for cell in row] for row in rows]
    return {"title": title, "heads": list(heads), "rows": cells}


def _integer(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def _pair(format_fn: Callable[[float], str], *values: Any) -> list[str]:
    """Format numbers; a missing one is empty."""
    return ["" if (number := as_number(value)) is None else format_fn(number) for value in values]
