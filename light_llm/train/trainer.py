"""The training loop. `Trainer.train` is the algorithm, and the methods after it are its steps."""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..atomic_io import NullFiles
from ..checkpoint import Files, RunFolder
from ..checkpoint.run_folder import DEFAULT_OUT
from ..config import ModelConfig, Run, TrainConfig, check_range, get_model_size
from ..config.tensor_parallel import check_tensor_parallel
from ..data import Batch, DataLoader, TokenDataset, Tokenizer, batches_from
from ..errors import ConfigError, as_keywords
from ..model import LightLLM
from ..objective import NextTokenLoss
from ..observe import Sink
from ..observe.nonfinite import find_nonfinite
from ..optim import learning_rate
from ..parallel import Parallel
from ..plan.plan import check_batch
from ..runtime import World, autocast, preserved_rng, stop_after
from . import arguments, messages, preflight
from .agreement import StepTotals, StopFlag, agree_on_action, share_step
from .callbacks import Callback, FunctionCallback, Guard, LossSpikeGuard, NonFiniteGuard, run_callbacks, run_guards
from .checkpointer import Checkpointer
from .evaluation import built_in_callbacks
from .finish import finish
from .out_of_memory import accumulate_within_memory
from .preflight import RunOptions
from .rescue import save_on_exception, wait_for_first
from .saved_run import finished_step, load_finished, read_newest, read_resume_state, read_saved_run, restore
from .start import ActiveRun, start_run
from .step import GuardAction, PendingStep, Result, Step, TrainState

BUILT_IN_GUARDS = 2  # NonFiniteGuard and LossSpikeGuard, which a gated queue can run a step late


