"""The speed of this machine at the parts of a training step: measured once, in some seconds, and cached.

Each part is measured forward and backward, in the number format of the run, at a few sizes; other sizes are
interpolated in logarithms. So the numbers contain a cache that is too small, a kernel that prefers other sizes and
a slow bfloat16; a data sheet's peak rate would not.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import islice

import torch
import torch.nn.functional as F
from torch import Tensor

from ..config import ModelConfig, TrainConfig, block_shapes
from ..layers.attention import attend
from ..layers.cross_entropy import linear_cross_entropy, linear_cross_entropy_sum
from ..layers.dropout import Dropout
from ..layers.positions import POSITIONS
from ..model import Block
from ..optim.adamw import adamw
from ..optim.muon import muon
from ..runtime import autocast, rng_state, set_rng_state
from ..runtime.machine_cache import cached_measurements, disturbed_measurements, machine_key, read_measurements
from ..runtime.timing import BusyMeter, time_calls, typical_seconds

WIDTHS = (128, 256, 512)  # C of the blocks and of the head
LENGTHS = (64, 256, 1024)  # T of attention
# Tokens at a time. The cost that is the same for both is that of a micro-batch, the rest that of a token.
FEW, MANY = 256, 1024
# Ids of the measured head. Its exponentials do not fit into a cache, as those of any larger head.
V = 8192
D = 64  # d_k
UPDATED_PARAMETERS = 1 << 22  # 64 MB with their gradients and moments, more than a cache
REPEATS, MIN_SECONDS = 3, 0.015
VERSION = 2  # of this file's measurements: part of the key in the cache
N_TIMINGS = 26  # calls of the stopwatch for one profile
ProgressFn = Callable[[int, int], object]  # timings done, timings in all
GPT2 = ModelConfig()
# They decide the time of a block.
BLOCK_CHOICES = (
    "positions",
    "norm",
    "mlp",
    "activation",
    "bias",
    "qk_norm",
    "qkv_bias",
    "post_norms",
    "parallel_residual",
)


@dataclass(frozen=True)
class Profile:
    """Seconds of each part. A tuple has one entry per size, in the order of WIDTHS or LENGTHS."""

    block_batch: tuple[float, ...]  # a block without attention, per micro-batch
    block_token: tuple[float, ...]  # and per token
    attention: tuple[float, ...]  # per token and head of 64
    attention_kernel: tuple[float, ...]  # the same by the device's own kernel
    head_batch: tuple[float, ...]  # the loss and its gradients, per id and micro-batch
    head_token: tuple[float, ...]  # and per id and token
    table: float  # per element of the token embeddings: the lookup, and the gradient, which has their shape
    muon: tuple[float, ...]  # per update of the matrices of a block
    adamw: float  # per update of a parameter
    dropout: float  # per element
    forward: float  # the share of a block's time that its forward pass takes
    evaluated: float  # the share of the head's time that the value without gradients takes


N_NUMBERS = {f.name: 1 if f.type is float else len(WIDTHS) for f in fields(Profile)}  # as many LENGTHS as WIDTHS


def is_known(device: str, dtype: str, model: ModelConfig = GPT2) -> bool:
    """Return whether this machine was measured before, with a model's kind of blocks."""
    return (disturbed_measurements() | read_measurements()).keys() >= set(keys(device, dtype, model))


def is_disturbed(device: str, dtype: str, model: ModelConfig = GPT2) -> bool:
    """Return whether the profile that this process uses was measured while other programs were running."""
    return keys(device, dtype, model)[0] in disturbed_measurements()


def profile(device: str, dtype: str, model: ModelConfig = GPT2, *, progress: ProgressFn | None = None) -> Profile:
    """Return the cached profile of this machine, or measure it, which takes some seconds.

    A profile that is measured while other programs are running is not cached.
    """

    def measure() -> list[float]:
        values = vars(measure_profile(device, dtype, model, progress=progress)).values()
        return [number for value in values for number in (value if isinstance(value, tuple) else (value,))]

    numbers = iter(cached_measurements(keys(device, dtype, model), measure, device=device))
    return Profile(*(next(numbers) if n == 1 else tuple(islice(numbers, n)) for n in N_NUMBERS.values()))  # type: ignore[arg-type]


