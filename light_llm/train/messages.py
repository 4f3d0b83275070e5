"""Texts that a run prints: header, notices, summary with the report."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from .. import __version__
from ..checkpoint import RunFolder
from ..config import PRESETS, ModelConfig, TrainConfig, get_model_size
from ..config.schedule import rate_notes
from ..data import DataLoader, TokenDataset
from ..data.order import PERIOD, slots_of
from ..errors import LightLLMError
from ..plan.render import MANY_PASSES, header_lines, warning_lines
from ..report.page import write_report
from ..runtime import device_name
from ..text_format import format_bytes, format_duration
from . import preflight
from .preflight import PreflightReport, smaller_micro_batch
from .step import Result, Step, TrainState

if TYPE_CHECKING:
    from ..plan.plan import Plan
    from .trainer import Trainer

SUGGESTED_DROPOUT = 0.1  # against overfitting; twice as much if it is set already


def header(trainer: Trainer, report: PreflightReport) -> list[str]:
    """Return the first lines of a run."""
    model, dataset, decisions = trainer.model.config, trainer.batches.dataset, trainer.decisions
    lines = [
        f"light-llm {__version__}",
        *(f"note     {note}" for note in trainer.notes),
        f"model    {get_model_size(model):,} parameters: {model.n_layer} layers, {model.n_head} heads, "
        f"n_embd {model.n_embd},",
        f"         positions {model.n_positions:,}, vocabulary {model.vocab_size:,}",
        *([f"         {model.describe_variant()}"] if model.describe_variant() else []),
        f"device   {decisions.device}; {device_name(decisions.device.value)}",
        f"format   {decisions.dtype}",
        f"compile  {decisions.compile}",
        *_world_lines(trainer),
        *report.doctor_lines(),
        *([f"tracker  {decisions.tracker}"] if decisions.tracker.value != "none" else []),
    ]
    if dataset is None or report.plan is None:
        judged = "training" if trainer.val_loader is None else "held-out"
        vocabulary = "no tokenizer" if trainer.batches.tokenizer is None else "its tokenizer"
        lines.append(
            f"data     your own loader: the best model is the one with the lowest {judged} loss, checkpoints contain "
            f"{vocabulary}, and a resumed run reads the loader again from its beginning"
        )
    else:
        lines += _data_lines(dataset, trainer.config, report.plan)
        if isinstance(trainer.batches, DataLoader):
            lines += _mixture_lines(trainer.batches, trainer.config.max_steps)
    notes = rate_notes(trainer.config, resumed=trainer.resumed is not None)
    lines += [*(f"note     {note}" for note in notes), f"out      {trainer.folder.path}/"]
    if report.plan and not report.plan.fits:
        lines += warning_lines(report.plan)
    if resume := trainer.resumed:
        problems = [*(damaged.reason for damaged in resume.saved.damaged), *resume.saved.problems]
        lines += [f"notice   {problem}; it is not used" for problem in problems]
        lines.append(f"resumed  at step {resume.state.step} from {resume.saved.step}")
    elif trainer.options.resume:
        lines.append("resumed  at step 0: the run had ended before its first checkpoint")
    return lines


def _world_lines(trainer: Trainer) -> list[str]:
    """Return the header's lines about the processes; none for one process."""
    world, config, dataset = trainer.world, trainer.config, trainer.batches.dataset
    if world.size == 1:
        return []
    record = preflight.world_record(world, config, trainer.decisions.parallel)["world"]
    machines, shared = record["machines"], world.size // config.tensor
    rows = f"; {shared} x {config.batch_size // shared} sequences x {dataset.max_length:,} tokens" if dataset else ""
    how = str(trainer.decisions.parallel)
    if config.tensor > 1:
        how = f"{config.tensor} share each matrix (tensor)" + (f", {shared} groups in {how}" if shared > 1 else "")
    where = f"{world.size} processes on {machines} machine{'s' * (machines != 1)}"
    return [f"world    {where}, {how}, {record['backend']}{rows}"]


