"""Saving: when a checkpoint is due, what it contains, and whether the disk has space for it."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..checkpoint import FILE_PARAMETERS, RunFolder, StepState, gather_rng, model_meta, write_model_file, write_step
from ..checkpoint.run_folder import RECENT_STEPS
from ..config import TrainConfig, get_model_size
from ..config.choices import OPTIMIZERS
from ..errors import CheckpointError, LightLLMError
from ..model import LightLLM
from ..optim import group_parameters
from ..optim.adamw import MATRIX
from ..runtime import rng_state
from ..text_format import format_bytes, format_count
from .agreement import check_same_state
from .callbacks import Callback
from .preflight import checkpoint_record
from .step import Status, Step, TrainState

if TYPE_CHECKING:
    from .saved_run import ResumeState
    from .trainer import Trainer

OVERHEAD = 4 << 20  # bytes beside the tensors: tokenizer, generators, records, blocks of the file system


class Checkpointer(Callback):
    """Saves step folders every n steps, on request and every `save_minutes`, and the best model.

    Args:
        resume: where the run resumes from; None for a new run.
    """

    synchronous = False
    file_parameters = FILE_PARAMETERS  # a model with more has no best_model.pt, and step folders of several files

    def __init__(self, trainer: Trainer, folder: RunFolder, resume: ResumeState | None) -> None:
        self.trainer, self.folder, self.resumed = trainer, folder, resume is not None
        # The record of the import that the model comes from, which an export needs.
        self.base: dict[str, Any] | None = resume.meta.get("base") if resume else None
        self.saved_step = resume.state.step if resume else None
        self.last_save = time.perf_counter()
        self.removal_failed = self.removal_reported = False  # of an old checkpoint
        self.large_reported = False
        self.best_loss: float | None = resume.best[0] if resume and resume.best else None
        self.best_step: int | None = resume.best[1] if resume and resume.best else None

    def on_start(self) -> None:
        """Save the initial weights of a run that may have to roll back to them."""
        # The clock of `save_minutes` starts with the training, not when the trainer was made.
        self.last_save = time.perf_counter()
        config = self.trainer.config
        if not self.resumed and "rollback" in (config.on_nonfinite, config.on_spike):
            self.save()

    def on_step(self, step: Step) -> None:
        """Save if a checkpoint is due."""
        config, state = self.trainer.config, self.trainer.state
        if step.number % config.save_interval == 0 or step.number == config.max_steps:
            self.save()
        # On a GPU the weights may be those of the step after this one; then that step saves.
        if step.number != state.step or not self.is_save_due():
            return
        by_request, self.trainer.stop_flag.save = self.trainer.stop_flag.save, False
        if self.saved_step != state.step:
            self.save()
        if by_request:
            self.trainer.say(f"saved    step {state.step}, as requested, in {self.folder.step_path(state.step)}")

    def on_rollback(self, from_step: int, state: TrainState) -> None:
        """Note that the restored step is saved."""
        self.saved_step = state.step

    def on_end(self, status: Status) -> None:
        """Save the last step. After a step that is not finite nothing is saved."""
        step = self.trainer.state.step
        if status != "nonfinite" and step and self.saved_step != step:
            self.save()
        else:
            self.trainer.world.of_first(lambda: self.remove_old() if self.removal_failed else None)

    def check_disk_space(self) -> None:
        """Raise CheckpointError unless the disk has space for the step folders that are kept, and the best model.

        Old files are deleted only after the new ones are complete, so one more of each has to fit. A resumed run's own
        files count as free.
        """
        folder, model = self.folder, self.trainer.model
        step = step_bytes(model, self.trainer.config) + self._file_bytes
        best = 4 * sum(p.numel() for p in model.parameters()) + self._file_bytes + OVERHEAD
        existing = [path for path in [*folder.steps(), folder.best_model] if path.exists()] if self.resumed else []
        # A large model has the folder of its best step besides the newest ones.
        models = step if self.is_large else 2 * best
        needed = (RECENT_STEPS + 1) * step + models - sum(size_on_disk(path) for path in existing)
        free = folder.files.free(folder.path)
        if free is not None and free < needed:
            raise CheckpointError(
                f"the checkpoints of this run need {format_bytes(needed)} in {folder.path}, and {format_bytes(free)} "
                "are free; make room, or name a folder on another disk with {--out}"
            )

    def is_save_due(self) -> bool:
        """Return whether the ranks have agreed to save, on request or by the clock."""
        return self.trainer.stop_flag.save or self.trainer.stop_flag.save_by_clock

    def is_clock_due(self) -> bool:
        """Return whether the last save is `save_minutes` ago, by the clock of this rank."""
        return 0 < self.trainer.config.save_minutes * 60 <= time.perf_counter() - self.last_save

    def save(self) -> None:
        """Commit a step folder for the current state, then remove the step folders that are no longer needed.

        All ranks take part: rank 0 writes, and the others give it their shards and the states of their generators.

        Raises:
            CheckpointError: it cannot be written; the older ones are unchanged.
        """
        trainer, config, state, world = self.trainer, self.trainer.config, self.trainer.state, self.trainer.world
        check_same_state(world, state)
        path, needed = self.folder.step_path(state.step), step_bytes(trainer.model, config) + self._file_bytes
        world.of_first(lambda: self.folder.check_space(path, needed))
        # A power cut must not leave a checkpoint without the metrics before it. If the sync fails, the rows are still
        # in memory or in the page cache, and the run continues.
        with suppress(OSError):
            self.folder.files.sync(self.folder.metrics)
        horizon = config.lr_horizon or config.max_steps
        rng = gather_rng(rng_state(config.device), world.gather)
        with trainer.working("saving"), self._written_by_first(path, needed):
            write_step(
                path,
                model=trainer.model,
                optimizer=trainer.optimizer,
                rng=rng,
                state=StepState(**vars(state), lr_horizon=horizon, best=self.best_loss, best_step=self.best_step),
                meta=self._model_meta(state.step, None),
                run=checkpoint_record(trainer.run, trainer.batches.dataset, trainer.decisions),
                disk=self.folder.files,
                files=trainer.model_files,
                gather=trainer.parallel.gather,
                stand_in=trainer.parallel.stand_in,
                world=world,
                file_parameters=self.file_parameters,
            )
        self.saved_step, self.last_save = state.step, time.perf_counter()
        trainer.stop_flag.restart_clock()

    @contextmanager
    def _written_by_first(self, path: Path, needed: int) -> Iterator[None]:
        """Let all ranks wait until rank 0 has written in the block and removed old checkpoints, or raise its error."""
        failure: OSError | None = None
        try:
            yield
        except OSError as error:
            failure = error

        def finish() -> None:
            if failure is not None:
                raise self.folder.disk_full(path, needed, failure.strerror or str(failure)) from failure
            self.remove_old()

        self.trainer.world.of_first(finish)

    def remove_old(self) -> None:
        """Remove the checkpoints that are no longer needed. If the disk refuses, say so once; the next save retries."""
        config = self.trainer.config
        try:
            self.folder.remove_previous_run()
            self.folder.prune(every=config.save_interval, keep_every=config.keep_every)
            self.removal_failed = False
        except OSError as error:
            # The new checkpoint is complete, so the run must not end for an old one.
            if not self.removal_reported:
                reason = error.strerror or str(error)
                self.trainer.say(
                    f"notice   an old checkpoint in {self.folder.path} cannot be removed ({reason}); the next "
                    "save tries again"
                )
            self.removal_failed = self.removal_reported = True

    def save_if_possible(self) -> bool:
        """Try to save the last complete step before the run ends with an error. Returns whether it is saved."""
        if self.saved_step != self.trainer.state.step and self.trainer.state.step:
            with suppress(RuntimeError, LightLLMError):
                self.save()
        return self.saved_step == self.trainer.state.step

    def offer_best(self, step: int, loss: float, evaluation: dict[str, Any]) -> bool:
        """Write the current model to `best_model.pt` if its loss is the lowest so far. Returns whether it is."""
        if not math.isfinite(loss) or (self.best_loss is not None and loss >= self.best_loss):
            return False
        self.best_loss, self.best_step = loss, step
        self.write_best(step, evaluation)
        return True

    def ensure_model(self, step: int) -> None:
        """Write the current model if no evaluation has chosen one, so that the run folder has a usable model."""
        if self.best_loss is None:
            self.write_best(step, None)

    def write_best(self, step: int, evaluation: dict[str, Any] | None) -> None:
        """Write the current model to `best_model.pt`, or keep the step folder of a large one.

        Raises:
            CheckpointError: it cannot be written; the older one is unchanged.
        """
        if self.is_large:
            self._keep_step(step, evaluation)
            return
        model, path = self.trainer.model, self.folder.best_model
        parallel, needed = self.trainer.parallel, 4 * get_model_size(model.config) + self._file_bytes
        meta, files = self._model_meta(step, evaluation), self.trainer.model_files
        weights = {name: parallel.stand_in(name, weight) for name, weight in model.state_dict().items()}
        with self._written_by_first(path, needed):
            write_model_file(path, weights, meta, self.folder.files, files, parallel.gather)

    @property
    def is_large(self) -> bool:
        """Return whether the model is too large for one file, which takes its weights in the memory of rank 0."""
        return get_model_size(self.trainer.model.config) > self.file_parameters

    def _keep_step(self, step: int, evaluation: dict[str, Any] | None) -> None:
        """Save the step if it is not, and keep its folder as the best model."""
        if self.saved_step != step:
            self.save()
        with self._written_by_first(self.folder.best_step, OVERHEAD):
            self.folder.keep_as_best(step, evaluation)
        if not self.large_reported:
            n, self.large_reported = get_model_size(self.trainer.model.config), True
            self.trainer.say(
                f"notice   a model of {format_count(n)} parameters has no best_model.pt; the folder of its best step "
                f"is kept instead, now {self.folder.step_path(step)}"
            )

    @property
    def _file_bytes(self) -> int:
        """Return the bytes of the files that travel with the model."""
        return sum(map(len, self.trainer.model_files.values()))

    def _model_meta(self, step: int, evaluation: dict[str, Any] | None) -> dict[str, Any]:
        config, dataset = self.trainer.config, self.trainer.batches.dataset
        tokenizer = self.trainer.batches.tokenizer
        how: dict[str, Any] = {"step": step, "dtype": config.dtype, "evaluation": evaluation, "tokenizer": tokenizer}
        meta = model_meta(self.trainer.model, dataset, **how)
        meta |= {"init_from": config.init_from} if config.init_from else {}
        return meta | ({"base": self.base} if self.base else {})


def step_bytes(model: LightLLM, config: TrainConfig) -> int:
    """Return the approximate size of a step folder: each weight and the optimizer's state in float32."""
    matrices = sum(p.numel() for p in group_parameters(model)[MATRIX].values())
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    state = OPTIMIZERS[config.optimizer].state_bytes(matrices=matrices, others=trained - matrices)
    held, whole = sum(p.numel() for p in model.parameters()), get_model_size(model.config)
    # A process that shares each matrix with others holds a part, and writes the whole.
    return 4 * whole + state * whole // held + OVERHEAD


def size_on_disk(path: Path) -> int:
    """Return the bytes of a file, or of the files in a folder."""
    files = path.iterdir() if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files)
