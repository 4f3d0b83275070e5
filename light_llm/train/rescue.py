"""Save the last whole step when an exception ends a run: of a loader, a callback, the disk, or Ctrl-C in a notebook.

An exception can come at any point of a step. The weights are those of the step before until its update begins, and
those of the step itself when the update is complete. In between they are neither, and cannot be saved.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

from ..errors import CheckpointError, RankLost, as_keywords
from ..runtime import World, is_lost, rng_state, set_rng_state
from .callbacks import LogMetrics
from .step import PendingStep, TrainState

if TYPE_CHECKING:
    from .trainer import Trainer


@dataclass
class StepProgress:
    """The state that the weights belong to while a step is made."""

    before: TrainState | None = None  # during a step, until its update is complete: the state before the step
    rng: Mapping[str, Tensor] = field(default_factory=dict)  # the random generators then
    changing: bool = False  # the weights are those of no step
    reading: PendingStep | None = None  # the step that was taken from the queue last

    def begin(self, state: TrainState, device: str) -> None:
        """Note the state before a step."""
        self.before, self.rng = state, rng_state(device)

    @contextmanager
    def change(self) -> Iterator[None]:
        """Mark the block that changes the weights; after it they are those of the trainer's state."""
        self.changing = True
        yield
        self.changing, self.before = False, None


@contextmanager
def wait_for_first(world: World) -> Iterator[None]:
    """Wait for rank 0 after the block, so that no launcher ends it because another rank has left before.

    An error ends this rank at once; the other ranks can say why.
    """
    try:
        yield
    except BaseException as error:
        if not is_lost(error):
            world.report_failure(error)
        raise
    # The run has ended by now, so a rank that is gone does not matter any more.
    with suppress(RankLost):
        world.barrier()


@contextmanager
def save_on_exception(trainer: Trainer) -> Iterator[None]:
    """Save the last whole step if the block raises, add a note of where it is to the exception, and raise it."""
    try:
        yield
    except CheckpointError:
        # A save that failed: its message says which step is complete, and the disk would refuse another one.
        raise
    except BaseException as error:
        world, lost = trainer.world, is_lost(error)
        reason = world.reason_of_loss(error) if lost else ""
        if not lost:
            # Before the save, which may take longer than the other ranks wait.
            world.report_failure(error)
        note = _save(trainer) if _can_save(trainer) else _newest_step(trainer)
        trainer.say(f"ended    by {(RankLost if lost else type(error)).__name__}; {note}")
        if lost:
            raise RankLost(f"{reason}; {note}") from None
        error.add_note(f"light-llm: {as_keywords(note)}")
        raise


def _can_save(trainer: Trainer) -> bool:
    """Return whether this rank can save a step by itself; then it sends no messages any more.

    The other ranks have ended, or are at another place of the program. Rank 0 has the whole weights, unless they are
    sharded.
    """
    if trainer.world.size == 1:
        return True
    if not trainer.world.is_first or trainer.parallel.kind in ("fsdp", "tensor"):
        return False
    trainer.world = trainer.stop_flag.world = trainer.world.alone()
    return True


def _newest_step(trainer: Trainer) -> str:
    """Return a sentence about the checkpoint to continue from."""
    if not trainer.world.is_first:
        # Only rank 0 reads the run folder, and it may be saving a step now.
        return "continue from the newest checkpoint, if there is one, with {--resume}"
    steps = trainer.folder.steps()
    return f"{steps[-1]} is saved, continue with {{--resume}}" if steps else "there is no checkpoint yet"


def _save(trainer: Trainer) -> str:
    """Save the last whole step if that is possible. Returns a sentence about it."""
    try:
        problem = _restore_whole_step(trainer)
        if problem is None and trainer.state.step and trainer.checkpointer.saved_step != trainer.state.step:
            trainer.checkpointer.save()
    except Exception as error:
        problem = f"step {trainer.state.step} could not be saved ({type(error).__name__}: {error})"
    steps = trainer.folder.steps()
    if not steps:
        return f"{problem or 'no step was complete'}, and there is no checkpoint"
    saved = f"{steps[-1]} is saved, continue with {{--resume}}"
    return f"{problem}; {saved}" if problem else saved


def _restore_whole_step(trainer: Trainer) -> str | None:
    """Set the trainer's state and the random generators to those of its weights. Returns why that is impossible."""
    run = trainer.active
    assert run is not None, "the run has started"
    progress, config = run.progress, trainer.config
    # An update that failed in its messages has changed nothing.
    if progress.changing and not getattr(run.optimizer, "waiting", False):
        return f"the update after step {(progress.before or trainer.state).step} was incomplete and is not saved"
    if trainer.stop_flag.status == "nonfinite":
        return "the last step was not finite, and is not saved"
    before = progress.before
    pending_steps = [step for step in (progress.reading, *run.queue.steps) if step and not step.reported]
    unread = [step for step in pending_steps if before is None or step.before.step < before.step]
    if before is not None:
        trainer.state = before
        set_rng_state(progress.rng, config.device)
    for pending in unread:
        step = pending.step or pending.read(trainer.state.recent_losses)
        if not step.finite and pending.action != "skip":
            return f"step {step.number} was not finite, and is not saved"
        _report(trainer, pending)
    return None


def _report(trainer: Trainer, pending: PendingStep) -> None:
    """Write the row of a step that no callback has seen, so that the metrics have every saved step."""
    run = trainer.active
    assert run is not None, "the run has started"
    skipped = pending.action == "skip"
    step = pending.step or pending.read(trainer.state.recent_losses)
    if not skipped:
        trainer.state = trainer.state.with_loss(step.loss)
    clip = trainer.config.grad_clip
    LogMetrics(trainer).on_step(pending.complete(step, run.throughput, skipped=skipped, clip=clip))