def _data_lines(dataset: TokenDataset, config: TrainConfig, plan: Plan) -> list[str]:
    """Return the header's lines about the text, the length of the run and its plan."""
    lines = [
        *(f"note     {note}" for note in dataset.notes),
        f"data     {dataset.source.title}: {len(dataset.tokens):,} training tokens, {len(dataset.held_out):,} held out "
        f"({dataset.tokenizer.name})",
        f"run      {config.max_steps:,} steps of {config.batch_size} x {dataset.max_length:,} = "
        f"{plan.tokens:,} tokens, {plan.passes:.1f} passes over the text",
        *header_lines(plan),
    ]
    # The sources of a mixture are read with different frequencies (`_mixture_lines`).
    if plan.passes and plan.passes > MANY_PASSES and len(dataset.sources) < 2:
        advice = "" if config.patience else "; {--patience 2} stops when it no longer falls"
        lines.append(
            f"note     the run reads the text {plan.passes:.0f} times, so it may start to memorise it. Watch the "
            f"held-out loss{advice}"
        )
    return lines


def _mixture_lines(loader: DataLoader, steps: int) -> list[str]:
    """Return the header's lines about the sources of a corpus: their shares, and how often the run reads each."""
    passes = loader.passes(steps)
    if len(passes) < 2:
        return []
    shares = [slots / PERIOD for slots in slots_of([source.weight for source in loader.dataset.sources])]
    used = [f"{name} {share:.3g} ({n:.1f} passes)" for (name, n), share in zip(passes.items(), shares, strict=True)]
    many = {name: n for name, n in passes.items() if n > MANY_PASSES}
    return [
        f"mixture  {', '.join(used)}",
        *(
            f"note     the run reads {name} {n:.1f} times; after about {MANY_PASSES:.0f} passes a source teaches "
            "little that is new. Give it a smaller share with {--set data.weights=...}"
            for name, n in many.items()
        ),
    ]


def summary(
    result: Result, config: TrainConfig, report: Sequence[str], *, has_tokenizer: bool = True, own_loader: bool = False
) -> list[str]:
    """Return the last lines of a run.

    Args:
        has_tokenizer: the model can generate text.
        own_loader: the run reads a loader of the caller's, which the command line does not have.
        report: the lines about `report.html`.
    """
    folder, step, status = result.folder, result.step, result.status
    if status == "nonfinite":
        return [
            f"stopped  the loss or its gradient was not finite in step {step + 1}; this step changed no weights and no "
            "checkpoint",
            f"         Start a new run with a lower learning rate ({{--lr}}, now {config.lr:g}) or a longer warm-up "
            f"({{--warmup-steps}}, now {config.warmup_steps}). Or continue with {{--resume}} and "
            "{--on-nonfinite skip}, which skips such steps, or {--on-nonfinite rollback}, which returns to a "
            "checkpoint and skips the batches that led to them",
            *report,
        ]
    if step == 0:
        return [f"{status} before the first step; nothing was saved"]
    memory = f", peak memory {format_bytes(result.peak_memory)}" if result.peak_memory else ""
    speed = f"{result.tokens_per_second:,.0f} tokens/s, {format_duration(result.seconds)} in all{memory}"
    ended: str = status
    waited = config.patience * config.eval_interval
    if status == "stopped" and waited and step - (result.best_step or 0) >= waited:
        ended = f"stopped early: no better evaluation in {waited} steps ({{--patience {config.patience}}}),"
    lines = [f"{ended} at step {step}/{config.max_steps}  {speed}"]
    if result.best_loss is not None:
        lines.append(f"best     loss {result.best_loss:.3f} at step {result.best_step}: {best_model_of(folder)}")
    else:
        lines.append(f"model    {best_model_of(folder)} (the weights of this step; no evaluation has run yet)")
    if status == "interrupted" and own_loader:
        lines.append(f"saved    continue with: Trainer(..., out={str(folder)!r}, resume=True)")
    elif status == "interrupted":
        lines.append(f"saved    continue with: light-llm train --resume{_folder_flag('--out', folder)}")
    lines += report
    if has_tokenizer:
        lines.append(f"next     light-llm generate demo{_folder_flag('--checkpoint', folder)}")
    else:
        lines.append(
            f"next     light_llm.load({str(folder)!r}) gives the model for your own token ids. To generate and export "
            "text, train with Trainer(..., tokenizer=...)"
        )
    return lines


def loader_ended(state: TrainState, config: TrainConfig) -> str:
    """Return the notice about a loader that can be read only once, such as a generator."""
    return (
        f"notice   the loader ended after {state.batches:,} batches and cannot be iterated again: the run stops at "
        f"step {state.step:,} of {config.max_steps:,}. A list or torch's DataLoader would repeat its data"
    )


