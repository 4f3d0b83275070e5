"""The outward side of a training: all that is written into the run folder or said, and the listeners that do it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Any

import torch

from ..checkpoint import RunFolder, StepState, write_portable, write_step
from ..data import TokenDataset
from ..model import LightLLM
from ..observe import Console, JsonLines, Sink
from ..runtime import peak_memory, rng_state
from .listeners import Best, EvaluateHeldOut, Listener, Log, MeanTrainingLoss, WriteSample
from .notices import summary
from .record import Decisions, model_meta
from .result import Result, Status
from .resume import Resumed


@dataclass
class Progress:
    """Where a run stands."""

    step: int = 0  # updates made, skipped ones included
    batches: int = 0  # taken from the loader: the data counter
    tokens: int = 0  # targets trained on


class Session:
    """Opens the run folder's files; a context manager, which closes them.

    Args:
        best: loss and step of the best model so far, of a run that goes on.
    """

    def __init__(
        self,
        folder: RunFolder,
        model: LightLLM,
        dataset: TokenDataset | None,
        optimizer: torch.optim.Optimizer,
        decisions: Decisions,
        at: Progress,
        *,
        resumed: Resumed | None,
        quiet: bool,
    ) -> None:
        self.folder, self.model, self.dataset, self.optimizer = folder, model, dataset, optimizer
        self.config, self.at, self.resumed = decisions.config, at, resumed
        self.started = time.perf_counter()
        self.saved_step = resumed.state.step if resumed else None
        known = resumed.best if resumed and folder.best_model.exists() else None  # a best model that is gone is no best
        best_loss, best_step = known or (None, None)
        self.best = Best(self.write_best, best_loss, best_step)
        self.console = Console(total=self.config.max_steps, log=folder.log, quiet=quiet)
        self.metrics = JsonLines(folder.metrics, keep=resumed.state.step if resumed else None)
        self.sinks: list[Sink] = [self.console, self.metrics]
        self.evaluate = self._evaluation()

    def listeners(self) -> list[tuple[int, Listener]]:
        """Log, save, evaluate, sample, each with its interval. Save comes before what may take long."""
        config = self.config
        listeners: list[tuple[int, Listener]] = [(1, Log(self.sinks)), (config.save_interval, lambda _: self.save())]
        if self.dataset is None:
            return [*listeners, (1, self.evaluate)]
        listeners.append((config.eval_interval, self.evaluate))
        if config.sample_interval:
            listeners.append((config.sample_interval, WriteSample(self.model, self.dataset, self.sinks)))
        return listeners

    def catch_up(self) -> None:
        """A run that was killed between its save and its evaluation of the same step makes the evaluation now."""
        if self.resumed is None or self.dataset is None or self.resumed.evaluated:
            return
        if self.at.step % self.config.eval_interval == 0 or self.at.step == self.resumed.max_steps:
            self.evaluate.at(self.at.step)

    def patience_is_over(self) -> bool:
        """Whether a resumed run had already come to its early end."""
        return isinstance(self.evaluate, EvaluateHeldOut) and self.evaluate.waited_enough(self.at.step)

    def save(self) -> None:
        """Commit a step folder for the step just made, then drop those no longer needed."""
        at = self.at
        horizon = self.config.lr_horizon or self.config.max_steps
        write_step(
            self.folder.step_path(at.step),
            model=self.model,
            optimizer=self.optimizer,
            rng=rng_state(self.config.device),
            state=StepState(at.step, at.tokens, at.batches, horizon, self.best.loss, self.best.step),
            meta=self._meta(at.step, None),
            files=self.folder.files,
        )
        self.saved_step = at.step
        self.folder.drop_previous()
        self.folder.prune()

    def write_best(self, step: int, evaluation: dict[str, Any] | None) -> None:
        """Write the model as it is to `best_model.pt`."""
        meta = self._meta(step, evaluation)
        write_portable(self.folder.best_model, self.model.state_dict(), meta, self.folder.files)
        self.folder.drop_previous()

    def finish(self, status: Status, tokens_per_second: float) -> Result:
        """Leave the folder complete and say what comes next. After a step that is not finite nothing is saved."""
        self.console.pause()
        if status != "nonfinite" and self.at.step:
            if self.saved_step != self.at.step:
                self.save()
            if status == "stopped" or self.dataset is None:
                self.evaluate.at(self.at.step)
            if self.best.loss is None:  # no evaluation yet: the weights as they are, so that there is a model
                self.write_best(self.at.step, None)
        result = Result(
            status=status,
            step=self.at.step,
            best_loss=self.best.loss,
            best_step=self.best.step,
            folder=self.folder.path,
            seconds=time.perf_counter() - self.started,
            tokens_per_second=tokens_per_second,
            peak_memory=peak_memory(),
        )
        for line in summary(result, self.config):
            self.console.say(line)
        if self.folder.recover_previous():
            self.console.say(f"kept     the earlier run in {self.folder.path}: the new one left no checkpoint")
        return result

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *error: object) -> None:
        """Close the files; the screen is given back."""
        self.console.close()
        self.metrics.close()
        self.folder.recover_previous()

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
        )
        if self.resumed and self.resumed.evaluated:
            evaluation.last = self.resumed.state.step
        return evaluation

    def _meta(self, step: int, evaluation: dict[str, Any] | None) -> dict[str, Any]:
        return model_meta(self.model, self.dataset, step=step, dtype=self.config.dtype, evaluation=evaluation)
