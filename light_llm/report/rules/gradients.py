"""Rules about updates: exploding and vanishing gradients, clipping, and how far each parameter group moves."""

from collections.abc import Iterator, Mapping
from statistics import median

from ..coerce import Numbers, drop_none
from ..run_log import RunLog
from . import Finding, Rule, last_since

# Steps whose median is the present value: one batch alone is noise.
RECENT = 20
# Gradients explode if their recent norm is this many times the usual one, and at least 1. After step 50, norms of nano
# on tales stay between 0.6 and 1.6.
EXPLODED, EXPLODED_NORM = 10.0, 1.0
# A group has a vanished gradient below this share of the median group. In nano on tales the largest norm is 18 times
# the smallest.
VANISHED = 1e-4
# Update over weight, per step: about 1e-3 is usual (Karpathy's rule of thumb); 1e-3 to 8e-3 in nano on tales.
RATIO_TOO_HIGH, RATIO_TOO_LOW = 1e-2, 1e-4
# Embedding tables start small and most rows get no gradient, so their updates are relatively larger: up to 1.3% in nano
# on tales.
TABLE_RATIO_TOO_HIGH = {"wte": 3e-2, "wpe": 3e-2}
# Steps before which ratios are large because initial weights are small.
RATIO_AFTER = 60
# Ratios are judged while the learning rate is at least this share of its peak: later they fall with it.
RATIO_LR = 0.3
# Steps over which clipping is judged, and the share of them above which it is the rule and not the exception. Nano on
# tales clips 15% of them at step 137.
CLIP_WINDOW, MOSTLY_CLIPPED = 100, 0.5
# Up to this multiple of the limit, a norm is shortened a little; beyond it, every batch counts alike. Rule of thumb.
MILD_CLIP = 3
MAX_NAMES = 4  # groups named in a message; of more, 3 and a count


def check_exploding(log: RunLog) -> Finding | None:
    """Find recent gradients many times larger than before."""
    norms = drop_none(log.steps.grad_norm)
    if len(norms) < 3 * RECENT:
        return None
    now, usual = median(norms[-RECENT:]), median(norms[:-RECENT])
    if now < EXPLODED * usual or now < EXPLODED_NORM:
        return None
    # A single calm batch does not end the explosion, so its beginning is looked for in medians of a few steps.
    steps = [step for step, norm in zip(log.steps.step, log.steps.grad_norm, strict=True) if norm is not None]
    first = len(norms) - RECENT
    while first > 2 and median(norms[first - 3 : first]) >= EXPLODED * usual:
        first -= 1
    while first and norms[first - 1] >= EXPLODED * usual:
        first -= 1
    message = f"The gradients have exploded: a typical norm is {now:.3g} now and was {usual:.3g} before."
    advice = "Lower the learning rate or lengthen the warm-up; clipping alone only hides it."
    return Finding("bad", message, advice, steps[first])


def check_vanishing(log: RunLog) -> Finding | None:
    """Find a group with a vanishing gradient and a tiny update.

    The update is checked too, because Adam rescales small gradients: by gradient alone, a group may look dead and move.
    """
    norms, ratios = _recent(log.steps.grad_norms), _recent(log.steps.update_ratios)
    if not norms:
        return None
    usual = median(norms.values())
    dead = [name for name, v in norms.items() if v < VANISHED * usual and ratios.get(name, 1.0) < RATIO_TOO_LOW]
    if usual == 0 or not dead:
        return None
    message = f"The gradients of {_join(dead)} have vanished: below 0.0001 times those of the other groups."
    advice = "These weights learn nothing: lower the learning rate and start again."
    small = [v is None or v < VANISHED * usual for v in log.steps.grad_norms[dead[0]]]
    return Finding("bad", message, advice, last_since(log.steps.step, small))


