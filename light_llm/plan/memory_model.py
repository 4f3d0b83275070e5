"""What the first steps of a run hold in memory, to the byte where the byte is known: formulas over shapes.

A step is followed through the moments at which it may hold most. What is alive at each is what `model.py`, the loss by
blocks and autograd keep; the slow twin, which counts what torch really allocates, is `tests/support/live_bytes.py`.

Shapes: B sequences at a time   T tokens   N = B T   C n_embd   H heads   V vocabulary   L layers   P parameters
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, fields

from ..config import ModelConfig, TrainConfig, block_shapes, get_model_size, matrix_parameters, outer_shapes
from ..config.param_shapes import count
from ..layers.attention import MAX_KEPT_BYTES, QUERY_BLOCK
from ..layers.cross_entropy import TILE_COLUMNS, TILE_ROWS
from ..runtime import has_attention_kernel

LOOKED_AT = 1 << 14  # elements of a tensor that `observe.step_metrics` looks at


@dataclass(frozen=True)
class Memory:
    """Bytes by kind, at one moment."""

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0  # its moments
    activations: int = 0  # what the backward pass will need, and what a block works in
    loss: int = 0  # a tile of logits, the head's gradient, the hidden states' gradient
    cache: int = 0  # freed, and kept by the allocator for the next step
    framework: int = 0  # Python, torch, the text: what the process had before there was a model

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(getattr(self, f.name) for f in fields(self))


@dataclass(frozen=True)
class StepShape:
    """What a step works on, and how: everything that its memory depends on."""

    model: ModelConfig
    B: int  # sequences in memory at a time
    T: int
    micro_batches: int  # of a step
    half: bool  # products in 16 bits
    checkpointing: bool
    muon: bool
    rows: int  # of the logits that exist at once
    on_cpu: bool
    kernel: bool  # attention has one that keeps no weights
    compiled: bool

    @classmethod
    def of(cls, model: ModelConfig, train: TrainConfig, T: int) -> "StepShape":
        """Of a run whose device, format and compilation are settled."""
        B = train.micro_batch or train.batch_size
        return cls(
            model=model,
            B=B,
            T=T,
            micro_batches=train.batch_size // B,
            half=train.dtype != "float32",
            checkpointing=train.checkpointing,
            muon=train.optimizer == "muon",
            rows=train.loss_chunk or B * T,
            on_cpu=train.device == "cpu",
            kernel=has_attention_kernel(train.device),
            compiled=train.compile == "on",
        )

    @property
    def N(self) -> int:
        """Tokens in memory at a time."""
        return self.B * self.T

    @property
    def width(self) -> int:
        """Bytes of an element of a product."""
        return 2 if self.half else 4


def step_memory(shapes: StepShape) -> Memory:
    """The largest of the moments of a step, without framework and cache."""
    return max(moments(shapes), key=lambda memory: memory.total)


def moments(s: StepShape) -> Iterator[Memory]:
    """What is alive at each moment of a step, from the second one on, when the optimizer has its moments."""
    m = s.model
    P, table = get_model_size(m), 4 * m.vocab_size * m.n_embd
    blocks = 4 * m.n_layer * count(block_shapes(m))  # bytes of their gradients
    always = {"weights": 4 * P, "optimizer": optimizer_bytes(m, muon=s.muon)}
    so_far = 4 * P if s.micro_batches > 1 else 0  # the gradient of the micro-batches before this one
    kept, one = kept_of_all_layers(s), max(kept_of_a_layer(s, layer) for layer in range(m.n_layer))
    work = (12 if s.half else 15) * s.N * m.n_embd  # what a block's backward pass computes in
    ends = table + 8 * s.N * m.n_embd  # the gradients of head and hidden states, the last norm's input
    # The loss is computed, all layers are kept for the backward pass:
    cached = 2 * matrix_parameters(m) if s.half and s.checkpointing else 0  # matrices, until autocast forgets them
    yield Memory(**always, gradients=so_far, activations=kept + cached, loss=ends + loss_work(s))
    # The backward pass begins, in the last block; one that kept nothing computes itself again:
    again = one if s.checkpointing else 0
    yield Memory(**always, gradients=so_far, activations=kept + again + work, loss=ends)
    # It is in the first block, with the gradients of the others behind it:
    behind = so_far or blocks * (m.n_layer - 1) // m.n_layer
    yield Memory(**always, gradients=behind, activations=one + work, loss=table)
    # It is at the token table, whose gradient as a table of its own is added to that of a tied head:
    apart = table if m.tied_head else 0
    yield Memory(**always, gradients=so_far + table if so_far else 4 * P, loss=apart)
    # The optimizer works, and the meter keeps what it looks at from before the update:
    yield Memory(**always, gradients=4 * P, activations=12 * looked_at(m) + (orthogonalising(m) if s.muon else 0))


def optimizer_bytes(model: ModelConfig, *, muon: bool) -> int:
    """Two moments a parameter in float32; one where Muon moves it."""
    matrices = matrix_parameters(model) if muon else 0
    return 8 * (get_model_size(model) - matrices) + 4 * matrices


def looked_at(model: ModelConfig) -> int:
    """Elements that the meter looks at: some of each large tensor, all of a small one."""
    shapes = [*outer_shapes(model).values(), *list(block_shapes(model).values()) * model.n_layer]
    return sum(min(LOOKED_AT, math.prod(shape)) for shape in shapes)


def orthogonalising(model: ModelConfig) -> int:
    """What Muon's iteration holds for the largest matrix, (4 C, C), in 16 bits: itself twice, its square twice."""
    matrices = [sorted(shape) for shape in block_shapes(model).values() if len(shape) == 2]
    return max(2 * (2 * large * small + 2 * small**2) for small, large in matrices)


