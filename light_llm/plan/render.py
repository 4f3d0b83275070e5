"""A plan as text: the lines of a header, the table of `light-llm plan`, and the refusal of a run that does not fit."""

from collections.abc import Sequence

from ..config import ModelConfig, block_shapes, outer_shapes
from ..config.param_shapes import count
from ..errors import mark_options
from ..text_format import format_bytes, format_duration
from .plan import Plan
from .speed import BUSY, CORRECTED, LAST_RUN, MEASURED
from .suggest import Suggestion

NAMES = {
    "optimizer": "optimizer state",
    "loss": "logits and loss",
    "cache": "libraries and allocator overhead",
    "framework": "Python, torch and the text",
}
MANY_PASSES = 4.0  # more than about this many add little (Muennighoff et al., 2023)
LONG_RUN = 7 * 24 * 3600.0  # seconds; a longer run on one machine is most often a mistake


def header_lines(plan: Plan) -> list[str]:
    """Return the plan's lines in the header of a run."""
    limit = f" of {format_bytes(plan.limit.bytes)}" if plan.limit else ""
    memory, checkpoints = format_bytes(plan.memory.total), format_bytes(plan.bytes_of_checkpoints)
    each = " in each process" if plan.world_size > 1 else ""
    lines = [f"plan     memory {memory}{limit}{each}, checkpoints {checkpoints} on disk,"]
    if plan.step is None or plan.seconds is None:
        return [*lines, "         (the time is not predicted: this machine was not measured)"]
    lines.append(f"         {format_duration(plan.step)} a step, about {format_duration(plan.seconds.total)} in all")
    return [*lines, f"         ({speed_source(plan)})", *(f"         {line}" for line in long_run(plan))]


def long_run(plan: Plan) -> list[str]:
    """Return a remark about a run that takes longer than a week."""
    if plan.seconds is None or plan.seconds.total < LONG_RUN:
        return []
    return ["more than a week: use fewer steps, smaller batches or a smaller model"]


def speed_source(plan: Plan) -> str:
    """Return where the predicted time of a step comes from."""
    assert plan.step is not None
    return {
        MEASURED: "measured on this machine",
        BUSY: "measured while other programs were running: may be far off",
        LAST_RUN: f"this machine did {format_duration(plan.step)} a step last time",
        CORRECTED: "measured on this machine, corrected by the last run",
    }[plan.speed_source or MEASURED]


def warning_lines(plan: Plan) -> list[str]:
    """Return the warning of a run that is started although it does not fit."""
    return [f"notice   {_too_large(plan)}"]


def refusal(
    plan: Plan,
    suggestions: Sequence[Suggestion],
    *,
    untouched: str = "nothing was downloaded or written",
    can_fit: bool = True,
) -> str:
    """Return the refusal of a run that does not fit, with the settings that do.

    Args:
        untouched: what was not done, as in "no run was started".
        can_fit: `--fit` can take the first suggestion.
    """
    lines = [_too_large(plan), f"{untouched[0].upper()}{untouched[1:]}. " + ("What fits:" if suggestions else "")]
    for suggestion in suggestions:
        smaller = suggestion.plan
        step = f", {format_duration(smaller.step)} a step" if smaller.step is not None else ""
        lines += [
            f"  {mark_options(suggestion.flags)}",
            f"      {format_bytes(smaller.memory.total)}{step}: {mark_options(suggestion.effect)}",
        ]
    if not suggestions:
        lines[-1] += "None of the smaller settings that were tried fits."
        lines.append("Use a smaller model ({--set model.n_embd=...}), or {--force} to start anyway.")
    elif can_fit:
        lines.append("{--fit} takes the first of these; {--force} starts the run as it is.")
    else:
        lines.append("{--force} starts the run as it is.")
    return "\n".join(lines)


def _too_large(plan: Plan) -> str:
    assert plan.limit is not None
    needed, free = format_bytes(plan.memory.total), format_bytes(plan.limit.bytes)
    each = f" in each of its {plan.world_size} processes" if plan.world_size > 1 else ""
    return f"This run needs {needed} of memory{each}; {free} is {plan.limit.reason}."


