"""Checks before a run changes anything (settings, memory, time, device), and the contents of run.json."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from ..config import ModelConfig, Run, TrainConfig, get_model_size
from ..data import Batches, DataLoader, TokenDataset
from ..doctor import Diagnosis, check_device
from ..errors import ConfigError, DeviceError, as_keywords, mark_options
from ..model import LightLLM
from ..observe import Sink
from ..observe.tracking import choose_tracker
from ..parallel import check_parallel
from ..plan.plan import DatasetSize, Plan, make_plan
from ..plan.render import refusal
from ..plan.suggest import suggest_settings, without_fixed
from ..report.run_log import RUN_FORMAT
from ..runtime import (
    Decision,
    World,
    choose_compile,
    choose_device,
    choose_dtype,
    compare_ranks,
    device_name,
    message_backend,
    resident_memory,
    versions,
    wandb_reason,
)
from ..text_format import format_bytes, print_wrapped
from .measure import measure_machine

if TYPE_CHECKING:
    from .saved_run import ResumeState


@dataclass(frozen=True)
class RunOptions:
    """The caller's options that are not settings of the training itself."""

    explicit_out: bool = False  # the run folder was named, so an earlier run in it is not moved
    resume: bool = False
    overwrite: bool = False
    quiet: bool = False
    report: bool = True
    force: bool = False  # start a run that does not fit into memory
    skip_doctor: bool = False
    sinks: Sequence[Sink] = ()
    spell: Callable[[str], str] = as_keywords  # how messages name options

    def of_other_rank(self) -> RunOptions:
        """Return the options of a rank other than 0, which writes and prints nothing."""
        return replace(self, quiet=True, report=False, sinks=())

    def say(self, line: str) -> None:
        """Print a line before the run has a log."""
        if not self.quiet:
            print_wrapped(self.spell(line), sys.stdout)


@dataclass(frozen=True)
class Decisions:
    """The values that "auto" settings became, each with its reason."""

    device: Decision
    dtype: Decision
    compile: Decision
    tracker: Decision
    # Set at the start of a run, because it depends on the memory.
    parallel: Decision = field(default_factory=lambda: Decision("auto", "one process"))


def decide(config: TrainConfig, resume: ResumeState | None, world: World = World()) -> tuple[TrainConfig, Decisions]:
    """Resolve "auto" for device, number format, compilation and tracker; a resumed run keeps the values it had.

    Rank 0 decides for all ranks: one that measures another speed must not choose another number format.

    Raises:
        DeviceError: this machine does not have the device, or several processes cannot use it.
        ConfigError: the tracker was named and is not installed.
    """
    decided = world.of_first(lambda: asdict(_decide(config, resume)))
    decisions = Decisions(**{name: Decision(**values) for name, values in decided.items()})
    if not world.is_first:
        # The kind of rank 0's device; of several GPUs the one of this rank.
        decisions = replace(decisions, device=choose_device(decisions.device.value))
    # The schedule keeps its end when a resumed run adds steps: the curve up to there stays the same.
    horizon = config.lr_horizon or (resume.state.lr_horizon if resume else config.max_steps)
    values: dict[str, Any] = {name: getattr(decisions, name).value for name in ("device", "dtype", "compile")}
    config = replace(config, **values, lr_horizon=horizon)
    return config, decisions


def _decide(config: TrainConfig, resume: ResumeState | None) -> Decisions:
    previous = resume.saved.decided if resume else {}

    def keep(name: str) -> Decision | None:
        value = previous.get(name)
        return Decision(value, "kept from the run") if value and getattr(config, name) in ("auto", value) else None

    device = keep("device")
    try:
        device = device if device and choose_device(device.value) else choose_device(config.device)
    except DeviceError:
        if config.device != "auto":
            raise
        # The run was started on a machine with another device.
        device = choose_device("auto")
    dtype = keep("dtype") or choose_dtype(config.dtype, device.value)
    compiled = keep("compile") or choose_compile(config.compile, device.value)
    return Decisions(device, dtype, compiled, choose_tracker(config.tracker, wanted=wandb_reason()))


