"""Resume a run: read its checkpoint, refuse settings that may not change, and restore the state."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import RunFolder, StepState, read_model, read_step, restore_optimizer
from ..checkpoint.commit import read_json
from ..checkpoint.run_folder import CorruptCheckpoint
from ..checkpoint.step_folder import SETTINGS as STEP_SETTINGS
from ..config import SETTINGS, Run, TrainConfig, changes
from ..data import Batches
from ..errors import CheckpointError, ConfigError
from ..model import LightLLM
from ..observe import read_rows
from ..runtime import set_rng_state
from .state import TrainState

# The tuple that `read_step` returns: weights, optimizer tensors, random generators, counters, metadata of the model.
Checkpoint = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], StepState, dict[str, Any]]


@dataclass(frozen=True)
class SavedRun:
    """A run as its folder describes it, and the checkpoint to resume from."""

    run: Run
    decided: dict[str, str]  # device, dtype and compile of the last process
    data: dict[str, Any] | None  # the dataset's record
    started: str | None  # when the run was started
    step: Path  # the newest step folder that is intact
    damaged: tuple[CorruptCheckpoint, ...]  # newer step folders
    problems: tuple[str, ...]  # other files that are damaged, and not used


@dataclass(frozen=True)
class ResumeState:
    """The state of a run that is resumed, read from its checkpoint."""

    saved: SavedRun
    checkpoint: Checkpoint
    evaluated: bool  # the evaluation of this step is in the metrics
    best: tuple[float, int] | None  # loss and step, this step's evaluation included

    @property
    def state(self) -> StepState:
        """The counters in the checkpoint."""
        return self.checkpoint[3]

    @property
    def max_steps(self) -> int:
        """The length of the run in its last process."""
        return self.saved.run.train.max_steps


def read_saved_run(folder: RunFolder) -> SavedRun:
    """Read the run of a folder from run.json; if that file is damaged, from the newest intact checkpoint.

    Raises:
        CheckpointError: there is no checkpoint to resume from, or it is of another version.
    """
    # The checkpoint comes first: without one, a message about run.json would send the reader the wrong way.
    step, damaged = folder.latest_valid_step()
    problems: list[str] = []
    try:
        record, path = folder.read_run(), folder.path / "run.json"
    except CheckpointError as error:
        problems.append(str(error).partition(";")[0])
        record, path = read_json(step / STEP_SETTINGS), step / STEP_SETTINGS
    try:
        run = Run.from_dict(record["run"])
        decided = {name: str(record["decided"][name]["value"]) for name in ("device", "dtype", "compile")}
        return SavedRun(run, decided, record["data"], record.get("started"), step, tuple(damaged), tuple(problems))
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}; it cannot be resumed from") from None
    except ConfigError as error:
        raise CheckpointError(f"{path} is of another version of light-llm: {error}") from None


def read_resume_state(
    folder: RunFolder, saved: SavedRun, model: LightLLM, batches: Batches, config: TrainConfig
) -> ResumeState:
    """Read the checkpoint of a saved run, and check the new settings against its own.

    Raises:
        CheckpointError: the checkpoint is damaged.
        ConfigError: a setting, the data or the tokenizer differs; the message lists each difference.
    """
    data = batches.data_config or saved.run.data
    now = replace(saved.run, model=model.config, train=config, data=data)
    refuse_changes(saved.run, now, data_changes(saved.data, batches))
    checkpoint = read_step(saved.step)
    evaluated, best, problems = _evaluations(folder, checkpoint[3])
    saved = replace(saved, problems=(*saved.problems, *problems))
    return ResumeState(saved, checkpoint, evaluated, best)


def refuse_changes(old: Run, new: Run, more: Sequence[str] = ()) -> None:
    """Raise ConfigError, listing each difference, if a setting differs that may not change.

    Args:
        more: further differences to refuse.
    """
    differences = [line for line in changes(old, new) if SETTINGS[line.split(":")[0]].resume == "fixed"] + list(more)
    if differences:
        listed = "\n  ".join(differences)
        raise ConfigError(
            f"a resumed run cannot change these:\n  {listed}\nleave them as they were, or start a new run with --out"
        )


def data_changes(old: dict[str, Any] | None, batches: Batches) -> list[str]:
    """List how the text, the tokenizer or the kind of loader differs from the run's."""
    new = batches.dataset.record() if batches.dataset else None
    if (old is None) != (new is None):
        kinds = ("another kind of loader", "light-llm's loader")
        return [f"data: {kinds[old is not None]} -> {kinds[new is not None]}"]
    # Texts are compared by hash, so a file may move.
    names = ("sha256", "held_out_sha256", "tokenizer_sha256") if old and new else ()
    return [
        f"data {name}: {str(old.get(name))[:12]}... -> {str(new[name])[:12]}..."
        for name in names
        if old and new and old.get(name) != new[name]
    ]


def restore(checkpoint: Checkpoint, model: LightLLM, optimizer: torch.optim.Optimizer, device: str) -> TrainState:
    """Restore the model, the optimizer and the random generators from a checkpoint. Returns the state of the run."""
    weights, moments, rng, state, _ = checkpoint
    model.load_state_dict(weights)
    restore_optimizer(model, optimizer, moments)
    set_rng_state(rng, device)
    return TrainState.from_checkpoint(state)


def rollback_to_checkpoint(
    folder: RunFolder, model: LightLLM, optimizer: torch.optim.Optimizer, config: TrainConfig, before: TrainState
) -> TrainState:
    """Restore the newest intact checkpoint, and continue after the batch that caused the rollback.

    Args:
        before: the state before the step with that batch.
    """
    # Prefer a regular checkpoint to one of an interruption: a run that was interrupted and resumed must roll back to
    # the same step as one that was not.
    path, damaged = folder.latest_valid_step(config.save_interval)
    folder.quarantine(damaged)
    state = restore(read_step(path), model, optimizer, config.device)
    return replace(state, batches=before.batches + 1, rollbacks=before.rollbacks + 1)


def _evaluations(folder: RunFolder, state: StepState) -> tuple[bool, tuple[float, int] | None, list[str]]:
    """Return whether this step was evaluated, the best loss and step so far, and any damage to the best model.

    A step is saved before it is evaluated, so its own evaluation is in the metrics and not in its state. The row is
    written after the best model, so with a row the model is safe. The loss is read from the model file, because that
    has a digest. Without a readable best model there is no best loss, and the next evaluation writes a model.
    """
    rows = read_rows(folder.metrics) if folder.metrics.is_file() else iter(())
    evals = [row for row in rows if row.get("kind") == "eval" and row.get("step") == state.step]
    if not folder.best_model.exists():
        return bool(evals), None, []
    try:
        meta = read_model(folder.best_model).meta
    except CheckpointError as error:
        return bool(evals), None, [str(error).partition(";")[0]]
    best = (state.best, state.best_step) if state.best is not None and state.best_step is not None else None
    if evals and evals[-1].get("best") and meta["step"] == state.step and meta["evaluation"]:
        best = float(meta["evaluation"]["loss"]), state.step
    return bool(evals), best, []
