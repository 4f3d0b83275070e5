"""What a run will amount to, worked out before anything is downloaded, written or started."""

from dataclasses import asdict, dataclass, replace
from typing import Any

from ..config import ModelConfig, TrainConfig, get_model_size
from ..runtime import MemoryLimit, memory_limit, resident_memory, training_flops
from .memory_model import Memory, StepShape, optimizer_bytes, step_memory
from .profile import profile
from .time_model import SAMPLED, SAVED, Seconds, evaluation_seconds, look_seconds, step_seconds

KEPT = 2  # step folders that stay
# What a process takes beyond what is alive at once, on a CPU: libraries that the first step loads, holes in the heap.
# From fourteen runs of all kinds, each within 8% of it (docs/log.md).
LOADED, HOLES = 150_000_000, 0.15
COMPILER = 110_000_000  # and what torch.compile leaves in the process


@dataclass(frozen=True)
class Text:
    """What a plan has to know about the text; None: not known yet."""

    tokens: int | None = None  # of the training split
    held_out: int | None = None
    wide: bool = False  # ids of more than 16 bits


@dataclass(frozen=True)
class Plan:
    """A run before it starts."""

    model: ModelConfig
    train: TrainConfig  # device, format and compilation settled
    T: int
    text: Text
    memory: Memory  # at the peak
    room: MemoryLimit | None  # what it may come to
    step: float | None  # seconds of one step; None where nothing was measured
    seconds: Seconds | None  # of all that is left to do

    @property
    def fits(self) -> bool:
        """Whether the memory is there, as far as anyone says."""
        return self.room is None or self.memory.total <= self.room.bytes

    @property
    def parameters(self) -> int:
        """Of the model."""
        return get_model_size(self.model)

    @property
    def tokens_per_step(self) -> int:
        """Of all sequences of a batch."""
        return self.train.batch_size * self.T

    @property
    def tokens(self) -> int:
        """Of the whole run."""
        return self.tokens_per_step * self.train.max_steps

    @property
    def passes(self) -> float | None:
        """Over the training text."""
        return self.tokens / self.text.tokens if self.text.tokens else None

    @property
    def flops_per_step(self) -> float:
        """Operations of its products."""
        return training_flops(self.model, self.T) * self.tokens_per_step

    @property
    def bytes_of_data(self) -> int | None:
        """Of the token ids in the cache."""
        if self.text.tokens is None:
            return None
        return (4 if self.text.wide else 2) * (self.text.tokens + (self.text.held_out or 0))

    @property
    def bytes_of_checkpoints(self) -> int:
        """Of the steps that are kept and the best model."""
        weights = 4 * self.parameters
        step = weights + optimizer_bytes(self.model, muon=self.train.optimizer == "muon")
        more = self.train.max_steps // self.train.keep_every if self.train.keep_every else 0
        return (KEPT + more) * step + weights

    def to_dict(self) -> dict[str, Any]:
        """What run.json keeps of it, as plain values."""
        found: dict[str, Any] = {
            "parameters": self.parameters,
            "steps": self.train.max_steps,
            "memory": asdict(self.memory) | {"total": self.memory.total},
            "room": asdict(self.room) if self.room else None,
            "checkpoints": self.bytes_of_checkpoints,
            "flops_per_token": training_flops(self.model, self.T),
            "tokens_per_step": self.tokens_per_step,
            "tokens": self.tokens,
        }
        if self.passes is not None:
            found["passes"] = round(self.passes, 2)
        if self.step is not None and self.seconds is not None:
            found |= {"step_seconds": round(self.step, 4), "seconds": round(self.step * self.train.max_steps, 2)}
            found["all_seconds"] = round(self.seconds.total, 1)
        return found


def make_plan(
    model: ModelConfig,
    train: TrainConfig,
    T: int,
    text: Text | None = None,
    *,
    framework: int | None = None,
    room: MemoryLimit | None = None,
    timed: bool = True,
    done: int = 0,
) -> Plan:
    """Plan a run whose device, format and compilation are settled.

    Args:
        T: tokens of a window.
        framework: bytes the process has before there is a model; by default what it has now.
        room: what it may come to; by default the tightest limit of this machine.
        timed: whether to say how long it takes; measures this machine where that is not known yet.
        done: steps that were made earlier.
    """
    text = text or Text()
    shapes = StepShape.of(model, train, T)
    plan = Plan(
        model=model,
        train=train,
        T=T,
        text=text,
        memory=_of_the_process(shapes, resident_memory() if framework is None else framework),
        room=room or memory_limit(train.device),
        step=None,
        seconds=None,
    )
    return _timed(plan, shapes, train.max_steps - done) if timed else plan


def _of_the_process(shapes: StepShape, framework: int) -> Memory:
    """With what the process holds besides: on a GPU its own memory counts, and Python is elsewhere."""
    memory = step_memory(shapes)
    beyond = int(HOLES * memory.total) + LOADED + (COMPILER if shapes.compiled else 0)
    return replace(memory, cache=beyond, framework=framework if shapes.on_cpu else 0)


def _timed(plan: Plan, shapes: StepShape, steps: int) -> Plan:
    """With its time."""
    train = plan.train
    known = profile(train.device, train.dtype, plan.model)
    step = step_seconds(shapes, known)
    times = {name: _times(steps, getattr(train, f"{name}_interval")) for name in ("eval", "save", "probe", "sample")}
    seconds = Seconds(
        steps=step * steps,
        evaluations=times["eval"] * evaluation_seconds(shapes, known, plan.text.held_out or 0),
        looks=times["probe"] * look_seconds(shapes, known),
        saves=times["save"] * (plan.bytes_of_checkpoints / (KEPT + 1)) / SAVED,
        samples=times["sample"] * SAMPLED,
    )
    return replace(plan, step=step, seconds=seconds)


def _times(steps: int, every: int) -> int:
    """How often something happens that happens at each n-th step and at the last."""
    return 0 if not every else steps // every + (steps % every > 0)
