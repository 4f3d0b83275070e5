"""Listeners run after a step: they get a small frozen value, may ask to stop by returning "stop", cannot reach in."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from ..data import TokenDataset
from ..data.tokenizers import byte_lengths, decode, start_ids
from ..evaluate import Distance, Evaluation, evaluate_held_out
from ..generate import Sampling
from ..generate import decode as decode_ids
from ..model import LightLLM, eval_mode
from ..observe import Sink
from ..runtime import peak_memory
from .notices import rising
from .requests import BrokenOff, Requests


@dataclass(frozen=True)
class Step:
    """What a listener sees of one step."""

    number: int  # 1, 2, 3, ...
    loss: float  # mean nats per token of the batch, before the update
    bits_per_byte: float | None  # the same over the bytes of the batch's targets; None without our tokenizer
    grad_norm: float  # global, before clipping
    lr: float
    tokens: int  # trained on so far
    seconds: float  # of this step, listeners not counted
    tok_per_sec: float
    skipped: bool  # a guard kept the update from the weights
    clipped: bool = False  # the gradient was longer than grad_clip
    grad_norms: Mapping[str, float] = field(default_factory=dict)  # by group (observe/meter.py), before clipping
    weight_norm: float | None = None  # after the update; None: there was none
    update_ratios: Mapping[str, float] = field(default_factory=dict)  # |w' - w| / |w'| by group; empty: no update
    mfu: float | None = None  # share of the machine's rate of products; None where that is not known
    phases: Mapping[str, float] = field(default_factory=dict)  # seconds: data, gradients, update


Listener = Callable[[Step], str | None]
RISES = 2  # evaluations in a row that were no better, before it is said


class Log:
    """Each step as a row to every sink."""

    def __init__(self, sinks: Sequence[Sink]) -> None:
        self.sinks = sinks

    def __call__(self, step: Step) -> None:
        row = {
            "kind": "step",
            "step": step.number,
            "loss": step.loss,
            "bits_per_byte": step.bits_per_byte,
            "lr": step.lr,
            "grad_norm": step.grad_norm,
            "tokens": step.tokens,
            "seconds": round(step.seconds, 4),
            "tok_per_sec": round(step.tok_per_sec, 1),
            "clipped": step.clipped,
            "grad_norms": dict(step.grad_norms),
            "weight_norm": step.weight_norm,
            "update_ratios": dict(step.update_ratios),
            "mfu": None if step.mfu is None else round(step.mfu, 4),
            "memory": peak_memory(),
            "phases": {name: round(seconds, 4) for name, seconds in step.phases.items()},
        }
        if step.skipped:
            row["skipped"] = True
        for sink in self.sinks:
            sink(row)


class Best:
    """Keeps the best model: told a loss, it says whether to write one."""

    def __init__(self, write: Callable[[int, dict[str, Any] | None], None], loss: float | None, step: int | None):
        self.write = write
        self.loss = loss
        self.step = step

    def offer(self, step: int, loss: float, evaluation: dict[str, Any]) -> bool:
        """Write the model if this is the lowest loss so far."""
        if not math.isfinite(loss) or (self.loss is not None and loss >= self.loss):
            return False
        self.loss, self.step = loss, step
        self.write(step, evaluation)
        return True


class EvaluateHeldOut:
    """The whole held-out split, the best model kept, and then the row: a row in the file means the model is safe.

    Args:
        patience: steps without a better evaluation after which to ask for the end; None: never.
        say: where to say once that the loss has begun to rise.
        requests: a stop that is asked for breaks an evaluation off.
    """

    def __init__(
        self,
        model: LightLLM,
        dataset: TokenDataset,
        *,
        batch_size: int,
        dtype: str,
        best: Best,
        sinks: Sequence[Sink],
        patience: int | None = None,
        say: Callable[[str], object] = lambda line: None,
        requests: Requests | None = None,
    ) -> None:
        self.model, self.dataset, self.best, self.sinks = model, dataset, best, sinks
        self.requests = requests or Requests()
        self.how: dict[str, Any] = {"context": dataset.max_length, "batch_size": batch_size, "dtype": dtype}
        self.patience, self.say = patience, say
        self.last: int | None = None  # the step that was evaluated last
        self.worse = 0  # evaluations in a row that were no better
        self.byte_lengths = np.array(byte_lengths(dataset.tokenizer))

    def __call__(self, step: Step) -> str | None:
        self.at(step.number)
        return "stop" if self.waited_enough(step.number) else None

    def waited_enough(self, number: int) -> bool:
        """Whether patience is over: a function of the step and the best one alone, so that a resumed run knows it."""
        waited = number - (self.best.step or 0)
        return self.patience is not None and waited >= self.patience

    def forget(self, number: int) -> None:
        """The run went back to step `number`."""
        self.last = number

    def at(self, number: int) -> None:
        """Evaluate the model as it is after step `number`, unless that was done."""
        if number == self.last:
            return
        how = {**self.how, "progress": self.requests.go_on}
        try:
            self.requests.go_on()
            evaluation, distance = evaluate_held_out(self.model, self.dataset, self.byte_lengths, **how)
        except BrokenOff:
            self.requests.evaluation_left = True
            self.say(f"notice   the evaluation of step {number} is broken off: --resume makes it first")
            return
        self.last = number
        plain = evaluation_record(evaluation, distance)
        earlier = self.best.loss
        best = self.best.offer(number, evaluation.loss, plain)
        places = {name: [getattr(b, name) for b in evaluation.by_position] for name in ("upto", "loss", "tokens")}
        for sink in self.sinks:
            sink({"kind": "eval", "step": number, "split": "held_out", **plain, "best": best, "by_position": places})
        self.worse = 0 if best else self.worse + 1
        if self.worse == RISES and earlier is not None:
            for line in rising(earlier, self.best.step or 0, evaluation.loss, stops=bool(self.patience)):
                self.say(line)


class MeanTrainingLoss:
    """For a loader that is not ours: the mean loss since the last time decides which model is best."""

    def __init__(self, *, every: int, best: Best, sinks: Sequence[Sink]) -> None:
        self.every, self.best, self.sinks = every, best, sinks
        self.losses: list[float] = []

    def __call__(self, step: Step) -> None:
        if not step.skipped:
            self.losses.append(step.loss)
        if step.number % self.every == 0:
            self.at(step.number)

    def forget(self, number: int) -> None:
        """The run went back to step `number`."""
        self.losses = []

    def at(self, number: int) -> None:
        """Offer the model as it is, if there was a step since the last time."""
        if self.losses:
            loss = math.fsum(self.losses) / len(self.losses)
            self.losses = []
            best = self.best.offer(number, loss, {"loss": loss, "split": "training"})
            for sink in self.sinks:
                sink({"kind": "eval", "step": number, "split": "training", "loss": loss, "best": best})


class WriteSample:
    """A short text, always from the same seed, so that two samples of a run can be compared."""

    def __init__(
        self,
        model: LightLLM,
        dataset: TokenDataset,
        sinks: Sequence[Sink],
        n_tokens: int = 48,
        requests: Requests | None = None,
    ) -> None:
        self.model, self.dataset, self.sinks, self.n_tokens = model, dataset, sinks, n_tokens
        self.requests = requests or Requests()

    def __call__(self, step: Step) -> None:
        try:
            text = self.text()
        except BrokenOff:  # nothing is lost: the next sample comes from the same seed
            return
        for sink in self.sinks:
            sink({"kind": "sample", "step": step.number, "text": text})

    def text(self) -> str:
        """What the model as it is writes."""
        tokenizer, ids = self.dataset.tokenizer, []
        start = start_ids(tokenizer, knows_separator=self.dataset.source.documents > 1)
        self.requests.go_on()
        with eval_mode(self.model):
            for (token,) in decode_ids(
                self.model,
                [start],
                sampling=Sampling(temperature=0.8, top_k=40),
                seeds=[1],
                max_new_tokens=self.n_tokens,
                context=self.dataset.max_length,
                end=tokenizer.separator,
                n_ids=tokenizer.vocab_size,
            ):
                self.requests.go_on()
                if token is not None:
                    ids.append(token)
        return decode(tokenizer, ids).strip("\n")


def evaluation_record(evaluation: Evaluation, distance: Distance | None = None) -> dict[str, Any]:
    """An evaluation as plain values, for rows and checkpoints."""
    to_limit = {"limit": distance.limit, "distance": distance.distance} if distance else {}
    return {
        "loss": evaluation.loss,
        "stderr": evaluation.stderr,
        "bits_per_byte": evaluation.bits_per_byte,
        "perplexity": evaluation.perplexity,
        "tokens": evaluation.tokens,
        "bytes": evaluation.bytes,
        "context": evaluation.context,
        **to_limit,
    }
