"""Memory of the first steps of a run, to the byte where the byte is known: formulas over shapes.

A step is followed through the moments at which it may hold most. What is alive at each is decided by `model.py`, the
blocked loss and autograd; `tests/support/live_bytes.py` counts what torch really allocates, to compare.

With several ranks it is the memory of one of them. DDP keeps everything whole on each rank, and has buckets of the size
of the gradient. FSDP keeps a shard of weights, gradients and moments, and while a step runs the root's tables, two
gathered blocks, and the gradients of two blocks that are not summed over the ranks yet.

Shapes: B sequences at a time   T tokens   N = B T   C n_embd   H heads   V vocabulary   L layers   P parameters
W ranks
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from ..config import ModelConfig, TrainConfig, block_shapes, get_model_size, matrix_parameters, outer_shapes
from ..config.choices import MLPS, NORMS, OPTIMIZERS, POSITIONS
from ..config.param_shapes import count
from ..layers.attention import MAX_KEPT_BYTES, QUERY_BLOCK
from ..layers.cross_entropy import TILE_COLUMNS, TILE_ROWS
from ..runtime import has_attention_kernel, layers_by_window

SAMPLED_ELEMENTS = 1 << 14  # of each tensor, by the step metrics of `observe`; all of a smaller one


@dataclass(frozen=True)
class Memory:
    """Bytes by kind, at one moment."""

    weights: int = 0
    gradients: int = 0
    optimizer: int = 0  # its state
    activations: int = 0  # saved for the backward pass, and the scratch memory of a block
    loss: int = 0  # a tile of logits, the gradients of the head and of the hidden states
    cache: int = 0  # freed, and held by the allocator for the next step
    framework: int = 0  # Python, torch, the text: the process before there was a model

    @property
    def total(self) -> int:
        """Return the sum of all kinds."""
        return sum(vars(self).values())


@dataclass(frozen=True)
class StepShape:
    """Everything that the memory and the time of a step depend on."""

    model: ModelConfig
    B: int  # sequences in memory at a time
    T: int
    micro_batches: int  # per step
    half: bool  # matrix multiplications in 16 bits
    checkpointing: bool
    optimizer: str
    rows: int  # of logits that exist at once
    on_cpu: bool
    kernel: bool  # attention has a kernel that keeps no weights
    compiled: bool
    ranks: int = 1  # among which the rows of a batch are divided
    local: int = 1  # of them, those on one machine
    shards: int = 1  # of the model; a rank keeps one of them (FSDP), or with 1 all of it
    tensor: int = 1  # ranks that share each matrix

    @classmethod
    def of(
        cls, model: ModelConfig, train: TrainConfig, T: int, *, ranks: int = 1, local: int = 1, shards: int = 1
    ) -> "StepShape":
        """Build the shape of one rank, for a run whose device, dtype and compilation are resolved.

        Args:
            ranks: among which the rows are divided; with tensor parallelism the groups.
            local: ranks of this machine.
        """
        rows = train.batch_size // ranks
        B = train.micro_batch or rows
        return cls(
            model,
            B,
            T,
            micro_batches=rows // B,
            half=train.dtype != "float32",
            checkpointing=train.checkpointing,
            optimizer=train.optimizer,
            rows=train.loss_chunk or B * T,
            on_cpu=train.device == "cpu",
            kernel=has_attention_kernel(train.device),
            compiled=train.compile == "on",
            ranks=ranks,
            local=local,
            shards=shards,
            tensor=train.tensor,
        )

    @property
    def N(self) -> int:
        """Return the tokens in memory at a time."""
        return self.B * self.T

    @property
    def width(self) -> int:
        """Return the bytes of an element of a product."""
        return 2 if self.half else 4

    @property
    def share(self) -> float:
        """Return the time of this rank's work, as a multiple of that of its rows on a whole device.

        Ranks on the processors of one machine share them; ranks of a tensor group share the work of each matrix.
        """
        return (self.local if self.on_cpu else 1) / self.tensor

    @property
    def sharded(self) -> bool:
        """Return whether a rank keeps a part of the model alone."""
        return self.shards > 1

    @property
    def copies_matrices(self) -> bool:
        """Return whether autocast keeps 16-bit copies of matrices. Shards are gathered in 16 bits, and freed again."""
        return self.half and not (self.sharded and self.gathered_width == self.width)

    @property
    def gathered_width(self) -> int:
        """Return the bytes in which an element of a block is gathered: of the products, unless blocks are compiled."""
        return 4 if self.compiled else self.width

    def shard(self, n: int) -> int:
        """Return the bytes that a rank keeps of tensors of n bytes in all."""
        return -(-n // self.shards)


def step_memory(shape: StepShape) -> Memory:
    """Return the largest of the moments of a step, without framework and cache."""
    part = replace(shape, model=part_of(shape.model, shape.tensor))
    return max(moments(part), key=lambda memory: memory.total)


def part_of(model: ModelConfig, n: int) -> ModelConfig:
    """Return the config whose tensors have the shapes of a rank's part, if n ranks share each matrix.

    They divide heads, units of the MLPs and ids; the residual stream and the norms are whole on each.
    """
    if n == 1:
        return model
    sizes = {"n_head": model.n_head, "n_kv_head": model.kv_heads, "n_inner": model.inner_size}
    parts: dict[str, Any] = {name: max(1, size // n) for name, size in sizes.items()}
    return replace(model, head_dim=model.head_size, vocab_size=-(-model.vocab_size // n), **parts)


def moments(s: StepShape) -> Iterator[Memory]:
    """Yield the memory at each moment of a step, from the second one on, when the optimizer has its state."""
    m = s.model
    P, table = get_model_size(m), 4 * m.vocab_size * m.n_embd
    block = 4 * count(block_shapes(m))  # bytes of its gradients
    kept = {"weights": s.shard(4 * P), "optimizer": s.shard(optimizer_bytes(m, s.optimizer))}
    always = kept | {"weights": kept["weights"] + gathered_bytes(s)}
    # The gradient of the micro-batches before this one. The buckets of DDP hold a whole gradient from the first step,
    # and the micro-batches before the last are summed beside them.
    so_far = 4 * P * ((s.micro_batches > 1) + (s.ranks > 1 and not s.sharded))
    saved, of_layer = saved_bytes(s), max(saved_bytes_of_layer(s, layer) for layer, _ in layers_by_window(m))
    work = (12 if s.half else 15) * s.N * m.n_embd  # scratch memory of a block's backward pass
    ends = table + 8 * s.N * m.n_embd  # the gradients of head and hidden states, the last norm's input
    # The loss is computed; all layers are saved for the backward pass. With checkpointing, autocast's 16-bit copies of
    # the matrices are not among the saved tensors, and live until it forgets them.
    cached = 2 * matrix_parameters(m) if s.copies_matrices and s.checkpointing else 0
    yield Memory(**always, gradients=so_far, activations=saved + cached, loss=ends + loss_bytes(s))
    # The backward pass begins in the last block, which with checkpointing is recomputed first.
    recomputed = of_layer if s.checkpointing else 0
    added = block if so_far and s.sharded else 0  # the gradient of this block, before it is added
    yield Memory(**always, gradients=so_far + added, activations=saved + recomputed + work, loss=ends)
    # It is in the first block, and the gradients of the others are there.
    behind = so_far or s.shard(block * (m.n_layer - 1)) + unsummed_bytes(s)
    yield Memory(**always, gradients=behind, activations=of_layer + work, loss=table)
    # It is at the token table, whose gradient is a table of its own before it is added to that of a tied head. Blocks
    # that were gathered are in shards again, and so are their gradients.
    apart, root = (table if m.tied_head else 0), gathered_bytes(s, blocks=0)
    behind = so_far + table if so_far else s.shard(4 * P) + (table if s.sharded else 0)
    yield Memory(**kept | {"weights": kept["weights"] + root}, gradients=behind, loss=apart)
    # The optimizer works, and the step metrics hold what they sampled before the update.
    scratch = OPTIMIZERS[s.optimizer].scratch_bytes(shape for shape in block_shapes(m).values() if len(shape) == 2)
    shapes = [(shape, 1) for shape in outer_shapes(m).values()]
    shapes += [(shape, m.n_layer) for shape in block_shapes(m).values()]
    sampled = sum(n * min(SAMPLED_ELEMENTS, math.prod(shape)) for shape, n in shapes)
    yield Memory(**kept, gradients=s.shard(4 * P), activations=12 * sampled + scratch)


def gathered_bytes(s: StepShape, blocks: int = 2) -> int:
    """Return the bytes of whole weights that a rank gathers while a step runs: the root's tables and two blocks.

    Tables, positions and norms are gathered in float32.
    """
    if not s.sharded:
        return 0
    blocks = min(blocks, s.model.n_layer)
    return 4 * count(outer_shapes(s.model)) + blocks * s.gathered_width * count(block_shapes(s.model))


def unsummed_bytes(s: StepShape) -> int:
    """Return the bytes of whole gradients that wait for their sum over the ranks: of two blocks, one in float32."""
    return (4 + s.gathered_width) * count(block_shapes(s.model)) if s.sharded else 0


def optimizer_bytes(model: ModelConfig, optimizer: str) -> int:
    """Return the bytes of the optimizer's state."""
    matrices = matrix_parameters(model)
    return OPTIMIZERS[optimizer].state_bytes(matrices=matrices, others=get_model_size(model) - matrices)