class Trainer:
    """Trains a model on a loader, into a run folder.

    Args:
        model: moved to the device and trained in place; or a ModelConfig, whose model is built with the run's seed.
        loader: from `create_dataloader`, or a dataset, whose windows are ordered by the run's seed. Any iterable of
            (tokens, targets) works too, but without held-out evaluation, tokenizer in the checkpoint and exact resume;
            the header says so.
        config: the training settings; single ones can be given by name instead, as in `max_steps=1000`. `seed` is that
            of the weights, of dropout and of the order: `Trainer(config, dataset, seed=1)` uses it for all three, and a
            ready model or loader with another seed is refused. torch's global generators are left as they were.
        out: the run folder. By default `checkpoints`, where an earlier run is moved away first; a folder that is named
            here and holds a run is refused unless `resume` or `overwrite` is given.
        tokenizer: of the ids of a loader of your own; with it the checkpoint can generate and be exported.
        val_loader: held-out batches beside a loader of your own; the best model has the lowest loss on them.
        resume: continue the run in `out` from its newest checkpoint; settings that are not given keep their values.
        overwrite: replace the run in `out`.
        quiet: print nothing.
        guards: called before each update, after the built-in ones for steps that are not finite and loss spikes.
        sinks: functions that get each row of metrics, in threads of their own; one that fails is dropped.
        report: write `report.html` at the end.
        force: start a run that does not fit into memory.
        skip_doctor: do not check that the device computes correctly, which is done once per device and torch.
        files: file operations, for tests of faults.
        model_files: those that travel with a published model (`ModelFile.files`); a resumed run keeps its own.
        world: the processes of the run; by default those that torchrun or a scheduler has started, if any. All of them
            run the same program. Rank 0 alone writes, prints and decides; the others need no run folder.
        spell: how messages name options: `errors.as_keywords`, or `errors.as_flags` on the command line.

    Raises:
        ConfigError: an unknown setting, or a model that does not fit the data; from `train`, too little memory.
        CheckpointError: the folder holds a run, or no intact checkpoint to resume from.
        DeviceError: this machine does not have the device, or the device computes wrong results.
    """

    def __init__(
        self,
        model: LightLLM | ModelConfig,
        loader: DataLoader | TokenDataset | Iterable[tuple[Tensor, Tensor]],
        config: TrainConfig | None = None,
        *,
        out: str | Path | None = None,
        tokenizer: Tokenizer | None = None,
        val_loader: Iterable[tuple[Tensor, Tensor]] | None = None,
        resume: bool = False,
        overwrite: bool = False,
        quiet: bool = False,
        guards: Sequence[Guard] = (),
        sinks: Sequence[Sink] = (),
        report: bool = True,
        force: bool = False,
        skip_doctor: bool = False,
        files: Files | None = None,
        model_files: Mapping[str, bytes] | None = None,
        world: World | None = None,
        spell: Callable[[str], str] = as_keywords,
        **changes: Any,
    ) -> None:
        self.world = world = world or arguments.find_world(config, changes)
        self.options = RunOptions(out is not None, resume, overwrite, quiet, report, force, skip_doctor, sinks, spell)
        arguments.check_outputs(out, guards, sinks)
        if not world.is_first:
            self.options, files = self.options.of_other_rank(), NullFiles()
        self.folder = RunFolder(out if out is not None else DEFAULT_OUT, files)
        model, self.notes = arguments.unwrap(model)
        arguments.check_arguments(model, loader, config)
        tokenizer = arguments.check_companions(model, loader, tokenizer, val_loader)
        saved = read_saved_run(self.folder, world) if resume else None
        if saved and config is None:
            # "auto" prefers the values of the last process, and lets a machine without its device choose another one.
            config = replace(saved.run.train, device="auto", dtype="auto", compile="auto")
        self.asked: dict[str, Any] = saved.asked if saved else {}  # by the command line, which sets it
        if saved:
            arguments.refuse_epochs(changes, loader)
            config = (config or TrainConfig()).with_changes(changes)
        else:
            config = arguments.choose_settings(config, changes, model, loader)
        model, loader = arguments.build(model, loader, config, saved.run.data.seed if saved else config.seed)
        check_tensor_parallel(model.config, config, world.size)
        if isinstance(loader, DataLoader):
            preflight.check_fit(model.config, loader, changes)
            config = replace(config, batch_size=loader.batch_size)
            check_batch(config, world.size)
        # Before the caller waits for checks that take seconds.
        if not (saved and saved.step):
            explicit = self.options.explicit_out
            world.of_first(lambda: self.folder.ensure_folder_available(explicit=explicit, overwrite=overwrite))
        self.model, self.batches = model, batches_from(loader, model.config.vocab_size, tokenizer)
        preflight.compare_with_other_ranks(world, model.config, config, self.batches)
        self.val_loader = val_loader
        self.resumed = self.finished = None
        if saved and saved.step:
            self.resumed = read_resume_state(self.folder, saved, model, self.batches, config, world)
            self.finished = finished_step(self.folder, saved, config.max_steps, world)
        self.model_files = arguments.files_of_model(self.resumed, model_files, self.batches.tokenizer)
        self.config, self.decisions = preflight.decide(config, self.resumed, world)
        self.objective = NextTokenLoss(model, self.config.loss_chunk, self.config.z_loss)
        self.state, self.stop_flag = TrainState(), StopFlag(world, world.of_first(stop_after))
        spikes = LossSpikeGuard(self.config.on_spike, self.say)
        self.guards: list[Guard] = [NonFiniteGuard(self.config.on_nonfinite), spikes, *guards]
        self.checkpointer = Checkpointer(self, self.folder, self.resumed)
        self.callbacks = built_in_callbacks(self)
        # How the processes share the work, and the run's parts: set at its start.
        self.parallel = Parallel(self.objective, world, replace(self.config, compile="off"))
        self.active: ActiveRun | None = None
        self.memory: int | None = None  # bytes, of the rank with the highest peak so far; None with one process

    def __repr__(self) -> str:
        size = get_model_size(self.model.config)
        return f"Trainer({size:,} parameters, {self.config.max_steps:,} steps, out={self.folder.path})"

    def every(self, n: int, function: Callable[[Step], str | None]) -> None:
        """Call a function after every n-th step and after step `max_steps`. It ends the run by returning "stop"."""
        self.add_callback(FunctionCallback(function), every=n)

    def add_callback(self, callback: Callback, *, every: int = 1, before: type[Callback] | None = None) -> None:
        """Run a callback after every n-th step and after step `max_steps`.

        Args:
            before: the class of the callback to insert it before, such as `EvaluateHeldOut`; by default it runs last.
                The built-in order is LogMetrics, ProbeModel, Checkpointer, EvaluateHeldOut, WriteSample.

        Raises:
            ConfigError: `every` is below 1, `callback` is no Callback, or this run has none of the class `before`.
        """
        if not hasattr(callback, "on_step"):
            kind = f"a {type(callback).__name__} is not a light_llm.train.Callback"
            raise ConfigError(f"{kind}; for a function use trainer.every(n, function)")
        check_range("every", every, low=1, integer=True)
        found = (i for i, (_, other) in enumerate(self.callbacks) if before and isinstance(other, before))
        place = next(found, None if before else len(self.callbacks))
        if place is None:
            names = [type(callback).__name__ for _, callback in self.callbacks]
            raise ConfigError(f"this run has no callback {before and before.__name__}; it has {', '.join(names)}")
        self.callbacks.insert(place, (every, callback))

    def request_stop(self) -> None:
        """End the run after the current step, with a checkpoint; cancel a running evaluation. On any rank or thread."""
        self.stop_flag.request("interrupt")

    def request_save(self) -> None:
        """Save a checkpoint after the current step, and continue. On any rank or thread."""
        self.stop_flag.request("save")

    def train(self) -> Result:
        """Run the remaining steps. Returns how the run ended; never exits the process.

        If an exception ends the run, the last whole step is saved, and a note on the exception says where.
        Inside, dropout draws from torch's global generators, seeded by the run; afterwards they are as before.
        """
        if self.finished is not None:
            return load_finished(self, self.finished)
        device, world = self.config.device, self.world
        with wait_for_first(world), preserved_rng(device), start_run(self) as run, save_on_exception(self):
            while self.state.step < self.config.max_steps and self.stop_flag.status is None:
                started = time.perf_counter()
                run.progress.begin(self.state, self.config.device)
                lr = self.set_learning_rate()
                batch, n_targets = run.reader.read(self.state.batches)
                if batch is None:
                    self.say(messages.loader_ended(self.state, self.config))
                    self.stop_flag.stop("stopped")
                    break
                loaded = time.perf_counter()
                loss = self.compute_gradients(batch, n_targets)
                grad_norm = run.metrics.clip(self.config.grad_clip)
                loss, n_bytes, self.memory = self.share_step(loss, batch)

                times = started, loaded, time.perf_counter()
                norms = run.metrics.current
                step = PendingStep(self.state, batch, n_targets, lr, loss, grad_norm, norms, times, n_bytes)
                self.state = self.state.next(n_targets)
                run.queue.push(step)
                # With a gated queue (on CUDA) the device drops a non-finite update, and the guards run a step later.
                action = "go" if run.queue.gated else self.check(step)
                if action == "go":
                    with run.progress.change():
                        run.optimizer.step()
                elif action == "skip":
                    run.progress.before = None
                run.optimizer.zero_grad(set_to_none=True)

                self.finish_steps(flush=False)
                if self.needs_flush():
                    self.finish_steps(flush=True)
            self.finish_steps(flush=True)
            return finish(self)

    def set_learning_rate(self) -> float:
        """Give the rate of the next update to every parameter group. Returns it."""
        lr = learning_rate(self.state.step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def compute_gradients(self, batch: Batch, n_targets: float) -> Tensor:
        """Set `.grad` to the gradient of the mean loss per token. Returns the share of this rank in the loss, ().

        Halves the micro-batch for as long as the first step does not fit into memory.

        Args:
            batch: the rows of this rank.
            n_targets: of the whole batch.
        """
        return accumulate_within_memory(self, batch, n_targets)

    def accumulate(self, batch: Batch, n_targets: float) -> Tensor:
        """Add up the gradients of the micro-batches, and with the last one those of the ranks.

        Each micro-batch adds its summed loss divided by the number of targets in the whole batch of all ranks, so the
        result equals one big batch.

        Returns:
            The share of this rank in the loss, ().
        """
        # The loss is summed on the device, because reading each part would wait for it; detached, because the sum would
        # keep the graphs of all micro-batches in memory.
        device = self.config.device
        loss = torch.zeros((), device=device)
        size = self.config.micro_batch or len(batch.tokens)
        parts = list(zip(batch.tokens.split(size), batch.targets.split(size), strict=True))
        for i, (tokens, targets) in enumerate(parts, start=1):
            with self.parallel.micro_batch(last=i == len(parts)):
                with autocast(device, self.config.dtype):
                    part = self.parallel.module(tokens.to(device), targets.to(device)) / n_targets
                part.backward()
            loss += part.detach()
        return loss

    def share_step(self, loss: Tensor, batch: Batch) -> StepTotals:
        """Return the numbers of a step over all ranks, which agree on requests in the same message."""
        self.stop_flag.requested["clock"] = self.checkpointer.is_clock_due()
        n_bytes = self.batches.target_bytes(batch)
        return share_step(self.parallel, self.stop_flag, loss, n_bytes, gated=self._active.queue.gated)

    def check(self, pending: PendingStep) -> GuardAction:
        """Read the numbers of a step and run the guards, once. On a GPU this waits for the device."""
        if pending.action is None:
            pending.step = pending.read(self.state.recent_losses)
            pending.action = run_guards(self.guards, pending.step)
            # The built-in guards decide alike on all ranks.
            if self.has_own_guards:
                pending.action = agree_on_action(self.world, pending.action)
        return pending.action

    def needs_flush(self) -> bool:
        """Return whether a callback needs the current weights, so that no step may stay in the queue."""
        c, step = self.config, self.state.step
        intervals = (c.save_interval, c.eval_interval, c.probe_interval, c.sample_interval)
        due = any(step % n == 0 for n in intervals if n)
        return step == c.max_steps or self.checkpointer.is_save_due() or due

    def finish_steps(self, *, flush: bool) -> None:
        """Report the steps whose updates were applied or skipped; end the run or roll back if a guard says so."""
        queue = self._active.queue
        while pending := queue.pop(flush=flush):
            self._active.progress.reading = pending
            action = self.check(pending)
            step = pending.step
            assert step is not None, "check reads the numbers"
            if not step.finite:
                place = self.batches.describe(pending.before.batches)
                # This repeats the step, so it must come before a rollback changes the weights.
                first = find_nonfinite(self.objective, pending.batch, self.config, self.world)
                self.say(*messages.nonfinite_step(step, place, first))
            if action in ("go", "skip"):
                self.notify(pending, step, skipped=action == "skip")
                continue
            queue.discard()
            if action == "stop" or not self.rollback(pending):
                # With a queue the state is a step ahead; the losses that were read in between stay.
                self.state = replace(pending.before, recent_losses=self.state.recent_losses)
                self.stop_flag.stop("stopped" if step.finite else "nonfinite")

    def notify(self, pending: PendingStep, step: Step, *, skipped: bool) -> None:
        """Run the callbacks that are due after a step."""
        throughput = self._active.throughput
        step = pending.complete(step, throughput, skipped=skipped, clip=self.config.grad_clip)
        is_last = step.number == self.config.max_steps
        if not skipped:
            self.state = self.state.with_loss(step.loss)
        pending.reported = True
        due = [callback for every, callback in self.callbacks if step.number % every == 0 or is_last]
        run_callbacks(due, lambda callback: callback.on_step(step), self.stop_flag)
        self.parallel.finish_evaluation()
        if throughput.steps == self.stop_flag.stop_after and not is_last and self.stop_flag.status is None:
            self.stop_flag.interrupt()
        throughput.callbacks_done = time.perf_counter()

    def rollback(self, pending: PendingStep) -> bool:
        """Restore the newest regular checkpoint and continue after this batch. Returns False at `max_rollbacks`."""
        if self.state.rollbacks >= self.config.max_rollbacks:
            self.say(
                f"notice   the run has returned to a checkpoint {self.state.rollbacks} times, which is the limit "
                f"({{--set train.max_rollbacks={self.config.max_rollbacks}}}); it stops"
            )
            return False
        before = pending.before
        with self._active.progress.change():
            checkpoint = read_newest(self.folder, self.config.save_interval, self.world)
            saved = restore(checkpoint, self.model, self.optimizer, self.config, self.parallel)
            # A rollback must not undo the count of rollbacks: it bounds them.
            self.state = replace(saved, batches=before.batches + 1, rollbacks=self.state.rollbacks + 1)
        for _, callback in self.callbacks:
            callback.on_rollback(before.step + 1, self.state)
        self.say(f"rollback to step {self.state.step}; the batches up to number {self.state.batches - 1:,} are skipped")
        return True

    @property
    def has_own_guards(self) -> bool:
        """True if the caller has added guards."""
        return len(self.guards) > BUILT_IN_GUARDS

    @property
    def rows(self) -> int:
        """The sequences of a batch that this rank computes."""
        return self.config.batch_size // (self.world.size // self.config.tensor)

    @property
    def sequences_at_a_time(self) -> int:
        """The sequences that this rank computes at a time: those of a micro-batch, or all of its rows."""
        return min(self.config.micro_batch or self.rows, self.rows)

    @property
    def run(self) -> Run:
        """The settings of this run."""
        run = Run(model=self.model.config, train=self.config)
        return replace(run, data=self.batches.data_config) if self.batches.data_config else run

    @property
    def optimizer(self) -> torch.optim.Optimizer:
        """The optimizer of the active run."""
        return self._active.optimizer

    def say(self, *lines: str) -> None:
        """Print lines, and append them to the log."""
        for line in lines:
            self._active.console.say(line)

    def working(self, phase: str) -> AbstractContextManager[Callable[[int, int], None]]:
        """Show a phase such as "evaluating" in the progress line. Yields a function that shows how much is done."""
        return self._active.console.working(phase)

    def write_row(self, row: dict[str, Any]) -> None:
        """Hand a row to every sink."""
        for sink in self._active.sinks:
            sink(row)

    @property
    def _active(self) -> ActiveRun:
        if self.active is None:
            raise ConfigError("the run has not started; this can be used while train() runs, as in a callback")
        return self.active
