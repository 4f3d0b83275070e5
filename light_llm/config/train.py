"""How a model is trained."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ..errors import ConfigError, did_you_mean
from .validation import MAX_SEED, check_choice, check_range

OPTIMIZERS = ("adamw", "muon")
SCHEDULES = ("cosine", "wsd")
COMPILE = ("auto", "on", "off")
DTYPES = ("auto", "float32", "bfloat16")
ON_NONFINITE = ("stop", "skip", "rollback")
ON_SPIKE = ("off", "warn", "rollback")
TRACKERS = ("auto", "none", "wandb", "tensorboard")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One recipe. Lengths are in optimizer steps; a batch is the sequences of one step, all micro-batches together."""

    max_steps: int = 500
    batch_size: int = 8  # sequences of one optimizer step
    micro_batch: int | None = None  # sequences in memory at a time; None: the whole batch
    optimizer: str = "adamw"  # "muon": the matrices by Muon, the rest by AdamW, at one learning rate
    lr: float = 1.5e-3  # peak
    warmup_steps: int = 50
    schedule: str = "cosine"  # "wsd": stable at the peak, then down over the last 40% of the steps
    min_lr_ratio: float = 0.1  # the schedule ends at this share of the peak
    lr_horizon: int | None = None  # the step the schedule ends at; None: max_steps
    weight_decay: float = 0.1  # on matrices and tables only
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-6  # about the gradient of words a text never uses, which Adam would blow up (docs/log.md)
    grad_clip: float = 1.0  # largest gradient norm, global
    z_loss: float = 0.0  # weight of the squared log-sum-exp of the logits; 1e-4 keeps them from drifting
    on_nonfinite: str = "stop"  # a step whose loss or gradient is not finite never reaches the weights
    on_spike: str = "warn"  # a loss far above those before it
    max_rollbacks: int = 3  # how often a run may go back to a checkpoint
    loss_chunk: int = 1024  # rows of (B T, V) logits that exist at once
    checkpointing: bool = False  # recompute each block's activations in the backward pass
    eval_interval: int = 100  # the whole held-out split
    patience: int = 0  # evaluations without a better one before the run ends; 0: never
    save_interval: int = 100  # a step folder to resume from; the last two are kept
    save_minutes: float = 10.0  # and one whenever so long has passed since the last; 0: never
    keep_every: int = 0  # steps whose number is a multiple of it are kept too; 0: none
    sample_interval: int = 100  # a short sample of what the model writes; 0: never
    probe_interval: int = 25  # a look inside on a small held-out batch: attention, activations, guesses; 0: never
    device: str = "auto"
    dtype: str = "auto"
    compile: str = "auto"
    tracker: str = "auto"  # who else gets the rows; auto: W&B where its key or WANDB_MODE=offline is set
    init_from: str | None = None  # the model file the weights came from
    seed: int = 1337  # of the initial weights and of dropout

    def __post_init__(self) -> None:
        for name in ("max_steps", "batch_size", "loss_chunk", "eval_interval", "save_interval"):
            check_range(name, getattr(self, name), low=1, integer=True)
        for name in ("warmup_steps", "sample_interval", "probe_interval", "patience", "keep_every", "max_rollbacks"):
            check_range(name, getattr(self, name), low=0, integer=True)
        check_range("seed", self.seed, low=0, high=MAX_SEED, integer=True)
        if self.lr_horizon is not None:
            check_range("lr_horizon", self.lr_horizon, low=1, integer=True)
        check_range("lr", self.lr, above=0.0)
        check_range("eps", self.eps, above=0.0)
        check_range("grad_clip", self.grad_clip, above=0.0)
        check_range("weight_decay", self.weight_decay, low=0.0)
        check_range("z_loss", self.z_loss, low=0.0)
        check_range("save_minutes", self.save_minutes, low=0.0)
        check_range("min_lr_ratio", self.min_lr_ratio, low=0.0, high=1.0)
        for name in ("beta1", "beta2"):
            check_range(name, getattr(self, name), low=0.0, below=1.0)
        check_choice("optimizer", self.optimizer, OPTIMIZERS)
        check_choice("schedule", self.schedule, SCHEDULES)
        check_choice("compile", self.compile, COMPILE)
        check_choice("dtype", self.dtype, DTYPES)
        check_choice("on_nonfinite", self.on_nonfinite, ON_NONFINITE)
        check_choice("on_spike", self.on_spike, ON_SPIKE)
        check_choice("tracker", self.tracker, TRACKERS)
        if self.micro_batch is not None:
            check_range("micro_batch", self.micro_batch, low=1, integer=True)
            if self.batch_size % self.micro_batch:
                fits = [n for n in range(1, self.batch_size + 1) if self.batch_size % n == 0]
                raise ConfigError(
                    f"micro_batch={self.micro_batch} does not divide batch_size={self.batch_size}; "
                    f"it can be {', '.join(map(str, fits))}"
                )

    def with_changes(self, changes: Mapping[str, Any]) -> "TrainConfig":
        """Another recipe with some settings changed. Raises ConfigError for a name that is none."""
        known = [f.name for f in fields(self)]
        for name in changes:
            if name not in known:
                raise ConfigError(f"there is no training setting {name!r}{did_you_mean(name, known)}")
        return replace(self, **changes)
