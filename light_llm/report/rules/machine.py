"""Rules about the machine, and about curvature and noise where they were measured."""

from ...config.choices import OPTIMIZERS
from ..tolerant import finite, known, mapping
from ..view import View
from .finding import Finding
from .window import last_mean

WAITS = 0.15  # share of the time
LOW_MFU = 0.15
SLOW_READING = "The folder of texts is on a slow disk (LIGHT_LLM_CACHE moves it), or a loader of your own is slow."


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
            SLOW_READING,
        )
    if share > WAITS:
        return Finding(
            "watch",
            f"The machine waits for data {100 * share:.0f}% of the time.",
            SLOW_READING,
        )
    return Finding("good", f"Data takes {100 * share:.1f}% of the time: nothing waits for it.")


def use(view: View) -> Finding | None:
    """How much of the machine is used."""
    mfu = last_mean(view.steps.mfu, 200)
    if mfu is None:
        return None
    what = f"Training reaches {100 * mfu:.0f}% of the rate at which this machine multiplies matrices."
    if mfu < LOW_MFU:
        return Finding("watch", what, "Larger batches or a longer context fill it better, if memory allows.")
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
    if not OPTIMIZERS[train.optimizer].is_adam:
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
    """Sharpness in Adam's metric against the value from which steps overshoot (Cohen et al., 2022)."""
    found = mapping(view.analysis.get("sharpness"))
    value, threshold = finite(found.get("preconditioned")), finite(found.get("preconditioned_threshold"))
    if value is None or not threshold:
        return None
    share = value / threshold
    what = f"The sharpness in Adam's own metric is {share:.2f} of its threshold{_measured_at(view)}."
    if share > 1.5:
        advice = (
            "Updates may overshoot. A few sequences look sharper than all of the text: look again with a larger "
            "--batch-size of light-llm analyze; if it stays so, lower the learning rate or warm up for longer."
        )
        return Finding("watch", what, advice)
    lr, peak = finite(found.get("lr")), view.past.run.train.lr
    if share < 0.2 and lr is not None and lr >= 0.5 * peak:
        return Finding("good", what, "There is room for a higher learning rate.")
    fallen = lr is not None and lr < 0.5 * peak
    advice = f"The rate has fallen to {lr:.2g} here; a checkpoint near the peak would judge the peak." if fallen else ""
    return Finding("good", what, advice)


def noise(view: View) -> Finding | None:
    """The batch against the gradient noise scale (McCandlish et al., 2018), both in tokens."""
    found = mapping(view.analysis.get("noise"))
    scale, error, of = (finite(found.get(name)) for name in ("scale_tokens", "stderr", "scale_sequences"))
    if scale is None or scale <= 0:
        return None
    batch = view.tokens_per_step
    what = (
        f"Signal and noise of the gradient are equal at {scale:,.0f} tokens{_measured_at(view)}; a step has {batch:,}."
    )
    if error is not None and of and error > of / 2:
        return Finding("info", what, "That is uncertain by more than half: too few sequences to judge the batch by.")
    if batch < scale / 3:
        return Finding("info", what, "Larger batches would give better steps almost in proportion.")
    if batch > 3 * scale:
        return Finding("info", what, "Smaller batches would learn as much from less arithmetic.")
    return Finding("good", what, "The batch is well chosen.")


def _measured_at(view: View) -> str:
    """Of which step an analysis is, where that is not the last one."""
    step = finite(view.analysis.get("step"))
    return f" at step {step:,.0f}" if step is not None and step != view.past.step else ""
