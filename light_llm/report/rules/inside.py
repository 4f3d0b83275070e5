"""Rules about the inside of the model: attention that has collapsed, dead units, outliers, confidence."""

from itertools import takewhile
from statistics import mean

from ..names import head_name
from ..tolerant import known
from ..view import View
from .collapse import BLOWN_UP
from .finding import Finding

MOST_DEAD = 0.5  # of a layer's units
OVERCONFIDENT = 0.05  # confidence minus accuracy
OUTLIER = 30_000.0  # float16 ends at 65,504
SETTLED, FIRST = 0.3, 150  # share of the run, and steps, before which attention may not have found its work yet
WORDS = {
    "uniform": "looks at everything alike",
    "one position": "puts all its weight on one position",
    "all heads alike": "has heads that all look at the same",
}


def attention_alarms(view: View) -> Finding | None:
    """Heads that have collapsed at the last look, by layer and head."""
    probe = view.probe
    if probe is None or not probe.attention:
        return None
    if not probe.alarms:
        return Finding("good", f"No head has collapsed (step {probe.step:,}).")
    named = [f"{head_name(a.layer, a.head)} {WORDS.get(a.what, a.what)}" for a in probe.alarms]
    shown = "; ".join(named[:3]) + (f"; and {len(named) - 3} more" if len(named) > 3 else "")
    since = probe.step
    for earlier in reversed(view.probes):
        if not {(a.layer, a.head, a.what) for a in earlier.alarms} & {(a.layer, a.head, a.what) for a in probe.alarms}:
            break
        since = earlier.step
    n_heads = view.past.run.model.n_layer * view.past.run.model.n_head
    if all(a.head is not None for a in probe.alarms) and len(named) <= n_heads / 3:
        return Finding("info", f"A few heads stand out: {shown}.", "A few such heads are harmless.", since)
    if _is_early(view, probe.step):
        return Finding("info", f"Attention says little yet: {shown}.", "This early that is usual.", since)
    what = f"Attention has collapsed: {shown}."
    advice = "If it stays, lower the learning rate or warm up longer; a model with fewer heads may do as well."
    whole_layers = any(a.head is None for a in probe.alarms)
    return Finding("bad" if whole_layers or len(named) > n_heads / 2 else "watch", what, advice, since)


def dead_units(view: View) -> Finding | None:
    """Layers in which most units never switch on."""
    probe = view.probe
    shares = probe.dead_units if probe else ()
    if not probe or not known(shares):
        return None
    dead = [(layer, share) for layer, share in enumerate(shares) if share is not None and share > MOST_DEAD]
    worst = max(known(shares))
    if not dead:
        return Finding("good", f"At most {100 * worst:.0f}% of a layer's units are silent on the probe's text.")
    layers = ", ".join(f"layer {layer} ({100 * share:.0f}%)" for layer, share in dead[:4])
    dying = takewhile(lambda p: max(known(p.dead_units), default=0.0) > MOST_DEAD, reversed(view.probes))
    since = min(p.step for p in dying)
    what = f"Most MLP units are dead in {layers}."
    if _is_early(view, probe.step):
        return Finding("info", what, "This early they may still wake up.", since)
    return Finding("watch", what, "That is capacity lost: a lower learning rate keeps units alive.", since)


def rank(view: View) -> Finding | None:
    """All tokens look alike to the last layers."""
    probe = view.probe
    ranks = known(probe.stream.get("effective_rank", ())) if probe else []
    if not probe or len(ranks) < 2:
        return None
    if ranks[-1] >= 2:
        return Finding("good", f"Tokens differ in about {ranks[-1]:.0f} directions at the end of the stream.")
    what = f"The stream has nearly one direction left at its end (effective rank {ranks[-1]:.1f}): tokens look alike."
    if _is_early(view, probe.step):
        return Finding("info", what, "This early it may still open up.", probe.step)
    return Finding("watch", what, "The model says the same of every token: lower the learning rate.", probe.step)


def outliers(view: View) -> Finding | None:
    """Activations so large that half precision ends there."""
    probe = view.probe
    largest = max(known(probe.stream.get("largest", ())), default=None) if probe else None
    if not probe or largest is None:
        return None
    if largest > OUTLIER:
        what = f"An activation of {largest:,.0f} is near the end of float16 (65,504)."
        return Finding("watch", what, "Train and serve in bfloat16 or float32.", probe.step)
    if largest > BLOWN_UP:
        return None  # nothing for a number format to fear, and nothing to be praised
    return Finding("good", f"The largest activation is {largest:,.1f}, far from where float16 ends.")


def confidence(view: View) -> Finding | None:
    """Surer than it is right, on held-out text."""
    probe = view.probe
    facts = probe.predictions if probe else {}
    sure, right = facts.get("confidence"), facts.get("accuracy")
    if not probe or sure is None or right is None:
        return None
    error = facts.get("calibration_error")
    off = f" (calibration error {error:.3f})" if error is not None else ""
    said = f"it gives its best guess {100 * sure:.0f}% on average and is right {100 * right:.0f}% of the time{off}"
    if sure - right > OVERCONFIDENT:
        advice = "Often a sign of memorising; 512 tokens are few, so compare with the gap to held-out text."
        return Finding("watch", f"The model is overconfident: {said}.", advice, probe.step)
    if right - sure > OVERCONFIDENT:
        return Finding("info", f"The model is less sure than it could be: {said}.", "Early in a run that is usual.")
    return Finding("good", f"The model knows what it knows: {said}.")


def induction(view: View) -> Finding | None:
    """Whether a head copies."""
    probe = view.probe
    score = probe.induction.get("score") if probe else None
    if not probe or score is None:
        return None
    layer, head = probe.induction.get("layer"), probe.induction.get("head")
    where = f" ({head_name(int(layer), int(head))})" if layer is not None and head is not None else ""
    if score > 0.4:
        return Finding("good", f"The model has learned to repeat: its best induction head{where} scores {score:.2f}.")
    return Finding(
        "info",
        f"No induction head yet: the best{where} scores {score:.2f} of 1.",
        "It comes, if at all, with longer training.",
    )


def context(view: View) -> Finding | None:
    """Whether more context helps, by the loss at early and at late positions. Of the very first there are few."""
    last = view.held_out[-1] if view.held_out else None
    there = known(last.by_position) if last else []
    if last is None or len(there) < 3:
        return None
    early, late = mean(there[: max(1, len(there) // 2)]), there[-1]
    if early - late > 0.1:
        return Finding("good", f"Context helps: late tokens cost {early - late:.2f} nats less than early ones.")
    if late - early > 0.1:
        what = f"Late tokens cost {late - early:.2f} nats more than early ones."
        return Finding(
            "info", what, "Is the text in windows as long as those it was trained on, and positions all trained?"
        )
    what = f"A long context helps little: late tokens cost {late:.2f} nats, early ones {early:.2f}."
    return Finding("info", what, "The model looks at the last few tokens; more training may widen that.")


def _is_early(view: View, step: int) -> bool:
    return step < max(FIRST, SETTLED * view.past.run.train.max_steps)
