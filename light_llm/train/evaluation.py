"""Callbacks that measure the model: the held-out loss, samples and probes. Each owns the rows that it writes."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any

from ..data import DataLoader, TokenDataset
from ..data.loader import as_batch
from ..data.resolve import max_documents
from ..data.tokenizers import decode, start_ids
from ..evaluate import Evaluation, LimitDistance, evaluate_batches, evaluate_held_out
from ..generate import Sampling
from ..generate import decode as decode_ids
from ..model import eval_mode
from ..observe.attention import Alarm
from ..observe.probe import MAP_TOKENS, ProbeBatch, make_probe_batch, probe_model, select_attention_maps
from ..runtime import is_lost
from .agreement import EvaluationCancelled
from .callbacks import Callback, LogMetrics
from .measure import RecordStepTime
from .messages import loss_is_rising
from .step import Status, Step, TrainState

if TYPE_CHECKING:
    from .saved_run import ResumeState
    from .trainer import Trainer

MIN_WORSE_EVALUATIONS = 2  # in a row, before a rising held-out loss is reported
MIN_ALARM_STREAK = 3  # probes in a row before an alarm is reported: at the start every head is uniform, and has to be
MAX_NAMED_ALARMS = 4  # in one notice
SAMPLE_TOKENS = 48
RECORDED = ("loss", "stderr", "bits_per_byte", "perplexity", "tokens", "bytes", "context")  # of an evaluation


def built_in_callbacks(trainer: Trainer) -> list[tuple[int, Callback]]:
    """Return the built-in callbacks of a run in their order, each with its interval."""
    config, loader = trainer.config, trainer.batches
    if not isinstance(loader, DataLoader):
        last: tuple[int, Callback] = (1, EvaluateTrainingLoss(trainer))
        if trainer.val_loader is not None:
            last = (config.eval_interval, EvaluateLoader(trainer, trainer.val_loader, trainer.resumed))
        return [(1, LogMetrics(trainer)), (1, trainer.checkpointer), last]
    # A probe's row belongs to its step, so it is written before the checkpoint. Evaluations take long, so the
    # checkpoint is saved before them.
    callbacks: list[tuple[int, Callback]] = [
        (1, LogMetrics(trainer)),
        (config.probe_interval, ProbeModel(trainer, loader.dataset)),
        (1, trainer.checkpointer),
        (config.eval_interval, EvaluateHeldOut(trainer, loader, trainer.resumed)),
        (config.sample_interval, WriteSample(trainer, loader.dataset)),
    ]
    if trainer.world.size == 1:  # the predictions are those of one process
        callbacks.append((1, RecordStepTime(trainer, loader.dataset.max_length)))
    return [(every, callback) for every, callback in callbacks if every]  # an interval of 0 means never


class EvaluateHeldOut(Callback):
    """Evaluates the whole held-out split, keeps the best model, and ends a run whose loss no longer falls."""

    synchronous = False

    def __init__(self, trainer: Trainer, loader: DataLoader | None, resume: ResumeState | None = None) -> None:
        self.trainer, self.loader = trainer, loader
        self.last_step = resume.state.step if resume and resume.evaluated else None  # evaluated last
        self.resumed, self.missed = resume is not None, resume is not None and not resume.evaluated
        # A step is saved before it is evaluated, so a run that was killed in between has no row for it.
        if resume and resume.state.step != resume.saved.run.train.max_steps:
            self.missed &= resume.state.step % trainer.config.eval_interval == 0
        self.n_worse = 0  # evaluations in a row without a new best

    def on_start(self) -> str | None:
        """Make the evaluation that a killed run missed. A run that had already stopped early stays stopped."""
        if self.missed:
            self.evaluate(self.trainer.state.step)
        return "stop" if self.resumed and self.patience_exceeded(self.trainer.state.step) else None

    def on_step(self, step: Step) -> str | None:
        """Evaluate."""
        self.evaluate(step.number)
        return "stop" if self.patience_exceeded(step.number) else None

    def on_rollback(self, from_step: int, state: TrainState) -> None:
        """Evaluate later steps again, but not the one that was restored."""
        self.last_step = state.step

    def on_end(self, status: Status) -> None:
        """Evaluate the last step of a run that was stopped early, and make sure that there is a model."""
        step = self.trainer.state.step
        if status == "nonfinite" or not step:
            return
        if status == "stopped":
            self.evaluate(step)
        self.trainer.checkpointer.ensure_model(step)

    def patience_exceeded(self, step: int) -> bool:
        """Return whether the best evaluation is too long ago."""
        # Computed from two steps and not counted, so that a resumed run stops at the same step as an uninterrupted one.
        config = self.trainer.config
        waited = step - (self.trainer.checkpointer.best_step or 0)
        return config.patience > 0 and waited >= config.patience * config.eval_interval

    def evaluate(self, step: int) -> None:
        """Evaluate the current model, unless this step has been evaluated."""
        if step == self.last_step:
            return
        stop_flag = self.trainer.stop_flag
        try:
            stop_flag.check()
            with self.trainer.working("evaluating") as show:

                def progress(done: int, total: int) -> None:
                    show(done, total)
                    stop_flag.check()

                evaluation, distance = self.measure(progress)
        except EvaluationCancelled:
            stop_flag.evaluation_cancelled = True
            self.trainer.say(f"notice   the evaluation of step {step} was interrupted; {{--resume}} repeats it first")
            return
        self.last_step = step
        self._record(step, evaluation, distance)

    def measure(self, progress: Callable[[int, int], None]) -> tuple[Evaluation, LimitDistance | None]:
        """Return the held-out loss, and its distance from the limit of a text that has one."""
        assert self.loader is not None, "EvaluateLoader has its own"
        config, dataset = self.trainer.config, self.loader.dataset
        return evaluate_held_out(
            self.trainer.model,
            dataset,
            self.loader.byte_lengths,
            context=dataset.max_length,
            batch_size=self.trainer.sequences_at_a_time,
            dtype=config.dtype,
            progress=progress,
            world=self.trainer.parallel.data_world,
        )

    def _record(self, step: int, evaluation: Evaluation, distance: LimitDistance | None) -> None:
        """Keep the model if it is the best so far, write a row of kind `eval`, and report a loss that rises."""
        values = {name: getattr(evaluation, name) for name in RECORDED}
        # Without a tokenizer the bytes are unknown.
        record = {name: None if value != value else value for name, value in values.items()}
        if distance:
            record |= {"limit": distance.limit, "distance": distance.distance}
        # The model is written before the row, so a row in the file means that the best model is safe.
        checkpointer = self.trainer.checkpointer
        previous_best = checkpointer.best_loss
        best = checkpointer.offer_best(step, evaluation.loss, record)
        buckets = {name: [getattr(b, name) for b in evaluation.by_position] for name in ("upto", "loss", "tokens")}
        row = {"kind": "eval", "step": step, "split": "held_out", **record, "best": best, "by_position": buckets}
        self.trainer.write_row(row)
        # Reported once: the same advice after every evaluation would only push the numbers off the screen.
        self.n_worse = 0 if best else self.n_worse + 1
        if self.n_worse == MIN_WORSE_EVALUATIONS and previous_best is not None:
            best_step, trainer = checkpointer.best_step or 0, self.trainer
            notice = loss_is_rising(previous_best, best_step, evaluation.loss, trainer.config, trainer.model.config)
            trainer.say(*notice)


class EvaluateLoader(EvaluateHeldOut):
    """Evaluates every batch of a held-out loader of the caller's own."""

    def __init__(self, trainer: Trainer, val_loader: Iterable[Any], resume: ResumeState | None = None) -> None:
        super().__init__(trainer, None, resume)
        self.val_loader = val_loader

    def measure(self, progress: Callable[[int, int], None]) -> tuple[Evaluation, None]:
        """Return the loss over all targets of the loader, in nats per token."""
        trainer = self.trainer
        batches = (as_batch(pair, trainer.model.config.vocab_size) for pair in self.val_loader)
        lengths, dtype = trainer.batches.byte_lengths, trainer.config.dtype
        how: dict[str, Any] = {"dtype": dtype, "progress": progress, "world": trainer.parallel.data_world}
        return evaluate_batches(trainer.model, batches, lengths, **how), None