def best_model_of(folder: Path) -> Path:
    """Return the best model of a run: its file, or the step folder that a large model has in its place."""
    run = RunFolder(folder)
    return run.best() or run.best_model


def finished(folder: Path, step: int) -> str:
    """Return the line about a run that has nothing left to do."""
    return (
        f"finished  the run has made all its {step:,} steps; its best model is {best_model_of(folder)}. "
        "To train longer: {--max-steps N}"
    )


def report_line(folder: RunFolder) -> str:
    """Write `report.html`. Returns a line that says where it is, or why it could not be written.

    Catches every exception: the model is saved by now, so a bug in a figure must not fail the run.
    """
    try:
        return f"report   {write_report(folder.path, folder.files)}"
    except (OSError, LightLLMError) as error:
        why = getattr(error, "strerror", None) or str(error)
    except Exception as error:
        why = f"{type(error).__name__}: {error}"
    return (
        f"notice   the report was not written ({why}); try again with: light-llm report {shlex.quote(str(folder.path))}"
    )


def loss_is_rising(best: float, step: int, loss: float, config: TrainConfig, model: ModelConfig) -> list[str]:
    """Return a notice that the held-out loss has stopped falling, with advice that is not followed yet."""
    advice = ["a longer text"]
    if model.dropout < SUGGESTED_DROPOUT:
        advice.append(f"{{--dropout {SUGGESTED_DROPOUT:g}}}")
    elif model.dropout < 2 * SUGGESTED_DROPOUT:
        advice.append(f"{{--dropout {2 * SUGGESTED_DROPOUT:g}}} (now {model.dropout:g})")
    if smaller := smaller_preset(model):
        advice.append(f"{{--preset {smaller}}}")
    helps = f"{', '.join(advice[:-1])} or {advice[-1]}" if len(advice) > 1 else advice[0]
    ends = "" if config.patience else " {--patience 2} stops such a run."
    return [
        f"notice   the held-out loss was lowest at step {step} ({best:.3f}) and is {loss:.3f} now: the model has "
        f"started to overfit (it memorises the training text). The best model is kept.{ends}",
        f"         What helps: {helps}.",
    ]


def smaller_preset(model: ModelConfig) -> str | None:
    """Return the next smaller preset of the same family; None if this is the smallest or no preset."""
    family = sorted(
        (name for name, shape in PRESETS.items() if shape["positions"] == model.positions),
        key=lambda name: int(PRESETS[name]["n_embd"]),
    )
    smaller = [name for name in family if int(PRESETS[name]["n_embd"]) < model.n_embd]
    return smaller[-1] if smaller else None


def nonfinite_step(step: Step, data_place: str, first: str) -> list[str]:
    """Return a notice about a step that is not finite: its numbers, its text, and the first tensor that is bad."""
    numbers = f"loss {step.loss:g}, gradient norm {step.grad_norm:g}, lr {step.lr:.2e}"
    return [
        f"notice   step {step.number} is not finite: {numbers};",
        f"         {data_place};",
        f"         first value that is not finite: {first}",
    ]


def out_of_memory(config: TrainConfig, step: int, rows: int, saved: str) -> str:
    """Return the error message for a step that does not fit into memory, with settings that need less.

    Args:
        rows: of a batch that this rank computes.
        saved: what is saved, and how to continue.
    """
    size, smaller = min(config.micro_batch or rows, rows), smaller_micro_batch(config, rows)
    advice = [f"{{--micro-batch {smaller}}} (now {size}; as many tokens per step as before)"] if smaller else []
    if not config.checkpointing:
        advice.append("{--set train.checkpointing=true} (less memory, a third more time)")
    advice += ["a shorter {--max-length}", "a smaller {--preset}"]
    return f"out of memory in step {step + 1} with {size} sequences at a time; {saved}. What helps: {', '.join(advice)}"


def saved_step(step: int, folder: Path) -> str:
    """Return that a step is saved, and the command that continues from it."""
    return f"step {step} is saved, continue with: light-llm train --resume{_folder_flag('--out', folder)}"


def _folder_flag(flag: str, folder: Path) -> str:
    """Return the flag for a run folder, with a space before it; "" for the default folder."""
    return "" if str(folder) == "checkpoints" else f" {flag} {shlex.quote(str(folder))}"
