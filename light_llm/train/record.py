"""What a run decides before it starts and writes down: the same values in run.json, header and checkpoints."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Any, Protocol

from .. import __version__
from ..config import ModelConfig, Run, TrainConfig, get_model_size
from ..data import DataLoader, TokenDataset
from ..errors import ConfigError, DeviceError
from ..model import LightLLM
from ..observe.tracking import choose_tracker
from ..runtime import (
    Decision,
    choose_compile,
    choose_device,
    choose_dtype,
    device_name,
    versions,
    wandb_reason,
)
from .foresee import Outlook
from .resume import Resumed


@dataclass(frozen=True)
class Decisions:
    """A config with nothing left at auto, and the reasons."""

    config: TrainConfig
    device: Decision
    dtype: Decision
    compile: Decision
    tracker: Decision


def decide(config: TrainConfig, resumed: Resumed | None) -> Decisions:
    """Settle device, number format, compilation and tracker; a resumed run keeps what it computes with.

    Raises:
        DeviceError: a device this machine does not have.
        ConfigError: a tracker that was asked for by name and cannot be had.
    """
    earlier = resumed.decided if resumed else {}

    def settled(name: str) -> Decision | None:
        value = earlier.get(name)
        return Decision(value, "as the run was started") if value and getattr(config, name) in ("auto", value) else None

    device = settled("device")
    try:
        device = device if device and choose_device(device.value) else choose_device(config.device)
    except DeviceError:
        if config.device != "auto":
            raise
        device = choose_device("auto")  # the run was started on a device that this machine does not have
    dtype = settled("dtype") or choose_dtype(config.dtype, device.value)
    compiled = settled("compile") or choose_compile(config.compile, device.value)
    horizon = config.lr_horizon or (resumed.state.lr_horizon if resumed else config.max_steps)
    config = replace(config, device=device.value, dtype=dtype.value, compile=compiled.value, lr_horizon=horizon)
    return Decisions(config, device, dtype, compiled, choose_tracker(config.tracker, wanted=wandb_reason()))


def check_fit(config: ModelConfig, loader: DataLoader, changes: Mapping[str, Any]) -> None:
    """Raise ConfigError unless every id has a row, every window fits, and no other batch size is asked for."""
    if changes.get("batch_size", loader.batch_size) != loader.batch_size:
        raise ConfigError(
            f"batch_size={changes['batch_size']} is not the loader's {loader.batch_size}; give it to create_dataloader"
        )
    tokenizer, T = loader.dataset.tokenizer, loader.dataset.max_length
    if tokenizer.vocab_size > config.vocab_size:
        raise ConfigError(
            f"the tokenizer has {tokenizer.vocab_size:,} ids and the model only vocab_size={config.vocab_size:,}; "
            f"build the model with ModelConfig(vocab_size={tokenizer.vocab_size})"
        )
    if T > config.n_positions:
        raise ConfigError(
            f"windows of max_length={T:,} do not fit into n_positions={config.n_positions:,}; "
            f"prepare the data with max_length={config.n_positions} or build the model with n_positions={T}"
        )


def make_run(model: LightLLM, loader: Any, config: TrainConfig) -> Run:
    """The Run of what is really trained, whoever put it together."""
    run = Run(model=model.config, train=config)
    if isinstance(loader, DataLoader):
        run = replace(run, data=replace(loader.dataset.config, seed=loader.seed))
    return run


class Recorded(Protocol):
    """What a run is, whoever runs it."""

    model: LightLLM
    loader: Any
    decisions: Decisions
    outlook: Outlook
    started: str | None  # when a resumed run began


def run_record(of: Recorded) -> dict[str, Any]:
    """run.json."""
    model, loader, decisions, outlook = of.model, of.loader, of.decisions, of.outlook
    dataset = loader.dataset if isinstance(loader, DataLoader) else None
    return {
        "format": 1,
        "started": of.started or datetime.now(UTC).isoformat(timespec="seconds"),
        "run": make_run(model, loader, decisions.config).to_dict(),
        "versions": versions(),
        "decided": {name: asdict(getattr(decisions, name)) for name in ("device", "dtype", "compile")},
        "tracker": asdict(decisions.tracker),
        "machine": device_name(decisions.device.value),
        "data": dataset.record() if dataset else None,
        "doctor": outlook.doctor_record(),
        "plan": outlook.plan.to_dict() if outlook.plan else _known(model, decisions.config),
    }


def step_record(record: Mapping[str, Any]) -> dict[str, Any]:
    """What a step folder keeps of run.json: enough to go on, and nothing that differs between two equal runs."""
    decided = {name: {"value": choice["value"]} for name, choice in record["decided"].items()}
    return {"format": record["format"], "run": record["run"], "decided": decided, "data": record["data"]}


def _known(model: LightLLM, config: TrainConfig) -> dict[str, Any]:
    """What can be said ahead of a loader that is not ours."""
    return {"parameters": get_model_size(model.config), "steps": config.max_steps}


def model_meta(
    model: LightLLM, dataset: TokenDataset | None, *, step: int, dtype: str, evaluation: Mapping[str, Any] | None
) -> dict[str, Any]:
    """What a model file says of its model: enough to use it alone, and to evaluate it again."""
    return {
        "config": asdict(model.config),
        "tokenizer": dataset.tokenizer.to_dict() if dataset else None,
        "data": dataset.record() if dataset else None,
        "step": step,
        "dtype": dtype,
        "evaluation": dict(evaluation) if evaluation else None,
        "light_llm": __version__,
    }
