"""Going on with a run: what may differ from how it was started, and putting everything back."""

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
from ..data import DataLoader
from ..errors import CheckpointError, ConfigError
from ..model import LightLLM
from ..observe import read_rows
from ..runtime import set_rng_state
from .progress import Progress


@dataclass(frozen=True)
class Earlier:
    """What a run folder says of the run in it."""

    run: Run
    decided: dict[str, str]  # device, dtype and compile of the last process
    data: dict[str, Any] | None  # what the dataset recorded of itself
    started: str | None  # when it began
    step: Path  # the newest good step
    damaged: tuple[CorruptCheckpoint, ...]  # newer ones
    problems: tuple[str, ...]  # other files that are damaged, and not used


@dataclass(frozen=True)
class Resumed:
    """A run as it was left."""

    path: Path  # the step folder
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]  # of the optimizer
    rng: dict[str, Tensor]
    state: StepState
    started: str | None  # when the run began
    decided: dict[str, str]  # device, dtype and compile of the last process
    max_steps: int  # of the last process
    evaluated: bool  # the evaluation of this step is in the metrics
    best: tuple[float, int] | None  # loss and step, this step's evaluation included
    damaged: tuple[CorruptCheckpoint, ...]  # newer steps
    problems: tuple[str, ...]  # other damaged files, which are not used either

    def without_tensors(self) -> "Resumed":
        """The same, once the tensors are where they belong: they are three times the model."""
        return replace(self, weights={}, moments={}, rng={})


def read_run(folder: RunFolder) -> Earlier:
    """The run of a folder, from run.json, or where that is damaged, from the newest good step.

    Raises:
        CheckpointError: there is nothing to go on with, or it is of another version.
    """
    step, damaged = folder.latest_valid_step()  # first of all there has to be something to go on with
    problems: list[str] = []
    try:
        record, path = folder.read_run(), folder.path / "run.json"
    except CheckpointError as error:
        problems.append(str(error).partition(";")[0])
        record, path = read_json(step / STEP_SETTINGS), step / STEP_SETTINGS
    try:
        run = Run.from_dict(record["run"])
        decided = {name: str(record["decided"][name]["value"]) for name in ("device", "dtype", "compile")}
        return Earlier(run, decided, record["data"], record.get("started"), step, tuple(damaged), tuple(problems))
    except (KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{path} is damaged: {error!r}; it cannot be resumed from") from None
    except ConfigError as error:
        raise CheckpointError(f"{path} is of another version of light-llm: {error}") from None


def read_resume(folder: RunFolder, model: LightLLM, loader: Any, config: TrainConfig) -> Resumed:
    """The newest good checkpoint of a run, checked against what is to go on with it.

    Raises:
        CheckpointError: nothing to resume from.
        ConfigError: a setting, the data or the tokenizer differs, with each difference.
    """
    earlier = read_run(folder)
    refuse_changes(earlier.run, _run_now(earlier.run, model, loader, config), data_changes(earlier.data, loader))
    weights, moments, rng, state, _ = read_step(earlier.step)
    evaluated, best, more = _evaluations(folder, state)
    return Resumed(
        earlier.step,
        weights,
        moments,
        rng,
        state,
        earlier.started,
        earlier.decided,
        earlier.run.train.max_steps,
        evaluated,
        best,
        earlier.damaged,
        (*earlier.problems, *more),
    )


def refuse_changes(old: Run, new: Run, others: list[str] | None = None) -> None:
    """Raise ConfigError, listing each difference, unless only what may change does."""
    differences = [line for line in changes(old, new) if SETTINGS[line.split(":")[0]].resume == "fixed"] + (
        others or []
    )
    if differences:
        listed = "\n  ".join(differences)
        raise ConfigError(
            f"a resumed run cannot change these:\n  {listed}\nleave them as they were, or start a new run with --out"
        )


def data_changes(old: dict[str, Any] | None, loader: Any) -> list[str]:
    """How the text, the tokenizer or the kind of loader differs from what the run was started with."""
    new = loader.dataset.record() if isinstance(loader, DataLoader) else None
    if (old is None) != (new is None):
        kinds = ("another kind of loader", "light-llm's loader")
        return [f"data: {kinds[old is not None]} -> {kinds[new is not None]}"]
    names = ("sha256", "held_out_sha256", "tokenizer_sha256") if old and new else ()
    return [
        f"data {name}: {str(old.get(name))[:12]}... -> {str(new[name])[:12]}..."
        for name in names
        if old and new and old.get(name) != new[name]
    ]


def put_back(
    weights: dict[str, Tensor],
    moments: dict[str, Tensor],
    rng: dict[str, Tensor],
    model: LightLLM,
    optimizer: torch.optim.Optimizer,
    device: str,
) -> None:
    """Weights, optimizer and generators as they were after the step they were saved at."""
    model.load_state_dict(weights)
    restore_optimizer(model, optimizer, moments)
    set_rng_state(rng, device)


def start_from(
    resumed: Resumed, model: LightLLM, optimizer: torch.optim.Optimizer, device: str
) -> tuple[Progress, Resumed]:
    """Put a run back as it was left: where it stands, and what is known of it without the tensors."""
    put_back(resumed.weights, resumed.moments, resumed.rng, model, optimizer, device)
    return Progress.of(resumed.state), resumed.without_tensors()


def go_back(
    folder: RunFolder, model: LightLLM, optimizer: torch.optim.Optimizer, config: TrainConfig, before: Progress
) -> Progress:
    """Put a run back to its newest good checkpoint, past the batch that an attempt was made with.

    Args:
        before: where the run stood before that attempt.
    """
    path, damaged = folder.latest_valid_step(config.save_interval)  # not one of an interruption
    folder.quarantine(damaged)
    weights, moments, rng, state, _ = read_step(path)
    put_back(weights, moments, rng, model, optimizer, config.device)
    return replace(Progress.of(state), batches=before.batches + 1, rollbacks=before.rollbacks + 1)


def _run_now(run: Run, model: LightLLM, loader: Any, config: TrainConfig) -> Run:
    """The Run that is to go on."""
    if isinstance(loader, DataLoader):
        run = replace(run, data=replace(loader.dataset.config, seed=loader.seed))
    return replace(run, model=model.config, train=config)


def _evaluations(folder: RunFolder, state: StepState) -> tuple[bool, tuple[float, int] | None, list[str]]:
    """Whether this step was evaluated, the best so far with it, and what is wrong with the best model.

    A step is saved before it is evaluated, so its own evaluation is not in its state; it is in the metrics, and a row
    there means that the best model is safe. Its loss is taken from that model, which is under a digest. A best model
    that is gone or damaged is none: the next evaluation writes one.
    """
    rows = read_rows(folder.metrics) if folder.metrics.is_file() else iter(())
    mine = [row for row in rows if row.get("kind") == "eval" and row.get("step") == state.step]
    if not folder.best_model.exists():
        return bool(mine), None, []
    try:
        meta = read_model(folder.best_model).meta
    except CheckpointError as error:
        return bool(mine), None, [str(error).partition(";")[0]]
    best = (state.best, state.best_step) if state.best is not None and state.best_step is not None else None
    if mine and mine[-1].get("best") and meta["step"] == state.step and meta["evaluation"]:
        best = float(meta["evaluation"]["loss"]), state.step
    return bool(mine), best, []