def check_clipping(log: RunLog) -> Finding | None:
    """Report the share of clipped steps. If most are, every batch has the same weight, whatever its gradient."""
    recent = drop_none(log.steps.clipped[-CLIP_WINDOW:])
    if len(recent) < RECENT:
        return None
    share, clip = sum(recent) / len(recent), log.run.train.grad_clip
    norm = median(drop_none(log.steps.grad_norm[-CLIP_WINDOW:]) or [0.0])
    message = (
        f"{100 * share:.0f}% of the last {len(recent)} steps were clipped at {clip:g}; "
        f"a typical gradient norm is {norm:.2f}."
    )
    if share <= MOSTLY_CLIPPED:
        return Finding("good", message)
    if norm < MILD_CLIP * clip:
        return Finding("info", message, f"The norm is below {MILD_CLIP} times the limit, so clipping does little harm.")
    advice = "The batch may be too small or the learning rate too high: a larger --batch-size or a lower --lr helps."
    return Finding("watch", message, advice)


def check_update_ratios(log: RunLog) -> Iterator[Finding]:
    """Find parameter groups that change too much or too little a step, while the learning rate is near its peak."""
    peak = log.run.train.lr
    judged = [i for i, lr in enumerate(log.steps.lr) if i >= RATIO_AFTER and lr is not None and lr >= RATIO_LR * peak]
    if len(judged) < RECENT:
        return
    places = judged[-RECENT:]
    columns = {name: drop_none([values[i] for i in places]) for name, values in log.steps.update_ratios.items()}
    typical = {name: median(values) for name, values in columns.items() if values}
    high = [name for name, v in typical.items() if v > TABLE_RATIO_TOO_HIGH.get(name, RATIO_TOO_HIGH)]
    low = [name for name, v in typical.items() if v < RATIO_TOO_LOW]
    until = log.steps.step[places[-1]]
    # The groups are judged near the peak of the learning rate, which may be long before the end of the run.
    when = "" if places[-1] == len(log.steps) - 1 else f" (up to step {until:,}, while the learning rate was high)"
    if high and low:
        rates = f"{_join(high)} by more than 1% a step, {_join(low)} by less than 0.01%"
        message = f"Parameter groups change at very different rates: {rates}{when}."
        yield Finding("watch", message, "No single learning rate suits both.")
    elif high:
        top = max(high, key=lambda name: typical[name])
        limit = 100 * TABLE_RATIO_TOO_HIGH.get(top, RATIO_TOO_HIGH)
        share = f"({top}: {100 * typical[top]:.1f}%)"
        message = f"Each step changes {_join(high)} by more than {limit:.0f}% {share}{when}; about 0.1% is usual."
        yield Finding("watch", message, f"The learning rate may be too high: try --lr {peak / 3:.2g}.")
    elif low:
        message = f"Each step changes {_join(low)} by less than 0.01%{when}; about 0.1% is usual."
        yield Finding("watch", message, f"The learning rate may be too low: try --lr {peak * 3:.2g}.")
    elif typical:
        least, most = 100 * min(typical.values()), 100 * max(typical.values())
        changed = f"{least:.2f}%" if f"{least:.2f}" == f"{most:.2f}" else f"{least:.2f}% to {most:.2f}%"
        yield Finding("good", f"Each step changes the weights by {changed}: healthy (about 0.1% is usual){when}.")


def _recent(groups: Mapping[str, Numbers]) -> dict[str, float]:
    """Return the median of each group over the last steps."""
    recent = {name: drop_none(values[-RECENT:]) for name, values in groups.items()}
    return {name: median(values) for name, values in recent.items() if values}


def _join(names: list[str]) -> str:
    return ", ".join(names) if len(names) <= MAX_NAMES else f"{', '.join(names[:3])} and {len(names) - 3} more"


RULES = (
    Rule("exploding gradients", "grad_norm", check_exploding, order=50),
    Rule("vanishing gradients", "grad_groups", check_vanishing, order=60),
    Rule("update ratios", "update_ratios", check_update_ratios, order=120),
    Rule("clipping", "grad_norm", check_clipping, order=130),
)