class EvaluateTrainingLoss(Callback):
    """Chooses the best model by its mean training loss, for a loader without held-out text."""

    synchronous = False

    def __init__(self, trainer: Trainer) -> None:
        self.trainer = trainer
        self.losses: list[float] = []  # since the last evaluation

    def on_step(self, step: Step) -> None:
        """Collect the loss; evaluate at every `eval_interval`-th step."""
        if not step.skipped:
            self.losses.append(step.loss)
        if step.number % self.trainer.config.eval_interval == 0:
            self.evaluate(step.number)

    def on_rollback(self, from_step: int, state: TrainState) -> None:
        """Drop the losses of the steps that were undone."""
        self.losses = []

    def on_end(self, status: Status) -> None:
        """Evaluate the steps since the last evaluation."""
        step = self.trainer.state.step
        if status != "nonfinite" and step:
            self.evaluate(step)
            self.trainer.checkpointer.ensure_model(step)

    def evaluate(self, step: int) -> None:
        """Offer the current model with the mean loss since the last evaluation, if there were steps since."""
        if self.losses:
            loss = math.fsum(self.losses) / len(self.losses)
            self.losses = []
            best = self.trainer.checkpointer.offer_best(step, loss, {"loss": loss, "split": "training"})
            self.trainer.write_row({"kind": "eval", "step": step, "split": "training", "loss": loss, "best": best})


