"""The part of each parameter that a rank of a tensor group holds."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import ModelConfig
from ..config.param_shapes import param_shapes


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
        """Return a copy of the rows or columns that rank `rank` of n holds."""
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
