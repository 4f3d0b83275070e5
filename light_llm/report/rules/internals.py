"""Rules about measurements inside the model: attention, dead units, outliers, confidence, induction heads."""

import math
from collections.abc import Sequence
from itertools import takewhile
from statistics import mean

from ...observe.metric_names import describe_alarm
from ..coerce import drop_none
from ..log_rows import Alarm, head_name
from ..run_log import RunLog
from . import Finding, Rule, last_since
from .collapse import BLOWN_UP

# Before this share of the run and this many steps, alarms say little: all 18 heads of nano on tales are uniform
# until step 75, and 2 of them at step 125.
EARLY_SHARE, EARLY_STEPS = 0.3, 150
# A few collapsed heads are harmless: attention sinks are common in trained models. Rule of thumb.
FEW_HEADS, MOST_HEADS = 1 / 3, 1 / 2
# Shares of a layer's units: most of them, and as many as need no note. At most 1% are dead in nano on tales.
MAX_DEAD, FEW_DEAD = 0.5, 0.1
# Effective rank below which the representations of all tokens are nearly parallel; 6 or more in nano on tales.
MIN_RANK = 2
# float16 ends at 65,504; half of that leaves no room for growth.
MAX_ACTIVATION = 30_000.0
# Confidence minus accuracy. On the 512 tokens of a probe the standard error of an accuracy is about 0.02.
OVERCONFIDENT = 0.05
# Calibration error of 10 bins on 512 tokens of a calibrated model is 0.03 to 0.06 by chance. Rule of thumb.
UNCALIBRATED = 0.1
# Probes in a row after which a collapsed head is reported, as by the notice of a run.
LASTING = 3
WARMUPS = 2  # warm-ups after which it does
# Attention weight on the token after the last occurrence: 0.02 in heads that do not copy, and at most 1. Rule of thumb.
INDUCTION = 0.4
# Nats between early and late positions; 0.23 in nano on tales at step 100.
CONTEXT_GAIN = 0.1

MAX_NAMES = 3  # alarms named in a message
MAX_LAYERS = 4  # layers named in a message


def check_attention(log: RunLog) -> Finding | None:
    """Report the heads that are collapsed at the last probe, and since when; else those that were for a while."""
    probe = log.probe
    if not probe.grid("attention.relative"):
        return None
    alarms = probe.alarms
    if not alarms:
        return Finding("good", f"No attention head is collapsed at step {probe.step:,}{_recovered(log)}.")
    listed = _list_alarms(alarms)
    lasting = takewhile(lambda p: set(p.alarms) & set(alarms), reversed(log.probes))
    since = min(p.step for p in lasting)
    n_heads = log.run.model.n_layer * log.run.model.n_head
    whole_layers = any(a.head is None for a in alarms)
    if not whole_layers and len(alarms) <= FEW_HEADS * n_heads:
        return Finding("info", f"A few attention heads have collapsed: {listed}.", "So few do no harm.", since)
    if _is_early(log, probe.step):
        return Finding("info", f"Attention is still unformed: {listed}.", "This early that is usual.", since)
    level = "bad" if whole_layers or len(alarms) > MOST_HEADS * n_heads else "watch"
    advice = "If it lasts, lower the learning rate or lengthen the warm-up; fewer heads may do as well."
    return Finding(level, f"Attention has collapsed: {listed}.", advice, since)


def _list_alarms(alarms: Sequence[Alarm]) -> str:
    names = [describe_alarm(a.layer, a.head, a.what) for a in alarms]
    more = f"; and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return "; ".join(names[:MAX_NAMES]) + more


def _recovered(log: RunLog) -> str:
    """Return the last alarm that a notice of the run named and that has ended; "" without one."""
    probes = [p for p in log.probes if p.step >= WARMUPS * log.run.train.warmup_steps]
    for last in range(len(probes) - 1, LASTING - 2, -1):
        lasting = set.intersection(*(set(p.alarms) for p in probes[last - LASTING + 1 : last + 1]))
        if lasting:
            alarms = sorted(lasting, key=lambda a: (a.layer, -1 if a.head is None else a.head))
            return f" (an earlier alarm ended after step {probes[last].step:,}: {_list_alarms(alarms)})"
    return ""


