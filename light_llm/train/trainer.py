"""The training loop. `Trainer.train` is the algorithm; what is written and said is the session's."""

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..checkpoint import Files, RunFolder
from ..checkpoint.run_folder import DEFAULT_OUT
from ..config import TrainConfig, check_range
from ..data import DataLoader
from ..errors import ConfigError, did_you_mean
from ..model import LightLLM
from ..objective import NextTokenLoss, total_weight
from ..optim import build_optimizer, learning_rate
from ..runtime import autocast, seed_everything, stop_after
from .batches import Batches, InTurn, Numbered
from .guards import VERDICTS, Guard, OnlyFinite, Proposal, Verdict
from .listeners import Listener, Step
from .notices import header
from .record import check_fit, decide, run_record
from .result import Result, Status
from .resume import read_resume, read_run, restore
from .session import Progress, Session


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

    Raises:
        ConfigError: an unknown setting, or a model that does not fit the data.
        CheckpointError: a run in the way, nothing to resume from, or a damaged checkpoint.
        DeviceError: a device this machine does not have.
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
        files: Files | None = None,
        **changes: Any,
    ) -> None:
        self.folder = RunFolder(out if out is not None else DEFAULT_OUT, files)
        if resume and config is None:  # as the run was started, but for what is named
            config = replace(read_run(self.folder)[0].train, device="auto", dtype="auto", compile="auto")
        config = _changed(config or TrainConfig(), changes)
        self.model, self.loader, self.dataset = model, loader, None
        if isinstance(loader, DataLoader):
            self.dataset = loader.dataset
            if changes.get("batch_size", loader.batch_size) != loader.batch_size:
                raise ConfigError(
                    f"batch_size={changes['batch_size']} is not the loader's {loader.batch_size}; "
                    "give it to create_dataloader"
                )
            config = replace(config, batch_size=loader.batch_size)
            check_fit(model.config, loader)
        self.named_folder, self.overwrite, self.quiet = out is not None, overwrite, quiet
        if not resume:
            self.folder.check_free(explicit=self.named_folder, overwrite=overwrite)
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
        self.at = Progress()
        self.stop_reason: Status | None = None
        self.begun = False

    def every(self, n: int, listener: Listener) -> None:
        """Call a listener after every n-th step and after the last one. Raises ConfigError for n below 1."""
        check_range("n", n, low=1, integer=True)
        self.own_listeners.append((n, listener))

    def request_stop(self) -> None:
        """End the run after the step that is being made, saved, as a polite interruption does."""
        self.stop_reason = "interrupted"

    def train(self) -> Result:
        """Make the steps that are left. Returns how it ended; never exits the process."""
        note = self._take_folder()
        with self.folder.lock(), self._begin(note) as session:
            while self.at.step < self.config.max_steps and self.stop_reason is None:
                start = time.perf_counter()
                lr = self.set_learning_rate()
                loss = self.compute_gradients().item()
                grad_norm = torch.nn.utils.clip_grad_norm_(self.model.parameters(), self.config.grad_clip).item()
                verdict = self.judge(proposal := Proposal(self.at.step + 1, loss, grad_norm, lr))
                if verdict == "stop":
                    self.stop_reason = "stopped" if proposal.finite else "nonfinite"
                    break
                if verdict == "go":
                    self.optimizer.step()
                self.optimizer.zero_grad(set_to_none=True)
                self.at.step += 1
                self.tell(loss, grad_norm, lr, time.perf_counter() - start, verdict)
            complete = self.at.step >= self.config.max_steps
            status: Status = "done" if complete or self.stop_reason is None else self.stop_reason
            return session.finish(status, self.trained / self.spent if self.spent else 0.0)

    def set_learning_rate(self) -> float:
        """The rate of the next update, given to every group."""
        lr = learning_rate(self.at.step, self.config)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        return lr

    def compute_gradients(self) -> Tensor:
        """Mean nats per token of the next batch, its gradient left in `.grad`.

        Each micro-batch adds its sum of nats over the weight of the whole batch: exactly one big batch.
        """
        tokens, targets = self.batch = self.source.batch(self.at.batches)
        self.weight = total_weight(targets)
        self.at.batches += 1
        self.at.tokens += int(self.weight)
        loss = torch.zeros((), device=self.config.device)
        size = self.config.micro_batch or len(tokens)
        for x, y in zip(tokens.split(size), targets.split(size), strict=True):
            with autocast(self.config.device, self.config.dtype):
                part = self.objective(x.to(self.config.device), y.to(self.config.device)) / self.weight
            part.backward()
            loss += part.detach()
        return loss

    def judge(self, proposal: Proposal) -> Verdict:
        """What the guards say; the first that objects decides. Raises ConfigError for an answer that is no verdict."""
        for guard in self.guards:
            verdict = guard(proposal)
            if verdict not in VERDICTS:
                raise ConfigError(f"a guard answered {verdict!r}; it must answer {', '.join(VERDICTS)}")
            if verdict != "go":
                return verdict
        return "go"

    def tell(self, loss: float, grad_norm: float, lr: float, seconds: float, verdict: Verdict) -> None:
        """Call the listeners whose turn it is."""
        n_bytes = self.source.target_bytes(self.batch)
        self.spent += seconds
        self.trained += self.weight
        self.steps_made += 1
        step = Step(
            number=self.at.step,
            loss=loss,
            bits_per_byte=loss * self.weight / math.log(2) / n_bytes if n_bytes else None,
            grad_norm=grad_norm,
            lr=lr,
            tokens=self.at.tokens,
            seconds=seconds,
            tok_per_sec=self.weight / seconds,
            skipped=verdict == "skip",
        )
        last = step.number == self.config.max_steps
        for n, listener in self.listeners:
            if (step.number % n == 0 or last) and listener(step) == "stop":
                self.stop_reason = "stopped"
        if self.steps_made == self.stop_after and not last and self.stop_reason is None:
            self.request_stop()

    def _take_folder(self) -> str | None:
        """Make the folder ours; an earlier run in it is seen to. Returns a line to print when something was moved."""
        if self.begun:
            raise ConfigError("this Trainer has already trained; make another one, with resume=True to go on")
        self.begun = True
        note = None if self.resumed else self.folder.make_room(explicit=self.named_folder, overwrite=self.overwrite)
        self.folder.create()
        return note

    def _begin(self, note: str | None) -> Session:
        """Everything between a folder and the first step: the first moment anything is written."""
        self.stop_after = stop_after()
        self.spent, self.trained, self.steps_made = 0.0, 0.0, 0  # seconds, targets and steps of this process
        self.source: Batches = (
            Numbered(self.loader)
            if isinstance(self.loader, DataLoader)
            else InTurn(self.loader, self.model.config.vocab_size)
        )
        self.folder.sweep()
        started = self.resumed.started if self.resumed else None
        self.folder.write_run(run_record(self.model, self.loader, self.decisions, started=started))
        self.model.to(self.config.device).train()
        self.model.checkpointing = self.config.checkpointing
        self.optimizer = build_optimizer(self.model, self.config)
        if self.resumed:
            state = self.resumed.state
            restore(self.resumed, self.model, self.optimizer, self.config.device)
            self.resumed = self.resumed.without_tensors()
            self.at = Progress(state.step, state.batches, state.tokens)
        else:
            seed_everything(self.config.seed)
        if self.config.compile == "on":
            self.objective.compile(dynamic=False)
        session = Session(
            self.folder,
            self.model,
            self.dataset,
            self.optimizer,
            self.decisions,
            self.at,
            resumed=self.resumed,
            quiet=self.quiet,
        )
        self.listeners = [*session.listeners(), *self.own_listeners]
        for line in [*([note] if note else []), *header(self.model, self.loader, self.decisions, self.folder.path)]:
            session.console.say(line)
        if self.resumed:
            session.console.say(f"resumed  at step {self.at.step} from {self.resumed.path}")
            session.catch_up()
            if session.patience_is_over():
                self.stop_reason = "stopped"
        return session


def _changed(config: TrainConfig, changes: dict[str, Any]) -> TrainConfig:
    known = [f.name for f in fields(TrainConfig)]
    for name in changes:
        if name not in known:
            raise ConfigError(f"there is no training setting {name!r}{did_you_mean(name, known)}")
    return replace(config, **changes)
