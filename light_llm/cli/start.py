"""Choose what a training starts from: on rank 0, which alone reads the run folder, and send it to the others."""

from __future__ import annotations

import sys
from base64 import b64decode, b64encode
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch

from ..checkpoint import ModelFile, RunFolder, read_model
from ..checkpoint.run_folder import contains_run
from ..config import Run
from ..data import TokenDataset, Tokenizer, tokenizer_from_dict
from ..data.piped_text import STDIN, stdin_or_saved
from ..errors import CheckpointError, as_flags
from ..runtime import World, expand_path
from ..text_format import print_wrapped
from ..train.messages import finished
from ..train.saved_run import SavedRun, finished_step, read_saved_run, refuse_changes
from .fit import FitChecker, resolve_auto
from .processes import job_of_environment, restarts_of_environment
from .resume import Request, compare_with_start, request_of
from .train import TrainFlags, check_tokenizer, new_run


@dataclass(frozen=True)
class Start:
    """The flags, settings and model that a run starts from."""

    flags: TrainFlags
    settings: dict[str, Any]
    run: Run | None = None  # None: it is finished already
    tokenizer: Tokenizer | None = None  # of the model that it starts from
    files: Mapping[str, bytes] = field(default_factory=dict)  # that travel with a published model
    # The rest is on rank 0 only.
    asked: dict[str, Any] = field(default_factory=dict)  # for run.json
    origin: ModelFile | None = None  # the model that it starts from
    fit: FitChecker | None = None

    def fitted_run(self, dataset: TokenDataset) -> Run:
        """Return the run with settings that fit the data and the machine. On rank 0."""
        assert self.run is not None and self.fit is not None
        if self.origin is not None:
            return self.run
        vocab_size = self.settings.get("model__vocab_size", dataset.tokenizer.vocab_size)
        run = replace(self.run, model=replace(self.run.model, vocab_size=vocab_size))
        return self.fit.fit_to_dataset(run, dataset)

    def to_json(self) -> dict[str, Any]:
        """Return what the other ranks need, as JSON values."""
        return {
            "flags": {f.name: getattr(self.flags, f.name) for f in fields(TrainFlags)},
            "settings": self.settings,
            "run": self.run.to_dict() if self.run else None,
            "tokenizer": self.tokenizer.to_dict() if self.tokenizer else None,
            "files": {name: b64encode(data).decode() for name, data in self.files.items()},
        }

    @classmethod
    def from_json(cls, values: dict[str, Any], flags: TrainFlags) -> Start:
        """Return the start that rank 0 described, from the flags of this rank."""
        files = {name: b64decode(data) for name, data in values["files"].items()}
        tokenizer = tokenizer_from_dict(values["tokenizer"], files) if values["tokenizer"] else None
        flags = replace(flags, **{**values["flags"], "set": tuple(values["flags"]["set"])})
        run = Run.from_dict(values["run"]) if values["run"] else None
        return cls(flags, values["settings"], run, tokenizer, files)


def shared_start(world: World, flags: TrainFlags, choose: Callable[[], Start]) -> Start:
    """Return the start that rank 0 chooses, on all ranks."""
    chosen: list[Start] = []

    def make() -> dict[str, Any]:
        chosen.append(choose())
        return chosen[0].to_json() if world.size > 1 else {}

    values = world.of_first(make)
    return chosen[0] if chosen else Start.from_json(values, flags)


def choose_start(flags: TrainFlags, given: set[str], settings: dict[str, Any], world: World = World()) -> Start:
    """Choose what a run starts from. Checks what it can before the text is read or downloaded."""
    flags = _continued_if_there(flags)
    request, run, origin = _choose_run(flags, given, settings)
    if run is None:
        return Start(request.flags, request.settings)
    flags, settings = request.flags, request.settings
    check_tokenizer(given, run, origin)
    # The device is resolved, and the memory checked, before a text is read or downloaded in vain.
    loaded = sum(t.nbytes for t in origin.weights.values()) if origin else 0
    fit = FitChecker(resolve_auto(run.train), flags, fixed=origin is not None, loaded=loaded, world=world)
    changes = fit.check_before_data(run)
    run, settings = run.with_settings(**changes), settings | changes
    asked = request.asked | ({"job": job} if (job := job_of_environment()) else {})
    if origin is None:
        return Start(flags, settings, run, asked=asked, fit=fit)
    return Start(flags, settings, run, origin.tokenizer, origin.files, asked, origin, fit)


def _continued_if_there(flags: TrainFlags) -> TrainFlags:
    """Return flags that resume the run in --out: with --requeue, or in a restarted job that began it.

    A restarted job repeats its first command, whose --overwrite would start over.
    """
    if flags.resume or not (flags.requeue or restarts_of_environment()) or not contains_run(expand_path(flags.out)):
        return flags
    if not flags.requeue:
        # Another job's run is treated as in the first attempt.
        with suppress(CheckpointError):
            if RunFolder(flags.out).read_run().get("asked", {}).get("job") != job_of_environment():
                return flags
    return replace(flags, resume=True, overwrite=False)


def _choose_run(
    flags: TrainFlags, given: set[str], settings: dict[str, Any]
) -> tuple[Request, Run | None, ModelFile | None]:
    """Return what is asked for, the run, and the model file that it starts from; no run if it is finished already."""
    folder = RunFolder(flags.out)
    if not flags.resume:
        return request_of(flags, given, settings), *_new_run(flags, given, settings)
    saved = read_saved_run(folder)
    request = compare_with_start(flags, given, settings, saved)
    if saved.step is None:
        return request, *_new_run(request.flags, given, request.settings)
    run, origin = _resumed_run(saved, saved.step, request.settings)
    if (step := finished_step(folder, saved, run.train.max_steps)) is None:
        return request, run, origin
    if not flags.quiet:
        print_wrapped(as_flags(finished(folder.path, step)), sys.stdout)
    return request, None, None


def _resumed_run(saved: SavedRun, step: Path, settings: dict[str, Any]) -> tuple[Run, ModelFile]:
    """Return the run in the folder with the changes of the flags, and its newest checkpoint."""
    # The Trainer keeps the device, dtype and compilation of the last process for those that are not given.
    settings = dict.fromkeys(("train__device", "train__dtype", "train__compile"), "auto") | settings
    if settings.get("data__data") == STDIN:
        settings["data__data"] = stdin_or_saved(saved.run.data.data)
    run = saved.run.with_settings(**settings)
    refuse_changes(saved.run, run)
    return run, read_model(step, torch.float32)


def _new_run(flags: TrainFlags, given: set[str], settings: dict[str, Any]) -> tuple[Run, ModelFile | None]:
    """Return a new run, and the model file that it starts from, if any."""
    RunFolder(flags.out).ensure_folder_available(explicit="out" in given or flags.resume, overwrite=flags.overwrite)
    source = settings.get("train__init_from")
    origin = read_model(source, torch.float32) if source else None
    return new_run(settings, origin, preset="preset" in given), origin
