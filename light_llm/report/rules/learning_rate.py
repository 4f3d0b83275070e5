"""Rules about the learning rate and the batch size: usual values, curvature and gradient noise."""

from ...config.choices import OPTIMIZERS
from ..coerce import as_mapping, as_number
from ..run_log import RunLog
from . import Finding, Rule

# Peak rates of AdamW outside of which small models usually diverge or hardly learn. The default, 1.5e-3, was the best
# of those tried on micro; 30 times as much collapses.
HIGH_LR, LOW_LR = 1e-2, 5e-5
USUAL_LR = "1e-3 to 3e-3 is usual at this size."
# Share of the threshold of Cohen et al., 2022, above which updates may overshoot. Training at 1 is common and stable,
# and the sharpness of a few sequences is above that of the text: 3.7 for a healthy nano in its warm-up.
SHARP = 1.5
# Share of the threshold below which a higher rate is safe, if the measured checkpoint had at least this share of the
# peak rate: sharpness adapts to the rate.
FLAT, NEAR_PEAK = 0.2, 0.5
# The noise scale (McCandlish et al., 2018) is uncertain if its standard error is above this share of it.
NOISE_ERROR = 0.5
# A batch within this factor of the noise scale loses little time and little arithmetic.
BATCH_FACTOR = 3


def check_learning_rate(log: RunLog) -> Finding | None:
    """Compare the peak learning rate with what is usual for AdamW on models of this size."""
    train = log.run.train
    if not OPTIMIZERS[train.optimizer].is_adam or LOW_LR <= train.lr <= HIGH_LR:
        return None
    word = "high" if train.lr > HIGH_LR else "low"
    if word == "low" and train.init_from:  # fine-tuning
        return None
    return Finding("watch", f"A peak learning rate of {train.lr:.2g} is {word} for AdamW.", USUAL_LR)


def check_sharpness(log: RunLog) -> Finding | None:
    """Compare the sharpness in Adam's metric with the value from which steps overshoot (Cohen et al., 2022)."""
    values = as_mapping(log.analysis.get("sharpness"))
    value, threshold = as_number(values.get("preconditioned")), as_number(values.get("preconditioned_threshold"))
    if value is None or not threshold or value <= 0:
        return None
    share = value / threshold
    message = f"The sharpness in Adam's metric is {share:.2f} of the value where updates overshoot{_measured_at(log)}."
    if share > SHARP:
        advice = (
            "Updates may overshoot. The loss of a few sequences is sharper than that of the whole text: measure again "
            "with a larger --batch-size of light-llm analyze; if it stays so, lower the learning rate or lengthen the "
            "warm-up."
        )
        return Finding("watch", message, advice)
    lr, peak = as_number(values.get("lr")), log.run.train.lr
    if lr is None:
        return Finding("good", message)
    if lr < NEAR_PEAK * peak:
        advice = f"The learning rate was down to {lr:.2g} there; analyze a checkpoint from its peak to judge the peak."
        return Finding("good", message, advice)
    return Finding("good", message, "There is room for a higher learning rate." if share < FLAT else "")


def check_noise(log: RunLog) -> Finding | None:
    """Compare the batch with the gradient noise scale (McCandlish et al., 2018), both in tokens."""
    values = as_mapping(log.analysis.get("noise"))
    scale = as_number(values.get("scale_tokens"))
    error, sequences = as_number(values.get("stderr")), as_number(values.get("scale_sequences"))
    if scale is None or scale <= 0:
        return None
    batch = log.tokens_per_step
    message = f"The gradient noise scale is {scale:,.0f} tokens{_measured_at(log)}; a step has {batch:,}."
    if error is not None and sequences and error > NOISE_ERROR * sequences:
        advice = "Its error is more than half of it, so it does not judge the batch size; measure more sequences."
    elif batch < scale / BATCH_FACTOR:
        advice = "The gradient is mostly noise: a larger batch would need fewer steps, almost in proportion."
    elif batch > BATCH_FACTOR * scale:
        advice = "A smaller batch would learn as much from fewer tokens."
    else:
        return Finding("good", message, "The batch size is close enough to it.")
    return Finding("info", message, advice)


def _measured_at(log: RunLog) -> str:
    """Return the step of an analysis as words, unless it is the last step."""
    step = as_number(log.analysis.get("step"))
    return f" at step {step:,.0f}" if step is not None and step != log.last_step else ""


RULES = (
    Rule("learning rate", "lr", check_learning_rate, order=140),
    Rule("sharpness", "sharpness", check_sharpness, order=280),
    Rule("noise", "noise", check_noise, order=290),
)
