"""Rules about measurements inside the model: collapsed attention, dead units, outliers, confidence, copying."""

from itertools import takewhile
from statistics import mean

from ..coerce import drop_none
from ..log_rows import head_name
from ..run_log import RunLog
from . import Finding, Rule
from .collapse import BLOWN_UP

# Before this share of the run and this many steps, alarms say little: all 18 heads of nano on tales look at everything
# alike until step 75, and 2 of them at step 125.
EARLY_SHARE, EARLY_STEPS = 0.3, 150
# A few collapsed heads are harmless: attention sinks are common in trained models. Rule of thumb.
FEW_HEADS, MOST_HEADS = 1 / 3, 1 / 2
# Share of a layer's units. At most 1% are dead in nano on tales.
MAX_DEAD = 0.5
# Effective rank below which all tokens look alike; 6 or more in nano on tales.
MIN_RANK = 2
# float16 ends at 65,504; half of that leaves no room for growth.
MAX_ACTIVATION = 30_000.0
# Confidence minus accuracy. On the 512 tokens of a probe the standard error of an accuracy is about 0.02.
OVERCONFIDENT = 0.05
# Attention weight on the token after the last occurrence: 0.02 in heads that do not copy, and at most 1. Rule of thumb.
INDUCTION = 0.4
# Nats between early and late positions; 0.23 in nano on tales at step 100.
CONTEXT_GAIN = 0.1

MAX_NAMES = 3  # alarms named in a message
MAX_LAYERS = 4  # layers named in a message
ALARM_WORDS = {
    "uniform": "looks at everything alike",
    "one position": "puts all its weight on one position",
    "all heads alike": "has heads that all look at the same",
}


def check_attention(log: RunLog) -> Finding | None:
    """Find heads that have collapsed at the last probe, and since when."""
    probe = log.probe
    if not probe.grid("attention.relative"):
        return None
    alarms = probe.alarms
    if not alarms:
        return Finding("good", f"No head has collapsed (step {probe.step:,}).")
    names = [f"{head_name(a.layer, a.head)} {ALARM_WORDS.get(a.what, a.what)}" for a in alarms]
    listed = "; ".join(names[:MAX_NAMES])
    listed += f"; and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    lasting = takewhile(lambda p: set(p.alarms) & set(alarms), reversed(log.probes))
    since = min(p.step for p in lasting)
    n_heads = log.run.model.n_layer * log.run.model.n_head
    whole_layers = any(a.head is None for a in alarms)
    if not whole_layers and len(alarms) <= FEW_HEADS * n_heads:
        return Finding("info", f"A few heads stand out: {listed}.", "A few such heads are harmless.", since)
    if _is_early(log, probe.step):
        return Finding("info", f"Attention says little yet: {listed}.", "This early that is usual.", since)
    level = "bad" if whole_layers or len(alarms) > MOST_HEADS * n_heads else "watch"
    advice = "If it stays, lower the learning rate or warm up longer; a model with fewer heads may do as well."
    return Finding(level, f"Attention has collapsed: {listed}.", advice, since)


def check_dead_units(log: RunLog) -> Finding | None:
    """Find layers in which most units are never above zero."""
    shares = log.probe.vector("dead_units")
    if not drop_none(shares):
        return None
    dead = [(layer, share) for layer, share in enumerate(shares) if share is not None and share > MAX_DEAD]
    worst = max(drop_none(shares))
    if not dead:
        return Finding("good", f"At most {100 * worst:.0f}% of a layer's units are silent on the probe's text.")
    layers = ", ".join(f"layer {layer} ({100 * share:.0f}%)" for layer, share in dead[:MAX_LAYERS])
    dying = takewhile(lambda p: max(drop_none(p.vector("dead_units")), default=0.0) > MAX_DEAD, reversed(log.probes))
    since = min(p.step for p in dying)
    message = f"Most MLP units are dead in {layers}."
    if _is_early(log, log.probe.step):
        return Finding("info", message, "This early they may still wake up.", since)
    return Finding("watch", message, "That is capacity lost: a lower learning rate keeps units alive.", since)


