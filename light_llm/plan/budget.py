"""From a budget of time or memory to preset, batch and steps, by a stated rule.

A model of P parameters learns most from a given amount of arithmetic when it sees about 20 tokens for each of them
(Hoffmann et al., 2022); a text that is seen more than four times teaches little more (Muennighoff et al., 2023). So:

1.  a preset gets the tokens that it can process in the time, but at most four passes over the text;
2.  the largest preset is taken that sees at least 20 tokens for each parameter of its blocks; if none does, the
    smallest. With memory alone, the largest preset that fits;
3.  a step has the sequences that the settings say: more where the steps would be more than 10,000, fewer where they
    would be fewer than 100; and as many at a time as memory holds.
"""

import re
from dataclasses import dataclass, replace

from ..config import ModelConfig, TrainConfig, matrix_parameters
from ..errors import ConfigError
from ..runtime import MemoryLimit
from ..text_format import format_bytes, format_duration
from .plan import DatasetSize, Plan, make_plan
from .suggest import Overrides, apply, micro_batches, presets_of_kind, resize_to_preset

TOKENS_PER_PARAMETER = 20.0
MAX_PASSES = 4.0
MAX_STEPS, MIN_STEPS = 10_000, 100
MAX_BATCH_FACTOR = 1024  # by which a batch may grow, so that a budget of years ends the search too
SECONDS = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600}
BYTES = {"kb": 10**3, "mb": 10**6, "gb": 10**9, "tb": 10**12}


@dataclass(frozen=True)
class Budget:
    """The time and the memory that may be used; None for no limit."""

    seconds: float | None = None
    bytes: int | None = None


def parse_budget(text: str) -> Budget:
    """Parse a time, a memory, or both.

    Raises:
        ConfigError: it is neither.

    >>> parse_budget("10min"), parse_budget("1.5h,2GB")
    (Budget(seconds=600.0, bytes=None), Budget(seconds=5400.0, bytes=2000000000))
    """
    budget = Budget()
    for part in text.replace(" ", "").split(","):
        match = re.fullmatch(r"(\d+\.?\d*|\.\d+)([a-z]+)", part.lower())
        amount, unit = (float(match[1]), match[2]) if match else (0.0, "")
        if not 0 < amount < 1e12 or unit not in SECONDS | BYTES:
            shown = text or "''"
            raise ConfigError(
                f"{{--budget {shown}}} cannot be read; write a time, a memory or both: 10min, 2h, 2GB or 30min,2GB"
            )
        if unit in SECONDS:
            budget = replace(budget, seconds=amount * SECONDS[unit])
        else:
            budget = replace(budget, bytes=int(amount * BYTES[unit]))
    return budget


@dataclass(frozen=True)
class BudgetChoice:
    """The settings that a budget leads to, and what limited them."""

    changes: Overrides
    why: str
    plan: Plan


def fit_to_budget(
    budget: Budget, model: ModelConfig, train: TrainConfig, T: int, text: DatasetSize, *, framework: int | None = None
) -> BudgetChoice:
    """Choose preset, batch and steps; `framework` is that of `make_plan`.

    Raises:
        ConfigError: not even the smallest preset fits, or one step takes longer than the time.
    """
    limit = MemoryLimit(budget.bytes, "allowed by the budget") if budget.bytes else None
    choice: BudgetChoice | None = None
    for name in reversed(presets_of_kind(model)):
        shape = resize_to_preset(name, model)
        untimed = make_plan(model, train, T, text, framework=framework, limit=limit, timed=False)
        fitting = _largest_micro_batch(shape, untimed)
        if fitting is None:
            continue
        changes, plan = _choose_steps(budget, *fitting, text)
        ratio = plan.tokens / matrix_parameters(plan.model)
        choice = BudgetChoice(shape | changes, f"{name}, {_limited_by(budget, plan)}", plan)
        if budget.seconds is None or ratio >= TOKENS_PER_PARAMETER:
            return choice
    if choice is None:
        raise ConfigError(
            "no preset fits into the memory of the budget; use a smaller vocabulary ({--tokenizer bpe:1024}) "
            "or a shorter {--max-length}"
        )
    if budget.seconds is not None and choice.plan.step and choice.plan.step > budget.seconds:
        step, allowed = format_duration(choice.plan.step), format_duration(budget.seconds)
        raise ConfigError(
            f"one step of the smallest preset takes {step}, and the budget is {allowed}; "
            "use a smaller {--batch-size} or a smaller vocabulary ({--tokenizer bpe:1024})"
        )
    return choice


