"""A run looked at before it starts: what does not fit is refused, or made to fit, before anything is downloaded."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import Protocol

from ..config import Run, TrainConfig
from ..data import TokenDataset
from ..errors import ConfigError
from ..plan.budget import fit_to_budget, parse_budget
from ..plan.plan import Plan, make_plan
from ..plan.render import refusal
from ..plan.suggest import Overrides, Suggestion, suggest_settings
from ..runtime import choose_compile, choose_device, choose_dtype, resident_memory
from ..train.preflight import dataset_size

IDS = {"gpt2": 50257, "bpe": 4096, "byte": 257}  # of tokenizers whose size is known before there is a text
READING = 100_000_000  # bytes that reading the text and its vocabulary adds to the process
OF_THE_MODEL = ("model__", "data__")  # what cannot be changed where a model is there already


class FitFlags(Protocol):
    """The flags that decide what is done about a run that is too large."""

    @property
    def fit(self) -> bool: ...
    @property
    def budget(self) -> str: ...
    @property
    def force(self) -> bool: ...
    @property
    def quiet(self) -> bool: ...


def resolve_auto(train: TrainConfig) -> TrainConfig:
    """With device, format and compilation decided as the run will decide them. Raises DeviceError."""
    device = choose_device(train.device).value
    dtype, compiled = choose_dtype(train.dtype, device).value, choose_compile(train.compile, device).value
    return replace(train, device=device, dtype=dtype, compile=compiled)


def expected_vocab_size(spec: str, default: int) -> int:
    """About how many ids a tokenizer will have that is not there yet.

    >>> vocabulary_of("bpe:2000", 50257), vocabulary_of("byte", 50257), vocabulary_of("mine.json", 50257)
    (2000, 257, 50257)
    """
    kind, _, size = spec.partition(":")
    if kind == "bpe" and size.isdecimal():
        return int(size)
    return IDS.get(kind, default if kind != "char" else IDS["byte"])


@dataclass(frozen=True)
class FitChecker:
    """What is done about a run that does not fit, or that is to be fitted to a budget.

    Args:
        settled: how it trains, nothing left at auto.
        fixed: the model is there already, and its shape is as it is.
    """

    settled: TrainConfig
    flags: FitFlags
    fixed: bool

    def check_before_data(self, run: Run) -> Overrides:
        """Settings to change so that the run fits, {} where it does.

        Raises:
            ConfigError: it does not fit, and nobody said --fit or --force; with what does.
        """
        if self.flags.budget:
            self._check_budget()
            return {}  # with the text at hand
        tokenizer = run.data.tokenizer if run.data.data.partition(":")[0] != "tales" else "bpe"
        V = run.model.vocab_size if self.fixed else expected_vocab_size(tokenizer, run.model.vocab_size)
        model = replace(run.model, vocab_size=V)
        plan = make_plan(model, self.settled, run.data.max_length, framework=resident_memory() + READING, timed=False)
        return self._made_to_fit(plan, untouched="nothing was downloaded or written")

    def fit_to_dataset(self, run: Run, dataset: TokenDataset) -> Run:
        """The run with the settings that fit, now that the text and its vocabulary are known. Raises ConfigError."""
        text = dataset_size(dataset)
        train = replace(self.settled, max_steps=run.train.max_steps, micro_batch=run.train.micro_batch)
        train = replace(train, checkpointing=run.train.checkpointing)
        if self.flags.budget:
            chosen = fit_to_budget(parse_budget(self.flags.budget), run.model, train, run.data.max_length, text)
            self._say(f"budget   {self.flags.budget}: {chosen.why}")
            return run.with_settings(**chosen.changes)
        framework = resident_memory()
        plan = make_plan(run.model, train, run.data.max_length, text, framework=framework, timed=False)
        changes = self._made_to_fit(plan, untouched="no run was started")
        if "data__tokenizer" in changes:
            raise ConfigError(f"only a smaller vocabulary fits: --tokenizer {changes['data__tokenizer']}")
        return run.with_settings(**changes)

    def _made_to_fit(self, plan: Plan, *, untouched: str) -> Overrides:
        if plan.fits or self.flags.force:
            return {}
        ways = self._ways(plan, timed=not self.flags.fit)
        if not self.flags.fit or not ways:
            raise ConfigError(refusal(plan, ways, untouched=untouched))
        self._say(f"fit      {ways[0].flags}: {ways[0].effect}")
        return ways[0].changes

    def _ways(self, plan: Plan, *, timed: bool) -> list[Suggestion]:
        ways = suggest_settings(plan, timed=timed)
        return [way for way in ways if not any(name.startswith(OF_THE_MODEL) for name in way.changes) or not self.fixed]

    def _check_budget(self) -> None:
        parse_budget(self.flags.budget)
        if self.fixed:
            raise ConfigError("--budget chooses the model, and here there is one already; leave it out")
        if self.flags.fit:
            raise ConfigError("--budget chooses what fits by itself; leave out --fit")

    def _say(self, line: str) -> None:
        if not self.flags.quiet:
            print(line, file=sys.stderr, flush=True)
