"""Start a run: check it, take its folder, restore or seed its state, open its outputs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from ..observe.step_metrics import StepMetrics
from ..optim import build_optimizer
from ..runtime import matmul_rate, seed_everything
from . import messages, preflight
from .messages import Output
from .resume import restore
from .step import StepQueue, Throughput

if TYPE_CHECKING:
    from .trainer import Trainer

BUILT_IN_GUARDS = 2


@dataclass(frozen=True)
class ActiveRun:
    """The parts of an active training run. They need its device or its run folder, so they are made at its start."""

    optimizer: torch.optim.Optimizer
    metrics: StepMetrics
    queue: StepQueue
    throughput: Throughput
    output: Output


@contextmanager
def start_run(trainer: Trainer) -> Iterator[ActiveRun]:
    """Check a run, take its folder, restore or seed its state, and open its outputs; close them at the end.

    The folder is changed only after the checks, so a refused run leaves it unchanged.
    """
    folder, config, dataset, resume = trainer.folder, trainer.config, trainer.batches.dataset, trainer.resumed
    options = trainer.options
    report = preflight.run_checks(trainer.model, dataset, config, resume, options)
    trainer.checkpointer.check_disk_space()
    explicit, overwrite = options.explicit_out, options.overwrite
    moved = None if resume else folder.archive_existing_run(explicit=explicit, overwrite=overwrite)
    lines = [moved] if moved else []
    lines += messages.header(trainer.model.config, dataset, config, trainer.decisions, report, folder.path)
    lines += messages.resume_lines(resume) if resume else []
    folder.create()
    with folder.lock():
        folder.remove_stale()
        # Renamed before the first save, so that a damaged step neither counts as kept nor is resumed from.
        folder.quarantine(resume.saved.damaged if resume else [])
        record = preflight.run_record(trainer.run, dataset, trainer.decisions, report, resume)
        folder.write_run(record)
        resumed_at = resume.state.step if resume else None
        # The checkpoint's tensors take three times the memory of the model; `_prepare` drops the other reference.
        del resume
        optimizer, throughput = _prepare(trainer)
        # A caller's guard or callback has to see a step before the next one starts.
        deferrable = len(trainer.guards) == BUILT_IN_GUARDS and not any(c.synchronous for _, c in trainer.callbacks)
        queue = StepQueue(optimizer, config, deferrable)
        try:
            with (
                StepMetrics(trainer.model, optimizer) as metrics,
                Output(folder, options, record, total_steps=config.max_steps, resumed_at=resumed_at) as output,
            ):
                output.say(*lines)
                yield ActiveRun(optimizer, metrics, queue, throughput, output)
        finally:
            folder.restore_previous_run()


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
        seed_everything(config.seed)
    # All batches have one shape, because the micro-batch divides the batch; dynamic shapes would give slower kernels.
    if config.compile == "on":
        trainer.objective.compile(dynamic=False)
    return optimizer, throughput