def _limited_by(budget: Budget, plan: Plan) -> str:
    """Return the number of steps, and what limits it: the time, the text, or the settings."""
    steps = f"{plan.train.max_steps:,} step{'s' * (plan.train.max_steps != 1)}."
    if budget.seconds is None:
        return f"{steps} The largest preset that fits into {format_bytes(budget.bytes or 0)}"
    if plan.train.max_steps < _steps_of_text(plan.train, plan.T, plan.text, timed=True):
        return f"{steps} Limited by the time"
    if plan.text.tokens is None:
        return f"{steps} Limited by {{--max-steps}}: the length of the text is not known yet"
    return f"{steps} Limited by the text: {MAX_PASSES:g} passes over it (a longer text would allow more training)"


def _steps_of_text(train: TrainConfig, T: int, text: DatasetSize, *, timed: bool) -> int:
    """Return the most steps that a text is good for; those of the settings if it is unknown or the time is not limited.

    At least one.
    """
    if not text.tokens:
        return train.max_steps
    limit = max(1, int(MAX_PASSES * text.tokens / (train.batch_size * T)))
    return limit if timed else min(limit, train.max_steps)


def _largest_micro_batch(shape: Overrides, start: Plan) -> tuple[Overrides, Plan] | None:
    """Return the plan of a preset with as many sequences at a time as fit; None if not even one does."""
    train = start.train
    for n in [train.micro_batch or train.batch_size, *micro_batches(train)]:
        changes = {"train__micro_batch": n if n != train.batch_size else None}
        model, resized, T = apply(start.model, train, start.T, shape | changes)
        plan = make_plan(model, resized, T, start.text, framework=start.memory.framework, limit=start.limit)
        if plan.fits:
            return changes, plan
    return None


def _choose_steps(budget: Budget, changes: Overrides, plan: Plan, text: DatasetSize) -> tuple[Overrides, Plan]:
    """Choose as many steps as time and text allow, of a batch that makes them neither very many nor very few."""
    micro_batch = plan.train.micro_batch or plan.train.batch_size
    batch = plan.train.batch_size
    while True:
        accumulates = micro_batch < batch
        changes = changes | {"train__batch_size": batch, "train__micro_batch": micro_batch if accumulates else None}
        steps = _max_steps(budget, plan, changes, text)
        changes |= {"train__max_steps": steps, "train__warmup_steps": min(plan.train.warmup_steps, max(1, steps // 10))}
        if steps > MAX_STEPS:
            batch *= 2
        elif steps < MIN_STEPS and batch > 1 and batch % 2 == 0 and budget.seconds is not None:
            batch //= 2
            micro_batch = 1 if batch % min(micro_batch, batch) else min(micro_batch, batch)
        else:
            break
        if batch > plan.train.batch_size * MAX_BATCH_FACTOR:
            break
    model, train, T = apply(plan.model, plan.train, plan.T, changes)
    return changes, make_plan(model, train, T, text, framework=plan.memory.framework, limit=plan.limit)


def _max_steps(budget: Budget, plan: Plan, changes: Overrides, text: DatasetSize) -> int:
    """Return the most steps that stay within time and passes; at least one."""
    model, train, T = apply(plan.model, plan.train, plan.T, changes)
    limit = _steps_of_text(train, T, text, timed=budget.seconds is not None)

    def total(steps: int) -> float:
        shortened = replace(train, max_steps=steps, warmup_steps=min(train.warmup_steps, steps))
        seconds = make_plan(model, shortened, T, text, framework=plan.memory.framework, limit=plan.limit).seconds
        return seconds.total if seconds else 0.0

    if budget.seconds is None or total(limit) <= budget.seconds:
        return limit
    # Bisect to within 1%: the time is not predicted any better, and each try plans the whole run.
    low, high = 1, limit
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        low, high = (middle, high) if total(middle) <= budget.seconds else (low, middle)
    return low
