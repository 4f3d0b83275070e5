"""How long a run will take: its parts, each at the speed that was measured of this machine (`profile.py`)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

from ..config import get_model_size, matrix_parameters
from .memory_model import StepShape, by_blocks
from .profile import LENGTHS, WIDTHS, D, Profile

SAVED = 400e6  # bytes a second that a save makes: written, hashed, synced. Disks differ; a run saves seldom
LOOKED = 512  # tokens of a look inside
COMPILED = 1.08  # a compiled step takes so much more of the parts' time, on a CPU (docs/log.md)
SAMPLED = 1.0  # seconds of a sample and what it takes to begin one


@dataclass(frozen=True)
class Seconds:
    """Of a run, by what they go into."""

    steps: float = 0.0
    evaluations: float = 0.0
    looks: float = 0.0
    saves: float = 0.0
    samples: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return float(sum(getattr(self, f.name) for f in fields(self)))


def step_seconds(shapes: StepShape, p: Profile) -> float:
    """One optimizer step: its micro-batches, and the update."""
    m = shapes.model
    P, matrices = get_model_size(m), matrix_parameters(m)
    batch = m.n_layer * block_seconds(shapes, p) + head_seconds(shapes, p) + m.vocab_size * m.n_embd * p.table
    if m.dropout:
        batch += (2 * m.n_layer + 1) * shapes.N * m.n_embd * p.dropout
    adding = (
        P * p.adamw / 2 * (shapes.micro_batches > 1)
    )  # a gradient is added to the one before: half of AdamW's traffic
    update = P * p.adamw
    if shapes.muon:
        update = (P - matrices) * p.adamw + m.n_layer * between(m.n_embd, WIDTHS, p.muon)
    return shapes.micro_batches * (COMPILED if shapes.compiled else 1.0) * (batch + adding) + update


def block_seconds(s: StepShape, p: Profile) -> float:
    """A micro-batch through one block, forward and backward; twice forward where it is computed again."""
    C = s.model.n_embd
    seconds = between(C, WIDTHS, p.block_batch) + s.N * between(C, WIDTHS, p.block_token) + attention_seconds(s, p)
    return seconds * (1 + p.forward) if s.checkpointing else seconds


def attention_seconds(s: StepShape, p: Profile) -> float:
    """Attention of one block. What it costs grows with d_k only in the products, about half of it."""
    m = s.model
    of_a_token = between(s.T, LENGTHS, p.attention if by_blocks(s) else p.attention_kernel)
    return s.N * m.n_head * of_a_token * (1 + m.head_size / D) / 2


def head_seconds(s: StepShape, p: Profile) -> float:
    """The loss of a micro-batch, and its gradients; what is done once for the table is done once."""
    C, V = s.model.n_embd, s.model.vocab_size
    return V * (between(C, WIDTHS, p.head_batch) + s.N * between(C, WIDTHS, p.head_token))


def evaluation_seconds(s: StepShape, p: Profile, tokens: int) -> float:
    """One pass over a held-out text."""
    C, m = s.model.n_embd, s.model
    of_blocks = p.forward * (between(C, WIDTHS, p.block_token) + attention_seconds(s, p) / s.N)
    of_head = p.evaluated * m.vocab_size * between(C, WIDTHS, p.head_token)
    return tokens * (m.n_layer * of_blocks + of_head)


def look_seconds(s: StepShape, p: Profile) -> float:
    """One look inside: about two passes of some tokens, and the head once more for each layer of the lens."""
    C, m = s.model.n_embd, s.model
    of_head = p.evaluated * m.vocab_size * between(C, WIDTHS, p.head_token)
    return evaluation_seconds(s, p, 2 * LOOKED) + LOOKED * m.n_layer * of_head


def between(x: float, sizes: Sequence[int], values: Sequence[float]) -> float:
    """A value between, or beyond, those that were measured: on the line through the two nearest, in logarithms.

    >>> round(between(256, (128, 512), (1.0, 4.0)), 6), round(between(1024, (128, 512), (1.0, 4.0)), 6)
    (2.0, 8.0)
    """
    if min(values) <= 0:  # logarithms have no place for it: in a straight line, never below 0
        i = _below(x, sizes)
        share = (x - sizes[i]) / (sizes[i + 1] - sizes[i])
        return max(0.0, values[i] + share * (values[i + 1] - values[i]))
    i = _below(x, sizes)
    share = math.log(x / sizes[i]) / math.log(sizes[i + 1] / sizes[i])
    return math.exp(math.log(values[i]) + share * math.log(values[i + 1] / values[i]))


def _below(x: float, sizes: Sequence[int]) -> int:
    """The size that x lies above, with another one after it; the first or the last such one for what lies beyond."""
    return max(0, min(len(sizes) - 2, sum(size <= x for size in sizes) - 1))