def check_fit(config: ModelConfig, loader: DataLoader, changes: Mapping[str, Any]) -> None:
    """Raise ConfigError if the model does not fit the data: its vocabulary, its window, or the batch size."""
    if changes.get("batch_size", loader.batch_size) != loader.batch_size:
        raise ConfigError(
            f"batch_size={changes['batch_size']} is not the loader's {loader.batch_size}; give it to create_dataloader"
        )
    tokenizer, T = loader.dataset.tokenizer, loader.dataset.max_length
    if tokenizer.vocab_size > config.vocab_size:
        raise ConfigError(
            f"the vocabulary of the tokenizer has {tokenizer.vocab_size:,} entries, and the model has only "
            f"vocab_size={config.vocab_size:,}; build the model with ModelConfig(vocab_size={tokenizer.vocab_size})"
        )
    if T > config.n_positions:
        raise ConfigError(
            f"windows of max_length={T:,} do not fit into n_positions={config.n_positions:,}; "
            f"prepare the data with max_length={config.n_positions} or build the model with n_positions={T}"
        )


def compare_with_other_ranks(world: World, model: ModelConfig, config: TrainConfig, batches: Batches) -> None:
    """Raise ConfigError on all ranks if one has other settings, or another text or tokenizer."""
    parts = {"model": asdict(model), "train": asdict(config)}
    settings = {f"setting {part}.{name}": value for part, of in parts.items() for name, value in of.items()}
    record = batches.dataset.record() if batches.dataset else {}
    names = {"sha256": "text", "held_out_sha256": "held-out text", "tokenizer_sha256": "tokenizer"}
    data = {f"{name} (SHA-256)": record.get(key) for key, name in names.items()}
    numbers = {"number of training tokens": record.get("train_tokens"), "window length": record.get("max_length")}
    compare_ranks(world, settings | data | numbers)


@dataclass(frozen=True)
class PreflightReport:
    """The results of the checks before a run."""

    plan: Plan | None = None  # None for a loader that is not ours: its text is unknown
    diagnosis: Diagnosis | None = None  # None if the doctor was skipped

    def doctor_lines(self) -> list[str]:
        """Return the header's lines about the device."""
        if self.diagnosis is None:
            return ["doctor   skipped ({--skip-doctor}): whether this device computes correctly is not known"]
        checked = sum(finding.verdict != "not checked" for finding in self.diagnosis.findings)
        wrong = [f"doctor   {advice.because}; {mark_options(advice.action)}" for advice in self.diagnosis.advice]
        return wrong or [f"doctor   {checked} checks against float64 passed"]


def run_checks(
    model: LightLLM,
    dataset: TokenDataset | None,
    config: TrainConfig,
    resume: ResumeState | None,
    options: RunOptions,
    world: World = World(),
) -> PreflightReport:
    """Plan the rest of a run, and check that its device computes correctly.

    Memory is checked first: a run that does not fit is refused before the other checks take memory themselves.

    Raises:
        ConfigError: it does not fit into memory, and `force` is not set; the message names settings that do.
        DeviceError: the device computes something wrong that this run needs; the message names the flag that helps.
    """
    done = resume.state.step if resume else 0
    plan = estimate(model, dataset, config, done=done, timed=False, world=world)
    if plan and not plan.fits and not options.force:
        suggestions = suggest_settings(plan)
        suggestions = without_fixed(suggestions, resumed=True) if resume else suggestions
        raise ConfigError(refusal(plan, suggestions, untouched="no run was started", can_fit=False))
    skip = options.skip_doctor
    measure_machine(model.config, config.device, config.dtype, doctor=not skip, quiet=options.quiet, say=options.say)
    diagnosis = None if skip else check_device(config.device, dtype=config.dtype, optimizer=config.optimizer)
    return PreflightReport(estimate(model, dataset, config, done=done, world=world), diagnosis)


