"""The training loop. `Trainer.train` is the algorithm; what is written and said is the session's."""

import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import Files, RunFolder
from ..checkpoint.run_folder import DEFAULT_OUT
from ..config import TrainConfig, check_range
from ..data import DataLoader
from ..errors import ConfigError, DeviceError
from ..model import LightLLM
from ..objective import NextTokenLoss, total_weight
from ..observe import Sink
from ..observe.step_metrics import StepMetrics
from ..optim import build_optimizer, learning_rate
from ..runtime import autocast, is_out_of_memory, rng_state, seed_everything, set_rng_state, stop_after
from .batches import batches_of
from .foresee import Asked, look_ahead
from .guards import REMEMBERED, Guard, NoSpikes, OnlyFinite, Proposal, Verdict, judge
from .listeners import Listener
from .notices import header, out_of_memory
from .progress import Progress
from .record import check_fit, decide, run_record
from .requests import Requests
from .result import Result, Status
from .resume import go_back, read_resume, read_run, start_from
from .room import check_room, halved
from .session import Session
from .update import Attempt, Judged, Yardstick, choose_update, step_of


class Trainer:
    """Trains a model on a loader, into a run folder.

    Args:
        model: moved to the device and trained in place.
        loader: of `create_dataloader`; any iterable of (tokens, targets) works too, without evaluation on held-out
            text, tokenizer in the checkpoint and exact resume, and the header says so.
        config: how to train; single settings can be given by name instead, as in `max_steps=1000`.
        out: the run folder. By default `checkpoints`, where an earlier run is set aside first; a folder that is named
            here and holds a run is refused unless `resume` or `overwrite` is given.
        resume: go on with the run in `out` from its newest checkpoint; settings that are not given stay as they were.
        overwrite: replace the run in `out`.
        quiet: print nothing.
        guards: asked before each update, after our own, which refuses what is not finite.
        sinks: functions that get each row of the run, in threads of their own; one that fails is dropped.
        report: write `report.html` at the end.
        force: start also what will not fit into memory.
        skip_doctor: do not look whether the device computes right, which is done once per device and torch.

    Raises:
        ConfigError: an unknown setting, or a model that does not fit the data; from `train`, too little memory.
        CheckpointError: a run in the way, nothing to resume from, or a damaged checkpoint.
        DeviceError: a device this machine does not have, or one that computes wrong.
    """

    def __init__(
        self,
        model: LightLLM,
        loader: DataLoader | Iterable[tuple[Tensor, Tensor]],
        config: TrainConfig | None = None,
        *,
        out: str | Path | None = None,
        resume: bool = False,
        overwrite: bool = False,
        quiet: bool = False,
        guards: Sequence[Guard] = (),
        sinks: Sequence[Sink] = (),
        report: bool = True,
        force: bool = False,
        skip_doctor: bool = False,
        files: Files | None = None,
        **changes: Any,
    ) -> None:
        self.folder = RunFolder(out if out is not None else DEFAULT_OUT, files)
        if resume and config is None:  # as the run was started, but for what is named
            config = replace(read_run(self.folder).run.train, device="auto", dtype="auto", compile="auto")
        config = (config or TrainConfig()).with_changes(changes)
        self.model, self.loader, self.dataset = model, loader, None
        if isinstance(loader, DataLoader):
            self.dataset = loader.dataset
            check_fit(model.config, loader, changes)
            config = replace(config, batch_size=loader.batch_size)
        self.named_folder, self.overwrite, self.quiet = out is not None, overwrite, quiet
        if not resume:
            self.folder.ensure_folder_available(explicit=self.named_folder, overwrite=overwrite)
        self.resumed = read_resume(self.folder, model, loader, config) if resume else None
        if self.resumed and config.max_steps < self.resumed.state.step:
            raise ConfigError(
                f"max_steps={config.max_steps} is behind the run, which is at step {self.resumed.state.step}; "
                "name a larger one"
            )
        self.decisions = decide(config, self.resumed)
        self.config = self.decisions.config
        self.objective = NextTokenLoss(model, self.config.loss_chunk, self.config.z_loss)
        self.guards: list[Guard] = [OnlyFinite(self.config.on_nonfinite), *guards]
        self.own_listeners: list[tuple[int, Listener]] = []
        self.sinks, self.report, self.requests = sinks, report, Requests()
        self.asked = Asked(force, skip_doctor, quiet)
        self.at = Progress()
        self.stop_reason: Status | None = None
        self.begun = False
        self.spent, self.trained, self.steps_made = 0.0, 0.0, 0  # seconds, targets and steps of this process
        self.told = 0.0  # when the listeners were done with the last step
        self.listeners: list[tuple[int, Listener]] = []

    def every(self, n: int, listener: Listener) -> None:
        """Call a listener after every n-th step and after the last one. Raises ConfigError for n below 1."""
        check_range("n", n, low=1, integer=True)
        self.own_listeners.append((n, listener))

    def request_stop(self) -> None:
        """End the run after the step that is being made, saved; an evaluation is broken off. From any thread."""
        self.requests.stop, self.stop_reason = True, self.stop_reason or "interrupted"

    def request_save(self) -> None:
        """Save the step that is being made, and go on. From any thread."""
        self.requests.save = True

    def train(self) -> Result:
        """Make the steps that are left. Returns how it ended; never exits the process."""
        note = self._take_folder()
        with self.folder.lock(), self._begin(note) as self.session, self.meter:
            while self.at.step < self.config.max_steps and self.stop_reason is None:
                start, before = time.perf_counter(), self.at
                lr = self.set_learning_rate()
                loss = self.compute_gradients()
                grad_norm = self.meter.clip(self.config.grad_clip)
                self.at = before.after(self.weight)
                times = start, self.read, time.perf_counter()
                attempt = Attempt(loss, grad_norm, lr, self.batch, self.weight, before, times, self.meter.current)
                self.react(self.update(attempt))  # the guards, the optimizer's step, gradients set to none
                if self.is_due():
                    self.react(self.update.settle())
            self.react(self.update.settle())
            complete = self.at.step >= self.config.max_steps
            status: Status = "done" if complete or self.stop_reason is None else self.stop_reason
            return self.session.finish(self.at, status, self.trained / self.spent if self.spent else 0.0)

    def set_learning_rate(self) -> float:
        """The rate of the next update, given to every group."""
        lr = learning_rate(self.at.step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def compute_gradients(self) -> Tensor:
        """Mean nats per token of the next batch, its gradient left in `.grad`.

        Where the first step does not fit into memory, smaller micro-batches are tried.
        """
        tokens, targets = self.batch = self.source.batch(self.at.batches)
        self.weight, self.read = total_weight(targets), time.perf_counter()
        while True:
            generators = rng_state(self.config.device)
            try:
                return self.accumulate(tokens, targets)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                self.model.zero_grad(set_to_none=True)
                set_rng_state(generators, self.config.device)
                self.make_smaller(error)

    def accumulate(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """Each micro-batch adds its sum of nats over the weight of the whole batch: exactly one big batch."""
        loss = torch.zeros((), device=self.config.device)
        size = self.config.micro_batch or len(tokens)
        for x, y in zip(tokens.split(size), targets.split(size), strict=True):
            with autocast(self.config.device, self.config.dtype):
                part = self.objective(x.to(self.config.device), y.to(self.config.device)) / self.weight
            part.backward()
            loss += part.detach()
        return loss

    def make_smaller(self, error: RuntimeError) -> None:
        """Halve the micro-batch, if this is the first step. Raises DeviceError, with the run saved, when that is over.

        The tokens of a step stay the same, and so does its loss.
        """
        smaller = halved(self.config)
        if self.steps_made or smaller is None:
            saved = self.session.save_if_possible(self.at)
            raise DeviceError(out_of_memory(self.config, self.at.step, saved, self.folder.path)) from error
        self.config = replace(self.config, micro_batch=smaller)
        self.decisions = replace(self.decisions, config=self.config)
        self.session.use_micro_batches(smaller)
        self.folder.write_run(run_record(self))

    def judge(self, attempt: Attempt) -> tuple[Proposal, Verdict]:
        """The numbers of an update that is about to be made, and what the guards say to it."""
        proposal = attempt.proposal(self.at.recent)
        return proposal, judge(self.guards, proposal)

    def react(self, judged: Sequence[Judged]) -> None:
        """Tell of steps that were made or skipped; end the run, or go back, where a guard said so."""
        for attempt, proposal, verdict in judged:
            if not proposal.finite:
                self.session.report_nonfinite(self.objective, attempt, proposal, self.source)
            if verdict == "go":
                self.at = replace(self.at, recent=(*self.at.recent, proposal.loss)[-REMEMBERED:])
            if verdict in ("go", "skip"):
                self.tell(attempt, proposal, skipped=verdict == "skip")
                continue
            self.update.forget()
            if verdict == "stop" or not self.roll_back(attempt):
                self.at = attempt.before
                self.stop_reason = "stopped" if proposal.finite else "nonfinite"
            return

    def roll_back(self, attempt: Attempt) -> bool:
        """Go back to the newest good checkpoint and leave out the batches up to this one. Was it done?"""
        if self.at.rollbacks >= self.config.max_rollbacks:
            self.session.say(f"notice   {self.at.rollbacks} times back is enough (train.max_rollbacks)")
            return False
        there = replace(attempt.before, rollbacks=self.at.rollbacks)
        self.at = go_back(self.folder, self.model, self.optimizer, self.config, there)
        self.session.rolled_back(attempt.before.step + 1, self.at)
        return True

    def tell(self, attempt: Attempt, proposal: Proposal, *, skipped: bool) -> None:
        """Call the listeners whose turn it is."""
        seconds = time.perf_counter() - max(attempt.times[0], self.told)
        self.spent += seconds
        self.trained += attempt.weight
        self.steps_made += 1
        n_bytes = self.source.target_bytes(attempt.batch)
        step = step_of(attempt, proposal, n_bytes, seconds, self.yardstick, skipped=skipped)
        for n, listener in self.listeners:
            if (step.number % n == 0 or self.is_last(step.number)) and listener(step) == "stop":
                self.stop_reason = self.stop_reason or "stopped"
        if self.steps_made == self.stop_after and not self.is_last(step.number) and self.stop_reason is None:
            self.request_stop()
        self.told = time.perf_counter()

    def is_last(self, step: int) -> bool:
        """Whether the run ends with this step."""
        return step == self.config.max_steps

    def is_due(self) -> bool:
        """Whether something is to happen after this step that needs to know how it went."""
        return self.is_last(self.at.step) or self.session.is_due(self.at.step)

    def _take_folder(self) -> str | None:
        """Make the folder ours; an earlier run in it is seen to. Returns a line to print when something was moved."""
        if self.begun:
            raise ConfigError("this Trainer has already trained; make another one, with resume=True to go on")
        self.begun = True
        self.outlook = look_ahead(self.model, self.loader, self.config, self.resumed, self.asked)
        check_room(self.folder, self.model, self.config, resumes=self.resumed is not None)
        explicit, overwrite = self.named_folder, self.overwrite
        note = None if self.resumed else self.folder.archive_existing_run(explicit=explicit, overwrite=overwrite)
        self.folder.create()
        return note

    def _begin(self, note: str | None) -> Session:
        """Everything between a folder and the first step: the first moment anything is written."""
        self.stop_after = stop_after()
        self.source = batches_of(self.loader, self.model.config.vocab_size)
        self.folder.remove_stale()
        if self.resumed:
            self.folder.quarantine(self.resumed.damaged)
        self.started = self.resumed.started if self.resumed else None
        record = run_record(self)
        self.started = record["started"]
        self.folder.write_run(record)
        self._put_back_or_seed()
        if self.config.compile == "on":
            self.objective.compile(dynamic=False)
        what = self.folder, self.model, self.dataset, self.optimizer, self.decisions, self.requests
        session = Session(
            *what, record=record, resumed=self.resumed, quiet=self.quiet, sinks=self.sinks, report=self.report
        )
        watched = len(self.guards) > 1 or bool(self.own_listeners)
        self.update = choose_update(self.optimizer, self.judge, self.config, watched=watched)
        self.guards.insert(1, NoSpikes(self.config.on_spike, session.say))
        self.listeners = [*session.listeners(lambda: self.at), *self.own_listeners]
        lines = header(self.model, self.loader, self.decisions, self.outlook, self.folder.path)
        if not session.begin([note, *lines] if note else lines, self.at):
            self.stop_reason = self.stop_reason or "stopped"
        return session

    def _put_back_or_seed(self) -> None:
        """Weights, optimizer and generators as they were left, or as the seed gives them."""
        self.model.to(self.config.device).train()
        self.model.checkpointing = self.config.checkpointing
        self.optimizer = build_optimizer(self.model, self.config)
        self.outlook.treat(self.model, self.optimizer)
        self.meter = StepMetrics(self.model, self.optimizer)
        self.yardstick = Yardstick.of(self.model.config, self.config)
        if self.resumed:
            self.at, self.resumed = start_from(self.resumed, self.model, self.optimizer, self.config.device)
        else:
            seed_everything(self.config.seed)