def kept_of_all_layers(s: StepShape) -> int:
    """Bytes that the forward pass leaves for the backward pass; with checkpointing a layer's input alone."""
    dropped = s.N * s.model.n_embd if s.model.dropout else 0  # the mask of the embeddings
    if s.checkpointing:
        return s.model.n_layer * 4 * s.N * s.model.n_embd + dropped
    return sum(kept_of_a_layer(s, layer) for layer in range(s.model.n_layer)) + dropped


def kept_of_a_layer(s: StepShape, layer: int = 0) -> int:
    """Bytes of one block. A token keeps the residual stream before each half-step, in float32: 2 C elements; and in the
    format of the products: the inputs of the first products, 2 C; q, k, v, and the output twice, 5 H D; what the MLP
    has inside before and after its activation, 2 n_inner, or 4 where there is a gate. In float32 the outputs of the
    norms are the inputs of the products. So GPT-2 has 2 x 4 + 15 x 2 = 38 bytes for each of the C elements, or
    17 x 4 = 68.
    """
    m, C, N = s.model, s.model.n_embd, s.N
    inside = (4 if m.mlp == "swiglu" else 2) * m.inner_size
    stream = (8 * C + s.width * (2 * C + 5 * m.n_head * m.head_size + inside)) * N
    copies = 2 * matrix_parameters(m) // m.n_layer if s.half else 0  # the matrices in 16 bits
    norms = (16 if m.norm == "layernorm" else 8) * N  # mean and deviation of two, or one number
    if m.qk_norm:  # what goes into them, which is a part of what came out of c_attn; layernorm makes float32 of it
        copied = s.half and m.norm == "layernorm"
        heads = m.n_head + (1 if copied else 2) * m.kv_heads
        norms += (4 if copied else s.width) * heads * m.head_size * N
    masks = 2 * N * C if s.model.dropout else 0
    if s.compiled:
        masks = 0
    return stream + copies + norms + masks + attention_kept(s, layer)


def attention_kept(s: StepShape, layer: int = 0) -> int:
    """Bytes that attention keeps beyond q, k, v and its output twice."""
    H, N, T = s.model.n_head, s.N, s.T
    C = H * s.model.head_size
    if s.model.attn_dropout or not s.kernel:  # the formula: scores, probabilities and their mask, (T, T) a head
        return 12 * N * H * T + (4 if s.half else -4) * N * C
    if by_blocks(s) and not 0 < s.model.window_of(layer) < T:  # a window is a mask, and the kernel's
        return s.width * s.B * H * seen_by_blocks(T)
    return 4 * N * H - s.width * N * C  # a kernel: its output once, and the log of each row's sum


def by_blocks(s: StepShape) -> bool:
    """Whether `layers.attention.should_use_blocks` says so."""
    fits = s.N * s.model.n_head * s.T // 2 * s.width <= MAX_KEPT_BYTES
    return s.on_cpu and not s.compiled and fits


def seen_by_blocks(T: int) -> int:
    """Weights that are kept of a window: each block of queries has those of all the keys it sees."""
    ends = [min(start + QUERY_BLOCK, T) for start in range(0, T, QUERY_BLOCK)]
    return sum((end - start) * end for start, end in zip([0, *ends[:-1]], ends, strict=True))


def loss_work(s: StepShape) -> int:
    """Bytes of the loss while it is computed: hidden states, the table, and the exponentials of some rows."""
    V, C, N = s.model.vocab_size, s.model.n_embd, s.N
    rows = min(s.rows, N)
    columns = min(TILE_COLUMNS, V) if s.on_cpu else V
    copies = 2 * V * C + 2 * N * C if s.half else 0  # table and states in 16 bits
    exponentials = s.width * rows * V
    tile = 4 * min(rows, TILE_ROWS) * columns if s.half and s.on_cpu else 0  # the room for its sum
    products = s.width * C * (columns + rows)
    capped = s.width * min(rows, TILE_ROWS) * columns if s.model.logit_cap else 0
    rescaled = 12 * rows * C  # hidden states in float32, times their weights
    return 4 * N * C + copies + exponentials + tile + capped + products + rescaled
