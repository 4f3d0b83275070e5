"""The plan of a run on a cluster as rows of text, and as plain values."""

from dataclasses import asdict, dataclass
from typing import Any

from ..text_format import format_bytes, format_count, format_duration
from .cluster import (
    FITTED_LENGTH,
    FITTED_WIDTH,
    PROMISE,
    Measured,
    Step,
    Work,
    is_too_slow,
    needed_tokens,
    predict_step,
)
from .machine import Machine
from .plan import Plan
from .published import Published, median_error, nearest_rows
from .render import NAMES

Row = tuple[str, str, str]  # label, value, and what it is
KINDS = {
    "one": "a single GPU",
    "ddp": "ddp: each has the whole model",
    "fsdp": "fsdp: each has a shard of weights, gradients and moments",
}


@dataclass(frozen=True)
class ClusterPlan:
    """A run on the GPUs of a machine file: memory by the plan of one rank, time by the formula."""

    plan: Plan  # of one rank, with the GPU's memory as its limit
    machine: Machine
    work: Work
    step: Step
    measured: Measured | None = None  # of this machine's GPU, where it is of the same kind

    @property
    def W(self) -> int:
        """Return the number of GPUs."""
        return self.plan.world_size

    @property
    def mfu(self) -> float:
        """Return the operations of the model as a share of the GPU's peak."""
        return self.work.flops_per_token * self.step.tokens_per_second / self.machine.gpu.flops

    @property
    def alone(self) -> float:
        """Return the tokens/s of one GPU that sends no messages."""
        return predict_step(self.work, self.machine, 1, "ddp", measured=self.measured).tokens_per_second

    @property
    def needed_tokens(self) -> float:
        """Return the tokens that a GPU needs in a step to hide the sum of the gradients; 0 for one GPU."""
        return needed_tokens(self.work, self.machine, self.W, measured=self.measured)

    @property
    def nearest(self) -> list[Published]:
        """Return the published speeds most like this run."""
        return nearest_rows(self.work, self.machine.gpu.kind, self.W)

    def to_dict(self) -> dict[str, Any]:
        """Return plain values: seconds, bytes and tokens."""
        step = self.step
        return {
            "machine": asdict(self.machine),
            "gpus": self.W,
            "speed_source": "measured" if self.measured else "formula",
            "step_seconds": step.seconds,
            "seconds": {
                "computing": step.computing,
                "exposed_communication": step.exposed,
                "update": step.update,
                "stragglers": step.stragglers,
            },
            "communication_seconds": step.communication,
            "tokens_per_second": step.tokens_per_second * self.W,
            "tokens_per_second_per_gpu": step.tokens_per_second,
            "tokens_per_second_alone": self.alone,
            "mfu": self.mfu,
            "tokens_per_gpu": self.work.tokens,
            "tokens_to_hide_communication": self.needed_tokens,
            "error": PROMISE if self.is_promised else None,
            "published": [
                {
                    "model": row.model,
                    "gpus": row.gpus,
                    "gpu": row.gpu,
                    "T": row.work.T,
                    "tokens_per_second_per_gpu": row.speed,
                    "formula": row.predicted(),
                    "source": row.source,
                }
                for row in self.nearest
            ],
        }

    def rows(self) -> list[Row]:
        """Return the plan as rows of three columns; a row of empty texts is a blank line."""
        parts = [self._about(), self._speed(), self._memory(), self._network()]
        return [row for part in parts if part for row in [*part, ("", "", "")]]

    def _about(self) -> list[Row]:
        machine, plan, c = self.machine, self.plan, self.plan.model
        n = max(1, self.W // machine.gpus)
        assumed = " (assumed from data sheets)" if machine.assumed else ""
        train = plan.train
        pieces = f", {self.work.micro_batch} at a time" if self.work.micro_batches > 1 else ""
        each = f": {train.batch_size // self.W} sequences a GPU{pieces}" if self.W > 1 else pieces
        return [
            ("machine", machine.name, f"{machine.about or machine.gpu.kind}{assumed}"),
            ("GPUs", f"{self.W:,}", f"{machine.gpu.kind} in {n:,} machine{'s' * (n != 1)}, {KINDS[plan.parallel]}"),
            (
                "model",
                format_count(plan.parameters),
                f"{c.n_layer} layers, n_embd {c.n_embd}, vocabulary {c.vocab_size:,}",
            ),
            ("batch", f"{plan.tokens_per_step:,}", f"tokens a step, {train.batch_size} x {plan.T:,}{each}"),
        ]

    def _speed(self) -> list[Row]:
        step, W, steps = self.step, self.W, self.plan.train.max_steps
        source = "a GPU of this kind, measured here" if self.measured else "by the formula"
        rows = [
            ("speed", f"{step.tokens_per_second * W:,.0f}", "tokens/s in all"),
            (
                "",
                f"{step.tokens_per_second:,.0f}",
                f"tokens/s a GPU, {self.mfu:.{0 if self.mfu >= 0.1 else 1}%} of its peak",
            ),
            ("step", format_duration(step.seconds), f"{format_duration(step.seconds * steps)} for {steps:,} steps"),
            ("", format_duration(step.computing), f"computing ({source})"),
        ]
        if W > 1:
            hidden = f"communication that is not hidden, of {format_duration(step.communication)}"
            rows.append(("", format_duration(step.exposed), hidden))
        rows.append(("", format_duration(step.update), "update"))
        if step.stragglers:
            rows.append(("", format_duration(step.stragglers), "waiting for the slowest GPU"))
        return rows

    def _memory(self) -> list[Row]:
        memory, gpu = self.plan.memory, self.machine.gpu
        fits = "of" if self.plan.fits else "too much for"
        return [
            ("memory", format_bytes(memory.total), f"{fits} the {format_bytes(gpu.memory)} of each GPU"),
            *(("", format_bytes(n), NAMES.get(kind, kind)) for kind, n in vars(memory).items() if n),
        ]

    def _network(self) -> list[Row]:
        if self.W == 1:
            return []
        needed, tokens, line = self.needed_tokens, self.work.tokens, self.machine.line(self.W)
        rows: list[Row] = [
            ("network", f"{format_bytes(line)}/s", "on the slowest link between the GPUs"),
            ("", f"{needed:,.0f}", "tokens a GPU needs in a step to hide the sum of all gradients"),
            ("", f"{tokens:,}", "tokens it has" + ("" if tokens >= needed else ": use larger batches or fewer GPUs")),
        ]
        if is_too_slow(self.work, self.machine, self.W, measured=self.measured):
            rows.append(("", "", "Two laptops on Wi-Fi do not train together:"))
            rows.append(("", f"{self.alone:,.0f}", "tokens/s by one of them alone"))
        return rows

    @property
    def is_promised(self) -> bool:
        """Return whether the time of a step is promised: measured here, or of a size that published runs have."""
        return bool(self.measured) or (self.work.width >= FITTED_WIDTH and self.work.T <= FITTED_LENGTH)

    def notes(self) -> list[str]:
        """Return the accuracy of the prediction, and where it does not hold."""
        foundry, others = median_error(foundry=True), median_error(foundry=False)
        errors = (
            f"The median error of the formula on published speeds is {foundry:.0%} for llm-foundry and {others:.0%} "
            "for other programs; none is a run of light-llm."
        )
        if self.is_promised:
            return [f"Expect the time of a step within {PROMISE:.0%}. {errors}"]
        return [
            f"No accuracy is promised: the published runs have n_embd of {FITTED_WIDTH} and more and at most "
            f"{FITTED_LENGTH:,} tokens. A GPU waits for small kernels to start, so the step can take far longer.",
            errors,
        ]
