"""Which tracker a run has, why, and how it is made. `metrics.jsonl` has every row whatever is decided here."""

import hashlib
import importlib.util
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..errors import ConfigError
from ..runtime import Decision
from .background_sink import BackgroundSink
from .metrics import Sink


def is_installed(package: str) -> bool:
    """Whether a package could be imported; a folder that only has its name, as a run folder may hold, is none."""
    spec = importlib.util.find_spec(package)
    return spec is not None and spec.origin is not None


def choose_tracker(asked: str, *, wanted: str, installed: Callable[[str], bool] = is_installed) -> Decision:
    """Settle who else gets the rows: "wandb", "tensorboard" or "none".

    Args:
        asked: train.tracker; "auto" is W&B where it is installed and the environment asks for it.
        wanted: why the environment asks for W&B (`runtime.wandb_reason`); "" if it does not.
        installed: whether a package is there.

    Raises:
        ConfigError: what was asked for by name is not installed, or W&B has neither a key nor a file to write to.
    """
    if asked == "none":
        return Decision("none", "asked for")
    if asked == "auto":
        if not wanted:
            return Decision("none", "neither WANDB_API_KEY nor WANDB_MODE=offline is set")
        if not installed("wandb"):
            return Decision("none", f'{wanted}, but wandb is not installed: pip install "light-llm[wandb]"')
        return Decision("wandb", wanted)
    if not installed(asked):
        raise ConfigError(
            f'tracker={asked} needs a package that is not installed; pip install "light-llm[{asked}]", or leave it out'
        )
    if asked == "wandb" and not wanted:
        raise ConfigError(
            "tracker=wandb needs WANDB_API_KEY, the key from https://wandb.ai/authorize, in the environment; "
            "WANDB_MODE=offline needs none and keeps the run in its folder, for `wandb sync` later"
        )
    return Decision(asked, "asked for")


def make_tracker(
    name: str, *, folder: Path, record: Mapping[str, Any], identity: str, resumed_at: int = 0
) -> Callable[[], Sink]:
    """What a `BackgroundSink` calls, in its own thread, to get its sink. Nothing is imported before.

    Args:
        name: "wandb" or "tensorboard".
        folder: the run folder.
        record: run.json.
        identity: of `tracking_id`.
        resumed_at: the step a resumed run goes on from; 0 for a new run.
    """

    def make() -> Sink:
        if name == "wandb":
            from .wandb_sink import WandbSink

            return WandbSink(folder, record, identity=identity)
        from .tensorboard_sink import TensorBoardSink

        return TensorBoardSink(folder, record, resumed_at=resumed_at)

    return make


def start_tracker(
    name: str, folder: Path, record: Mapping[str, Any], resumed_at: int, say: Callable[[str], object]
) -> list[BackgroundSink]:
    """The tracker that was chosen, in its thread; none for "none". The arguments are those of `make_tracker`."""
    if name == "none":
        return []
    identity = tracking_id(record, folder)
    make = make_tracker(name, folder=folder, record=record, identity=identity, resumed_at=resumed_at)
    return [BackgroundSink(name, make, say)]


def tracking_id(record: Mapping[str, Any], folder: Path) -> str:
    """A run's id, 16 hexadecimal digits: the same however often the run is resumed, another for every other run.

    It is made of when the run began, the name of its folder and settings that no resumed run may change.
    """
    train = record["run"]["train"]
    facts = [record["started"], folder.resolve().name, record["run"]["model"], train["seed"], train["lr"]]
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()[:16]