def check_dead_units(log: RunLog) -> Finding | None:
    """Find layers in which most units are never above zero."""
    shares = log.probe.vector("dead_units")
    if not drop_none(shares):
        return None
    dead = [(layer, share) for layer, share in enumerate(shares) if share is not None and share > MAX_DEAD]
    worst = max(drop_none(shares))
    if worst == 0:
        return Finding("good", f"No MLP unit is dead at step {log.probe.step:,}: each fires for some token.")
    if not dead:
        where = f"layer {shares.index(worst)}"
        message = (
            f"At most {100 * worst:.2g}% of the MLP units of a layer ({where}) are dead: never above 0 in the probe."
        )
        return Finding("good" if worst <= FEW_DEAD else "info", message)
    layers = ", ".join(f"layer {layer} ({100 * share:.0f}%)" for layer, share in dead[:MAX_LAYERS])
    flags = [max(drop_none(p.vector("dead_units")), default=0.0) > MAX_DEAD for p in log.probes]
    since = last_since([p.step for p in log.probes], flags)
    message = f"Most MLP units are dead (never above 0 in the probe) in {layers}."
    if _is_early(log, log.probe.step):
        return Finding("info", message, "This early they may recover.", since)
    return Finding("watch", message, "They add nothing to the model; a lower learning rate keeps units alive.", since)


def check_rank(log: RunLog) -> Finding | None:
    """Find a residual stream in which the representations of all tokens are nearly parallel after the last layer."""
    ranks = log.probe.vector("stream.effective_rank")
    rank = ranks[-1] if len(ranks) >= 2 else None
    if rank is None:
        return None
    if rank >= MIN_RANK:
        message = f"The last layer uses about {rank:.0f} independent directions (effective rank; near 1 is a collapse)"
        low = [(value, i) for i, value in enumerate(ranks[1:-1]) if value is not None and value < MIN_RANK]
        # A few huge features lower the rank between the layers of a trained model that works.
        note = f", layer {min(low)[1]} only {min(low)[0]:.1f}" if low else ""
        return Finding("info" if low else "good", f"{message}{note}.")
    flags = [bool(r := p.vector("stream.effective_rank")) and (r[-1] or MIN_RANK) < MIN_RANK for p in log.probes]
    message = f"The residual stream has nearly one direction left after the last layer (effective rank {rank:.1f})."
    since = last_since([p.step for p in log.probes], flags)
    if _is_early(log, log.probe.step):
        return Finding("info", message, "This early it may still grow.", since)
    advice = "The predictions are nearly the same for every token: lower the learning rate."
    return Finding("watch", message, advice, since)


def check_outliers(log: RunLog) -> Finding | None:
    """Find activations near the largest number of float16, or beyond every number."""
    values = log.probe.vector("stream.largest")
    if not values:
        return None
    largest = [
        max((v if v is not None else math.inf for v in p.vector("stream.largest")), default=0.0) for p in log.probes
    ]
    since = last_since([p.step for p in log.probes], [v > MAX_ACTIVATION for v in largest])
    if largest[-1] == math.inf:
        layers = f"layer {values.index(None) - 1}" if values[0] is not None else "the embeddings"
        return Finding("bad", f"An activation after {layers} is not finite.", "Lower the learning rate.", since)
    if largest[-1] > MAX_ACTIVATION:
        message = f"An activation of {largest[-1]:,.0f} is near the maximum of float16 (65,504)."
        return Finding("watch", message, "Train and serve in bfloat16 or float32.", since)
    # Between the two, float16 copes, but a model with such activations is not healthy.
    if largest[-1] > BLOWN_UP:
        return None
    message = (
        f"The largest activation is {largest[-1]:,.1f} at step {log.probe.step:,}, far below the maximum of float16"
    )
    if max(largest) > MAX_ACTIVATION:
        worst = max(zip(largest, log.probes, strict=True), key=lambda pair: pair[0])
        return Finding("info", f"{message}; it was {worst[0]:,.0f} at step {worst[1].step:,}.")
    return Finding("good", f"{message} (65,504).")