def check_rank(log: RunLog) -> Finding | None:
    """Find a residual stream in which all tokens look alike at the end."""
    probe = log.probe
    ranks = drop_none(probe.vector("stream.effective_rank"))
    if len(ranks) < 2:
        return None
    if ranks[-1] >= MIN_RANK:
        return Finding("good", f"Tokens differ in about {ranks[-1]:.0f} directions at the end of the stream.")
    message = (
        f"The stream has nearly one direction left at its end (effective rank {ranks[-1]:.1f}): tokens look alike."
    )
    if _is_early(log, probe.step):
        return Finding("info", message, "This early it may still open up.", probe.step)
    advice = "The model says the same of every token: lower the learning rate."
    return Finding("watch", message, advice, probe.step)


def check_outliers(log: RunLog) -> Finding | None:
    """Find activations near the largest number of float16."""
    largest = max(drop_none(log.probe.vector("stream.largest")), default=None)
    if largest is None:
        return None
    if largest > MAX_ACTIVATION:
        message = f"An activation of {largest:,.0f} is near the end of float16 (65,504)."
        return Finding("watch", message, "Train and serve in bfloat16 or float32.", log.probe.step)
    # Between the two, float16 copes, but a model with such activations is not healthy.
    if largest > BLOWN_UP:
        return None
    return Finding("good", f"The largest activation is {largest:,.1f}, far from where float16 ends.")


def check_confidence(log: RunLog) -> Finding | None:
    """Compare confidence with accuracy on held-out text."""
    probe = log.probe
    confidence, accuracy = probe.number("predictions.confidence"), probe.number("predictions.accuracy")
    if confidence is None or accuracy is None:
        return None
    error = probe.number("predictions.calibration_error")
    note = f" (calibration error {error:.3f})" if error is not None else ""
    details = (
        f"its best guess has {100 * confidence:.0f}% on average and is right {100 * accuracy:.0f}% of the time{note}"
    )
    if confidence - accuracy > OVERCONFIDENT:
        advice = "Often a sign of memorising; 512 tokens are few, so compare with the gap to held-out text."
        return Finding("watch", f"The model is overconfident: {details}.", advice, probe.step)
    if accuracy - confidence > OVERCONFIDENT:
        message = f"The model is less sure than it could be: {details}."
        return Finding("info", message, "Early in a run that is usual.")
    return Finding("good", f"The model knows what it knows: {details}.")


def check_induction(log: RunLog) -> Finding | None:
    """Report whether a head copies what followed the last occurrence of a token."""
    score, layer, head = (log.probe.number(f"induction.{key}") for key in ("score", "layer", "head"))
    if score is None:
        return None
    name = f" ({head_name(int(layer), int(head))})" if layer is not None and head is not None else ""
    if score > INDUCTION:
        return Finding("good", f"The model has learned to repeat: its best induction head{name} scores {score:.2f}.")
    message = f"No induction head yet: the best{name} scores {score:.2f} of 1."
    return Finding("info", message, "It comes, if at all, with longer training.")


def check_context(log: RunLog) -> Finding | None:
    """Compare the loss at late positions with that at early ones.

    Early is the mean of the first half of the buckets: the very first bucket has too few tokens to judge by.
    """
    losses = drop_none(log.last_eval.by_position) if log.last_eval else []
    if len(losses) < 3:
        return None
    early, late = mean(losses[: max(1, len(losses) // 2)]), losses[-1]
    if early - late > CONTEXT_GAIN:
        return Finding("good", f"Context helps: late tokens cost {early - late:.2f} nats less than early ones.")
    if late - early > CONTEXT_GAIN:
        message = f"Late tokens cost {late - early:.2f} nats more than early ones."
        advice = "Is the text in windows as long as those it was trained on, and positions all trained?"
        return Finding("info", message, advice)
    message = f"A long context helps little: late tokens cost {late:.2f} nats, early ones {early:.2f}."
    return Finding("info", message, "The model looks at the last few tokens; more training may widen that.")


def _is_early(log: RunLog, step: int) -> bool:
    return step < max(EARLY_STEPS, EARLY_SHARE * log.run.train.max_steps)


RULES = (
    Rule("attention", "entropy", check_attention, order=70),
    Rule("context", "position", check_context, order=190),
    Rule("dead units", "dead", check_dead_units, unless=("collapse",), order=200),
    Rule("rank", "rank", check_rank, unless=("collapse",), order=210),
    Rule("outliers", "largest", check_outliers, order=220),
    Rule("confidence", "calibration", check_confidence, order=230),
    Rule("induction", "induction", check_induction, order=240),
)
