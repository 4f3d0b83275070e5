"""The whole measurement of a machine."""

import time
from collections.abc import Callable

import torch

from ..runtime import choose_dtype, usable_cores, versions
from .effort import Effort
from .name import machine_name, system_name
from .result import LONGEST, Figure, Result
from .stages import LeftOut, Stage, stages

Tell = Callable[[str, float, float], object]  # what is measured, how much is done, of how much


def measure(effort: Effort, device: str, tell: Tell = lambda what, done, total: None) -> Result:
    """Measure a machine. What it cannot do, or has no room or time for, is left out, with the reason.

    Args:
        device: what `choose_device` decided.
        tell: called as it goes on.
    """
    start = time.perf_counter()
    figures: list[Figure] = []
    left_out: list[str] = []
    dtype = choose_dtype("auto", device).value
    todo = list(stages(effort, device, dtype, lambda: effort.most - (time.perf_counter() - start)))
    total, done = sum(stage.share for stage in todo), 0.0
    for stage in todo:
        try:
            figures += stage.run(_ticks(stage, done, total, effort.repeats.times + 1, tell))
        except LeftOut as reason:
            left_out.append(f"{stage.name} is left out: {reason}"[:LONGEST])
        done += stage.share
    used = versions()
    return Result(
        machine=machine_name(device),
        device=torch.device(device).type,
        system=system_name(),
        cores=usable_cores(),
        threads=torch.get_num_threads(),
        light_llm=used["light_llm"],
        python=used["python"],
        torch=used["torch"],
        quick=effort.quick,
        seconds=round(time.perf_counter() - start, 2),
        figures=tuple(figures),
        left_out=tuple(left_out),
    )


def _ticks(stage: Stage, done: float, total: float, most: int, tell: Tell) -> Callable[[], None]:
    """Tells of the beginning of a stage, and, each time it is called, of another part of it."""
    what, ticks = f"{stage.name}: {stage.about}", 0
    tell(what, done, total)

    def tick() -> None:
        nonlocal ticks
        ticks += 1
        tell(what, done + stage.share * min(1.0, ticks / most), total)

    return tick
