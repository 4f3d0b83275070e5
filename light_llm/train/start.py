"""Start a run, new or resumed: take its folder, restore or seed its state, open its outputs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from ..data.order import mix
from ..errors import ConfigError
from ..observe import BackgroundSink, Console, JsonLines, Sink, TimeLeft
from ..observe.step_metrics import StepMetrics
from ..observe.tracking import make_tracker
from ..optim import build_optimizer
from ..parallel import parallelize
from ..runtime import Decision, compare_ranks, matmul_rate, seed_rng
from . import messages, preflight
from .agreement import BatchReader
from .callbacks import run_callbacks
from .rescue import StepProgress
from .saved_run import ResumeState, count_generators, restore
from .step import StepQueue, Throughput

if TYPE_CHECKING:
    from .trainer import Trainer


@dataclass(frozen=True)
class ActiveRun:
    """The parts of an active training run. They need its device or its run folder, so they are made at its start."""

    optimizer: torch.optim.Optimizer
    metrics: StepMetrics
    queue: StepQueue
    throughput: Throughput
    reader: BatchReader
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
    _compare_callbacks(trainer)
    with ExitStack() as stack:
        taken = take_folder(trainer, stack)
        resumed_at = trainer.resumed.state.step if trainer.resumed else None
        optimizer, throughput, notes = _prepare(trainer)
        # A caller's guard or callback has to see a step before the next one starts.
        deferrable = not trainer.has_own_guards and not any(c.synchronous for _, c in trainer.callbacks)
        queue = StepQueue(optimizer, trainer.config, deferrable)
        metrics = stack.enter_context(StepMetrics(trainer.model, optimizer, trainer.parallel))
        outputs = stack.enter_context(open_outputs(trainer, taken.record, resumed_at))
        reader = BatchReader(trainer.batches, trainer.parallel)
        trainer.active = ActiveRun(optimizer, metrics, queue, throughput, reader, *outputs)
        trainer.say(*taken.lines, *notes)
        run_callbacks([c for _, c in trainer.callbacks], lambda callback: callback.on_start(), trainer.stop_flag)
        trainer.parallel.finish_evaluation()
        yield trainer.active


def _compare_callbacks(trainer: Trainer) -> None:
    """Raise ConfigError on all ranks if one has other callbacks or guards: they are agreed with by messages."""
    callbacks = [f"{type(callback).__name__} every {n}" for n, callback in trainer.callbacks if callback.synchronous]
    compare_ranks(
        trainer.world, {"list of callbacks": ", ".join(callbacks) or "none", "number of guards": len(trainer.guards)}
    )


@dataclass(frozen=True)
class TakenFolder:
    """Results of rank 0 before a run."""

    record: dict[str, Any] = field(default_factory=dict)  # the contents of run.json
    lines: Sequence[str] = ()  # of the header


def take_folder(trainer: Trainer, stack: ExitStack) -> TakenFolder:
    """Check a run and take its folder on rank 0, while the others wait; they get an empty value.

    Sets how the processes share the work, which depends on the memory.

    Args:
        stack: holds the lock.
    """
    taken: list[TakenFolder] = []

    def take() -> dict[str, Any]:
        taken.append(_take_folder(trainer, stack))
        return asdict(trainer.decisions.parallel)

    parallel = Decision(**trainer.world.of_first(take))
    trainer.decisions = replace(trainer.decisions, parallel=parallel)
    return taken[0] if taken else TakenFolder()


def _take_folder(trainer: Trainer, stack: ExitStack) -> TakenFolder:
    folder, options, dataset, resume = trainer.folder, trainer.options, trainer.batches.dataset, trainer.resumed
    # Known at once, so it comes before checks that may take half a minute.
    trainer.checkpointer.check_disk_space()
    report = preflight.run_checks(trainer.model, dataset, trainer.config, resume, options, trainer.world)
    parallel = preflight.choose_parallel(trainer.config, report.plan, trainer.world)
    trainer.decisions = replace(trainer.decisions, parallel=parallel)
    lines = messages.header(trainer, report)
    if not resume:
        moved = folder.archive_existing_run(explicit=options.explicit_out, overwrite=options.overwrite)
        lines = [moved, *lines] if moved else lines
    folder.create()
    stack.enter_context(folder.lock())
    stack.callback(folder.restore_previous_run)
    folder.remove_stale()
    # Renamed before the first save, so that a damaged step neither counts as kept nor is resumed from.
    folder.quarantine(resume.saved.damaged if resume else [])
    record = preflight.run_record(trainer.run, dataset, trainer.decisions, report, resume)
    record |= _history(trainer, resume) | preflight.world_record(trainer.world, trainer.config, parallel)
    folder.write_run(record)
    return TakenFolder(record, lines)


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
    """Open the console with its log, `metrics.jsonl` and the background sinks on rank 0; close them at the end.

    Args:
        record: the contents of run.json.
        resumed_at: rows of later steps are removed; None for a new run.
    """
    folder, options = trainer.folder, trainer.options
    if not trainer.world.is_first:
        yield Console(total=trainer.config.max_steps, quiet=True), []
        return
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


def _prepare(trainer: Trainer) -> tuple[torch.optim.Optimizer, Throughput, list[str]]:
    """Put the model on the processes, build its optimizer, and restore both, or seed the generators of a new run.

    Returns:
        The optimizer, the throughput, and lines for the header.
    """
    model, config, world = trainer.model, trainer.config, trainer.world
    model.to(config.device).train()
    model.checkpointing = config.checkpointing
    world.set_timeout(config.timeout)
    kind = trainer.decisions.parallel.value
    trainer.parallel = parallelize(trainer.objective, world, replace(config, parallel=kind))
    # Sharding replaces the parameters, so the optimizer comes after it.
    optimizer = build_optimizer(model, config, trainer.parallel.data_size)
    # Measuring the device draws random numbers, so it comes before the generators are set.
    rate = world.of_first(lambda: matmul_rate(config.device, config.dtype))
    notes: list[str] = []
    if trainer.resumed:
        if model.config.dropout and (n := count_generators(trainer.resumed.checkpoint[2])) != world.size and n:
            notes = [f"note     saved by {n} and resumed by {world.size} processes: dropout draws other numbers"]
        trainer.state = restore(trainer.resumed.checkpoint, model, optimizer, config, trainer.parallel)
        # The checkpoint's tensors take three times the memory of the model.
        trainer.resumed = None
    else:
        rank = trainer.parallel.data_rank
        seed_rng(mix(config.seed, rank) if rank else config.seed, config.device)
    return optimizer, Throughput(model.config, rate * world.size), notes
