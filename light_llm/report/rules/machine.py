"""Rules about the machine, and about curvature and noise where they were measured."""

from ..tolerant import finite, known, mapping
from ..view import View
from .finding import Finding
from .window import last_mean

WAITS = 0.15  # share of the time
LOW_MFU = 0.15


def waiting(view: View) -> Finding | None:
    """Where the time of the steps goes."""
    sums = {name: sum(known(values)) for name, values in view.steps.phases.items()}
    total, data = sum(sums.values()), sums.get("data")
    if total <= 0 or data is None:
        return None
    share = data / total
    if share > 0.5:
        return Finding(
            "bad",
            f"The machine waits for data {100 * share:.0f}% of the time.",
            "Encode the text ahead: light-llm prepare.",
        )
    if share > WAITS:
        return Finding(
            "watch",
            f"The machine waits for data {100 * share:.0f}% of the time.",
            "A faster disk or larger batches help.",
        )
    return Finding("good", f"Data takes {100 * share:.1f}% of the time: nothing waits for it.")


def use(view: View) -> Finding | None:
    """How much of the machine is used."""
    mfu = last_mean(view.steps.mfu, 200)
    if mfu is None:
        return None
    what = f"{100 * mfu:.0f}% of this machine's matrix products go into the model."
    if mfu < LOW_MFU:
        return Finding("watch", f"Only {what}", "Larger batches or a longer context fill it better, if memory allows.")
    return Finding("good", what)


def steady(view: View) -> Finding | None:
    """Whether the speed holds."""
    speeds = known(view.steps.tok_per_sec)
    if len(speeds) < 60:
        return None
    early, late = sorted(speeds[10 : len(speeds) // 2]), sorted(speeds[-20:])
    before, now = early[len(early) // 2], late[len(late) // 2]
    if now < 0.6 * before:
        what = f"The speed has dropped from {before:,.0f} to {now:,.0f} tokens/s."
        return Finding("watch", what, "Is another program running, or is the machine hot?")
    return Finding("good", f"The speed is steady at about {now:,.0f} tokens/s.")


def rate(view: View) -> Finding | None:
    """The learning rate against what is usual for AdamW on models of this size."""
    train = view.past.run.train
    if train.optimizer != "adamw":
        return None
    if train.lr > 1e-2:
        return Finding(
            "watch",
            f"A peak learning rate of {train.lr:.2g} is high for AdamW.",
            "1e-3 to 3e-3 is usual at this size.",
            1,
        )
    if train.lr < 5e-5:
        return Finding(
            "watch",
            f"A peak learning rate of {train.lr:.2g} is low for AdamW.",
            "1e-3 to 3e-3 is usual at this size.",
            1,
        )
    return None


def sharpness(view: View) -> Finding | None:
    """Sharpness in Adam's metric against 38/lr, at which training becomes unstable (Cohen et al., 2022)."""
    found = mapping(view.analysis.get("sharpness"))
    value, threshold = finite(found.get("preconditioned")), finite(found.get("preconditioned_threshold"))
    if value is None or not threshold:
        return None
    share = value / threshold
    what = f"The sharpness in Adam's own metric is {share:.2f} of its threshold."
    if share > 1.5:
        advice = (
            "Updates may overshoot. A few sequences look sharper than all of the text: look again with a larger "
            "--batch-size of light-llm analyze; if it stays so, lower the learning rate or warm up for longer."
        )
        return Finding("watch", what, advice)
    return Finding("good", what, "There is room for a higher learning rate." if share < 0.2 else "")


def noise(view: View) -> Finding | None:
    """The batch against the gradient noise scale (McCandlish et al., 2018), both in tokens."""
    scale = finite(mapping(view.analysis.get("noise")).get("scale_tokens"))
    if scale is None or scale <= 0:
        return None
    batch = view.tokens_per_step
    what = f"Signal and noise of the gradient are equal at {scale:,.0f} tokens; a step has {batch:,}."
    if batch < scale / 3:
        return Finding("info", what, "Larger batches would give better steps almost in proportion.")
    if batch > 3 * scale:
        return Finding("info", what, "Smaller batches would learn as much from less arithmetic.")
    return Finding("good", what, "The batch is well chosen.")
