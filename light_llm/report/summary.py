"""What the head and the tail of a report say: what the run is, its key numbers, its plan, and how to repeat it."""

from collections.abc import Callable
from typing import Any

from ..text_format import format_bytes, format_count, format_duration
from .past_run import FINAL_STEPS
from .repeat import all_settings, changed_settings, repeat_command
from .tolerant import known, mapping, text
from .view import View

STATUS = {
    "done": "done",
    "interrupted": "interrupted",
    "stopped": "stopped early",
    "nonfinite": "stopped: a number was not finite",
    "unfinished": "not finished: going on, or cut off",
}


def facts(view: View) -> dict[str, str]:
    """Model, text, device and status, in words."""
    model, past = view.past.run.model, view.past
    shape = f"{model.n_layer} layers of {model.n_embd}, {model.n_head} heads, {past.parameters:,} parameters"
    shape += f" ({model.describe_variant()})" if model.describe_variant() else ""
    data = mapping(view.record.get("data"))
    tokens = f", {text(data.get('tokenizer'))} tokens (V = {model.vocab_size:,})" if data else ""
    decided = mapping(view.record.get("decided"))
    dtype = text(mapping(decided.get("dtype")).get("value")) or past.run.train.dtype
    device = text(mapping(decided.get("device")).get("value")) or past.run.train.device
    return {
        "model": shape,
        "text": (text(data.get("title")) or "a loader of your own") + tokens,
        "device": ", ".join(word for word in (device, past.machine, dtype) if word),
        "started": f"{past.started:%Y-%m-%d %H:%M} {past.started.tzname() or ''}".strip(),
        "status": STATUS.get(view.status, view.status),
    }


def key_numbers(view: View) -> list[dict[str, str]]:
    """The numbers of the head row: a label, the value, and what belongs to it in small letters."""
    past, best = view.past, view.past.best
    found = []

    def add(label: str, value: str, note: str = "") -> None:
        found.append({"label": label, "value": value, "note": note})

    if best:
        error = f"± {best.stderr:.3f}, " if best.stderr is not None else ""
        add("best held-out loss", f"{best.loss:.3f}", f"{error}step {best.step:,}")
        if best.bits_per_byte is not None:
            limit = next((e.limit for e in view.held_out if e.step == best.step and e.limit is not None), None)
            add("bits per byte", f"{best.bits_per_byte:.3f}", f"limit {limit:.3f}" if limit is not None else "held out")
    if past.final_loss is not None:
        n = min(FINAL_STEPS, len(past.steps))
        add("training loss", f"{past.final_loss:.3f}", f"mean of the last {n} steps" if n > 1 else "of its only step")
    add("steps", f"{past.step:,}", f"of {past.run.train.max_steps:,}")
    add("tokens", format_count(past.tokens), f"{past.tokens:,}")
    add("time", format_duration(past.seconds), "in steps")
    if past.tokens_per_second:
        add("speed", f"{past.tokens_per_second:,.0f}", "tokens/s")
    mfu, peak = known(view.steps.mfu), peak_memory_of(view)
    if mfu:
        add("MFU", f"{100 * sum(mfu) / len(mfu):.0f}%", "of the machine's product rate")
    if peak:
        add("peak memory", format_bytes(peak))
    return found


def peak_memory_of(view: View) -> float | None:
    """The most memory that was seen, bytes; None where nobody looked."""
    return max([*known(view.steps.memory), *known([view.end.memory if view.end else None])], default=None)


def plan_table(view: View) -> dict[str, Any]:
    """What was planned beside what happened."""
    past, plan = view.past, view.plan
    rows = [["steps", _whole(past.run.train.max_steps), f"{past.step:,}"]]
    rows.append(["parameters", _whole(plan.get("parameters")), f"{past.parameters:,}"])
    rows.append(["tokens", _whole(plan.get("tokens")), f"{past.tokens:,}"])
    data = mapping(view.record.get("data"))
    passes, size = plan.get("passes"), data.get("train_tokens")
    if isinstance(passes, (int, float)) and isinstance(size, int) and size > 0:
        rows.append(["passes over the text", f"{passes:g}", f"{past.tokens / size:.2f}"])
    flops = view.flops_per_token
    if flops:
        rows.append(
            [
                "arithmetic, FLOPs",
                f"{flops * past.run.train.batch_size * past.run.data.max_length * past.run.train.max_steps:.3g}",
                f"{flops * past.tokens:.3g}",
            ]
        )
    middle = sorted(row.seconds for row in past.steps)[len(past.steps) // 2] if past.steps else None
    rows.append(
        [
            "time of a step, median",
            _formatted(plan.get("step_seconds"), format_duration),
            _formatted(middle, format_duration),
        ]
    )
    rows.append(["time in steps", _formatted(plan.get("seconds"), format_duration), format_duration(past.seconds)])
    if view.end and view.end.seconds is not None:
        rows.append(
            ["time, all in", _formatted(plan.get("all_seconds"), format_duration), format_duration(view.end.seconds)]
        )
    if peak := peak_memory_of(view):
        planned = mapping(plan.get("memory")).get("total")
        rows.append(["peak memory", _formatted(planned, format_bytes), format_bytes(peak)])
    last, every = past.run.train.max_steps, past.run.train.eval_interval
    evaluations = last // every + (last % every > 0)  # the last step is one of them
    rows.append(["evaluations", f"{evaluations:,}", f"{len(view.held_out):,}"])
    rows.append(["rollbacks", "0", f"{len(view.rollbacks):,}"])
    return {"heads": ["", "planned", "happened"], "rows": rows, "note": ""}


def settings_tables(view: View) -> dict[str, Any]:
    """Everything that is needed to make the run again."""
    run = view.past.run
    record = mapping(view.record.get("data"))
    hashes = [[label, text(record.get(key))] for label, key in _HASHES.items() if text(record.get(key))]
    if run.train.init_from:
        hashes.append(["weights to start from", run.train.init_from])
    decided = [
        [name, text(mapping(choice).get("value")), text(mapping(choice).get("reason"))]
        for name, choice in mapping(view.record.get("decided")).items()
    ]
    return {
        "command": repeat_command(run),
        "tables": [
            _table(
                "What differs from the defaults",
                ("setting", "value", "default"),
                [[n, v, d] for n, d, v in changed_settings(run)],
            ),
            _table("Text and vocabulary", ("what", "SHA-256"), hashes),
            _table("Versions", ("what", "version"), [list(pair) for pair in sorted(view.past.versions.items())]),
            _table("Decided on this machine", ("what", "value", "why"), decided),
            _table("All settings", ("setting", "value", "default"), [list(row) for row in all_settings(run)]),
        ],
    }


_HASHES = {"text": "sha256", "held-out text": "held_out_sha256", "vocabulary": "tokenizer_sha256"}


def _table(title: str, heads: tuple[str, ...], rows: list[list[Any]]) -> dict[str, Any]:
    shown = [["none" if cell is None else str(cell) for cell in row] for row in rows]
    return {"title": title, "heads": list(heads), "rows": shown, "note": ""}


def _whole(value: Any) -> str:
    return f"{value:,}" if isinstance(value, int) else ""


def _formatted(value: Any, format_: Callable[[float], str]) -> str:
    return format_(value) if isinstance(value, (int, float)) else ""
