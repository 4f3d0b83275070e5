"""The plan of a run: its cost, computed before anything is downloaded, written or started."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from ..config import ModelConfig, TrainConfig, get_model_size
from ..config.tensor_parallel import check_tensor_groups, check_tensor_parallel
from ..errors import ConfigError
from ..runtime import MemoryLimit, memory_limit, resident_memory, training_flops
from .memory_model import Memory, StepShape, optimizer_bytes, step_memory
from .speed import find_speed
from .time_model import SAMPLE_SECONDS, SAVE_BYTES_PER_SECOND, Seconds, evaluation_seconds, probe_seconds, step_seconds

KEPT_STEPS = 2  # step folders that stay on disk
# Memory of a process on a CPU beyond what is alive at once: libraries that the first step loads, and a share for holes
# in the heap. From fourteen runs of all kinds, each within 8% of it (docs/log.md).
LIBRARY_BYTES, HEAP_HOLES = 150_000_000, 0.15
COMPILER_BYTES = 110_000_000  # left in the process by torch.compile


@dataclass(frozen=True)
class DatasetSize:
    """The size of a text; None for an unknown number."""

    tokens: int | None = None  # of the training split
    held_out: int | None = None
    wide: bool = False  # ids of more than 16 bits


@dataclass(frozen=True)
class Plan:
    """Predicted memory, time and disk space of a run."""

    model: ModelConfig
    train: TrainConfig  # device, dtype and compilation resolved
    T: int
    text: DatasetSize
    memory: Memory  # of one rank, at the peak
    limit: MemoryLimit | None  # of one rank
    step: float | None = None  # seconds of one step; None if this machine was not measured
    speed_source: str | None = None  # where that number comes from: a constant of `speed.py`
    seconds: Seconds | None = None  # of the steps that are left
    world_size: int = 1  # ranks
    local_size: int = 1  # of them, those of one machine
    parallel: str = "one"  # how they share the work: one (a single rank), ddp or fsdp

    @property
    def fits(self) -> bool:
        """Return whether the memory is within its limit, if there is one."""
        return self.limit is None or self.memory.total <= self.limit.bytes

    @property
    def parameters(self) -> int:
        """Return the number of parameters."""
        return get_model_size(self.model)

    @property
    def data_size(self) -> int:
        """Return the number of ranks, or of tensor groups, among which the rows of a batch are divided."""
        return self.world_size // self.train.tensor

    @property
    def tokens_per_step(self) -> int:
        """Return the tokens of all sequences of a batch."""
        return self.train.batch_size * self.T

    @property
    def tokens(self) -> int:
        """Return the tokens of the whole run."""
        return self.tokens_per_step * self.train.max_steps

    @property
    def passes(self) -> float | None:
        """Return the number of passes over the training text."""
        return self.tokens / self.text.tokens if self.text.tokens else None

    @property
    def flops_per_step(self) -> float:
        """Return the operations of a step's matrix multiplications."""
        return training_flops(self.model, self.T) * self.tokens_per_step

    @property
    def bytes_of_data(self) -> int | None:
        """Return the bytes of the token ids in the cache."""
        if self.text.tokens is None:
            return None
        return (4 if self.text.wide else 2) * (self.text.tokens + (self.text.held_out or 0))

    @property
    def bytes_of_checkpoints(self) -> int:
        """Return the bytes of the step folders that stay and of the best model."""
        weights = 4 * self.parameters
        step = weights + optimizer_bytes(self.model, self.train.optimizer)
        extra = self.train.max_steps // self.train.keep_every if self.train.keep_every else 0
        return (KEPT_STEPS + extra) * step + weights

    def to_dict(self) -> dict[str, Any]:
        """Return the plain values that run.json stores."""
        values: dict[str, Any] = {
            "parameters": self.parameters,
            "steps": self.train.max_steps,
            "memory": asdict(self.memory) | {"total": self.memory.total},
            "room": asdict(self.limit) if self.limit else None,  # the key of runs that exist
            "checkpoints": self.bytes_of_checkpoints,
            "flops_per_token": training_flops(self.model, self.T),
            "tokens_per_step": self.tokens_per_step,
            "tokens": self.tokens,
        }
        if self.passes is not None:
            values["passes"] = round(self.passes, 2)
        if self.step is not None and self.seconds is not None:
            values |= {"step_seconds": round(self.step, 4), "seconds": round(self.step * self.train.max_steps, 2)}
            values["all_seconds"] = round(self.seconds.total, 1)
            values["speed_source"] = self.speed_source
            values["left"] = {name: round(value, 3) for name, value in asdict(self.seconds).items()}
        if self.world_size > 1:
            values["processes"] = {"world": self.world_size, "local": self.local_size, "parallel": self.parallel}
        return values