class WriteSample(Callback):
    """Generates a short text, always from the same seed, so that the samples of a run can be compared."""

    synchronous = False

    def __init__(self, trainer: Trainer, dataset: TokenDataset) -> None:
        self.trainer, self.dataset = trainer, dataset

    def on_step(self, step: Step) -> None:
        """Write a row of kind `sample`."""
        try:
            with self.trainer.working("sampling"):
                text = self.generate()
        except EvaluationCancelled:
            return
        self.trainer.write_row({"kind": "sample", "step": step.number, "text": text})

    def generate(self) -> str:
        """Return the text. Raises EvaluationCancelled when the run has to stop."""
        tokenizer, ids = self.dataset.tokenizer, []
        prompt = start_ids(tokenizer, knows_separator=max_documents(self.dataset.source) > 1)
        check = self.trainer.stop_flag.check
        check()
        with eval_mode(self.trainer.model):
            for (token,) in decode_ids(
                self.trainer.model,
                [prompt],
                sampling=Sampling(temperature=0.8, top_k=40),
                seeds=[1],
                max_new_tokens=SAMPLE_TOKENS,
                context=self.dataset.max_length,
                end=tokenizer.stop_ids,
                n_ids=tokenizer.vocab_size,
            ):
                check()
                if token is not None:
                    ids.append(token)
        return decode(tokenizer, ids).strip("\n")


class ProbeModel(Callback):
    """Probes attention, activations and predictions on a few held-out windows, and warns of heads that do no work.

    Writes a row of kind `probe`, and at evaluated steps one of kind `attention`: the maps of a few heads.
    """

    synchronous = False

    def __init__(self, trainer: Trainer, dataset: TokenDataset) -> None:
        self.trainer, self.dataset = trainer, dataset
        self.streaks: Counter[Alarm] = Counter()
        self.reported: set[Alarm] = set()
        self.failed = False

    @cached_property
    def batch(self) -> ProbeBatch:
        """The windows, the same in every probe of a run."""
        dataset = self.dataset
        return make_probe_batch(dataset.held_out, context=dataset.max_length, n_ids=dataset.tokenizer.vocab_size)

    def on_step(self, step: Step) -> None:
        """Probe. A probe that fails is reported once and not tried again: it must not end a run."""
        if self.failed:
            return
        failed = False
        try:
            self._probe(step.number)
        except Exception as error:
            if is_lost(error):
                raise
            failed = True
            self.trainer.say(
                f"notice   the probe at step {step.number} failed ({type(error).__name__}: {error}); the run continues "
                "without probes, with the same results",
            )
        # With shards a probe is one of all ranks.
        self.failed = bool(self.trainer.world.agree(failed=failed)["failed"])

    def _probe(self, step: int) -> None:
        config = self.trainer.config
        result = probe_model(self.trainer.model, self.batch, dtype=config.dtype)
        self.trainer.write_row({"kind": "probe", "step": step, **result.row})
        if step % config.eval_interval == 0 or step == config.max_steps:
            tokens = [decode(self.dataset.tokenizer, [i]) for i in self.batch.tokens[0, :MAP_TOKENS].tolist()]
            self.trainer.write_row(
                {"kind": "attention", "step": step, "tokens": tokens, "maps": select_attention_maps(result)}
            )
        # During the warm-up heads are still uniform because the run has hardly begun.
        if step >= 2 * config.warmup_steps:
            self._warn(step, result.row["alarms"])

    def _warn(self, step: int, alarms: Sequence[dict[str, Any]]) -> None:
        """Report each alarm once, after several probes in a row."""
        current = {Alarm(**alarm) for alarm in alarms}
        self.streaks = Counter({alarm: self.streaks[alarm] + 1 for alarm in current})
        new = sorted((a for a in current - self.reported if self.streaks[a] >= MIN_ALARM_STREAK), key=str)
        if new:
            self.reported.update(new)
            listed = "; ".join(map(str, new[:MAX_NAMED_ALARMS]))
            more = f"; and {len(new) - MAX_NAMED_ALARMS} more" if len(new) > MAX_NAMED_ALARMS else ""
            self.trainer.say(f"notice   attention at step {step}: {listed}{more}")
