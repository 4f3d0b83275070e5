"""Going on with a run: what may differ from how it was started, and putting everything back."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import RunFolder, StepState, read_step, restore_optimizer
from ..config import Run, TrainConfig, changes
from ..data import DataLoader
from ..errors import CheckpointError, ConfigError
from ..model import LightLLM
from ..observe import read_rows
from ..runtime import set_rng_state

# What a resumed run may do differently: how long, how often it looks, what it does about bad steps, on which machine.
# The rest (the model, the data and their order, the recipe) is what the curve is a curve of.
MAY_CHANGE = frozenset(
    f"train.{name}"
    for name in (
        "max_steps",
        "lr_horizon",
        "eval_interval",
        "patience",
        "save_interval",
        "sample_interval",
        "micro_batch",
        "loss_chunk",
        "checkpointing",
        "on_nonfinite",
        "device",
        "dtype",
        "compile",
    )
)


@dataclass(frozen=True)
class Resumed:
    """A run as it was left."""

    path: Path  # the step folder
    weights: dict[str, Tensor]
    moments: dict[str, Tensor]  # of the optimizer
    rng: dict[str, Tensor]
    state: StepState
    started: str  # when the run began
    decided: dict[str, str]  # device, dtype and compile of the last process
    max_steps: int  # of the last process
    evaluated: bool  # the evaluation of this step is in the metrics
    best: tuple[float, int] | None  # loss and step, this step's evaluation included

    def without_tensors(self) -> "Resumed":
        """The same, once the tensors are where they belong: they are three times the model."""
        return replace(self, weights={}, moments={}, rng={})


def read_run(folder: RunFolder) -> tuple[Run, dict[str, Any]]:
    """The Run of a folder and the whole of its run.json. Raises CheckpointError when it cannot be used."""
    folder.newest_step()  # first of all there has to be something to go on with
    record = folder.read_run()
    try:
        run = Run.from_dict(record["run"])
        assert all(record["decided"][name]["value"] for name in ("device", "dtype", "compile"))
    except (KeyError, TypeError, AttributeError, AssertionError) as error:
        raise CheckpointError(f"{folder.path / 'run.json'} is damaged: {error!r}; it cannot be resumed from") from None
    except ConfigError as error:
        raise CheckpointError(f"{folder.path / 'run.json'} is of another version of light-llm: {error}") from None
    return run, record


def read_resume(folder: RunFolder, model: LightLLM, loader: Any, config: TrainConfig) -> Resumed:
    """The newest checkpoint of a run, checked against what is to go on with it.

    Raises:
        CheckpointError: nothing to resume from, or a damaged checkpoint.
        ConfigError: a setting, the data or the tokenizer differs, with each difference.
    """
    path = folder.newest_step()
    run, record = read_run(folder)
    refuse_changes(run, _run_now(run, model, loader, config), data_changes(record.get("data"), loader))
    try:
        weights, moments, rng, state, _ = read_step(path)
    except CheckpointError as error:
        raise way_back(folder, path, error) from None
    evaluated, best = _evaluations(folder, state)
    decided = {name: choice["value"] for name, choice in record["decided"].items()}
    started = str(record.get("started", ""))
    return Resumed(path, weights, moments, rng, state, started, decided, run.train.max_steps, evaluated, best)


def way_back(folder: RunFolder, path: Path, error: CheckpointError) -> CheckpointError:
    """The error about a step folder, with how to go on from the one before it."""
    older = folder.steps()[:-1]
    return CheckpointError(f"{error}; delete {path} to go on from {older[-1].name}" if older else str(error))


def refuse_changes(old: Run, new: Run, others: list[str] | None = None) -> None:
    """Raise ConfigError, listing each difference, unless only what may change does."""
    differences = [line for line in changes(old, new) if line.split(":")[0] not in MAY_CHANGE] + (others or [])
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


def restore(resumed: Resumed, model: LightLLM, optimizer: torch.optim.Optimizer, device: str) -> None:
    """Weights, optimizer and generators as they were after the step."""
    model.load_state_dict(resumed.weights)
    restore_optimizer(model, optimizer, resumed.moments)
    set_rng_state(resumed.rng, device)


def _run_now(run: Run, model: LightLLM, loader: Any, config: TrainConfig) -> Run:
    """The Run that is to go on. A text is known by its hash, not by the path it is found at."""
    if isinstance(loader, DataLoader):
        run = replace(run, data=replace(loader.dataset.config, seed=loader.seed, data=run.data.data))
    return replace(run, model=model.config, train=config)


def _evaluations(folder: RunFolder, state: StepState) -> tuple[bool, tuple[float, int] | None]:
    """Whether this step was evaluated, and the best so far with it.

    A step is saved before it is evaluated, so its own evaluation is not in its state; it is in the metrics, and a row
    there means that the best model is safe.
    """
    best = (state.best, state.best_step) if state.best is not None and state.best_step is not None else None
    for row in read_rows(folder.metrics) if folder.metrics.is_file() else ():
        if row.get("kind") == "eval" and row.get("step") == state.step:
            return True, (row["loss"], state.step) if row.get("best") else best
    return False, best
