"""`light-llm plan --machine FILE|NAME`: the memory and the speed of a run on the GPUs of a machine file."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from rich.text import Text

from ..config import Run, TrainConfig
from ..errors import ConfigError, DeviceError
from ..plan.cluster import Measured, predict_step, work_of
from ..plan.cluster_table import ClusterPlan
from ..plan.machine import Machine
from ..plan.memory_model import StepShape
from ..plan.plan import DatasetSize, make_plan
from ..plan.render import refusal
from ..plan.speed import device_seconds, forget_speed
from ..plan.suggest import Suggestion
from ..runtime import CUDA, MemoryLimit, choose_device, device_name
from ..text_format import wrap_line
from ..train.measure import measure_machine
from .output import new_table, number_column, print_rich

if TYPE_CHECKING:
    from .plan import PlanFlags

WIDTH = 80  # columns


def plan_on_machine(run: Run, text: DatasetSize, machine: Machine, W: int, *, measure: bool) -> ClusterPlan:
    """Return the plan of a run on W GPUs of a machine.

    Args:
        measure: measure this machine again, where its GPU is of the same kind.

    Raises:
        ConfigError: settings that the formula does not have, or a batch that cannot be divided.
    """
    train, T = _for_gpu(run.train), run.data.max_length
    if train.tensor > 1:
        raise ConfigError("the formula of --machine has no tensor parallelism; leave out --tensor")
    limit = MemoryLimit(int(machine.gpu.memory), f"in {machine.gpu.kind} of {machine.name}")
    plan = make_plan(run.model, train, T, text, limit=limit, timed=False, world_size=W, local_size=min(W, machine.gpus))
    work = work_of(run.model, train, T, W)
    measured = _measured(run, train, machine, W, again=measure)
    step = predict_step(work, machine, W, plan.parallel, measured=measured)
    return ClusterPlan(plan, machine, work, step, measured)


def print_plan(cluster: ClusterPlan, notes: Sequence[str], suggestions: Sequence[Suggestion], flags: PlanFlags) -> int:
    """Print the plan, as a table or as JSON. Returns the exit code.

    Raises:
        ConfigError: it does not fit into the memory of a GPU; the message names settings that do.
    """
    plan, notes = cluster.plan, [*cluster.notes(), *notes]
    if flags.json:
        ways = [{"flags": s.flags, "effect": s.effect, "plan": s.plan.to_dict()} for s in suggestions]
        values = {"fits": plan.fits, **plan.to_dict(), "cluster": cluster.to_dict(), "ways": ways, "notes": notes}
        print(json.dumps(values, indent=1))
        return 0 if plan.fits else 2
    table = new_table("", number_column(""), "", header=False)
    for label, value, what in cluster.rows():
        # Texts of a machine file are no markup. The first number of a part is the one to look for.
        table.add_row(Text(label, "dim"), Text(value, "bold" if label else ""), Text(what))
    heads = (number_column("tokens/s a GPU"), number_column("formula off"))
    published = new_table("published", "GPUs", *heads, "source")
    for row in cluster.nearest:
        shape, gpus = f"{row.model}, {row.work.T:,} tokens", f"{row.gpus} {row.gpu}"
        published.add_row(shape, gpus, f"{row.speed:,.0f}", f"{row.error():+.0%}", row.source)
    print_rich(table, published, "")
    print(*(part for note in notes for part in wrap_line(f"note         {note}", WIDTH)), sep="\n")
    if not plan.fits:
        raise ConfigError(refusal(plan, suggestions, untouched="no run was started"))
    return 0


def _for_gpu(train: TrainConfig) -> TrainConfig:
    """Return the settings with which a GPU of a machine file trains. Raises ConfigError for float32."""
    if train.dtype == "float32":
        raise ConfigError("machine files have the speed of bfloat16 products only; leave out --dtype float32")
    return replace(train, device=CUDA, dtype="bfloat16", compile="on" if train.compile == "on" else "off")


def _measured(run: Run, train: TrainConfig, machine: Machine, W: int, *, again: bool) -> Measured | None:
    """Return the seconds of this machine's GPU, measured if need be; None if it is of another kind."""
    try:
        device = choose_device(run.train.device).value
    except DeviceError:
        return None
    if not device.startswith(CUDA) or not machine.gpu.is_named(device_name(device)):
        return None
    if again:
        forget_speed()
    say = partial(print, file=sys.stderr, flush=True)
    measure_machine(run.model, device, train.dtype, doctor=False, say=say)
    train = replace(train, device=device)
    return Measured(*device_seconds(StepShape.of(run.model, train, run.data.max_length, ranks=W), train))