def saved_bytes(s: StepShape) -> int:
    """Return the bytes saved for the backward pass; with checkpointing each layer's input alone."""
    dropped = s.N * s.model.n_embd if s.model.dropout else 0  # the mask of the embeddings
    if s.checkpointing:
        return s.model.n_layer * 4 * s.N * s.model.n_embd + dropped
    return sum(n * saved_bytes_of_layer(s, layer) for layer, n in layers_by_window(s.model)) + dropped


def saved_bytes_of_layer(s: StepShape, layer: int = 0) -> int:
    """Return the bytes that one block saves for its backward pass.

    For each token: the residual stream before each half-step, in float32, 2 C elements, or C where both branches read
    the same; the outputs of the branches, 2 C, where norms follow them; and in the format of the
    products the inputs of the first products, 2 C; q, k, v, and the output twice, 5 H D; the MLP's units before and
    after the activation, 2 n_inner, or 4 with a gate. In float32 the outputs of the norms are the inputs of the
    products. So GPT-2 has 2 x 4 + 15 x 2 = 38 bytes for each of the C elements, or 17 x 4 = 68.
    """
    m, C, N, norm = s.model, s.model.n_embd, s.N, NORMS[s.model.norm]
    inside = MLPS[m.mlp].saved_per_unit * m.inner_size
    stream = ((4 if m.parallel_residual else 8) * C + s.width * (2 * C + 5 * m.n_head * m.head_size + inside)) * N
    copies = 2 * matrix_parameters(m) // m.n_layer if s.copies_matrices else 0
    if s.half and MLPS[m.mlp].gated:
        copies += s.width * C * N  # autocast copies the input of a gated MLP for each of its two products
    norms = 2 * norm.saved_bytes * N
    if m.qk_norm:
        # Their inputs are views of c_attn's output, and keep all of it, the values included; a copy in float32 is of
        # queries and keys alone.
        copied = s.half and norm.copies_input
        heads = m.n_head + (1 if copied else 2) * m.kv_heads
        norms += (4 if copied else s.width) * heads * m.head_size * N
    if m.post_norms:
        # Of a contiguous input in 16 bits LayerNorm saves a copy in float32 on a GPU alone.
        copied = norm.copies_input and not s.on_cpu
        norms += 2 * (norm.saved_bytes + (4 if copied else s.width) * C) * N
    # A compiled step recomputes its dropout masks.
    masks = 2 * N * C if m.dropout and not s.compiled else 0
    return stream + copies + norms + masks + attention_bytes(s, layer)


