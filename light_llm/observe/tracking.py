"""Choose and make the tracker of a run. `metrics.jsonl` has every row with any of them."""

import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..runtime import Decision
from .metrics import Sink


def is_installed(package: str) -> bool:
    """Return whether a package can be imported."""
    # A run folder may hold a folder named wandb or tensorboard, which is found as a namespace package without origin.
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def choose_tracker(asked: str, *, wanted: str, installed: Callable[[str], bool] = is_installed) -> Decision:
    """Choose the tracker: "wandb", "tensorboard" or "none".

    Args:
        asked: train.tracker; "auto" is W&B if it is installed and the environment asks for it.
        wanted: why the environment asks for W&B (`runtime.wandb_reason`); "" if it does not.
        installed: returns whether a package is installed.

    Raises:
        ConfigError: the tracker named is not installed, or W&B has no key and is not offline.
    """
    if asked == "none":
        return Decision("none", "asked for")
    if asked == "auto":
        if not wanted:
            return Decision("none", "neither WANDB_API_KEY nor WANDB_MODE=offline is set, or WANDB_DISABLED is")
        if not installed("wandb"):
            return Decision("none", f'{wanted}, but wandb is not installed: pip install "light-llm[wandb]"')
        return Decision("wandb", wanted)
    if not installed(asked):
        raise ConfigError(
            f'{{--tracker {asked}}} needs a package that is not installed; pip install "light-llm[{asked}]", or leave '
            "out {--tracker}"
        )
    if asked == "wandb" and not wanted:
        raise ConfigError(
            "{--tracker wandb} needs your key from https://wandb.ai/authorize in WANDB_API_KEY. WANDB_MODE=offline "
            "needs no key and stores the rows in the run folder, for `wandb sync` later. WANDB_DISABLED=true and "
            "WANDB_MODE=disabled forbid both"
        )
    return Decision(asked, "asked for")


def make_tracker(name: str, *, folder: Path, record: Mapping[str, Any], resumed_at: int = 0) -> Sink:
    """Make the sink of "wandb" or "tensorboard". Called in its thread, because importing the package takes seconds.

    Args:
        folder: the run folder.
        record: run.json.
        resumed_at: the step from which a resumed run continues; 0 for a new run.
    """
    if name == "wandb":
        from .wandb_sink import WandbSink

        return WandbSink(folder, record, identity=tracking_id(record, folder))
    from .tensorboard_sink import TensorBoardSink

    return TensorBoardSink(folder, record, resumed_at=resumed_at)


def tracking_id(record: Mapping[str, Any], folder: Path) -> str:
    """Return a run's id at its tracker, 16 hexadecimal digits: the same after every resume, unique to the run.

    It hashes the start time, the folder name and settings that a resumed run cannot change.
    """
    train = record["run"]["train"]
    identity = [record["started"], folder.resolve().name, record["run"]["model"], train["seed"], train["lr"]]
    return hashlib.sha256(json.dumps(identity, sort_keys=True, default=str).encode()).hexdigest()[:16]
