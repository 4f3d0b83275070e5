"""A first step that does not fit into memory is computed in smaller micro-batches, the same on all ranks."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from torch import Tensor

from ..data import Batch
from ..errors import DeviceError
from ..runtime import autocast, is_out_of_memory, rng_state, set_rng_state
from . import messages, preflight

if TYPE_CHECKING:
    from .trainer import Trainer


def accumulate_within_memory(trainer: Trainer, batch: Batch, n_targets: float) -> Tensor:
    """Call `trainer.accumulate`; halve the micro-batch for as long as the first step does not fit into memory.

    Raises:
        DeviceError: it does not fit in any size, or this is a later step.
    """
    device = trainer.config.device
    if trainer.parallel.kind == "ddp" and not _steps(trainer):
        _fit_on_all_ranks(trainer, batch)
    while True:
        rng = rng_state(device)
        try:
            return trainer.accumulate(batch, n_targets)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            if trainer.world.size > 1:
                # The other ranks wait inside the step, in which gradients are exchanged.
                raise _too_large(trainer) from error
            # The next try must not add to half a gradient, nor draw another dropout mask.
            trainer.model.zero_grad(set_to_none=True)
            set_rng_state(rng, device)
            halve_micro_batch(trainer, error)


def _fit_on_all_ranks(trainer: Trainer, batch: Batch) -> None:
    """Halve the micro-batch of all ranks until each of them can compute one, which sends no gradients here."""
    world, device = trainer.world, trainer.config.device
    while True:
        rng, failure = rng_state(device), None
        tokens, targets = (t[: trainer.sequences_at_a_time].to(device) for t in batch)
        try:
            with trainer.parallel.micro_batch(last=False), autocast(device, trainer.config.dtype):
                loss = trainer.parallel.module(tokens, targets)
            loss.backward()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            failure = error
        trainer.model.zero_grad(set_to_none=True)
        set_rng_state(rng, device)
        if not world.agree(out_of_memory=failure is not None)["out_of_memory"]:
            return
        halve_micro_batch(trainer, failure)


def halve_micro_batch(trainer: Trainer, error: RuntimeError | None) -> None:
    """Halve the micro-batch in the first step; the tokens of a step stay the same, and so does its loss.

    Args:
        error: of this rank; None if another rank has too little memory.

    Raises:
        DeviceError: it cannot be smaller, or this is a later step. The run is saved first.
    """
    smaller = preflight.smaller_micro_batch(trainer.config, trainer.rows)
    if _steps(trainer) or smaller is None:
        raise _too_large(trainer) from error
    trainer.config = replace(trainer.config, micro_batch=smaller)
    folder, run = trainer.folder, trainer.run.to_dict()
    trainer.world.of_first(lambda: folder.write_run({**folder.read_run(), "run": run}))
    n = trainer.config.batch_size
    rows = f"{trainer.rows} sequences" if trainer.world.size == 1 else f"{trainer.rows} sequences per process"
    trainer.say(
        f"memory   {rows} at a time do not fit: now {smaller} at a time, but still {n} per step, with the same loss",
    )


def _too_large(trainer: Trainer) -> DeviceError:
    """Return the error for a step that does not fit into memory, after saving the run if this process is alone."""
    step, world = trainer.state.step, trainer.world
    saved = "nothing is saved"
    if world.size > 1 and trainer.checkpointer.saved_step:
        # A save is a message, and the other ranks may be inside the step.
        saved = messages.saved_step(trainer.checkpointer.saved_step, trainer.folder.path)
    elif world.size == 1 and trainer.checkpointer.save_if_possible():
        saved = messages.saved_step(step, trainer.folder.path)
    return DeviceError(messages.out_of_memory(trainer.config, step, trainer.rows, saved))


def _steps(trainer: Trainer) -> int:
    """Return how many steps this process has made."""
    assert trainer.active is not None, "the run has started"
    return trainer.active.throughput.steps
