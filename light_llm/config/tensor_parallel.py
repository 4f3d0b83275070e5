"""Tensor parallelism divides each matrix among processes: which models and numbers of processes it can divide."""

import math

from ..errors import ConfigError
from .choices import POSITIONS
from .model import ModelConfig
from .train import TrainConfig
from .validation import divisors


def check_tensor_groups(n: int, processes: int) -> None:
    """Raise ConfigError unless the processes of a run form groups of n that share each matrix."""
    if processes < n:
        raise ConfigError(
            f"tensor={n} needs {n} processes or a multiple, and this run has {processes}; start it with "
            f"{{--processes {n}}} or torchrun, or use {{--tensor 1}}"
        )
    if processes % n:
        raise ConfigError(
            f"tensor={n} does not divide the {processes} processes of this run; it can be {divisors(processes)}"
        )


def check_tensor_parallel(model: ModelConfig, train: TrainConfig, processes: int) -> None:
    """Raise ConfigError for a model, or settings, that tensor parallelism cannot divide over the processes."""
    n = train.tensor
    check_tensor_groups(n, processes)
    if n == 1:
        return
    divided = {"n_head": model.n_head, "n_kv_head": model.kv_heads, "n_inner": model.inner_size}
    for name, size in divided.items():
        if size % n:
            fitting = divisors(math.gcd(*divided.values()))
            raise ConfigError(f"tensor={n} does not divide {name}={size}; for this model it can be {fitting}")
    if model.vocab_size < n:
        raise ConfigError(f"tensor={n} is more than vocab_size={model.vocab_size}; use a smaller {{--tensor}}")
    if model.attn_dropout:
        raise ConfigError(
            f"attn_dropout={model.attn_dropout:g} and tensor={n} cannot be combined: each process would drop other "
            "probabilities than one process does; use attn_dropout=0, or {--tensor 1}"
        )
    if POSITIONS[model.positions].score_bias:
        raise ConfigError(
            f"positions={model.positions} and tensor={n} cannot be combined: the bias of the scores is not divided by "
            "heads; use {--tensor 1}"
        )
    if train.optimizer == "muon":
        raise ConfigError(
            f"optimizer=muon and tensor={n} cannot be combined: Muon needs whole matrices; use {{--optimizer adamw}}, "
            "or {--tensor 1}"
        )