def keys(device: str, dtype: str, model: ModelConfig = GPT2) -> list[str]:
    """Return the keys of a profile's numbers in the cache: they name the fields in which the block is not GPT-2's."""
    block, gpt2 = (asdict(block_like(config, C=WIDTHS[1], L=1)) for config in (model, GPT2))
    kind = "".join(f", {name} {value}" for name, value in block.items() if value != gpt2[name])
    key = f"profile {VERSION} of {dtype} on {device}{kind}: {machine_key()}"
    return [f"{key}, {name} {i}" for name, n in N_NUMBERS.items() for i in range(n)]


def block_like(model: ModelConfig, C: int, L: int) -> ModelConfig:
    """Return the config of blocks of width C with a model's choices and proportions."""
    H = C // D
    sharing = max(n for n in range(1, H + 1) if H % n == 0 and n <= model.n_head // model.kv_heads)
    inner = round(model.inner_size / model.n_embd * C)
    choices = {name: getattr(model, name) for name in BLOCK_CHOICES}
    return ModelConfig(
        n_embd=C,
        n_layer=L,
        n_head=H,
        n_kv_head=H // sharing,
        n_inner=inner,
        rotary_pct=rotary_share(model, D),
        **choices,
    )


def rotary_share(model: ModelConfig, D: int) -> float:
    """Return the nearest `rotary_pct` of a model for heads of D numbers, D even, that rotates them in pairs.

    >>> rotary_share(ModelConfig(positions="rope", head_dim=20, rotary_pct=0.4), 64) * 64
    26.0
    """
    return max(1, round(D / 2 * model.rotary_dims / model.head_size)) * 2 / D


def measure_profile(
    device: str, dtype: str, model: ModelConfig = GPT2, *, progress: ProgressFn | None = None
) -> Profile:
    """Measure every part, a few seconds in all, and restore the random generators of the process."""
    before = rng_state(device)
    try:
        parts = _Parts(device, dtype, model, progress)
        blocks = [_line(parts.block(C, FEW), parts.block(C, MANY)) for C in WIDTHS]
        heads = [_line(parts.head(C, FEW), parts.head(C, MANY)) for C in WIDTHS]
        middle = WIDTHS[1]
        (block_batch, block_token), (head_batch, head_token) = blocks[1], heads[1]
        return Profile(
            block_batch=tuple(batch for batch, _ in blocks),
            block_token=tuple(token for _, token in blocks),
            attention=tuple(parts.attention(T, kernel=False) for T in LENGTHS),
            attention_kernel=tuple(parts.attention(T, kernel=True) for T in LENGTHS),
            head_batch=tuple(batch / V for batch, _ in heads),
            head_token=tuple(token / V for _, token in heads),
            table=parts.table(middle),
            muon=tuple(parts.muon(C) for C in WIDTHS),
            adamw=parts.adamw(),
            dropout=parts.dropout(middle),
            forward=parts.block(middle, MANY, backward=False) / (block_batch + MANY * block_token),
            evaluated=parts.head(middle, MANY, backward=False) / (head_batch + MANY * head_token),
        )
    finally:
        set_rng_state(before, device)


class _Parts:
    """Measures the parts of a step: each method returns the seconds of one call."""

    def __init__(self, device: str, dtype: str, model: ModelConfig, progress: ProgressFn | None = None) -> None:
        self.device, self.dtype, self.model = device, dtype, model
        self.progress, self.done = progress, 0
        self.meter = BusyMeter()

    def seconds(self, work: Callable[[], object]) -> float:
        # A measurement on a busy machine is used once and not cached, so it is not worth a longer wait.
        repeats = 1 if self.device == "cpu" and self.meter.is_busy else REPEATS
        times = time_calls(work, device=self.device, repeats=repeats, min_seconds=MIN_SECONDS)
        self.done += 1
        if self.progress:
            self.progress(self.done, N_TIMINGS)
        return typical_seconds(times)

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.device)

    def block(self, C: int, N: int, *, backward: bool = True) -> float:
        """Time one block without attention."""
        # Two blocks in turn, so that neither finds its weights in a cache.
        config = block_like(self.model, C, 2)
        blocks, x = [Block(config, i).to(self.device) for i in range(2)], self.random(1, N, C).requires_grad_()
        for block in blocks:
            block.attn.attend = _no_attention

        def work() -> None:
            y = self._through(blocks, config, x)
            if backward:
                y.backward(torch.ones_like(y))
                for block in blocks:
                    block.zero_grad(set_to_none=True)

        return self.seconds(work) / len(blocks)

    def _through(self, blocks: Sequence[Block], config: ModelConfig, x: Tensor) -> Tensor:
        position_ids = torch.arange(x.size(1), device=self.device)
        angles = POSITIONS[config.positions](config).angles(position_ids)
        with autocast(self.device, self.dtype):
            for block in blocks:
                x = block(x, position_ids, None, None, angles)
        return x

    def attention(self, T: int, *, kernel: bool, H: int = 4) -> float:
        """Time a token's share of one head, forward and backward."""
        B = max(1, 2 * MANY // T)
        qkv = self.random(B, T, 3, H, D).to(getattr(torch, self.dtype)).requires_grad_()
        up = torch.ones(B, H, T, D, device=self.device, dtype=qkv.dtype)

        def work() -> None:
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True) if kernel else attend(q, k, v)
            y.backward(up)
            qkv.grad = None

        return self.seconds(work) / (B * T * H)

    def head(self, C: int, N: int, *, backward: bool = True) -> float:
        """Time the loss of N tokens over V ids."""
        hidden, head = self.random(N, C).requires_grad_(), (0.02 * self.random(V, C)).requires_grad_()
        targets, weights = torch.zeros(N, dtype=torch.long, device=self.device), torch.ones(N, device=self.device)

        def work() -> None:
            with autocast(self.device, self.dtype):
                if backward:
                    linear_cross_entropy_sum(hidden, head, targets, weights, rows=MANY).backward()
                else:
                    linear_cross_entropy(hidden, head, targets, rows=MANY)
            hidden.grad = head.grad = None

        return self.seconds(work)

    def table(self, C: int) -> float:
        """Time an element of the table, whose gradient is a whole table that is then added to the head's."""
        table, ids = torch.nn.Embedding(4 * V, C, device=self.device), torch.arange(MANY, device=self.device)
        d_head = torch.zeros_like(table.weight)

        def work() -> None:
            (gradient,) = torch.autograd.grad(table(ids).sum(), table.weight)
            d_head.add_(gradient)

        return self.seconds(work) / table.weight.numel()

    def muon(self, C: int) -> float:
        """Time Muon's update of the matrices of a block."""
        shapes = [shape for shape in block_shapes(block_like(self.model, C, 1)).values() if len(shape) == 2]
        matrices = torch.nn.ParameterList(self.random(*shape) for shape in shapes)
        for matrix in matrices:
            matrix.grad = self.random(*matrix.shape)
        return self.seconds(muon(matrices, TrainConfig()).step)

    def adamw(self) -> float:
        """Time a parameter's norm, clipping and update by AdamW."""
        shape = UPDATED_PARAMETERS // 1024, 1024
        parameters = torch.nn.ParameterList([torch.zeros(*shape, device=self.device)])
        parameters[0].grad = torch.zeros_like(parameters[0])
        optimizer = adamw(parameters, TrainConfig())

        def work() -> None:
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()

        return self.seconds(work) / UPDATED_PARAMETERS

    def dropout(self, C: int) -> float:
        x, drop = self.random(MANY, C).requires_grad_(), Dropout(0.1)
        up = torch.ones_like(x)
        return self.seconds(lambda: drop(x).backward(up)) / x.numel()


def _no_attention(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0, scale: float = 0.0
) -> Tensor:
    """Return each token's own value, in place of attention, which is measured separately."""
    return v


def _line(few: float, many: float) -> tuple[float, float]:
    """Split the seconds at FEW and at MANY tokens into those of a micro-batch and those of a token."""
    # At least half of the mean time of a token: noise could make many tokens seem as fast as few.
    token = max((many - few) / (MANY - FEW), 0.5 * many / MANY)
    return max(0.0, many - token * MANY), token
