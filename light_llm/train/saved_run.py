"""Resume a run: read its folder and its newest checkpoint, check what may change, and restore its state."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..checkpoint import (
    RunFolder,
    StepState,
    broadcast_tensors,
    read_meta,
    read_step,
    read_step_files,
    restore_optimizer,
    restore_weights,
    select_rng,
)
from ..checkpoint.commit import read_json
from ..checkpoint.run_folder import CorruptCheckpoint, step_number
from ..checkpoint.step_folder import SETTINGS as STEP_SETTINGS
from ..config import SETTINGS, Run, TrainConfig, changes
from ..data import Batches
from ..data.order import mix
from ..errors import CheckpointError, ConfigError
from ..model import LightLLM
from ..observe import read_rows
from ..parallel import Parallel
from ..runtime import World, peak_memory, seed_rng, set_rng_state
from . import messages
from .step import Result, TrainState

if TYPE_CHECKING:
    from .trainer import Trainer

# The tuple that `read_step` returns: weights, optimizer tensors, random generators, counters, metadata of the model.
Checkpoint = tuple[dict[str, Tensor], dict[str, Tensor], dict[str, Tensor], StepState, dict[str, Any]]


@dataclass(frozen=True)
class SavedRun:
    """A run as its folder describes it, and the checkpoint to resume from."""

    run: Run
    decided: dict[str, str]  # device, dtype and compile of the last process
    data: dict[str, Any] | None  # the dataset's record
    started: str | None  # when the run was started
    step: Path | None  # the newest step folder that is intact; None: the run ended before its first checkpoint
    damaged: tuple[CorruptCheckpoint, ...]  # newer step folders
    problems: tuple[str, ...]  # other files that are damaged, and not used
    asked: dict[str, Any]  # what the command line asked for; empty for a run from Python
    resumes: tuple[dict[str, Any], ...]  # the step of each resume so far

    def to_json(self) -> dict[str, Any]:
        """Return the values for the other ranks, which do not read the folder."""
        values = {name: getattr(self, name) for name in ("decided", "data", "started", "asked")}
        damaged = [[str(corrupt.path), corrupt.reason] for corrupt in self.damaged]
        lists = {"damaged": damaged, "problems": list(self.problems), "resumes": list(self.resumes)}
        return values | lists | {"run": self.run.to_dict(), "step": str(self.step) if self.step else None}

    @classmethod
    def from_json(cls, values: dict[str, Any]) -> SavedRun:
        """Return what `to_json` was made from."""
        damaged = tuple(CorruptCheckpoint(Path(path), reason) for path, reason in values["damaged"])
        step = Path(values["step"]) if values["step"] else None
        lists = {"damaged": damaged, "problems": tuple(values["problems"]), "resumes": tuple(values["resumes"])}
        return cls(**(values | lists | {"run": Run.from_dict(values["run"]), "step": step}))


@dataclass(frozen=True)
class ResumeState:
    """The state of a run that is resumed, read from its checkpoint."""

    saved: SavedRun
    checkpoint: Checkpoint  # on other ranks than 0 without tensors
    evaluated: bool  # the evaluation of this step is in the metrics
    best: tuple[float, int] | None  # loss and step, this step's evaluation included
    files: dict[str, bytes]  # that travel with the model; on other ranks than 0 none

    @property
    def state(self) -> StepState:
        """The counters in the checkpoint."""
        return self.checkpoint[3]

    @property
    def meta(self) -> dict[str, Any]:
        """The description of the model in the checkpoint."""
        return self.checkpoint[4]


def read_saved_run(folder: RunFolder, world: World = World()) -> SavedRun:
    """Read the run of a folder from run.json; if that file is damaged, from the newest intact checkpoint.

    A run that ended before its first checkpoint has settings and no step. If every step is damaged, all are renamed.
    Only rank 0 needs the folder.

    Raises:
        CheckpointError: there is no run, none of its checkpoints is intact, it is of another version, or a process is
            training it.
    """
    return SavedRun.from_json(world.of_first(lambda: _read_saved_run(folder).to_json()))


def _read_saved_run(folder: RunFolder) -> SavedRun:
    if folder.path.is_dir():
        with folder.lock():
            folder.restore_previous_run()
    step, damaged = folder.verify_steps()
    if step is None:
        _refuse_lost_work(folder, damaged)
    problems: list[str] = []
    try:
        record, path = folder.read_run(), folder.path / "run.json"
    except CheckpointError as error:
        if step is None:
            raise folder.resume_error(error.message.partition(";")[0]) from None
        problems.append(error.message.partition(";")[0])
        record, path = read_json(step / STEP_SETTINGS), step / STEP_SETTINGS
    try:
        run = Run.from_dict(record["run"])
        decided = {name: str(record["decided"][name]["value"]) for name in ("device", "dtype", "compile")}
        history: dict[str, Any] = {"asked": record.get("asked", {}), "resumes": tuple(record.get("resumes", ()))}
        data, started = record["data"], record.get("started")
        return SavedRun(run, decided, data, started, step, tuple(damaged), tuple(problems), **history)
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}; it cannot be resumed from") from None
    except ConfigError as error:
        raise CheckpointError(f"{path} was written by another version of light-llm: {error}") from None


def _refuse_lost_work(folder: RunFolder, damaged: Sequence[CorruptCheckpoint]) -> None:
    """Raise CheckpointError for a folder without an intact checkpoint, unless its run has not made one yet."""
    if damaged:
        folder.quarantine(damaged)
        reasons = "; ".join(corrupt.reason for corrupt in damaged)
        names = ", ".join(f"{corrupt.path.name}.damaged" for corrupt in damaged)
        raise folder.resume_error(f"{reasons}; no step in {folder.path} is intact (they are named {names} now)")
    if not (folder.path / "run.json").is_file():
        raise folder.resume_error(f"there is no run to resume in {folder.path}")
    if folder.holds_work():
        raise folder.resume_error(f"there is no checkpoint to resume from in {folder.path}")


def finished_step(folder: RunFolder, saved: SavedRun, max_steps: int, world: World = World()) -> int | None:
    """Return the last step of a run that has made and evaluated all its steps; None if something is left to do."""
    if saved.step is None or step_number(saved.step) != max_steps:
        return None
    step = step_number(saved.step)

    def is_evaluated() -> bool:
        rows = read_rows(folder.metrics) if folder.metrics.is_file() else iter(())
        return any(row.get("kind") == "eval" and row.get("step") == step for row in rows)

    return step if world.of_first(lambda: is_evaluated() and folder.best() is not None) else None


def load_finished(trainer: Trainer, step: int) -> Result:
    """Load the last step of a finished run into the model, and say that nothing is left to do."""
    assert trainer.resumed is not None, "only a resumed run is finished already"
    weights, world = trainer.resumed.checkpoint[0], trainer.world
    restore_weights(trainer.model, broadcast_tensors(world, weights if world.is_first else None))
    trainer.model.to(trainer.config.device)
    folder, best = trainer.folder.path, trainer.checkpointer
    trainer.options.say(messages.finished(folder, step))
    return Result("done", step, best.best_loss, best.best_step, folder, 0.0, 0.0, peak_memory())


def read_resume_state(
    folder: RunFolder, saved: SavedRun, model: LightLLM, batches: Batches, config: TrainConfig, world: World
) -> ResumeState:
    """Read the checkpoint of a saved run on rank 0, and check the new settings against its own.

    Raises:
        CheckpointError: the checkpoint is damaged.
        ConfigError: a setting, the data or the tokenizer differs (the message lists each difference), or the run is
            beyond `max_steps`.
    """
    data = batches.data_config or saved.run.data
    now = replace(saved.run, model=model.config, train=config, data=data)
    refuse_changes(saved.run, now, data_changes(saved.data, batches))
    assert saved.step is not None, "a run without a checkpoint is not resumed"
    step = saved.step
    checkpoint = read_checkpoint(lambda: step, world)
    state = checkpoint[3]
    if config.max_steps < state.step:
        raise ConfigError(
            f"max_steps={config.max_steps}, but the run is already at step {state.step}; choose a larger number"
        )
    evaluated, best, problems = world.of_first(lambda: _evaluations(folder, state))
    saved = replace(saved, problems=(*saved.problems, *problems))
    files = read_step_files(step) if world.is_first else {}
    return ResumeState(saved, checkpoint, evaluated, (best[0], best[1]) if best else None, files)


def read_checkpoint(find: Callable[[], Path], world: World) -> Checkpoint:
    """Read a step folder on rank 0. The other ranks get its values, and `restore` gives them its tensors.

    Args:
        find: returns the folder; called on rank 0.

    Raises:
        CheckpointError: the checkpoint is damaged.
    """
    read: list[Checkpoint] = []

    def values() -> list[Any]:
        read.append(read_step(find()))
        return [asdict(read[0][3]), read[0][4]]

    state, meta = world.of_first(values)
    if read:
        return read[0]
    return {}, {}, {}, StepState(**(state | {"recent_losses": tuple(state["recent_losses"])})), meta


def read_newest(folder: RunFolder, every: int, world: World) -> Checkpoint:
    """Read the newest intact checkpoint, and rename damaged ones. Raises CheckpointError if no checkpoint is intact.

    Args:
        every: prefer regular checkpoints, at multiples of this, to one of an interruption: a run that was interrupted
            and resumed must roll back to the same step as one that was not.
    """

    def find() -> Path:
        path, damaged = folder.latest_valid_step(every)
        folder.quarantine(damaged)
        return path

    return read_checkpoint(find, world)


def refuse_changes(old: Run, new: Run, more: Sequence[str] = ()) -> None:
    """Raise ConfigError, listing each difference, if a setting differs that may not change.

    Args:
        more: further differences to refuse.
    """
    differences = [line for line in changes(old, new) if SETTINGS[line.split(":")[0]].resume == "fixed"] + list(more)
    if differences:
        listed = "\n  ".join(differences)
        raise ConfigError(
            f"a resumed run cannot change these:\n  {listed}\n"
            "leave them as they were, or start a new run in another folder with {--out}"
        )


def data_changes(old: dict[str, Any] | None, batches: Batches) -> list[str]:
    """List how the text, the tokenizer or the kind of loader differs from the run's."""
    new = batches.dataset.record() if batches.dataset else None
    if old is None or new is None:
        kinds = ("another kind of loader", "light-llm's loader")
        return [] if old is new else [f"data: {kinds[old is not None]} -> {kinds[new is not None]}"]
    # Texts are compared by hash, so a file may move.
    labels = {"sha256": "text", "held_out_sha256": "held-out text", "tokenizer_sha256": "tokenizer"}
    changed = {
        label: (str(old.get(name)), str(new[name])) for name, label in labels.items() if old.get(name) != new[name]
    }
    lines = [f"{label}, SHA-256: {a[:12]}... -> {b[:12]}..." for label, (a, b) in changed.items()]
    # The same text can be split elsewhere: earlier versions cut a long document less often.
    before, now = old.get("train_tokens"), new["train_tokens"]
    return lines or ([f"training tokens: {before:,} -> {now:,}"] if before not in (None, now) else [])


