"""The rule that names a collapse: weights thrown to where a model knows no more than which tokens are frequent."""

from itertools import takewhile
from statistics import median

from ..curve import MEAN_OF, Curve
from ..rows import Probe
from ..tolerant import known
from ..view import View
from .finding import Finding

RISE = 0.5  # nats (and a tenth of the loss) above the best mean: more than any noise of a batch
STAYS = 12  # steps
EARLY = 50  # steps before which nothing is said about standing still
ONE_DIRECTION = 1.5  # effective rank of the stream; from 2 up in models that learn, once they have begun
BLOWN_UP = 300.0  # largest activation; below 30 in small models that learn, thousands in those that collapsed
PATIENCE = 100  # steps
LEARNS_LITTLE = 0.5  # of log V
ONLY_FREQUENCIES = 0.75  # of log V: about what the frequencies of single tokens are worth in a small vocabulary
STUCK_FALL = 0.1  # nats that a loss which learns falls by, at the least, when the steps double


def collapsed(view: View) -> Finding | None:
    """The loss has risen and stays up; or the stream has one direction left; or the loss stands still, and high."""
    curve = view.curve
    return _diverged(view, curve) or _one_direction(view, curve) or _stuck(view, curve)


def gradients_faded(view: View, i: int) -> bool:
    """Whether gradients at the i-th step are below half of the first ones. Weights that move too slowly still pull."""
    norms = view.steps.grad_norm
    start, now = known(norms[:5]), known(norms[max(0, i - 20) : i + 1])
    return not start or not now or median(now) < 0.5 * median(start)


def _diverged(view: View, curve: Curve) -> Finding | None:
    best, best_step, risen_since = float("inf"), 0, -1
    for i in range(len(curve)):
        mean = curve.mean(i)
        if i + 1 >= MEAN_OF and mean < best:
            best, best_step = mean, curve.steps[i]
        is_risen = mean > best + max(RISE, 0.1 * best)
        risen_since = (risen_since if risen_since >= 0 else i) if is_risen else -1
    last = len(curve) - 1
    if risen_since < 0 or last - risen_since < STAYS:
        return None
    since, now = curve.steps[risen_since], curve.mean(last)
    near = f", near log V = {view.uniform:.2f}, where every guess is as good as any" if now > 0.9 * view.uniform else ""
    what = (
        f"Training has collapsed: the loss rose from {best:.2f} (step {best_step:,}) to {now:.2f}{near}, and has "
        f"stayed up since step {since:,}."
    )
    return Finding("bad", what, _calmer(view), since)


def _one_direction(view: View, curve: Curve) -> Finding | None:
    """The stream is spoilt while the loss is high: at two looks if activations have blown up.

    Without that, tokens that are all alike take longer to tell: models with a large vocabulary go through such a time
    in their first 50 steps or so.
    """
    if not view.probes or not len(curve) or curve.mean(len(curve) - 1) < LEARNS_LITTLE * view.uniform:
        return None
    spoilt = list(takewhile(lambda p: _rank(p) < ONE_DIRECTION or _largest(p) >= BLOWN_UP, reversed(view.probes)))
    if len(spoilt) < 2:
        return None
    now, since = spoilt[0], spoilt[-1].step
    blown_up = all(_largest(probe) >= BLOWN_UP for probe in spoilt[:2])
    if not blown_up and now.step - since < PATIENCE:
        return None
    seen = "activations have blown up" if blown_up else "all tokens look alike inside the model"
    what = (
        f"Training has collapsed: since step {since:,} {seen} (largest activation {_largest(now):,.0f}, effective rank "
        f"{_rank(now):.1f}), and the loss is {curve.mean(len(curve) - 1):.2f} of log V = {view.uniform:.2f}."
    )
    return Finding("bad", what, _calmer(view), since)


def _largest(probe: Probe) -> float:
    return max(known(probe.stream.get("largest", ())), default=0.0)


def _rank(probe: Probe) -> float:
    """The largest effective rank in the upper half of the stream; infinite where it was not measured."""
    ranks = probe.stream.get("effective_rank", ())
    return max(known(ranks[len(ranks) // 2 :]), default=float("inf"))


def _stuck(view: View, curve: Curve) -> Finding | None:
    """Named from the first step where it shows, and taken back when the loss falls well below where it stood."""
    rates = dict(zip(view.steps.step, view.steps.lr, strict=True))
    peak, last = view.past.run.train.lr, len(curve) - 1
    if any(2 < _rank(p) < float("inf") for p in view.probes[-1:]):
        return None  # what is inside tells tokens apart: it is slow, and not dead
    for i in range(EARLY, len(curve)):
        mean = curve.mean(i)
        rate = rates.get(curve.steps[i])
        at_work = rate is None or rate >= 0.5 * peak
        stands = mean > ONLY_FREQUENCIES * view.uniform and curve.mean(i // 2) - mean < STUCK_FALL
        if not (stands and at_work):
            continue
        if mean - curve.mean(last) > 0.1 * mean or not gradients_faded(view, i):
            return None
        since = curve.steps[next(j for j in range(MEAN_OF - 1, len(curve)) if curve.mean(j) < mean + STUCK_FALL)]
        what = (
            f"Training has collapsed: since step {since:,} the loss stands at about {curve.mean(last):.2f} of "
            f"log V = {view.uniform:.2f}, hardly more than knowing which tokens are frequent, and gradients have faded."
        )
        return Finding("bad", what, _calmer(view), since)
    return None


def _calmer(view: View) -> str:
    lr, warmup = view.past.run.train.lr, view.past.run.train.warmup_steps
    return (
        f"Start again with a lower learning rate (--lr {lr / 10:.2g} instead of {lr:.2g}), or a longer warm-up than "
        f"{warmup} steps: weights that have collapsed seldom come back."
    )
