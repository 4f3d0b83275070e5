"""The outward side of a training: all that is written into the run folder or said, and the listeners that do it."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import torch

from ..checkpoint import RunFolder, StepState, write_model_file, write_step
from ..data import TokenDataset
from ..errors import LightLLMError
from ..model import LightLLM
from ..objective import NextTokenLoss
from ..observe import BackgroundSink, Console, JsonLines, Sink
from ..observe.tracking import start_tracker
from ..runtime import peak_memory, rng_state
from .batches import Batches
from .closing import report_line
from .diagnose import NOTHING, first_nonfinite
from .guards import Proposal
from .listeners import Best, EvaluateHeldOut, Listener, Log, MeanTrainingLoss, Step, WriteSample
from .notices import nonfinite, summary
from .probing import ProbeModel
from .progress import Progress
from .record import Decisions, model_meta, step_record
from .requests import Requests
from .result import Result, Status
from .resume import Resumed
from .room import check_room_for_step, no_room, step_bytes
from .update import Attempt


class Session:
    """Opens the run folder's files; a context manager, which closes them.

    Args:
        requests: what is asked from outside while the run goes on.
        record: run.json.
        sinks: what others want to do with the rows.
        report: whether to write `report.html` at the end.
    """

    def __init__(
        self,
        folder: RunFolder,
        model: LightLLM,
        dataset: TokenDataset | None,
        optimizer: torch.optim.Optimizer,
        decisions: Decisions,
        requests: Requests,
        *,
        record: dict[str, Any],
        resumed: Resumed | None,
        quiet: bool,
        sinks: Sequence[Sink] = (),
        report: bool = True,
    ) -> None:
        self.folder, self.model, self.dataset, self.optimizer = folder, model, dataset, optimizer
        self.config, self.run, self.resumed = decisions.config, step_record(record), resumed
        self.requests, self.report = requests, report
        self.started = self.last_save = time.perf_counter()
        self.saved_step = resumed.state.step if resumed else None
        best_loss, best_step = (resumed.best if resumed else None) or (None, None)
        self.best = Best(self.write_best, best_loss, best_step)
        self.console = Console(total=self.config.max_steps, log=folder.log, quiet=quiet)
        keep = resumed.state.step if resumed else None
        self.metrics = JsonLines(folder.metrics, keep=keep, warn=self.say, files=folder.files)
        self.trackers = [BackgroundSink.of(sink, self.say) for sink in sinks]
        self.trackers += start_tracker(decisions.tracker.value, folder.path, record, keep or 0, self.say)
        self.sinks: list[Sink] = [self.console, self.metrics, *self.trackers]
        self.evaluate = self._evaluation()

    def listeners(self, at: Callable[[], Progress]) -> list[tuple[int, Listener]]:
        """Log, look inside, save, evaluate, sample, each with its interval. Save comes before what may take long.

        Args:
            at: where the run stands.
        """
        config = self.config
        listeners: list[tuple[int, Listener]] = [
            (1, Log(self.sinks)),
            (config.save_interval, lambda _: self.save(at())),
            (1, lambda step: self.save_if_due(step, at())),
        ]
        if self.dataset is None:
            return [*listeners, (1, self.evaluate)]
        listeners.append((config.eval_interval, self.evaluate))
        if config.probe_interval:
            look = ProbeModel(self.model, self.dataset, self.sinks, config, self.say)
            listeners.insert(1, (config.probe_interval, look))  # its row is there when the step is saved
        if config.sample_interval:
            sample = WriteSample(self.model, self.dataset, self.sinks, requests=self.requests)
            listeners.append((config.sample_interval, sample))
        return listeners

    def begin(self, lines: Sequence[str], at: Progress) -> bool:
        """Say what the run is, and make up for what a killed run had begun. Returns False if it is over already."""
        for line in lines:
            self.say(line)
        if self.resumed is None:
            if "rollback" in (self.config.on_nonfinite, self.config.on_spike):
                self.save(at)  # something to go back to
            return True
        for problem in [*(damaged.what for damaged in self.resumed.damaged), *self.resumed.problems]:
            self.say(f"notice   {problem}: not used", style="bold")
        self.say(f"resumed  at step {at.step} from {self.resumed.path}")
        self.catch_up(at.step)
        return not self.patience_is_over(at.step)

    def catch_up(self, step: int) -> None:
        """A run that was killed between its save and its evaluation of the same step makes the evaluation now."""
        if self.resumed is None or self.dataset is None or self.resumed.evaluated:
            return
        if step % self.config.eval_interval == 0 or step == self.resumed.max_steps:
            self.evaluate.at(step)

    def patience_is_over(self, step: int) -> bool:
        """Whether a resumed run had already come to its early end."""
        return isinstance(self.evaluate, EvaluateHeldOut) and self.evaluate.waited_enough(step)

    def say(self, line: str, style: str = "") -> None:
        """A line on the screen and in the log."""
        self.console.say(line, style)

    def save(self, at: Progress) -> None:
        """Commit a step folder for the step just made, then drop those no longer needed.

        Raises:
            CheckpointError: it cannot be written; the older ones are as they were.
        """
        path, needed = self.folder.step_path(at.step), step_bytes(self.model, self.config)
        check_room_for_step(self.folder, path, needed)
        horizon = self.config.lr_horizon or self.config.max_steps
        best = self.best.loss, self.best.step
        with suppress(OSError):  # rows that cannot be written wait; those that were go with the step
            self.folder.files.sync(self.folder.metrics)
        try:
            write_step(
                path,
                model=self.model,
                optimizer=self.optimizer,
                rng=rng_state(self.config.device),
                state=StepState(at.step, at.tokens, at.batches, horizon, *best, at.rollbacks, at.recent),
                meta=self._meta(at.step, None),
                run=self.run,
                files=self.folder.files,
            )
        except OSError as error:
            raise no_room(self.folder, path, needed, error.strerror or str(error)) from error
        self.saved_step, self.last_save = at.step, time.perf_counter()
        self.folder.remove_previous_run()
        self.folder.prune(every=self.config.save_interval, keep_every=self.config.keep_every)

    def is_due(self, step: int) -> bool:
        """Whether something is to happen after this step that needs the weights as they are then."""
        c = self.config
        intervals = (c.save_interval, c.eval_interval, c.probe_interval, c.sample_interval)
        return self.save_is_due() or any(step % n == 0 for n in intervals if n)

    def save_is_due(self) -> bool:
        """Whether somebody asked for a save, or the last one is too long ago."""
        waited = time.perf_counter() - self.last_save
        return self.requests.save or 0 < self.config.save_minutes * 60 <= waited

    def save_if_due(self, step: Step, at: Progress) -> None:
        """Save between the regular saves; only where the weights are those after the step that is told of."""
        if step.number != at.step or not self.save_is_due():
            return
        asked, self.requests.save = self.requests.save, False
        if self.saved_step != at.step:
            self.save(at)
        if asked:
            self.say(f"saved    step {at.step}, as it was asked for, in {self.folder.step_path(at.step)}")

    def save_if_possible(self, at: Progress) -> bool:
        """Save the last step that was made, when the run is about to end with an error. Is it saved?"""
        if self.saved_step != at.step and at.step:
            with suppress(RuntimeError, LightLLMError):
                self.save(at)
        return self.saved_step == at.step

    def write_best(self, step: int, evaluation: dict[str, Any] | None) -> None:
        """Write the model as it is to `best_model.pt`. Raises CheckpointError; the older one is as it was."""
        meta, path = self._meta(step, evaluation), self.folder.best_model
        try:
            write_model_file(path, self.model.state_dict(), meta, self.folder.files)
        except OSError as error:
            needed = 4 * sum(p.numel() for p in self.model.parameters())
            raise no_room(self.folder, path, needed, error.strerror or str(error)) from error
        self.folder.remove_previous_run()

    def use_micro_batches(self, size: int) -> None:
        """A step did not fit into memory: go on with fewer sequences at a time."""
        self.config = replace(self.config, micro_batch=size)
        self.run = {**self.run, "run": {**self.run["run"], "train": {**self.run["run"]["train"], "micro_batch": size}}}
        if isinstance(self.evaluate, EvaluateHeldOut):
            self.evaluate.how["batch_size"] = size
        of = self.config.batch_size
        self.say(f"memory   {of} sequences at once do not fit: {size} at a time from now on, the same {of} a step;")
        self.say("         the loss is the same")

    def report_nonfinite(self, objective: NextTokenLoss, attempt: Attempt, proposal: Proposal, source: Batches) -> None:
        """Say which step is not finite, on what text, and where it began."""
        size = self.config.micro_batch or len(attempt.batch.tokens)
        where = {"device": self.config.device, "dtype": self.config.dtype}
        for tokens, targets in zip(*(part.split(size) for part in attempt.batch), strict=True):
            first = first_nonfinite(objective, tokens, targets, **where)
            if not first.startswith(NOTHING):
                break
        for line in nonfinite(proposal, source.place(attempt.before.batches), first):
            self.say(line)

    def rolled_back(self, from_step: int, at: Progress) -> None:
        """The run went back: what was evaluated after that step is to be evaluated again."""
        self.saved_step = at.step
        self.evaluate.forget(at.step)
        for sink in self.sinks:
            sink({"kind": "rollback", "step": at.step, "from_step": from_step, "batches": at.batches})
        self.say(f"rollback to step {at.step}, past the batches up to number {at.batches - 1:,}")

    def finish(self, at: Progress, status: Status, tokens_per_second: float) -> Result:
        """Leave the folder complete and say what comes next. After a step that is not finite nothing is saved."""
        self.console.pause()
        if status != "nonfinite" and at.step:
            if self.saved_step != at.step:
                self.save(at)
            if status == "stopped" or self.dataset is None:
                self.evaluate.at(at.step)
            if self.requests.evaluation_left:  # there is something to go on with, also after the last step
                status = "interrupted"
            if self.best.loss is None:  # no evaluation yet: the weights as they are, so that there is a model
                self.write_best(at.step, None)
        result = Result(
            status=status,
            step=at.step,
            best_loss=self.best.loss,
            best_step=self.best.step,
            folder=self.folder.path,
            seconds=time.perf_counter() - self.started,
            tokens_per_second=tokens_per_second,
            peak_memory=peak_memory(),
        )
        end = {"status": status, "seconds": result.seconds, "memory": result.peak_memory}
        for sink in self.sinks:
            sink({"kind": "end", "step": at.step, **end, "tok_per_sec": tokens_per_second})
        report = [report_line(self.folder)] if self.report and at.step else []
        for line in summary(result, self.config, report):
            self.console.say(line)
        if self.folder.restore_previous_run():
            self.console.say(f"kept     the earlier run in {self.folder.path}: the new one left no checkpoint")
        return result

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        """Close the files; the screen is given back."""
        for tracker in self.trackers:
            tracker.close()
        self.metrics.close()
        self.console.close()
        self.folder.restore_previous_run()

    def _evaluation(self) -> EvaluateHeldOut | MeanTrainingLoss:
        if self.dataset is None:
            return MeanTrainingLoss(every=self.config.eval_interval, best=self.best, sinks=self.sinks)
        evaluation = EvaluateHeldOut(
            self.model,
            self.dataset,
            batch_size=self.config.micro_batch or self.config.batch_size,
            dtype=self.config.dtype,
            best=self.best,
            sinks=self.sinks,
            patience=self.config.patience * self.config.eval_interval or None,
            say=self.console.say,
            requests=self.requests,
        )
        if self.resumed and self.resumed.evaluated:
            evaluation.last = self.resumed.state.step
        return evaluation

    def _meta(self, step: int, evaluation: dict[str, Any] | None) -> dict[str, Any]:
        found = model_meta(self.model, self.dataset, step=step, dtype=self.config.dtype, evaluation=evaluation)
        return found | ({"init_from": self.config.init_from} if self.config.init_from else {})
