"""Check whether a run fits into memory, first before any download; with --fit or --budget, choose what fits."""

from __future__ import annotations

import sys
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..config import ModelConfig, Run, TrainConfig
from ..data import TokenDataset
from ..errors import ConfigError, as_flags
from ..plan.budget import fit_to_budget, parse_budget
from ..plan.plan import DatasetSize, Plan, make_plan
from ..plan.render import refusal
from ..plan.suggest import Overrides, suggest_settings, without_fixed
from ..runtime import choose_compile, choose_device, choose_dtype, resident_memory
from ..runtime.world import World
from ..train.measure import measure_machine
from ..train.preflight import dataset_size

if TYPE_CHECKING:
    from .train import TrainFlags

VOCAB_SIZES = {"gpt2": 50257, "bpe": 4096, "byte": 257, "char": 257}  # before the text is known; of char, at most
DATA_BYTES = 100_000_000  # memory that the text and its vocabulary add to the process


def resolve_auto(train: TrainConfig) -> TrainConfig:
    """Return the config with the device, dtype and compilation that `auto` stands for. Raises DeviceError."""
    device = choose_device(train.device).value
    dtype, compiled = choose_dtype(train.dtype, device).value, choose_compile(train.compile, device).value
    return replace(train, device=device, dtype=dtype, compile=compiled)


def expected_vocab_size(spec: str, default: int) -> int:
    """Estimate the vocabulary size of a tokenizer that has not been built yet.

    >>> expected_vocab_size("bpe:2000", 50257), expected_vocab_size("byte", 50257), expected_vocab_size("x.json", 50257)
    (2000, 257, 50257)
    """
    kind, _, size = spec.partition(":")
    if kind == "bpe" and size.isdecimal():
        return int(size)
    return VOCAB_SIZES.get(kind, default)


@dataclass(frozen=True)
class FitChecker:
    """Refuses a run that does not fit into memory, or changes its settings so that it does.

    A new run is checked twice: before the text is read, with an estimate of the vocabulary, and when the text is known.

    Args:
        resolved: the training settings, with no "auto" left.
        fixed: the run starts from a trained model, which decides its shape.
        loaded: bytes of its weights, which are in memory already; the plan counts them itself.
        world: the processes of the run; what fits is decided for each of them.
    """

    resolved: TrainConfig
    flags: TrainFlags
    fixed: bool
    loaded: int = 0
    world: World = World()

    def check_before_data(self, run: Run) -> Overrides:
        """Return settings that make the run fit; {} if it fits, and with --force or --budget (applied later).

        Raises:
            ConfigError: it does not fit, and neither --fit nor --force was given; the message lists settings that do.
        """
        if self.flags.budget:
            parse_budget(self.flags.budget)
            if self.world.size > 1:
                raise ConfigError("--budget plans a single process; leave it out, or --processes")
            if self.fixed:
                raise ConfigError("--budget chooses the model, and this run already has one; leave it out")
            if self.flags.fit:
                raise ConfigError("--budget already chooses settings that fit; leave out --fit")
            # The budget is spent when the size of the text is known.
            return {}
        # The built-in corpus has a trained tokenizer of its own.
        tokenizer = run.data.tokenizer if run.data.data.partition(":")[0] != "tales" else "bpe"
        V = run.model.vocab_size if self.fixed else expected_vocab_size(tokenizer, run.model.vocab_size)
        model, framework = replace(run.model, vocab_size=V), max(0, resident_memory() - self.loaded) + DATA_BYTES
        plan = self._planned(model, self.resolved, run.data.max_length, framework=framework)
        return self._fitting_overrides(plan, untouched="nothing was downloaded or written")

    def fit_to_dataset(self, run: Run, dataset: TokenDataset) -> Run:
        """Return the run with settings that fit, now that the text and its vocabulary are known. Raises ConfigError."""
        text = dataset_size(dataset)
        resolved = self.resolved
        train = replace(run.train, device=resolved.device, dtype=resolved.dtype, compile=resolved.compile)
        if self.flags.budget:
            doctor = not self.flags.skip_doctor
            measure_machine(run.model, train.device, train.dtype, doctor=doctor, quiet=self.flags.quiet)
            choice = fit_to_budget(parse_budget(self.flags.budget), run.model, train, run.data.max_length, text)
            self._print(f"budget   {self.flags.budget}: {as_flags(choice.why)}")
            return run.with_settings(**choice.changes)
        # Measured again: the text and its vocabulary are in memory now.
        framework = resident_memory()
        plan = self._planned(run.model, train, run.data.max_length, text, framework=framework)
        overrides = self._fitting_overrides(plan, untouched="no run was started")
        # The text has already been encoded with the larger vocabulary.
        if "data__tokenizer" in overrides:
            raise ConfigError(f"only a smaller vocabulary fits: --tokenizer {overrides['data__tokenizer']}")
        return run.with_settings(**overrides)

    def _planned(
        self, model: ModelConfig, train: TrainConfig, T: int, text: DatasetSize | None = None, *, framework: int
    ) -> Plan:
        W, local = self.world.size, self.world.local_size
        return make_plan(model, train, T, text, framework=framework, timed=False, world_size=W, local_size=local)

    def _fitting_overrides(self, plan: Plan, *, untouched: str) -> Overrides:
        if plan.fits or self.flags.force:
            return {}
        suggestions = suggest_settings(plan, timed=not self.flags.fit)
        if self.fixed:
            # A trained model has already decided its shape and its windows.
            suggestions = without_fixed(suggestions, resumed=self.flags.resume)
        if not self.flags.fit or not suggestions:
            raise ConfigError(refusal(plan, suggestions, untouched=untouched))
        self._print(f"fit      {suggestions[0].flags}: {suggestions[0].effect}")
        return suggestions[0].changes

    def _print(self, line: str) -> None:
        if not self.flags.quiet:
            print(line, file=sys.stderr, flush=True)