def attention_bytes(s: StepShape, layer: int = 0) -> int:
    """Return the bytes that attention saves beyond q, k, v and its output twice."""
    m, N, T = s.model, s.N, s.T
    H, C = m.n_head, m.n_head * m.head_size
    if m.attn_dropout or not s.kernel:  # the formula: scores, probabilities and their mask, (T, T) per head
        return 12 * N * H * T + (4 if s.half else -4) * N * C
    masked = POSITIONS[m.positions].score_bias or 0 < m.window_size(layer) < T  # a mask, which only the kernel takes
    if by_blocks(s) and not masked:
        return s.width * s.B * H * seen_by_blocks(T)
    bias = s.width * H * T * T if POSITIONS[m.positions].score_bias else 0
    return bias + 4 * N * H - s.width * N * C  # a kernel: its output once, and the log of each row's sum


def by_blocks(s: StepShape) -> bool:
    """Return whether `layers.attention.should_use_blocks` will be true."""
    fits = s.N * s.model.n_head * s.T // 2 * s.width <= MAX_KEPT_BYTES
    return s.on_cpu and not s.compiled and fits


def seen_by_blocks(T: int) -> int:
    """Return the attention weights that are saved for a window: each block of queries has those of all keys it sees."""
    ends = [min(start + QUERY_BLOCK, T) for start in range(0, T, QUERY_BLOCK)]
    return sum((end - start) * end for start, end in zip([0, *ends[:-1]], ends, strict=True))


def loss_bytes(s: StepShape) -> int:
    """Return the bytes of the loss while it is computed: hidden states, the table, the exponentials of some rows."""
    V, C, N = s.model.vocab_size, s.model.n_embd, s.N
    rows = min(s.rows, N)
    columns = min(TILE_COLUMNS, V) if s.on_cpu else V
    copies = 2 * V * C + 2 * N * C if s.half else 0  # table and states in 16 bits
    exponentials = s.width * rows * V
    tile = 4 * min(rows, TILE_ROWS) * columns if s.half and s.on_cpu else 0  # `fp32_scratch`
    products = s.width * C * (columns + rows)
    capped = s.width * min(rows, TILE_ROWS) * columns if s.model.logit_cap else 0
    rescaled = 12 * rows * C  # hidden states in float32, times their weights
    return 4 * N * C + copies + exponentials + tile + capped + products + rescaled