def make_plan(
    model: ModelConfig,
    train: TrainConfig,
    T: int,
    text: DatasetSize | None = None,
    *,
    framework: int | None = None,
    limit: MemoryLimit | None = None,
    timed: bool = True,
    done: int = 0,
    world_size: int = 1,
    local_size: int | None = None,
    parallel: str | None = None,
) -> Plan:
    """Plan a run whose device, dtype and compilation are resolved. With several ranks, memory is that of one of them.

    Args:
        T: tokens of a window.
        framework: bytes of the process before there is a model; by default what it has now.
        limit: of one rank; by default the tightest limit of this machine, of which its ranks have equal shares.
        timed: predict the time too; measures this machine if it was not measured before.
        done: steps made earlier.
        world_size: ranks that share each batch.
        local_size: those of them on this machine; by default all.
        parallel: by default `train.parallel`; "auto" is "ddp" if a rank holds the whole model, otherwise "fsdp".

    Raises:
        ConfigError: the batch or the model cannot be divided among the ranks.
    """
    parallel = parallel or train.parallel
    local_size = world_size if local_size is None else local_size
    check_tensor_parallel(model, train, world_size)
    check_batch(train, world_size)
    limit = limit or (
        memory_limit(train.device, processes=local_size) if local_size > 1 else memory_limit(train.device)
    )
    framework = resident_memory() if framework is None else framework

    def planned(kind: str) -> tuple[Plan, StepShape]:
        # On several machines each has all shards (`parallel.fsdp.make_mesh`).
        machine = local_size if 1 < local_size < world_size and world_size % local_size == 0 else world_size
        shards = max(1, machine // train.tensor) if kind == "fsdp" else 1
        ranks = world_size // train.tensor
        shape = StepShape.of(model, train, T, ranks=ranks, local=local_size, shards=shards)
        memory = step_memory(shape)
        overhead = int(HEAP_HOLES * memory.total) + LIBRARY_BYTES + (COMPILER_BYTES if shape.compiled else 0)
        # On a GPU its own memory counts, and Python's is elsewhere.
        memory = replace(memory, cache=overhead, framework=framework if shape.on_cpu else 0)
        plan = Plan(model, train, T, text or DatasetSize(), memory, limit)
        return replace(plan, world_size=world_size, local_size=local_size, parallel=kind), shape

    if world_size == 1:
        plan, shape = planned("one")
    elif parallel == "auto":
        both = planned("ddp"), planned("fsdp")
        plan, shape = next((p for p in both if p[0].fits), min(both, key=lambda p: p[0].memory.total))
    else:
        plan, shape = planned(parallel)
    return _with_time(plan, shape, train.max_steps - done) if timed else plan


def check_batch(train: TrainConfig, world_size: int) -> None:
    """Raise ConfigError, with sizes that work, if the batch or its micro-batches cannot be divided among the ranks."""
    batch, micro_batch = train.batch_size, train.micro_batch
    check_tensor_groups(train.tensor, world_size)
    n = world_size // train.tensor
    ranks = f"{n} groups of {train.tensor} processes" if train.tensor > 1 else f"{n} processes"
    if batch % n:
        below, above = batch // n * n, -(-batch // n) * n
        sizes = " or ".join(f"{{--batch-size {size}}}" for size in (below, above) if size)
        raise ConfigError(f"a batch of {batch} sequences cannot be divided among {ranks}; use {sizes}")
    rows = batch // n
    if micro_batch and rows % micro_batch:
        below = next(n for n in range(min(micro_batch, rows), 0, -1) if rows % n == 0)
        raise ConfigError(
            f"each of {ranks} has {rows} of the {batch} sequences of a batch, which cannot be divided "
            f"into micro-batches of {micro_batch}; use {{--micro-batch {below}}}"
        )


def _with_time(plan: Plan, shape: StepShape, steps: int) -> Plan:
    """Add the predicted time of some steps."""
    train, speed = plan.train, find_speed(shape, plan.train)
    parts, factor = speed.profile, speed.factor
    step = factor * step_seconds(shape, parts)
    once = Seconds(
        evaluations=factor * evaluation_seconds(shape, parts, plan.text.held_out or 0),
        probes=factor * probe_seconds(shape, parts),
        saves=(plan.bytes_of_checkpoints / (KEPT_STEPS + 1)) / SAVE_BYTES_PER_SECOND,
        samples=SAMPLE_SECONDS,
    )
    intervals = {
        "evaluations": train.eval_interval,
        "probes": train.probe_interval,
        "saves": train.save_interval,
        "samples": train.sample_interval,
    }
    seconds = Seconds(step * steps, **{name: _count(steps, n) * getattr(once, name) for name, n in intervals.items()})
    return replace(plan, step=step, speed_source=speed.source, seconds=seconds)


def _count(steps: int, interval: int) -> int:
    """Return how often something happens that is due at each multiple of an interval and at the last step."""
    return 0 if not interval else steps // interval + (steps % interval > 0)
