"""Before a run touches anything: what it will cost, whether it fits, and whether its device computes right."""

from dataclasses import dataclass
from typing import Any

import torch

from ..config import TrainConfig
from ..data import DataLoader, TokenDataset
from ..doctor import Diagnosis, check_device, remembered_core, use_formula, use_plain_update
from ..doctor.remedies import NO_MUON, PLAIN_UPDATE, USE_FORMULA
from ..errors import ConfigError, DeviceError
from ..model import LightLLM
from ..plan.plan import DatasetSize, Plan, make_plan
from ..plan.render import refusal, warning_lines
from ..plan.suggest import suggest_settings
from ..runtime import resident_memory
from .first_look import first_look
from .resume import Resumed


@dataclass(frozen=True)
class Asked:
    """What whoever starts the run says of it."""

    force: bool = False  # start also what will not fit into memory
    skip_doctor: bool = False  # do not look whether the device computes right
    quiet: bool = False

    def say(self, line: str) -> None:
        """Print a line, before there is a log for it."""
        if not self.quiet:
            print(line, flush=True)


@dataclass(frozen=True)
class Outlook:
    """What is known of a run before it begins."""

    plan: Plan | None = None  # None: a loader that is not ours, whose batches nobody knows
    diagnosis: Diagnosis | None = None  # None: nobody looked
    warnings: tuple[str, ...] = ()  # of a run that is started although it does not fit

    def treat(self, model: LightLLM, optimizer: torch.optim.Optimizer) -> None:
        """Put in place what helps against what is wrong on this device."""
        if self.diagnosis and self.diagnosis.remedy(USE_FORMULA):
            use_formula(model)
        if self.diagnosis and self.diagnosis.remedy(PLAIN_UPDATE):
            use_plain_update(optimizer)

    def doctor_lines(self) -> list[str]:
        """What the header says of the device."""
        if self.diagnosis is None:
            return ["doctor   nobody looked whether this device computes right (--skip-doctor)"]
        checked = sum(finding.checked for finding in self.diagnosis.findings)
        wrong = [f"doctor   {remedy.because}: {remedy.action}" for remedy in self.diagnosis.remedies]
        return wrong or [f"doctor   {checked} cases computed against float64, all right"]

    def doctor_record(self) -> dict[str, Any] | None:
        """What run.json keeps: the verdicts, and of the findings only those that were no good."""
        if self.diagnosis is None:
            return None
        whole = self.diagnosis.to_dict()
        return {**whole, "cases": len(whole["findings"]), "findings": [f for f in whole["findings"] if not f["ok"]]}


def look_ahead(model: LightLLM, loader: Any, config: TrainConfig, resumed: Resumed | None, asked: Asked) -> Outlook:
    """Plan what is left of a run whose config is settled, and see whether its device computes right.

    Memory comes first: what does not fit is refused before anything takes more of it.

    Raises:
        ConfigError: it does not fit into memory, and `force` is not given.
        DeviceError: the device computes wrong and nothing helps, or what was asked for by name is wrong on it.
    """
    done = resumed.state.step if resumed else 0
    warnings = refuse_what_does_not_fit(foresee(model, loader, config, done=done, timed=False), force=asked.force)
    first_look(model.config, config.device, config.dtype, doctor=not asked.skip_doctor, say=asked.say)
    diagnosis = examined(config, skip=asked.skip_doctor)
    return Outlook(foresee(model, loader, config, done=done), diagnosis, tuple(warnings))


def foresee(model: LightLLM, loader: Any, config: TrainConfig, *, done: int = 0, timed: bool = True) -> Plan | None:
    """The plan of a run whose config is settled; None for a loader that is not ours, whose batches nobody knows."""
    if not isinstance(loader, DataLoader):
        return None
    weights = sum(p.nbytes for p in model.parameters())  # there already, and counted as such
    before = max(0, resident_memory() - weights)
    T, text = loader.dataset.max_length, text_of(loader.dataset)
    return make_plan(model.config, config, T, text, framework=before, done=done, timed=timed)


def text_of(data: TokenDataset) -> DatasetSize:
    """What a plan has to know about a text."""
    return DatasetSize(len(data.tokens), len(data.held_out), wide=data.tokenizer.vocab_size > 1 << 16)


def refuse_what_does_not_fit(plan: Plan | None, *, force: bool) -> list[str]:
    """Lines of warning for a run that is started all the same.

    Raises:
        ConfigError: it does not fit into memory; with the nearest settings that do.
    """
    if plan is None or plan.fits:
        return []
    if not force:
        raise ConfigError(refusal(plan, suggest_settings(plan), untouched="no run was started"))
    return warning_lines(plan)


def examined(config: TrainConfig, *, skip: bool) -> Diagnosis | None:
    """What the doctor found on a settled device, now or earlier; None where nobody is to look.

    Raises:
        DeviceError: it computes wrong and nothing helps, or what was asked for by name is wrong on it.
    """
    if skip:
        return None
    found = remembered_core(config.device)
    check_device(found)
    if config.dtype != "float32" and found.of_format(config.dtype) == "wrong":
        raise DeviceError(f"{config.dtype} is wrong on this device ({_because(found)}); use --dtype float32")
    if config.optimizer == "muon" and (remedy := found.remedy(NO_MUON)):
        raise DeviceError(f"{remedy.because}; use --optimizer adamw")
    return found


def _because(found: Diagnosis) -> str:
    return "; ".join(remedy.because for remedy in found.remedies)
