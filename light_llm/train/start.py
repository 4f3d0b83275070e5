"""Start a run, new or resumed: take its folder, restore or seed its state, open its outputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..errors import ConfigError
from ..observe import BackgroundSink, Console, JsonLines, Sink, TimeLeft
from ..observe.step_metrics import StepMetrics
from ..observe.tracking import make_tracker
from ..optim import build_optimizer
from ..runtime import matmul_rate, seed_rng
from . import messages, preflight
from .rescue import StepProgress
from .saved_run import ResumeState, restore
from .step import StepQueue, Throughput

if TYPE_CHECKING:
    from .trainer import Trainer

BUILT_IN_GUARDS = 2  # NonFiniteGuard and LossSpikeGuard, which a gated queue can run a step late


@dataclass(frozen=True)
class ActiveRun:
    """The parts of an active training run. They need its device or its run folder, so they are made at its start."""

    optimizer: torch.optim.Optimizer
    metrics: StepMetrics
    queue: StepQueue
    throughput: Throughput
    console: Console
    sinks: list[Sink]
    progress: StepProgress = field(default_factory=StepProgress)


@contextmanager
def start_run(trainer: Trainer) -> Iterator[ActiveRun]:
    """Check a run, take its folder, restore or seed its state, open its outputs, and run the callbacks' `on_start`.

    The folder is changed only after the checks, so a refused run leaves it unchanged. Sets `trainer.active`.
    """
    if trainer.active is not None:
        raise ConfigError("this Trainer has trained already; make another one, with resume=True to continue the run")
    folder, options, dataset, resume = trainer.folder, trainer.options, trainer.batches.dataset, trainer.resumed
    # Known at once, so it comes before checks that may take half a minute.
    trainer.checkpointer.check_disk_space()
    report = preflight.run_checks(trainer.model, dataset, trainer.config, resume, options)
    lines = messages.header(trainer, report)
    if not resume:
        moved = folder.archive_existing_run(explicit=options.explicit_out, overwrite=options.overwrite)
        lines = [moved, *lines] if moved else lines
    folder.create()
    with folder.lock():
        folder.remove_stale()
        # Renamed before the first save, so that a damaged step neither counts as kept nor is resumed from.
        folder.quarantine(resume.saved.damaged if resume else [])
        record = preflight.run_record(trainer.run, dataset, trainer.decisions, report, resume)
        record |= _history(trainer, resume)
        folder.write_run(record)
        resumed_at = resume.state.step if resume else None
        # The checkpoint's tensors take three times the memory of the model; `_prepare` drops the other reference.
        del resume
        optimizer, throughput = _prepare(trainer)
        # A caller's guard or callback has to see a step before the next one starts.
        deferrable = len(trainer.guards) == BUILT_IN_GUARDS and not any(c.synchronous for _, c in trainer.callbacks)
        queue = StepQueue(optimizer, trainer.config, deferrable)
        try:
            with StepMetrics(trainer.model, optimizer) as metrics, open_outputs(trainer, record, resumed_at) as outputs:
                trainer.active = ActiveRun(optimizer, metrics, queue, throughput, *outputs)
                trainer.say(*lines)
                for _, callback in trainer.callbacks:
                    if callback.on_start() == "stop":
                        trainer.stop_flag.stop("stopped")
                yield trainer.active
        finally:
            folder.restore_previous_run()


def _history(trainer: Trainer, resume: ResumeState | None) -> dict[str, Any]:
    """Return the settings that the commands asked for and the steps of resumes, as run.json stores them."""
    history: dict[str, Any] = {"asked": trainer.asked} if trainer.asked else {}
    if resume:
        history["resumes"] = [*resume.saved.resumes, {"step": resume.state.step}]
    return history


@contextmanager
def open_outputs(
    trainer: Trainer, record: dict[str, Any], resumed_at: int | None
) -> Iterator[tuple[Console, list[Sink]]]:
    """Open the console with its log, `metrics.jsonl` and the background sinks; close them at the end.

    Args:
        record: the contents of run.json.
        resumed_at: rows of later steps are removed; None for a new run.
    """
    folder, options = trainer.folder, trainer.options
    with ExitStack() as stack:
        total = trainer.config.max_steps
        console = stack.enter_context(
            closing(
                Console(
                    total=total,
                    log=folder.log,
                    quiet=options.quiet,
                    spell=options.spell,
                    time_left=_time_left(trainer, record, resumed_at or 0),
                )
            )
        )
        file = JsonLines(folder.metrics, keep=resumed_at, warn=console.say, files=folder.files)
        stack.enter_context(closing(file))
        background = [BackgroundSink.of(sink, console.say) for sink in options.sinks]
        if (name := record["tracker"]["value"]) != "none":
            make = partial(make_tracker, name, folder=folder.path, record=record, resumed_at=resumed_at or 0)
            background.append(BackgroundSink(name, make, console.say))
        for sink in background:
            stack.enter_context(closing(sink))
        yield console, [console, file, *background]


def _time_left(trainer: Trainer, record: dict[str, Any], done: int) -> TimeLeft:
    """Return the prediction of the rest of the run, from its plan until it has been measured."""
    config, seconds = trainer.config, (record.get("plan") or {}).get("left") or {}
    intervals = {"saving": config.save_interval}
    if trainer.batches.dataset is not None:
        intervals |= {"evaluating": config.eval_interval, "sampling": config.sample_interval}
    predicted = {"saving": "saves", "evaluating": "evaluations", "sampling": "samples"}
    return TimeLeft(config.max_steps, intervals, {name: seconds.get(key) for name, key in predicted.items()}, done)


def _prepare(trainer: Trainer) -> tuple[torch.optim.Optimizer, Throughput]:
    """Move the model to its device, build its optimizer, and restore both, or seed the generators of a new run."""
    model, config = trainer.model, trainer.config
    model.to(config.device).train()
    model.checkpointing = config.checkpointing
    optimizer = build_optimizer(model, config)
    # Measuring the device draws random numbers, so it comes before the generators are set.
    throughput = Throughput(model.config, matmul_rate(config.device, config.dtype))
    if trainer.resumed:
        trainer.state = restore(trainer.resumed.checkpoint, model, optimizer, config.device)
        trainer.resumed = None
    else:
        seed_rng(config.seed, config.device)
    # All batches have one shape, because the micro-batch divides the batch; dynamic shapes would give slower kernels.
    if config.compile == "on":
        trainer.objective.compile(dynamic=False)
    return optimizer, throughput
