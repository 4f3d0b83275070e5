"""The training settings: steps, batches, optimizer, schedule, guards, intervals, device."""

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any

from ..errors import ConfigError, did_you_mean
from .choices import OPTIMIZERS
from .data import DataConfig
from .model import ModelConfig
from .schedule import SCHEDULES
from .settings import check_settings, describe_settings, setting, settings_of
from .validation import DEFAULT_SEED, MAX_SEED, divisors

COMPILE = ("auto", "on", "off")
PARALLEL = ("auto", "ddp", "fsdp")
DTYPES = ("auto", "float32", "bfloat16")
ON_NONFINITE = ("stop", "skip", "rollback")
ON_SPIKE = ("off", "warn", "rollback")
TRACKERS = ("auto", "none", "wandb", "tensorboard")


# Where the settings of the other parts belong in Python.
_OTHER_PARTS = (
    (ModelConfig, "the model: ModelConfig(..., {}=...)"),
    (DataConfig, "the dataset: prepare_dataset(..., {}=...)"),
)


@describe_settings
@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of training. Intervals are in optimizer steps; a batch is all micro-batches of one step together."""

    max_steps: int = setting(500, "stop after this many optimizer steps", low=1, resume="free", flag=True)
    batch_size: int = setting(8, "sequences in an optimizer step", low=1, flag=True)
    micro_batch: int | None = setting(
        None,
        "sequences computed at a time (fewer need less memory); 0 or none: the whole batch",
        short="sequences at a time; 0: the whole batch",
        low=1,
        resume="free",
        flag=True,
    )
    # muon: the matrices by Muon, the rest by AdamW, both at this learning rate.
    optimizer: str = setting(
        "adamw",
        "optimizer; muon updates matrices with Muon and the rest with AdamW, both at the rate lr",
        short="optimizer",
        choices=tuple(OPTIMIZERS),
        flag=True,
    )
    lr: float = setting(1.5e-3, "peak learning rate", above=0.0, flag=True)
    warmup_steps: int = setting(
        50,
        "raise the learning rate linearly over this many steps",
        short="raise the rate over this many steps",
        low=0,
        flag=True,
    )
    # wsd: stable at the peak, then down over the last 40% of the steps.
    schedule: str = setting(
        "cosine",
        "shape of the learning rate after the warm-up; wsd: constant, then falling over the last 40%",
        choices=tuple(SCHEDULES),
    )
    min_lr_ratio: float = setting(
        0.1, "learning rate at the end of the schedule, as a share of the peak", low=0.0, high=1.0
    )
    lr_horizon: int | None = setting(None, "step at which the schedule ends; none: at max_steps", low=1, resume="free")
    weight_decay: float = setting(
        0.1, "weight decay of matrices and embeddings", short="decay of matrices and embeddings", low=0.0, flag=True
    )
    beta1: float = setting(0.9, "decay rate of AdamW's first moment", low=0.0, below=1.0)
    beta2: float = setting(0.95, "decay rate of AdamW's second moment", low=0.0, below=1.0)
    # About the gradient of tokens that a text never uses, which a smaller eps would amplify (docs/log.md).
    eps: float = setting(1e-6, "AdamW's epsilon", above=0.0)
    grad_clip: float = setting(1.0, "scale the gradient down to this global norm if its norm is larger", above=0.0)
    # 1e-4 keeps the logits from drifting (PaLM).
    z_loss: float = setting(
        0.0,
        "weight of the squared log-sum-exp of the logits in the loss, which keeps the logits from drifting; 0: off",
        low=0.0,
    )
    on_nonfinite: str = setting(
        "stop",
        "what to do when a loss or gradient is NaN or infinite",
        short="on NaN or inf",
        choices=ON_NONFINITE,
        resume="free",
        flag=True,
        metavar="WHAT",
    )
    on_spike: str = setting(
        "warn", "what to do when a loss is far above the recent ones", choices=ON_SPIKE, resume="free"
    )
    max_rollbacks: int = setting(3, "stop after this many rollbacks to a checkpoint", low=0, resume="free")
    loss_chunk: int = setting(
        1024, "rows of the (B T, V) logits in memory at once; fewer need less memory", low=1, resume="free"
    )
    checkpointing: bool = setting(
        False, "recompute activations in the backward pass: less memory, about a third more time", resume="free"
    )
    eval_interval: int = setting(100, "evaluate every N steps", low=1, resume="free", flag=True)
    patience: int = setting(
        0,
        "stop after N evaluations without improvement; 0: never",
        short="stop after N worse evaluations; 0: never",
        low=0,
        resume="free",
        flag=True,
    )
    save_interval: int = setting(100, "save a checkpoint every N steps", low=1, resume="free", flag=True)
    save_minutes: float = setting(
        10.0, "also save when the last save is this many minutes old; 0: never", low=0.0, resume="free"
    )
    keep_every: int = setting(
        0, "keep the checkpoint of every N-th step; 0: keep only the newest", low=0, resume="free"
    )
    sample_interval: int = setting(100, "generate a short sample every N steps; 0: never", low=0, resume="free")
    probe_interval: int = setting(25, "probe activations and attention every N steps; 0: never", low=0, resume="free")
    device: str = setting(
        "auto", "device to train on: auto, cpu, cuda, mps", short="auto, cpu, cuda, mps", resume="free", flag=True
    )
    dtype: str = setting(
        "auto",
        "number format of the matrix multiplications",
        short="number format",
        choices=DTYPES,
        resume="free",
        flag=True,
    )
    compile: str = setting(
        "auto",
        "whether to compile the model with torch.compile",
        short="torch.compile",
        choices=COMPILE,
        resume="free",
        flag=True,
        metavar="WHEN",
    )
    # auto: DDP if a whole replica of weights and optimizer fits into the memory of a rank, otherwise FSDP.
    parallel: str = setting(
        "auto",
        "how several processes share the work: ddp keeps a whole replica in each, fsdp shards it",
        short="replicas or shards",
        choices=PARALLEL,
        resume="free",
        flag=True,
        metavar="HOW",
    )
    tensor: int = setting(
        1,
        "processes that share each matrix (tensor parallelism); 1: off",
        short="processes that share each matrix",
        low=1,
        resume="free",
        flag=True,
    )
    timeout: float = setting(
        120.0, "seconds that a process waits for the others before it gives them up", above=0.0, resume="free"
    )
    # auto: W&B if its key or WANDB_MODE=offline is set.
    tracker: str = setting(
        "auto",
        "tracker to log to; auto: W&B if its key or WANDB_MODE=offline is set",
        short="log to",
        choices=TRACKERS,
        resume="free",
        flag=True,
    )
    init_from: str | None = setting(
        None,
        "model to start from: a run folder, step folder or .pt file",
        short="start from the weights of this model",
        flag=True,
        metavar="PATH",
    )
    seed: int = setting(
        DEFAULT_SEED,
        "seed of the initial weights and of dropout",
        short="weights, dropout",
        low=0,
        high=MAX_SEED,
        flag=True,
    )

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
                if owner := next((made for kind, made in _OTHER_PARTS if name in settings_of(kind)), None):
                    raise ConfigError(f"{name} is not a training setting; give it to {owner.format(name)}")
                alias = explain_alias(name, value)
                hint = f": {alias}" if alias else did_you_mean(name, known)
                raise ConfigError(f"there is no training setting {name!r}{hint}")
        return replace(self, **changes)
