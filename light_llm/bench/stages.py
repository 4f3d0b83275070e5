"""The parts of the measurement, in order: each makes its figures, or says why it cannot."""

import gc
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from ..config import ModelConfig
from ..runtime import is_out_of_memory, training_flops
from .effort import Effort
from .limits import copy_rates, product_rates, read_rates
from .result import Figure
from .room import forget_peak, free_memory, most_taken
from .timing import Repeats
from .training import SETTLE, training_bytes, training_rates
from .writing import PROMPT, writing_rates

Tick = Callable[[], None]
Rates = Callable[[str, int, Repeats, Tick], list[float]]


class LeftOut(Exception):
    """Why something is not measured."""


@dataclass(frozen=True)
class Stage:
    """A part of the measurement."""

    name: str
    about: str
    share: float  # about the seconds it takes on two cores
    make: Callable[[Tick], list[Figure]]

    def run(self, tick: Tick) -> list[Figure]:
        """The figures. Raises LeftOut where memory runs out on the way, and what `make` raises."""
        try:
            return self.make(tick)
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            raise LeftOut("memory ran out") from None


@dataclass
class Pace:
    """How long a step of training takes here, learnt from the model before."""

    left: Callable[[], float]  # seconds that may still be spent
    per_flop: float | None = None

    def check(self, flops: float, steps: int) -> None:
        """Raise LeftOut where so many steps would take longer than is left."""
        seconds = None if self.per_flop is None else steps * flops * self.per_flop
        if seconds is not None and seconds > self.left():
            raise LeftOut(f"its {steps} steps would take about {seconds:,.0f} s more here")


def stages(effort: Effort, device: str, dtype: str, left: Callable[[], float]) -> Iterator[Stage]:
    """All that is to be measured, in order.

    Args:
        dtype: the format of the products in training.
        left: seconds that may still be spent.
    """
    for name in effort.dtypes:
        yield _products(effort, device, name)
    yield from _memory(effort, device)
    pace = Pace(left)
    for name, config in effort.training:
        yield _training(effort, device, dtype, name, config, pace)
    for name, config in effort.writing:
        yield _writing(effort, device, name, config)


def _products(effort: Effort, device: str, dtype: str) -> Stage:
    n, k, m = effort.product
    how = f"{n:,} x {k:,} by {k:,} x {m:,}"

    def make(tick: Tick) -> list[Figure]:
        try:
            rates = product_rates(device, dtype, effort.product, effort.repeats, tick)
        except (RuntimeError, TypeError) as error:
            if isinstance(error, RuntimeError) and is_out_of_memory(error):
                raise
            raise LeftOut(f"this torch does not multiply {dtype} on this device") from None
        return [Figure.of(f"products {dtype}", "GFLOP/s", [rate / 1e9 for rate in rates], "best", how)]

    return Stage(f"products {dtype}", how, 1.0, make)


def _memory(effort: Effort, device: str) -> Iterator[Stage]:
    for name, rates_of, about in (
        ("memory copy", copy_rates, "copied: bytes read and bytes written both count"),
        ("memory read", read_rates, "added up"),
    ):
        how = f"{effort.block / 1e6:,.0f} MB {about}"

        def make(tick: Tick, name: str = name, rates_of: Rates = rates_of, how: str = how) -> list[Figure]:
            rates = rates_of(device, effort.block, effort.repeats, tick)
            return [Figure.of(name, "GB/s", [rate / 1e9 for rate in rates], "best", how)]

        yield Stage(name, how, 1.0, make)


def _training(effort: Effort, device: str, dtype: str, name: str, config: ModelConfig, pace: Pace) -> Stage:
    B, T = effort.batch
    how = f"{B} x {T:,} tokens a step, {config.vocab_size:,} ids, {dtype}"
    flops = training_flops(config, T) * B * T  # of a step

    def make(tick: Tick) -> list[Figure]:
        needed, free = training_bytes(config, effort.batch, dtype, device), free_memory(device)
        if free is not None and needed > free:
            raise LeftOut(f"it takes about {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free")
        pace.check(flops, SETTLE + effort.repeats.least)
        before = forget_peak(device)
        try:
            rates = training_rates(config, effort.batch, device=device, dtype=dtype, repeats=effort.repeats, tick=tick)
        except ArithmeticError as error:
            raise LeftOut(f"{error}: this device computes something wrong") from None
        finally:
            gc.collect()  # the hooks of its optimizer hold a model until then, and the next one is larger
        speed = Figure.of(f"training {name}", "tokens/s", rates, "median", how)
        pace.per_flop = B * T / speed.value / flops
        peak = most_taken(device)
        if peak is None or peak <= before:  # something before it took more: its own is not known
            return [speed]
        whose = "of the whole process" if torch.device(device).type == "cpu" else "of the device"
        return [speed, Figure.of(f"peak {name}", "GB", [peak / 1e9], "peak", f"memory {whose} in training")]

    return Stage(f"training {name}", how, 2.0 + 7.0 * flops / 1e12, make)


def _writing(effort: Effort, device: str, name: str, config: ModelConfig) -> Stage:
    about = f"{effort.tokens} tokens after {PROMPT}, one stream"

    def make(tick: Tick) -> list[Figure]:
        rates, dtype = writing_rates(config, effort.tokens, device=device, repeats=effort.repeats, tick=tick)
        return [Figure.of(f"writing {name}", "tokens/s", rates, "median", f"{about}, {dtype}")]

    return Stage(f"writing {name}", about, 2.0, make)
