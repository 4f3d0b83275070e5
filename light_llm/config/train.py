"""The training settings: steps, batches, optimizer, schedule, guards, intervals, device."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ..errors import ConfigError, did_you_mean
from .choices import OPTIMIZERS
from .schedule import SCHEDULES
from .settings import check_settings, setting
from .validation import DEFAULT_SEED, MAX_SEED, divisors

COMPILE = ("auto", "on", "off")
DTYPES = ("auto", "float32", "bfloat16")
ON_NONFINITE = ("stop", "skip", "rollback")
ON_SPIKE = ("off", "warn", "rollback")
TRACKERS = ("auto", "none", "wandb", "tensorboard")


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of training. Intervals are in optimizer steps; a batch is all micro-batches of one step together."""

    max_steps: int = setting(500, "optimizer steps", low=1, resume="free", flag=True)
    batch_size: int = setting(8, "sequences per step", low=1, flag=True)
    micro_batch: int | None = setting(None, "sequences at a time; 0: all", low=1, resume="free", flag=True)
    # muon: the matrices by Muon, the rest by AdamW, both at this learning rate.
    optimizer: str = setting("adamw", "optimizer", choices=tuple(OPTIMIZERS), flag=True)
    lr: float = setting(1.5e-3, "peak learning rate", above=0.0, flag=True)
    warmup_steps: int = setting(50, "linear warm-up", low=0, flag=True)
    # wsd: stable at the peak, then down over the last 40% of the steps.
    schedule: str = setting("cosine", "learning-rate schedule", choices=tuple(SCHEDULES))
    min_lr_ratio: float = setting(0.1, "final learning rate as a share of the peak", low=0.0, high=1.0)
    lr_horizon: int | None = setting(None, "step where the schedule ends; none: max_steps", low=1, resume="free")
    weight_decay: float = setting(0.1, "on matrices, embeddings", low=0.0, flag=True)
    beta1: float = setting(0.9, "AdamW's decay of the first moment", low=0.0, below=1.0)
    beta2: float = setting(0.95, "AdamW's decay of the second moment", low=0.0, below=1.0)
    # About the gradient of tokens that a text never uses, which a smaller eps would amplify (docs/log.md).
    eps: float = setting(1e-6, "AdamW's epsilon", above=0.0)
    grad_clip: float = setting(1.0, "largest global gradient norm", above=0.0)
    # 1e-4 keeps the logits from drifting (PaLM).
    z_loss: float = setting(0.0, "weight of the squared log-sum-exp of the logits", low=0.0)
    on_nonfinite: str = setting("stop", "NaN or inf", choices=ON_NONFINITE, resume="free", flag=True, metavar="WHAT")
    on_spike: str = setting("warn", "what to do about a loss far above the last ones", choices=ON_SPIKE, resume="free")
    max_rollbacks: int = setting(3, "how often a run may return to a checkpoint", low=0, resume="free")
    loss_chunk: int = setting(1024, "rows of the (B T, V) logits in memory at once", low=1, resume="free")
    checkpointing: bool = setting(False, "recompute activations in the backward pass", resume="free")
    eval_interval: int = setting(100, "evaluate every N steps", low=1, resume="free", flag=True)
    patience: int = setting(0, "evaluations to wait; 0: all", low=0, resume="free", flag=True)
    save_interval: int = setting(100, "save every N steps", low=1, resume="free", flag=True)
    save_minutes: float = setting(10.0, "also save when the last save is this old; 0: never", low=0.0, resume="free")
    keep_every: int = setting(0, "keep the checkpoints of multiples of this step; 0: none", low=0, resume="free")
    sample_interval: int = setting(100, "generate a short sample every N steps; 0: never", low=0, resume="free")
    probe_interval: int = setting(25, "probe activations and attention every N steps; 0: never", low=0, resume="free")
    device: str = setting("auto", "auto, cpu, cuda, mps", resume="free", flag=True)
    dtype: str = setting("auto", "number format", choices=DTYPES, resume="free", flag=True)
    compile: str = setting("auto", "torch.compile", choices=COMPILE, resume="free", flag=True, metavar="WHEN")
    # auto: W&B if its key or WANDB_MODE=offline is set.
    tracker: str = setting("auto", "log to", choices=TRACKERS, resume="free", flag=True)
    init_from: str | None = setting(None, "weights to start from", flag=True, metavar="PATH")
    seed: int = setting(DEFAULT_SEED, "weights, dropout", low=0, high=MAX_SEED, flag=True)

    def __post_init__(self) -> None:
        check_settings(self)
        if self.micro_batch is not None and self.batch_size % self.micro_batch:
            raise ConfigError(
                f"micro_batch={self.micro_batch} does not divide batch_size={self.batch_size}; "
                f"it can be {divisors(self.batch_size)}"
            )

    def with_changes(self, changes: Mapping[str, Any]) -> "TrainConfig":
        """Return a copy with some settings changed. Raises ConfigError for an unknown name."""
        # Imported here, because the aliases are about the settings of all parts.
        from .aliases import explain_alias

        known = [f.name for f in fields(self)]
        for name, value in changes.items():
            if name not in known:
                alias = explain_alias(name, value)
                hint = f": {alias}" if alias else did_you_mean(name, known)
                raise ConfigError(f"there is no training setting {name!r}{hint}")
        return replace(self, **changes)
