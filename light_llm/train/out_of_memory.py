"""A first step that does not fit into memory is computed in smaller micro-batches."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from ..errors import DeviceError
from . import messages, preflight

if TYPE_CHECKING:
    from .trainer import Trainer


def halve_micro_batch(trainer: Trainer, error: RuntimeError) -> None:
    """Halve the micro-batch in the first step; the tokens of a step stay the same, and so does its loss.

    Raises:
        DeviceError: it cannot be smaller, or this is a later step. The run is saved first.
    """
    run = trainer.active
    assert run is not None, "the run has started"
    smaller = preflight.smaller_micro_batch(trainer.config)
    if run.throughput.steps or smaller is None:
        saved = trainer.checkpointer.save_if_possible()
        raise DeviceError(
            messages.out_of_memory(trainer.config, trainer.state.step, saved, trainer.folder.path)
        ) from error
    trainer.config = replace(trainer.config, micro_batch=smaller)
    trainer.folder.write_run({**trainer.folder.read_run(), "run": trainer.run.to_dict()})
    n = trainer.config.batch_size
    trainer.say(
        f"memory   {n} sequences at a time do not fit: now {smaller} at a time, but still {n} per step, "
        "with the same loss",
    )