def check_confidence(log: RunLog) -> Finding | None:
    """Compare confidence with accuracy on held-out text."""
    probe = log.probe
    confidence, accuracy = probe.number("predictions.confidence"), probe.number("predictions.accuracy")
    if confidence is None or accuracy is None:
        return None
    error = probe.number("predictions.calibration_error")
    note = f" (calibration error {error:.3f})" if error is not None else ""
    details = (
        f"the likeliest token has a probability of {100 * confidence:.0f}% on average and is right in "
        f"{100 * accuracy:.0f}% of the cases{note}"
    )
    if confidence - accuracy > OVERCONFIDENT:
        advice = "Often a sign of overfitting; the probe has only 512 tokens, so check the gap to held-out text."
        return Finding("watch", f"The model is overconfident: {details}.", advice)
    if accuracy - confidence > OVERCONFIDENT:
        return Finding("info", f"The model is underconfident: {details}.", "Early in a run that is usual.")
    if error is not None and error > UNCALIBRATED:
        message = f"Confidence matches accuracy on average only, and not level by level: {details}."
        return Finding("info", message, "The calibration chart shows where they differ.")
    return Finding("good", f"Confidence matches accuracy: {details}.")


def check_induction(log: RunLog) -> Finding | None:
    """Report whether a head copies the token that followed the last occurrence of the present one."""
    score, layer, head = (log.probe.number(f"induction.{key}") for key in ("score", "layer", "head"))
    if score is None:
        return None
    name = f" ({head_name(int(layer), int(head))})" if layer is not None and head is not None else ""
    if score > INDUCTION:
        return Finding(
            "good", f"The model has an induction head, which repeats what it has read: {score:.2f} of 1{name}."
        )
    scores = [(p.number("induction.score") or 0.0, p.step) for p in log.probes]
    if max(scores)[0] > INDUCTION:
        message = f"The induction head of step {max(scores)[1]:,} ({max(scores)[0]:.2f}) is lost: the best{name} scores"
        return Finding("info", f"{message} {score:.2f} of 1.")
    message = f"No induction head yet: the best{name} scores {score:.2f} of 1."
    return Finding("info", message, "Such heads appear later in training, if at all.")


def check_context(log: RunLog) -> Finding | None:
    """Compare the loss at late positions with that at early ones.

    Early is the mean of the first half of the buckets: the very first bucket has too few tokens to judge by. A
    difference within two standard errors of the loss is noise.
    """
    last = log.last_eval
    buckets = [(v, p) for v, p in zip(last.by_position, last.upto, strict=True) if v is not None] if last else []
    if len(buckets) < 3:
        return None
    losses = [loss for loss, _ in buckets]
    early, late = mean(losses[: max(1, len(losses) // 2)]), losses[-1]
    best, upto = min(buckets[1:], key=lambda bucket: bucket[0])
    gain = max(CONTEXT_GAIN, 2 * (last.stderr or 0.0)) if last else CONTEXT_GAIN
    if late - best > gain and early - best > gain:
        message = f"Context helps up to token {upto or 0:,.0f}; the last tokens cost {late - best:.2f} nats more."
        return Finding("info", message, "Are the windows as long as in training, and all positions trained?")
    if early - late > gain:
        return Finding("good", f"Context helps: late tokens cost {early - late:.2f} nats less than early ones.")
    if late - early > gain:
        message = f"Late tokens cost {late - early:.2f} nats more than early ones."
        return Finding("info", message, "Are the windows as long as in training, and all positions trained?")
    message = f"Context helps little: late tokens cost {late:.2f} nats, early ones {early:.2f}."
    return Finding("info", message, "The model uses the last few tokens only; longer training may change that.")


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
