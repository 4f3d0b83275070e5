"""Where a run does not fit: the nearest settings that do, each with its own numbers."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..config import ModelConfig, TrainConfig, preset_settings
from .parameters import overridden_sizes, presets_of_kind, resize_to_preset
from .plan import Plan, make_plan

SHORTEST = 64  # tokens of a window that is offered
SMALL_VOCABULARY = 4096  # of a tokenizer learnt from the text
Overrides = dict[str, Any]  # settings by `part__name`


@dataclass(frozen=True)
class Suggestion:
    """Settings that fit."""

    changes: Overrides
    flags: str  # how to ask for them
    effect: str  # what they change
    plan: Plan


def suggest_settings(plan: Plan, *, timed: bool = True) -> list[Suggestion]:
    """For each kind of change the smallest that fits, what changes the result least first; [] where none does.

    First each alone; what is not enough alone is joined by the one before it: fewer sequences at a time.
    """
    found: list[Suggestion] = []
    for kind in (_fewer_at_a_time, _recomputed, _shorter, _smaller, _fewer_words):
        fits = next((way for way in kind(plan) if way.plan.fits), None)
        if fits:
            found.append(fits)
    if not found:
        found = [way for way in _all_together(plan) if way.plan.fits][:1]
    return [replace(way, plan=_again(plan, way.changes, timed=True)) for way in found] if timed else found


def _way(plan: Plan, flags: str, effect: str, **changes: Any) -> Suggestion:
    return Suggestion(changes, flags, effect, _again(plan, changes))


def _again(plan: Plan, changes: Overrides, *, timed: bool = False) -> Plan:
    """The plan with some settings changed."""
    model, train, T = apply(plan.model, plan.train, plan.T, changes)
    text = replace(plan.text, tokens=None) if "data__tokenizer" in changes else plan.text
    return make_plan(model, train, T, text, framework=plan.memory.framework, room=plan.room, timed=timed)


def apply(model: ModelConfig, train: TrainConfig, T: int, changes: Overrides) -> tuple[ModelConfig, TrainConfig, int]:
    """Model, training and window with settings changed."""
    of = {
        part: {k.partition("__")[2]: v for k, v in changes.items() if k.startswith(part)} for part in ("model", "train")
    }
    return replace(model, **of["model"]), replace(train, **of["train"]), changes.get("data__max_length", T)


def micro_batches(train: TrainConfig) -> list[int]:
    """Sequences at a time that divide the batch, fewer than now, the most first."""
    now = train.micro_batch or train.batch_size
    return [n for n in range(now - 1, 0, -1) if train.batch_size % n == 0]


def _fewer_at_a_time(plan: Plan, before: str = "", **changes: Any) -> Iterator[Suggestion]:
    for n in micro_batches(plan.train):
        effect = "the same steps and loss, in smaller pieces" if not changes else "as said, in smaller pieces"
        effect += _without(plan) if "model__n_embd" in changes else ""
        yield _way(plan, f"{before}--micro-batch {n}", effect, train__micro_batch=n, **changes)


def _recomputed(plan: Plan) -> Iterator[Suggestion]:
    if plan.train.checkpointing:
        return
    flags = "--set train.checkpointing=true"
    yield _way(plan, flags, "the same loss, a third more time", train__checkpointing=True)
    yield from _fewer_at_a_time(plan, f"{flags} ", train__checkpointing=True)


def _shorter(plan: Plan) -> Iterator[Suggestion]:
    T = plan.T // 2
    lengths = []
    while T >= SHORTEST:
        lengths.append(T)
        T //= 2
    for T in lengths:
        yield _way(plan, f"--max-length {T}", "a shorter context", **_window(T))
    for T in lengths:
        yield from _fewer_at_a_time(plan, f"--max-length {T} ", **_window(T))


def _window(T: int) -> Overrides:
    return {"data__max_length": T, "model__n_positions": T}


def _smaller(plan: Plan) -> Iterator[Suggestion]:
    smaller = [name for name in presets_of_kind(plan.model) if plan.model.n_embd > preset_settings(name)["n_embd"]]
    for name in reversed(smaller):
        yield _way(plan, f"--preset {name}", f"a smaller model{_without(plan)}", **resize_to_preset(name, plan.model))
    for name in reversed(smaller):
        yield from _fewer_at_a_time(plan, f"--preset {name} ", **resize_to_preset(name, plan.model))


def _without(plan: Plan) -> str:
    """A size that was set by hand would be set in the preset too."""
    own = " ".join(f"--set model.{size}" for size in overridden_sizes(plan.model))
    return f"; leave out {own}" if own else ""


def _fewer_words(plan: Plan) -> Iterator[Suggestion]:
    if plan.model.vocab_size <= 2 * SMALL_VOCABULARY:
        return
    flags, changes = f"--tokenizer bpe:{SMALL_VOCABULARY}", _vocabulary()
    yield _way(plan, flags, "a small vocabulary, learnt from the text", **changes)
    yield from _fewer_at_a_time(plan, f"{flags} ", **changes)


def _vocabulary() -> Overrides:
    return {"data__tokenizer": f"bpe:{SMALL_VOCABULARY}", "model__vocab_size": SMALL_VOCABULARY}


def _all_together(plan: Plan) -> Iterator[Suggestion]:
    """Everything at once: the last that is left."""
    smallest = presets_of_kind(plan.model)[0]
    changes = {**_vocabulary(), **_window(min(plan.T, SHORTEST)), "train__micro_batch": 1}
    flags = f"--tokenizer bpe:{SMALL_VOCABULARY} --max-length {min(plan.T, SHORTEST)} --micro-batch 1"
    yield _way(plan, flags, "a small vocabulary, a short context, one at a time", **changes)
    least = f"the least that is offered{_without(plan)}"
    yield _way(plan, f"--preset {smallest} {flags}", least, **changes, **resize_to_preset(smallest, plan.model))