def estimate(
    model: LightLLM,
    dataset: TokenDataset | None,
    config: TrainConfig,
    *,
    done: int = 0,
    timed: bool = True,
    world: World = World(),
) -> Plan | None:
    """Return the plan of a run; None without our dataset.

    Args:
        config: without "auto" settings.
        done: steps that a resumed run has made.
        timed: measure the machine to predict the time as well.
    """
    if dataset is None:
        return None
    # The weights are resident already, and the plan counts them itself.
    weights = sum(p.nbytes for p in model.parameters())
    framework = max(0, resident_memory() - weights)
    size = dataset_size(dataset)
    how: dict[str, Any] = {"world_size": world.size, "local_size": world.local_size}
    return make_plan(model.config, config, dataset.max_length, size, framework=framework, done=done, timed=timed, **how)


def choose_parallel(config: TrainConfig, plan: Plan | None, world: World) -> Decision:
    """Choose how the processes share the work: replicas of the model if they fit into memory, otherwise shards.

    Raises:
        DeviceError: there are no shards on this device.
    """
    if world.size == 1:
        return Decision(config.parallel, "one process")
    check_parallel(config.parallel if config.parallel != "auto" or plan is None else plan.parallel, config.device)
    if config.parallel != "auto":
        return Decision(config.parallel, "asked for")
    if plan is None:
        return Decision("ddp", "can be set to fsdp")
    needed = format_bytes(plan.memory.total)
    if plan.parallel == "fsdp":
        return Decision("fsdp", f"a replica does not fit into memory, a shard needs {needed}")
    limit = f" of {format_bytes(plan.limit.bytes)}" if plan.limit else ""
    return Decision("ddp", f"a replica needs {needed}{limit}")


def world_record(world: World, config: TrainConfig, parallel: Decision) -> dict[str, Any]:
    """Return what run.json says about the processes of a run; nothing for one process."""
    if world.size == 1:
        return {}
    return {
        "world": {
            "processes": world.size,
            "machines": -(-world.size // world.local_size),
            "parallel": parallel.value,
            "tensor": config.tensor,
            "backend": message_backend(config.device),
        }
    }


def dataset_size(data: TokenDataset) -> DatasetSize:
    """Return the sizes of a dataset that a plan needs."""
    # Ids from 2^16 on take four bytes on disk instead of two.
    return DatasetSize(len(data.tokens), len(data.held_out), wide=data.tokenizer.vocab_size > 1 << 16)


def run_record(
    run: Run, dataset: TokenDataset | None, decisions: Decisions, report: PreflightReport, resume: ResumeState | None
) -> dict[str, Any]:
    """Return the contents of run.json. A resumed run keeps the time at which it was started."""
    started = resume.saved.started if resume else None
    if doctor := report.diagnosis and report.diagnosis.to_dict():
        # Of the findings only those that failed are of use later.
        failed = [finding for finding in doctor["findings"] if finding["verdict"] != "right"]
        doctor |= {"cases": len(doctor["findings"]), "findings": failed}
    return {
        "format": RUN_FORMAT,
        "started": started or datetime.now(UTC).isoformat(timespec="seconds"),
        "run": run.to_dict(),
        "versions": versions(),
        "decided": {name: asdict(getattr(decisions, name)) for name in ("device", "dtype", "compile")},
        "tracker": asdict(decisions.tracker),
        "machine": device_name(decisions.device.value),
        "data": dataset.record() if dataset else None,
        "doctor": doctor,
        # Without our loader there is no plan, because the length of its text is unknown.
        "plan": report.plan.to_dict()
        if report.plan
        else {"parameters": get_model_size(run.model), "steps": run.train.max_steps},
    }


def checkpoint_record(run: Run, dataset: TokenDataset | None, decisions: Decisions) -> dict[str, Any]:
    """Return the settings that a checkpoint keeps: enough to resume without run.json.

    Leaves out times and versions, so that two equal runs have byte-identical checkpoints.
    """
    decided = {name: {"value": getattr(decisions, name).value} for name in ("device", "dtype", "compile")}
    return {
        "format": RUN_FORMAT,
        "run": run.to_dict(),
        "decided": decided,
        "data": dataset.record() if dataset else None,
    }


def smaller_micro_batch(config: TrainConfig, rows: int) -> int | None:
    """Return the largest divisor of the rows of a rank that is at most half its micro-batch; None for one sequence."""
    size = min(config.micro_batch or rows, rows)
    return max((n for n in range(1, size // 2 + 1) if rows % n == 0), default=None)
