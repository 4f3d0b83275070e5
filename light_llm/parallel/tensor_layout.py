"""The part of each parameter that a rank of a tensor group holds, and the models that can be divided."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import ModelConfig, TrainConfig
from ..config.choices import POSITIONS
from ..config.param_shapes import param_shapes
from ..config.validation import divisors
from ..errors import ConfigError


@dataclass(frozen=True)
class Layout:
    """A parameter whose rows or columns are divided over the ranks of a tensor group.

    Several sections are divided each by itself: rank r of c_attn, whose rows are q, k and v, has [q_r k_r v_r] and not
    a third of q.
    """

    dim: int  # that is divided
    sections: tuple[int, ...]  # their sizes; together that of the whole

    def sizes(self, n: int) -> list[int]:
        """Return how many rows or columns each of n ranks has."""
        return [sum(_share(section, rank, n) for section in self.sections) for rank in range(n)]

    def part(self, whole: Tensor, rank: int, n: int) -> Tensor:
        """Return a copy of what rank `rank` of n holds."""
        sections = whole.split(self.sections, self.dim)
        return torch.cat([section.tensor_split(n, self.dim)[rank] for section in sections], self.dim)

    def join(self, parts: Sequence[Tensor]) -> Tensor:
        """Return the whole of the parts of all ranks, in the order of one process."""
        n = len(parts)
        pieces = [
            part.split([_share(section, rank, n) for section in self.sections], self.dim)
            for rank, part in enumerate(parts)
        ]
        return torch.cat([piece for section in zip(*pieces, strict=True) for piece in section], self.dim)

    def whole_shape(self, part: Tensor) -> tuple[int, ...]:
        """Return the shape of the whole of which a rank has this part."""
        shape = list(part.shape)
        shape[self.dim] = sum(self.sections)
        return tuple(shape)


def _share(n: int, rank: int, ranks: int) -> int:
    """Return the size of a rank's part of n rows, as `Tensor.tensor_split` divides them."""
    return n // ranks + (rank < n % ranks)


def first_row(n: int, rank: int, ranks: int) -> int:
    """Return the first of a rank's rows of n.

    >>> [first_row(10, rank, 4) for rank in range(4)]
    [0, 3, 6, 8]
    """
    return rank * (n // ranks) + min(rank, n % ranks)


def layouts(config: ModelConfig) -> dict[str, Layout]:
    """Return the layout of every parameter that is divided, by name; the others are replicated.

    Heads, hidden units of MLPs and ids of the vocabulary are divided (Shoeybi et al., 2019, section 3). Gains, biases
    that are added to the residual stream, and learned positions are replicated.
    """
    D, inner = config.head_size, (config.inner_size,)
    queries, keys = config.n_head * D, config.kv_heads * D
    within_block = {
        "attn.c_attn.weight": Layout(0, (queries, keys, keys)),
        "attn.c_attn.bias": Layout(0, (queries, keys, keys)),
        "attn.c_proj.weight": Layout(1, (queries,)),
        "mlp.c_fc.weight": Layout(0, inner),
        "mlp.c_fc.bias": Layout(0, inner),
        "mlp.c_gate.weight": Layout(0, inner),
        "mlp.c_gate.bias": Layout(0, inner),
        "mlp.c_proj.weight": Layout(1, inner),
    }
    tables = {name: Layout(0, (config.vocab_size,)) for name in ("wte.weight", "lm_head.weight")}
    blocks = {f"h.{i}.{name}": layout for i in range(config.n_layer) for name, layout in within_block.items()}
    existing = param_shapes(config)
    return {name: layout for name, layout in (tables | blocks).items() if name in existing}


def check_tensor_parallel(model: ModelConfig, train: TrainConfig, processes: int) -> None:
    """Raise ConfigError for a model, or settings, that tensor parallelism cannot divide over the processes."""
    n = train.tensor
    if processes < n:
        raise ConfigError(
            f"tensor={n} needs {n} processes or a multiple, and this run has {processes}; start it with "
            f"{{--processes {n}}} or torchrun, or use {{--tensor 1}}"
        )
    if processes % n:
        raise ConfigError(
            f"tensor={n} does not divide the {processes} processes of this run; it can be {divisors(processes)}"
        )
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