def table(plan: Plan) -> list[str]:
    """Return the whole plan as lines of two columns."""
    c, train, text = plan.model, plan.train, plan.text
    pieces = f", {train.micro_batch} at a time" if train.micro_batch and train.micro_batch < train.batch_size else ""
    limit = []
    if plan.limit:
        only = "" if plan.fits else "only, "
        limit = [f"             {format_bytes(plan.limit.bytes):>14}  {only}{plan.limit.reason}"]
    lines = [
        f"model        {c.n_layer} layers, {c.n_head} heads, n_embd {c.n_embd}, vocabulary {c.vocab_size:,}",
        f"run          {train.max_steps:,} steps of {train.batch_size} x {plan.T:,}{pieces},"
        f" {train.optimizer}, {train.dtype}",
        *processes_lines(plan),
        "",
        f"parameters   {plan.parameters:>14,}",
        *(f"             {n:>14,}  {part}" for part, n in parameters_by_part(c).items()),
        "",
        f"memory       {format_bytes(plan.memory.total):>14}  at the peak{' of each process' * (plan.world_size > 1)}",
        *limit,
        *(f"             {format_bytes(n):>14}  {NAMES.get(kind, kind)}" for kind, n in vars(plan.memory).items() if n),
        "",
        f"arithmetic   {plan.flops_per_step:>14.3g}  FLOPs a step, {plan.flops_per_step * train.max_steps:.3g} in all",
        f"tokens       {plan.tokens:>14,}" + (f"  {plan.passes:.1f} passes over the text" if plan.passes else ""),
    ]
    if plan.passes and plan.passes > MANY_PASSES:
        lines += [
            "                             in so many passes the model may memorise the text:",
            "                             use a longer text or fewer steps, or --patience 2",
        ]
    if plan.bytes_of_data is not None:
        lines.append(f"disk         {format_bytes(plan.bytes_of_data):>14}  token ids, in the cache")
    start = "disk        " if plan.bytes_of_data is None else "            "
    lines.append(f"{start} {format_bytes(plan.bytes_of_checkpoints):>14}  checkpoints")
    if plan.step is not None and plan.seconds is not None:
        total, step = format_duration(plan.seconds.total), format_duration(plan.step)
        lines += ["", f"time         {total:>14}  in all, {step} a step"]
        parts = vars(plan.seconds).items()
        lines += [f"             {format_duration(value):>14}  {name}" for name, value in parts if value >= 0.05]
        lines += [f"             ({speed_source(plan)})", *(f"             {line}" for line in long_run(plan))]
        if plan.world_size > 1:
            shared = "; they share the processors" if plan.train.device == "cpu" else ""
            lines.append(f"             (without the messages of the processes{shared})")
    if text.tokens is None:
        lines += ["", "note         length of the text unknown: passes and evaluations not counted"]
    return lines


def processes_lines(plan: Plan) -> list[str]:
    """Return how a run is split among its ranks; [] for one."""
    if plan.world_size == 1:
        return []
    kept = {
        "ddp": "ddp: each has the whole model",
        "fsdp": "fsdp: each has a shard of weights, gradients and moments",
    }[plan.parallel]
    rows, tensor = plan.train.batch_size // plan.data_size, plan.train.tensor
    groups = [f"             tensor: groups of {tensor} share each matrix and the sequences"] if tensor > 1 else []
    return [
        f"processes    {plan.world_size}, {rows} of {plan.train.batch_size} sequences each",
        f"             {kept}",
        *groups,
    ]


def parameters_by_part(config: ModelConfig) -> dict[str, int]:
    """Return the parameters of each part of the model. They add up to `get_model_size`.

    >>> parameters_by_part(ModelConfig.micro())["token embeddings and head"]
    19298688
    """
    block, outer = block_shapes(config), outer_shapes(config)

    def of(shapes: dict[str, tuple[int, ...]], *prefixes: str) -> int:
        return count({name: shape for name, shape in shapes.items() if name.startswith(prefixes)})

    parts = {
        "token embeddings and head" if config.tied_head else "token embeddings": of(outer, "wte"),
        "head": of(outer, "lm_head"),
        "position embeddings": of(outer, "wpe"),
        "attention": config.n_layer * of(block, "attn"),
        "MLP": config.n_layer * of(block, "mlp"),
        "norms": of(outer, "ln_") + config.n_layer * of(block, "ln_"),
    }
    return {name: n for name, n in parts.items() if n}
