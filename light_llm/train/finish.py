"""End a run: the last callbacks, the report, and the summary."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from ..runtime import peak_memory
from . import messages
from .step import Result, Status

if TYPE_CHECKING:
    from .trainer import Trainer


def finish(trainer: Trainer) -> Result:
    """Let the callbacks save and evaluate the last step, write the report, and print the summary."""
    run = trainer.active
    assert run is not None, "the run has started"
    complete = trainer.state.step >= trainer.config.max_steps
    status: Status = "done" if complete else trainer.stop_flag.status or "done"
    for _, callback in trainer.callbacks:
        callback.on_end(status)
    trainer.parallel.finish_evaluation()
    result = Result(
        # A run whose last evaluation was cancelled can be resumed to make it, even after the last step.
        status="interrupted" if trainer.stop_flag.evaluation_cancelled else status,
        step=trainer.state.step,
        best_loss=trainer.checkpointer.best_loss,
        best_step=trainer.checkpointer.best_step,
        folder=trainer.folder.path,
        seconds=time.perf_counter() - run.throughput.started,
        tokens_per_second=run.throughput.tokens_per_second,
        peak_memory=max(filter(None, trainer.world.gather(peak_memory())), default=None),
    )
    row = {"kind": "end", "step": result.step, "status": result.status, "seconds": result.seconds}
    trainer.write_row(row | {"memory": result.peak_memory, "tok_per_sec": result.tokens_per_second})
    written = trainer.options.report and trainer.state.step > 0
    with trainer.working("writing the report"):
        report = trainer.world.of_first(lambda: [messages.report_line(trainer.folder)] if written else [])
    # The progress line would be redrawn between the messages that follow.
    run.console.pause()
    kinds = {"has_tokenizer": trainer.batches.tokenizer is not None, "own_loader": trainer.batches.dataset is None}
    trainer.say(*messages.summary(result, trainer.config, report, **kinds))
    if trainer.world.of_first(trainer.folder.restore_previous_run):
        trainer.say(f"kept     the earlier run in {trainer.folder.path}: the new one left no checkpoint")
    return result
