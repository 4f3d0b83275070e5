"""Going on with a run: what may differ from how it was started, and putting everything back."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import RunFolder, StepState, read_step, restore_optimizer
from ..config import Run, TrainConfig, changes, from_dict
from ..config.model import ModelConfig
from ..data import DataLoader
from ..errors import CheckpointError, ConfigError
from ..model import LightLLM
from ..observe import read_rows
from ..runtime import set_rng_state

# What a resumed run may do differently: how long, how often it looks, on which machine. Nothing that the curve is of.
MAY_CHANGE = frozenset(
    f"train.{name}"
    for name in (
        "max_steps",
        "lr_horizon",
        "eval_interval",
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
    decided: dict[str, str]  # device, dtype and compile as the run was started
    max_steps: int  # as the run was started
    evaluated: bool  # the evaluation of this step is in the metrics
    best: tuple[float, int] | None  # loss and step, this step's evaluation included


def read_resume(folder: RunFolder, model: LightLLM, loader: Any, config: TrainConfig) -> Resumed:
    """The newest checkpoint of a run, checked against what is to go on with it.

    Raises:
        CheckpointError: nothing to resume from, or a damaged checkpoint.
        ConfigError: a setting, the data or the tokenizer differs, with each difference.
    """
    path = folder.newest_step()
    record = folder.read_run()
    weights, moments, rng, state, meta = read_step(path)
    run = Run.from_dict(record["run"])
    try:
        stored = from_dict(ModelConfig, meta["config"], what="model")
    except KeyError:
        raise CheckpointError(f"{path / 'model.json'} is damaged: it has no config; use another checkpoint") from None
    refuse_changes(run, record.get("data"), replace(run, model=stored), model, loader, config)
    evaluated, best = _evaluations(folder, state)
    decided = {name: choice["value"] for name, choice in record["decided"].items()}
    return Resumed(path, weights, moments, rng, state, decided, run.train.max_steps, evaluated, best)


def refuse_changes(
    run: Run, data: dict[str, Any] | None, stored: Run, model: LightLLM, loader: Any, config: TrainConfig
) -> None:
    """Raise ConfigError, listing each difference, unless only what may change does."""
    now = replace(stored, model=model.config, train=config)
    if isinstance(loader, DataLoader):
        now = replace(now, data=replace(loader.dataset.config, seed=loader.seed, data=run.data.data))
    differences = [line for line in changes(stored, now) if line.split(":")[0] not in MAY_CHANGE]
    new_data = loader.dataset.record() if isinstance(loader, DataLoader) else None
    if data and new_data:
        for what in ("sha256", "tokenizer_sha256"):
            if data.get(what) != new_data[what]:
                differences.append(f"data {what}: {str(data.get(what))[:12]}... -> {new_data[what][:12]}...")
    if differences:
        listed = "\n  ".join(differences)
        raise ConfigError(
            f"a resumed run cannot change these:\n  {listed}\nleave them as they were, or start a new run with --out"
        )


def restore(resumed: Resumed, model: LightLLM, optimizer: torch.optim.Optimizer, device: str) -> None:
    """Weights, optimizer and generators as they were after the step."""
    model.load_state_dict(resumed.weights)
    restore_optimizer(model, optimizer, resumed.moments)
    set_rng_state(resumed.rng, device)


def _evaluations(folder: RunFolder, state: StepState) -> tuple[bool, tuple[float, int] | None]:
    """Whether this step was evaluated, and the best so far with it: a row in the file means the model is safe."""
    best = (state.best, state.best_step) if state.best is not None and state.best_step is not None else None
    rows = list(read_rows(folder.metrics)) if folder.metrics.is_file() else []
    for row in rows:
        if row.get("kind") == "eval" and row.get("step") == state.step:
            if row.get("best"):
                best = (row["loss"], state.step)
            return True, best
    return False, best
