"""Time of a run: the sum of its parts, each at the speed that was measured on this machine (`profile.py`)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ..config import get_model_size, matrix_parameters
from ..config.choices import OPTIMIZERS
from .memory_model import StepShape, by_blocks
from .profile import LENGTHS, WIDTHS, D, Profile

# Bytes per second of a save: written, hashed and synced. Disks differ, but a run saves seldom.
SAVE_BYTES_PER_SECOND = 400e6
PROBE_TOKENS = 512
COMPILED_FACTOR = 1.08  # of the parts' time, on a CPU (docs/log.md)
SAMPLE_SECONDS = 1.0  # of a sample, its start-up included


@dataclass(frozen=True)
class Seconds:
    """Seconds of a run, by activity."""

    steps: float = 0.0
    evaluations: float = 0.0
    probes: float = 0.0
    saves: float = 0.0
    samples: float = 0.0

    @property
    def total(self) -> float:
        """Return the sum."""
        return float(sum(vars(self).values()))


def step_seconds(shape: StepShape, p: Profile) -> float:
    """Return the seconds of one optimizer step: its micro-batches and the update.

    Ranks on the processors of one machine share them. The messages between ranks are left out (`cluster.py` has them).
    """
    m = shape.model
    C, V = m.n_embd, m.vocab_size
    head = V * (interpolate(C, WIDTHS, p.head_batch) + shape.N * interpolate(C, WIDTHS, p.head_token))
    batch = m.n_layer * block_seconds(shape, p) + head + V * C * p.table
    if m.dropout:
        batch += (2 * m.n_layer + 1) * shape.N * C * p.dropout
    # Adding a gradient to the one before moves half as many bytes as an update of AdamW.
    adding = get_model_size(m) * p.adamw / 2 * (shape.micro_batches > 1)
    factor = COMPILED_FACTOR if shape.compiled else 1.0
    return shape.share * (shape.micro_batches * factor * (batch + adding) + update_seconds(shape, p))


def update_seconds(s: StepShape, p: Profile) -> float:
    """Return the seconds of the optimizer's update. Everything but the matrices of the blocks is AdamW's."""
    m = s.model
    matrices = matrix_parameters(m)
    others = get_model_size(m) - matrices
    of_matrices = getattr(p, OPTIMIZERS[s.optimizer].update_seconds_key)
    if isinstance(of_matrices, tuple):  # of a block, by its width; otherwise of a parameter
        return (others * p.adamw + m.n_layer * interpolate(m.n_embd, WIDTHS, of_matrices)) / s.shards
    return (others * p.adamw + matrices * float(of_matrices)) / s.shards


def block_seconds(s: StepShape, p: Profile) -> float:
    """Return the seconds of a micro-batch in one block, forward and backward; twice forward with checkpointing."""
    C = s.model.n_embd
    fixed, per_token = interpolate(C, WIDTHS, p.block_batch), interpolate(C, WIDTHS, p.block_token)
    seconds = fixed + s.N * per_token + attention_seconds(s, p)
    return seconds * (1 + p.forward) if s.checkpointing else seconds


def attention_seconds(s: StepShape, p: Profile) -> float:
    """Return the seconds of attention in one block."""
    m = s.model
    per_token = interpolate(s.T, LENGTHS, p.attention if by_blocks(s) else p.attention_kernel)
    # Only the matrix multiplications grow with d_k, and they are about half of the time.
    return s.N * m.n_head * per_token * (1 + m.head_size / D) / 2


def evaluation_seconds(s: StepShape, p: Profile, tokens: int) -> float:
    """Return the seconds of one pass over that many held-out tokens, which are dealt to the ranks."""
    blocks = p.forward * (interpolate(s.model.n_embd, WIDTHS, p.block_token) + attention_seconds(s, p) / s.N)
    return s.share * tokens / s.ranks * (s.model.n_layer * blocks + head_value_seconds(s, p))


def head_value_seconds(s: StepShape, p: Profile) -> float:
    """Return the seconds of the loss of one token, without gradients."""
    return p.evaluated * s.model.vocab_size * interpolate(s.model.n_embd, WIDTHS, p.head_token)


def probe_seconds(s: StepShape, p: Profile) -> float:
    """Return the seconds of one probe: about two passes, and the head once more for each layer of the lens."""
    lens = PROBE_TOKENS * s.model.n_layer * head_value_seconds(s, p)
    return evaluation_seconds(s, p, 2 * PROBE_TOKENS) + lens


def interpolate(x: float, sizes: Sequence[int], values: Sequence[float]) -> float:
    """Interpolate or extrapolate measured values: on the line through the two nearest sizes, in logarithms.

    >>> round(interpolate(256, (128, 512), (1.0, 4.0)), 6), round(interpolate(1024, (128, 512), (1.0, 4.0)), 6)
    (2.0, 8.0)
    """
    # Of the segment that x is in; the first or the last one for outliers.
    i = max(0, min(len(sizes) - 2, sum(size <= x for size in sizes) - 1))
    if min(values) <= 0:  # it has no logarithm: a straight line, never below 0
        share = (x - sizes[i]) / (sizes[i + 1] - sizes[i])
        return max(0.0, values[i] + share * (values[i + 1] - values[i]))
    share = math.log(x / sizes[i]) / math.log(sizes[i + 1] / sizes[i])
    return math.exp(math.log(values[i]) + share * math.log(values[i + 1] / values[i]))
