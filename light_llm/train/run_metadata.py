"""The contents of run.json, and the part of it that each checkpoint keeps."""

from dataclasses import asdict, replace
from datetime import UTC, datetime
from typing import Any

from ..config import ModelConfig, Run, TrainConfig, get_model_size
from ..data import Batches, TokenDataset
from ..runtime import device_name, versions
from .preflight import Decisions, PreflightReport
from .resume import ResumeState

FORMAT = 1


def make_run(model: ModelConfig, batches: Batches, config: TrainConfig) -> Run:
    """Return the Run that is really trained, from its parts."""
    run = Run(model=model, train=config)
    return replace(run, data=batches.data_config) if batches.data_config else run


def run_record(
    run: Run, dataset: TokenDataset | None, decisions: Decisions, report: PreflightReport, resume: ResumeState | None
) -> dict[str, Any]:
    """Return the contents of run.json. A resumed run keeps the time at which it was started."""
    started = resume.saved.started if resume else None
    return {
        "format": FORMAT,
        "started": started or datetime.now(UTC).isoformat(timespec="seconds"),
        "run": run.to_dict(),
        "versions": versions(),
        "decided": {name: asdict(getattr(decisions, name)) for name in ("device", "dtype", "compile")},
        "tracker": asdict(decisions.tracker),
        "machine": device_name(decisions.device.value),
        "data": dataset.record() if dataset else None,
        "doctor": report.doctor_record(),
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
    return {"format": FORMAT, "run": run.to_dict(), "decided": decided, "data": dataset.record() if dataset else None}
