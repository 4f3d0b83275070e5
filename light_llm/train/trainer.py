"""The training loop. `Trainer.train` is the algorithm; the rest of the file serves it."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import Files, RunFolder
from ..checkpoint.run_folder import DEFAULT_OUT
from ..config import TrainConfig, check_range
from ..data import Batch, DataLoader, batches_from
from ..errors import ConfigError, DeviceError
from ..model import LightLLM
from ..objective import NextTokenLoss, total_weight
from ..observe import Sink
from ..observe.step_metrics import StepMetrics
from ..optim import build_optimizer, learning_rate
from ..runtime import (
    autocast,
    is_out_of_memory,
    matmul_rate,
    peak_memory,
    rng_state,
    seed_everything,
    set_rng_state,
    stop_after,
)
from .callbacks import Callback, FunctionCallback
from .checkpointer import Checkpointer, built_in_callbacks, check_disk_space
from .guards import Guard, LossSpikeGuard, NonFiniteGuard, find_nonfinite, run_guards
from .messages import (
    Output,
    header,
    micro_batch_halved,
    nonfinite_step,
    out_of_memory,
    report_line,
    resume_lines,
    summary,
)
from .preflight import check_fit, decide, run_preflight, smaller_micro_batch
from .resume import read_resume_state, read_saved_run, restore, rollback_to_checkpoint
from .run_metadata import make_run, run_record
from .state import Result, RunOptions, Status, StopFlag, TrainState
from .step import GuardAction, PendingStep, Step, StepQueue, Throughput

BUILT_IN_GUARDS = 2


@dataclass(frozen=True)
class RunningParts:
    """The parts of a running training, which are made at its start."""

    optimizer: torch.optim.Optimizer
    metrics: StepMetrics
    queue: StepQueue
    throughput: Throughput
    output: Output


class Trainer:
    """Trains a model on a loader, into a run folder.

    Args:
        model: moved to the device and trained in place.
        loader: from `create_dataloader`. Any iterable of (tokens, targets) works too, but without held-out evaluation,
            tokenizer in the checkpoint and exact resume; the header says so.
        config: the training settings; single ones can be given by name instead, as in `max_steps=1000`.
        out: the run folder. By default `checkpoints`, where an earlier run is moved away first; a folder that is named
            here and holds a run is refused unless `resume` or `overwrite` is given.
        resume: continue the run in `out` from its newest checkpoint; settings that are not given stay as they were.
        overwrite: replace the run in `out`.
        quiet: print nothing.
        guards: called before each update, after the built-in guards, which reject steps that are not finite.
        sinks: functions that get each row of metrics, in threads of their own; one that fails is dropped.
        report: write `report.html` at the end.
        force: start a run that does not fit into memory.
        skip_doctor: do not check that the device computes correctly, which is done once per device and torch.
        files: file operations, for tests of faults.

    Raises:
        ConfigError: an unknown setting, or a model that does not fit the data; from `train`, too little memory.
        CheckpointError: the folder holds a run, or no intact checkpoint to resume from.
        DeviceError: this machine does not have the device, or the device computes wrong results.
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
        self.options = RunOptions(out is not None, overwrite, quiet, report, force, skip_doctor, sinks)
        self.folder = RunFolder(out if out is not None else DEFAULT_OUT, files)
        if resume and config is None:
            config = replace(read_saved_run(self.folder).run.train, device="auto", dtype="auto", compile="auto")
        config = (config or TrainConfig()).with_changes(changes)
        if isinstance(loader, DataLoader):
            check_fit(model.config, loader, changes)
            config = replace(config, batch_size=loader.batch_size)
        if not resume:
            self.folder.ensure_folder_available(explicit=self.options.explicit_out, overwrite=overwrite)
        self.model, self.batches = model, batches_from(loader, model.config.vocab_size)
        self.resumed = read_resume_state(self.folder, model, self.batches, config) if resume else None
        if self.resumed and config.max_steps < self.resumed.state.step:
            raise ConfigError(
                f"max_steps={config.max_steps} is behind the run, which is at step {self.resumed.state.step}; "
                "name a larger one"
            )
        self.config, self.decisions = decide(config, self.resumed)
        self.objective = NextTokenLoss(model, self.config.loss_chunk, self.config.z_loss)
        self.state, self.stop_flag = TrainState(), StopFlag(stop_after=stop_after())
        spikes = LossSpikeGuard(self.config.on_spike, self.say)
        self.guards: list[Guard] = [NonFiniteGuard(self.config.on_nonfinite), spikes, *guards]
        self.checkpointer = Checkpointer(self, self.folder, self.resumed)
        self.callbacks = built_in_callbacks(self, self.checkpointer, self.resumed)
        self.parts: RunningParts | None = None  # set while and after the run

    def every(self, n: int, function: Callable[[Step], str | None]) -> None:
        """Call a function after every n-th step and after the last one. It ends the run by returning "stop"."""
        self.add_callback(FunctionCallback(function), every=n)

    def add_callback(self, callback: Callback, *, every: int = 1, before: type[Callback] | None = None) -> None:
        """Run a callback after every n-th step and after the last one.

        Args:
            before: the class of the callback to insert it before, such as `EvaluateHeldOut`; by default it runs last.
                The built-in order is LogMetrics, ProbeModel, Checkpointer, EvaluateHeldOut, WriteSample.

        Raises:
            ConfigError: `every` is below 1, or this run has no callback of that class.
        """
        check_range("n", every, low=1, integer=True)
        found = (i for i, (_, other) in enumerate(self.callbacks) if before and isinstance(other, before))
        place = next(found, None if before else len(self.callbacks))
        if place is None:
            raise ConfigError(f"this run has no callback {before}; it has {[type(c) for _, c in self.callbacks]}")
        self.callbacks.insert(place, (every, callback))

    def request_stop(self) -> None:
        """End the run after the current step, with a checkpoint; cancel a running evaluation. From any thread."""
        self.stop_flag.cancel = True
        self.stop_flag.stop("interrupted")

    def request_save(self) -> None:
        """Save a checkpoint after the current step, and continue. From any thread."""
        self.stop_flag.save = True

    def train(self) -> Result:
        """Run the remaining steps. Returns how the run ended; never exits the process."""
        with self._start() as run:
            while self.state.step < self.config.max_steps and self.stop_flag.status is None:
                started = time.perf_counter()
                lr = self.set_learning_rate()
                batch = self.batches.batch(self.state.batches)
                n_targets = total_weight(batch.targets)
                loaded = time.perf_counter()
                loss = self.compute_gradients(batch, n_targets)
                grad_norm = run.metrics.clip(self.config.grad_clip)

                times = started, loaded, time.perf_counter()
                step = PendingStep(self.state, batch, n_targets, lr, loss, grad_norm, run.metrics.current, times)
                self.state = self.state.next(n_targets)
                run.queue.push(step)
                # On CUDA the queue is gated: the device drops a non-finite update, and the guards run a step later.
                if run.queue.gated or self.check(step) == "go":
                    run.optimizer.step()
                run.optimizer.zero_grad(set_to_none=True)

                self.finish_steps(flush=False)
                if self.needs_flush():
                    self.finish_steps(flush=True)
            self.finish_steps(flush=True)
            return self._finish()

    def set_learning_rate(self) -> float:
        """Give the rate of the next update to every parameter group. Returns it."""
        lr = learning_rate(self.state.step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def compute_gradients(self, batch: Batch, n_targets: float) -> Tensor:
        """Set `.grad` to the gradient of the mean loss per token. Returns the loss, (), in nats.

        Halves the micro-batch for as long as the first step does not fit into memory.
        """
        while True:
            rng = rng_state(self.config.device)
            try:
                return self.accumulate(batch, n_targets)
            except RuntimeError as error:
                if not is_out_of_memory(error):
                    raise
                # The next try must not add to half a gradient, nor draw another dropout mask.
                self.model.zero_grad(set_to_none=True)
                set_rng_state(rng, self.config.device)
                self.halve_micro_batch(error)

    def accumulate(self, batch: Batch, n_targets: float) -> Tensor:
        """Add up the gradients of the micro-batches. Returns the loss of the whole batch, ().

        Each micro-batch adds its sum over the targets of the whole batch, so the result equals one big batch.
        """
        device = self.config.device
        loss = torch.zeros((), device=device)
        size = self.config.micro_batch or len(batch.tokens)
        for tokens, targets in zip(batch.tokens.split(size), batch.targets.split(size), strict=True):
            with autocast(device, self.config.dtype):
                part = self.objective(tokens.to(device), targets.to(device)) / n_targets
            part.backward()
            loss += part.detach()
        return loss

    def halve_micro_batch(self, error: RuntimeError) -> None:
        """Halve the micro-batch in the first step; the tokens of a step stay the same, and so does its loss.

        Raises:
            DeviceError: it cannot be smaller, or this is a later step. The run is saved first.
        """
        smaller = smaller_micro_batch(self.config)
        if self._parts.throughput.steps or smaller is None:
            saved = self.checkpointer.save_if_possible()
            raise DeviceError(out_of_memory(self.config, self.state.step, saved, self.folder.path)) from error
        self.config = replace(self.config, micro_batch=smaller)
        run = make_run(self.model.config, self.batches, self.config)
        self.folder.write_run({**self.folder.read_run(), "run": run.to_dict()})
        self.say(*micro_batch_halved(self.config))

    def check(self, pending: PendingStep) -> GuardAction:
        """Read the numbers of a step and run the guards, once. On a GPU this waits for the device."""
        if pending.action is None:
            pending.step = pending.read(self.state.recent_losses)
            pending.action = run_guards(self.guards, pending.step)
        return pending.action

    def needs_flush(self) -> bool:
        """Return whether a callback needs the current weights, so that no step may stay in the queue."""
        c, step = self.config, self.state.step
        intervals = (c.save_interval, c.eval_interval, c.probe_interval, c.sample_interval)
        due = any(step % n == 0 for n in intervals if n)
        return step == c.max_steps or self.checkpointer.is_requested() or due

    def finish_steps(self, *, flush: bool) -> None:
        """Report the steps whose updates were applied or skipped; end the run or roll back if a guard says so."""
        queue = self._parts.queue
        while pending := queue.pop(flush=flush):
            action = self.check(pending)
            step = pending.step
            assert step is not None, "check reads the numbers"
            if not step.finite:
                place = self.batches.describe(pending.before.batches)
                first = find_nonfinite(self.objective, pending.batch, self.config)
                self.say(*nonfinite_step(step, place, first))
            if action == "go":
                self.state = self.state.with_loss(step.loss)
            if action in ("go", "skip"):
                self.notify(pending, step, skipped=action == "skip")
                continue
            queue.discard()
            if action == "stop" or not self.rollback(pending):
                self.state = replace(pending.before, recent_losses=self.state.recent_losses)
                self.stop_flag.stop("stopped" if step.finite else "nonfinite")

    def notify(self, pending: PendingStep, step: Step, *, skipped: bool) -> None:
        """Run the callbacks that are due after a step."""
        throughput = self._parts.throughput
        n_bytes = self.batches.target_bytes(pending.batch)
        step = pending.complete(step, throughput, skipped=skipped, n_bytes=n_bytes, clip=self.config.grad_clip)
        is_last = step.number == self.config.max_steps
        for every, callback in self.callbacks:
            if (step.number % every == 0 or is_last) and callback.on_step(step) == "stop":
                self.stop_flag.stop("stopped")
        if throughput.steps == self.stop_flag.stop_after and not is_last and self.stop_flag.status is None:
            self.request_stop()
        throughput.callbacks_done = time.perf_counter()

    def rollback(self, pending: PendingStep) -> bool:
        """Restore the newest checkpoint and continue after this step's batch. Returns False at `max_rollbacks`."""
        if self.state.rollbacks >= self.config.max_rollbacks:
            self.say(f"notice   {self.state.rollbacks} times back is enough (train.max_rollbacks)")
            return False
        before = replace(pending.before, rollbacks=self.state.rollbacks)
        self.state = rollback_to_checkpoint(self.folder, self.model, self.optimizer, self.config, before)
        for _, callback in self.callbacks:
            callback.on_rollback(before.step + 1, self.state)
        self.say(f"rollback to step {self.state.step}, past the batches up to number {self.state.batches - 1:,}")
        return True

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of the running training."""
        return self._parts.optimizer

    def say(self, *lines: str) -> None:
        """Print lines, and append them to the log."""
        self._parts.output.say(*lines)

    def write_row(self, row: dict[str, Any]) -> None:
        """Hand a row to every sink."""
        self._parts.output.write_row(row)

    @property
    def _parts(self) -> RunningParts:
        assert self.parts is not None, "the run has not started"
        return self.parts

    @contextmanager
    def _start(self) -> Iterator[RunningParts]:
        """Check the run, take its folder, restore or seed the state, and open the outputs; close them at the end."""
        if self.parts is not None:
            raise ConfigError("this Trainer has already trained; make another one, with resume=True to go on")
        config, dataset, options = self.config, self.batches.dataset, self.options
        report = run_preflight(self.model, dataset, config, self.resumed, options)
        check_disk_space(self.folder, self.model, config, resumes=self.resumed is not None)
        lines = header(self.model.config, dataset, config, self.decisions, report, self.folder.path)
        lines += resume_lines(self.resumed) if self.resumed else []
        if not self.resumed and (
            moved := self.folder.archive_existing_run(explicit=options.explicit_out, overwrite=options.overwrite)
        ):
            lines.insert(0, moved)
        self.folder.create()
        with self.folder.lock():
            self.folder.remove_stale()
            self.folder.quarantine(self.resumed.saved.damaged if self.resumed else [])
            run = make_run(self.model.config, self.batches, config)
            record = run_record(run, dataset, self.decisions, report, self.resumed)
            self.folder.write_run(record)
            resumed_at = self.resumed.state.step if self.resumed else None
            optimizer, throughput = self._restore_or_seed()
            # A caller's guard or callback has to see a step before the next one starts.
            deferrable = len(self.guards) == BUILT_IN_GUARDS and not any(c.synchronous for _, c in self.callbacks)
            try:
                with (
                    StepMetrics(self.model, optimizer) as metrics,
                    Output(self.folder, options, record, total_steps=config.max_steps, resumed_at=resumed_at) as output,
                ):
                    queue = StepQueue(optimizer, config, deferrable)
                    self.parts = RunningParts(optimizer, metrics, queue, throughput, output)
                    self.say(*lines)
                    for _, callback in self.callbacks:
                        if callback.on_start() == "stop":
                            self.stop_flag.stop("stopped")
                    yield self.parts
            finally:
                self.folder.restore_previous_run()

    def _restore_or_seed(self) -> tuple[torch.optim.Optimizer, Throughput]:
        """Move the model to the device, build its optimizer, and restore both, or seed the generators of a new run."""
        config = self.config
        self.model.to(config.device).train()
        self.model.checkpointing = config.checkpointing
        optimizer = build_optimizer(self.model, config)
        # Measuring the device draws random numbers, so it comes before the generators are set.
        throughput = Throughput(self.model.config, matmul_rate(config.device, config.dtype))
        if self.resumed:
            self.state = restore(self.resumed.checkpoint, self.model, optimizer, config.device)
            self.resumed = None  # its tensors take three times the memory of the model
        else:
            seed_everything(config.seed)
        if config.compile == "on":
            self.objective.compile(dynamic=False)
        return optimizer, throughput

    def _finish(self) -> Result:
        """Let the callbacks save and evaluate the last step, write the report, and print the summary."""
        output, throughput = self._parts.output, self._parts.throughput
        output.console.pause()
        complete = self.state.step >= self.config.max_steps
        status: Status = "done" if complete else self.stop_flag.status or "done"
        for _, callback in self.callbacks:
            callback.on_end(status)
        result = Result(
            # A run whose last evaluation was cancelled can be resumed to make it, even after the last step.
            status="interrupted" if self.stop_flag.evaluation_cancelled else status,
            step=self.state.step,
            best_loss=self.checkpointer.best.loss,
            best_step=self.checkpointer.best.step,
            folder=self.folder.path,
            seconds=time.perf_counter() - throughput.started,
            tokens_per_second=throughput.tokens_per_second,
            peak_memory=peak_memory(),
        )
        output.write_end(result)
        report = [report_line(self.folder)] if self.options.report and self.state.step else []
        self.say(*summary(result, self.config, report))
        if self.folder.restore_previous_run():
            self.say(f"kept     the earlier run in {self.folder.path}: the new one left no checkpoint")
        return result
