"""From a time or a memory that may be spent to preset, batch and steps, by a stated rule.

A model of P parameters learns most from a given amount of arithmetic when it sees about 20 tokens for each of them
(Hoffmann et al., 2022); a text that is seen more than four times teaches little more (Muennighoff et al., 2023). So:

1.  the tokens of a preset are those it gets through in the time, and at most four passes over the text;
2.  the largest preset is taken that sees at least 20 tokens for each parameter of its blocks; where none does, the
    smallest. With memory alone, the largest preset that fits;
3.  a step has the sequences that the settings say: more where the steps would be more than 10,000, fewer where they
    would be fewer than 100; and as many at a time as memory holds.
"""

from dataclasses import dataclass, replace

from ..config import ModelConfig, TrainConfig, matrix_parameters
from ..errors import ConfigError
from ..runtime import MemoryLimit
from ..text_format import format_duration
from .parameters import presets_of_kind, resize_to_preset
from .plan import Plan, Text, make_plan
from .suggest import Overrides, apply, micro_batches

TOKENS_PER_PARAMETER = 20.0
PASSES = 4.0
MOST_STEPS, FEWEST_STEPS = 10_000, 100
TIMES = {"s": 1, "sec": 1, "min": 60, "m": 60, "h": 3600}
SIZES = {"KB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}


@dataclass(frozen=True)
class Budget:
    """What may be spent; None: no matter."""

    seconds: float | None = None
    bytes: int | None = None


def parse_budget(text: str) -> Budget:
    """Read a time, a memory, or both.

    Raises:
        ConfigError: it is neither.

    >>> parse_budget("10min"), parse_budget("1.5h,2GB")
    (Budget(seconds=600.0, bytes=None), Budget(seconds=5400.0, bytes=2000000000))
    """
    found = Budget()
    for part in text.replace(" ", "").split(","):
        digits = part.rstrip("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ")
        unit = part[len(digits) :]
        try:
            amount = float(digits)
        except ValueError:
            amount = 0.0
        if not 0 < amount < 1e12 or (unit.lower() not in TIMES and unit.upper() not in SIZES):
            raise ConfigError(
                f"--budget {text} cannot be read; write a time, a memory or both, as in 10min, 2h, 2GB or 30min,2GB"
            )
        if unit.lower() in TIMES:
            found = replace(found, seconds=amount * TIMES[unit.lower()])
        else:
            found = replace(found, bytes=int(amount * SIZES[unit.upper()]))
    return found


@dataclass(frozen=True)
class BudgetChoice:
    """What a budget is spent on."""

    changes: Overrides
    why: str
    plan: Plan


def fit_to_budget(
    budget: Budget, model: ModelConfig, train: TrainConfig, T: int, text: Text, *, framework: int | None = None
) -> BudgetChoice:
    """Choose preset, batch and steps.

    Args:
        framework: bytes the process has before there is a model; by default what it has now.

    Raises:
        ConfigError: not even the smallest preset fits, or not one step is made in the time.
    """
    room = MemoryLimit(budget.bytes, "the budget") if budget.bytes else None
    tried = []
    for name in reversed(presets_of_kind(model)):
        shape = resize_to_preset(name, model)
        fits = _that_fits(shape, make_plan(model, train, T, text, framework=framework, room=room, timed=False))
        if fits is None:
            continue
        changes, plan = _steps(budget, fits, text)
        of_each = plan.tokens / matrix_parameters(plan.model)
        about = f"{name}: {plan.tokens:,} tokens, {of_each:.2g} for each parameter of its blocks"
        tried.append(BudgetChoice(shape | changes, about, plan))
        if budget.seconds is None or of_each >= TOKENS_PER_PARAMETER:
            return tried[-1]
    if not tried:
        raise ConfigError(
            "no preset fits into the budget's memory; a smaller --tokenizer (bpe:1024) or --max-length helps"
        )
    chosen = tried[-1]
    if budget.seconds is not None and chosen.plan.step and chosen.plan.step > budget.seconds:
        step, allowed = format_duration(chosen.plan.step), format_duration(budget.seconds)
        raise ConfigError(
            f"one step of the smallest preset takes {step}, and the budget is {allowed}; "
            "a smaller --batch-size or --tokenizer helps"
        )
    return chosen


def _that_fits(shape: Overrides, start: Plan) -> tuple[Overrides, Plan] | None:
    """A preset with as many sequences at a time as fit."""
    train = start.train
    for n in [train.micro_batch or train.batch_size, *micro_batches(train)]:
        changes = {"train__micro_batch": n if n != train.batch_size else None}
        model, how, T = apply(start.model, train, start.T, shape | changes)
        plan = make_plan(model, how, T, start.text, framework=start.memory.framework, room=start.room)
        if plan.fits:
            return changes, plan
    return None


def _steps(budget: Budget, fits: tuple[Overrides, Plan], text: Text) -> tuple[Overrides, Plan]:
    """As many steps as the time and the text allow, of a batch that makes them neither very many nor very few."""
    changes, plan = fits
    at_a_time = plan.train.micro_batch or plan.train.batch_size
    batch = plan.train.batch_size
    while True:
        changes = changes | {"train__batch_size": batch, "train__micro_batch": at_a_time if at_a_time < batch else None}
        steps = _steps_of(budget, plan, changes, text)
        changes |= {"train__max_steps": steps, "train__warmup_steps": min(plan.train.warmup_steps, max(1, steps // 10))}
        if steps > MOST_STEPS:
            batch *= 2
        elif steps < FEWEST_STEPS and batch > 1 and batch % 2 == 0 and budget.seconds is not None:
            batch //= 2
            at_a_time = min(at_a_time, batch)
            if batch % at_a_time:
                at_a_time = 1
        else:
            break
        if batch > plan.train.batch_size * 1024:
            break
    model, train, T = apply(plan.model, plan.train, plan.T, changes)
    return changes, make_plan(model, train, T, text, framework=plan.memory.framework, room=plan.room)


def _steps_of(budget: Budget, plan: Plan, changes: Overrides, text: Text) -> int:
    """The most steps that stay within time and passes; at least one."""
    model, train, T = apply(plan.model, plan.train, plan.T, changes)
    most = train.max_steps
    if text.tokens:
        most = max(1, int(PASSES * text.tokens / (train.batch_size * T)))
        most = most if budget.seconds is not None else min(most, train.max_steps)

    def total(steps: int) -> float:
        tried = replace(train, max_steps=steps, warmup_steps=min(train.warmup_steps, steps))
        seconds = make_plan(model, tried, T, text, framework=plan.memory.framework, room=plan.room).seconds
        return seconds.total if seconds else 0.0

    if budget.seconds is None or total(most) <= budget.seconds:
        return most
    low, high = 1, most  # the largest whose time is within the budget lies between
    while high - low > max(1, low // 100):
        middle = (low + high) // 2
        low, high = (middle, high) if total(middle) <= budget.seconds else (low, middle)
    return low