def restore(
    checkpoint: Checkpoint, model: LightLLM, optimizer: torch.optim.Optimizer, config: TrainConfig, parallel: Parallel
) -> TrainState:
    """Move a checkpoint of rank 0 into the model, optimizer and random generators of all ranks.

    A rank that had no generator when the checkpoint was saved gets one with a seed of its own.

    Returns:
        The state of the run.
    """
    weights, moments, rng, state, _ = checkpoint
    world = parallel.world

    def shared(tensors: dict[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
        return broadcast_tensors(world, tensors if world.is_first else None)

    restore_weights(model, shared(weights), parallel.shard)
    # Cloned, because a tensor of a file would keep the whole file in memory.
    restore_optimizer(model, optimizer, shared(moments), lambda t, p: parallel.shard(t.clone(), p))
    # Ranks that compute the same rows draw the same numbers.
    rank = parallel.data_rank * (world.size // parallel.data_size)
    if own := select_rng(dict(shared(rng)), rank):
        set_rng_state(own, config.device)
    else:
        seed_rng(mix(config.seed, state.step, parallel.data_rank), config.device)
    return TrainState.from_checkpoint(state)


def count_generators(rng: dict[str, Tensor]) -> int:
    """Return how many ranks' generators a checkpoint has; on other ranks than 0, which did not read it, 0."""
    return len({name.partition(".")[2] for name in rng})


def _evaluations(folder: RunFolder, state: StepState) -> tuple[bool, tuple[float, int] | None, list[str]]:
    """Return whether this step was evaluated, the best loss and step so far, and any damage to the best model.

    A step is saved before it is evaluated, so its own evaluation is in the metrics and not in its state. The row is
    written after the best model, so with a row the model is safe. The loss is read from the model file, because that
    has a digest. Without a readable best model there is no best loss, and the next evaluation writes a model.
    """
    rows = read_rows(folder.metrics) if folder.metrics.is_file() else iter(())
    evals = [row for row in rows if row.get("kind") == "eval" and row.get("step") == state.step]
    is_one_file = folder.best_model.exists()
    if not is_one_file and folder.best() is None:
        return bool(evals), None, []
    try:
        meta = read_meta(folder.best_model) if is_one_file else folder.read_best_step()
    except CheckpointError as error:
        return bool(evals), None, [str(error).partition(";")[0]]
    best = (state.best, state.best_step) if state.best is not None and state.best_step is not None else None
    if evals and evals[-1].get("best") and meta["step"] == state.step and meta["evaluation"]:
        best = float(meta["evaluation"]["loss"]), state.step
    return bool(evals), best, []
