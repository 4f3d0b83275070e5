"""How fast this machine is at the parts a training step is made of: measured once, in some seconds, and kept.

Each part is measured as it is used, forward and backward, in the number format of the run, at a few sizes; what lies
between them is read off a straight line in logarithms. That way a cache that is too small, a kernel that wants other
sizes, a slow bfloat16 are in the numbers, and no peak rate of a data sheet is.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from statistics import median

import torch
from torch import Tensor

from ..config import ModelConfig, TrainConfig, block_shapes
from ..layers.attention import attend
from ..layers.cross_entropy import linear_cross_entropy, linear_cross_entropy_sum
from ..layers.dropout import Dropout
from ..layers.positions import POSITIONS
from ..model import Block
from ..optim import build_optimizer
from ..runtime import autocast, rng_state, set_rng_state
from ..runtime.machine_cache import cached_measurements, has_cached_measurements, machine_key
from ..runtime.timing import time_calls

WIDTHS = (128, 256, 512)  # C of the blocks and of the head
LENGTHS = (64, 256, 1024)  # T of attention
FEW, MANY = 256, 1024  # tokens at a time: what costs the same for both is a micro-batch's, the rest a token's
V = 8192  # ids of the head that is measured: its exponentials, as those of any larger one, are not all in a cache
D = 64  # d_k
MOVED = 1 << 22  # parameters of the update that is measured: 64 MB with their gradients and moments
TIMES, LEAST = 3, 0.015  # repetitions, and the seconds that each of them lasts at least
VERSION = 1  # of what is measured here
GPT2 = ModelConfig()
CHOICES = ("positions", "norm", "mlp", "activation", "bias", "qk_norm")  # that decide how long a block takes


@dataclass(frozen=True)
class Profile:
    """Seconds. Of each list one entry a size, in the order of WIDTHS or LENGTHS; "batch" means micro-batch."""

    block_batch: tuple[float, ...]  # a block without attention, whatever the tokens
    block_token: tuple[float, ...]  # and a token in it
    attention: tuple[float, ...]  # a token's in a head of 64
    attention_kernel: tuple[float, ...]  # the same by the device's own kernel
    head_batch: tuple[float, ...]  # an id in the loss and its gradients, whatever the tokens
    head_token: tuple[float, ...]  # and a token and an id
    table: float  # an element of the token table: its lookup, and its gradient as a table
    muon: tuple[float, ...]  # the matrices of a block
    adamw: float  # a parameter
    dropout: float  # an element
    forward: float  # of a block: the share of its forward pass
    evaluated: float  # of the head: the share that the value without gradients takes


def is_known(device: str, dtype: str, model: ModelConfig = GPT2) -> bool:
    """Whether this machine was measured already, with blocks of the kind that a model has."""
    return has_cached_measurements(key(device, dtype, model), names())


def profile(device: str, dtype: str, model: ModelConfig = GPT2) -> Profile:
    """What is known of this machine, or else measured now: some seconds."""
    sizes = _sizes()

    def measure() -> list[float]:
        found = measure_profile(device, dtype, model)
        return [number for name, _ in sizes for number in _as_tuple(getattr(found, name))]

    numbers = iter(cached_measurements(key(device, dtype, model), names(), measure))
    filled = {name: tuple(next(numbers) for _ in range(n)) for name, n in sizes}
    return Profile(**{k: v if isinstance(getattr(_NOTHING, k), tuple) else v[0] for k, v in filled.items()})  # type: ignore[arg-type]


def key(device: str, dtype: str, model: ModelConfig = GPT2) -> str:
    """Under which it is kept."""
    like = block_like(model, C=WIDTHS[1], L=1)
    changes = [f"{f.name} {getattr(like, f.name)}" for f in fields(like)]
    usual = {f"{f.name} {getattr(block_like(GPT2, C=WIDTHS[1], L=1), f.name)}" for f in fields(like)}
    kind = "".join(f", {change}" for change in changes if change not in usual)
    return f"profile {VERSION} of {dtype} on {device}{kind}: {machine_key()}"


def block_like(model: ModelConfig, C: int, L: int) -> ModelConfig:
    """Blocks of the kind that a model has, of another width: the same choices and the same proportions."""
    H = C // D
    sharing = max(n for n in range(1, H + 1) if H % n == 0 and n <= model.n_head // model.kv_heads)
    inner = round(model.inner_size / model.n_embd * C)
    choices = {name: getattr(model, name) for name in CHOICES}
    return ModelConfig(n_embd=C, n_layer=L, n_head=H, n_kv_head=H // sharing, n_inner=inner, **choices)


def names() -> list[str]:
    """Of the numbers that are kept."""
    return [f"{name} {i}" for name, n in _sizes() for i in range(n)]


def _sizes() -> list[tuple[str, int]]:
    """Of each part how many numbers there are."""
    return [(name, len(_as_tuple(value))) for name, value in vars(_NOTHING).items()]


def measure_profile(device: str, dtype: str, model: ModelConfig = GPT2) -> Profile:
    """Measure every part, a few seconds in all. The generators of the process are as they were afterwards."""
    before = rng_state(device)
    try:
        parts = _Parts(device, dtype, model)
        blocks = [_line(parts.block(C, FEW), parts.block(C, MANY)) for C in WIDTHS]
        heads = [_line(parts.head(C, FEW), parts.head(C, MANY)) for C in WIDTHS]
        middle, (of_block, of_head) = WIDTHS[1], (_at(MANY, *blocks[1]), _at(MANY, *heads[1]))
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
            forward=parts.block_forward(middle, MANY) / of_block,
            evaluated=parts.head_value(middle, MANY) / of_head,
        )
    finally:
        set_rng_state(before, device)


class _Parts:
    """The parts of a step, each run a few times. Seconds of one run, by the middle of the repetitions."""

    def __init__(self, device: str, dtype: str, model: ModelConfig) -> None:
        self.device, self.dtype, self.model = device, dtype, model

    def seconds(self, work: Callable[[], object]) -> float:
        return median(time_calls(work, device=self.device, repeats=TIMES, min_seconds=LEAST))

    def random(self, *shape: int) -> Tensor:
        return torch.randn(*shape, device=self.device)

    def block(self, C: int, N: int, n_blocks: int = 2) -> float:
        """One block without attention, forward and backward; with others, so that none finds its weights in a cache."""
        blocks, x = self._blocks(C, n_blocks), self.random(1, N, C).requires_grad_()

        def work() -> None:
            y = self._through(blocks, x)
            y.backward(torch.ones_like(y))
            for block in blocks:
                block.zero_grad(set_to_none=True)

        return self.seconds(work) / n_blocks

    def block_forward(self, C: int, N: int, n_blocks: int = 2) -> float:
        blocks, x = self._blocks(C, n_blocks), self.random(1, N, C).requires_grad_()
        return self.seconds(lambda: self._through(blocks, x)) / n_blocks

    def _blocks(self, C: int, n_blocks: int) -> list[Block]:
        config = block_like(self.model, C, n_blocks)
        blocks = [Block(config, layer).to(self.device) for layer in range(n_blocks)]
        for block in blocks:
            block.attn.attend = _no_attention
        return blocks

    def _through(self, blocks: Sequence[Block], x: Tensor) -> Tensor:
        position_ids = torch.arange(x.size(1), device=self.device)
        angles = POSITIONS[self.model.positions](replace(self.model, head_dim=D)).angles(position_ids)
        with autocast(self.device, self.dtype):
            for block in blocks:
                x = block(x, position_ids, None, None, angles)
        return x

    def attention(self, T: int, *, kernel: bool, H: int = 4) -> float:
        """A token's share of one head, forward and backward."""
        B = max(1, 2 * MANY // T)
        qkv = self.random(B, T, 3, H, D).to(getattr(torch, self.dtype)).requires_grad_()
        up = torch.ones(B, H, T, D, device=self.device, dtype=qkv.dtype)

        def work() -> None:
            q, k, v = qkv.permute(2, 0, 3, 1, 4)
            if kernel:
                torch.nn.functional.scaled_dot_product_attention(q, k, v, is_causal=True).backward(up)
            else:
                attend(q, k, v).backward(up)
            qkv.grad = None

        return self.seconds(work) / (B * T * H)

    def head(self, C: int, N: int) -> float:
        """The loss of N tokens over V ids, and its gradients."""
        hidden, head = self.random(N, C).requires_grad_(), (0.02 * self.random(V, C)).requires_grad_()
        targets, weights = torch.zeros(N, dtype=torch.long, device=self.device), torch.ones(N, device=self.device)

        def work() -> None:
            with autocast(self.device, self.dtype):
                linear_cross_entropy_sum(hidden, head, targets, weights, rows=MANY).backward()
            hidden.grad = head.grad = None

        return self.seconds(work)

    def head_value(self, C: int, N: int) -> float:
        hidden, head = self.random(N, C), 0.02 * self.random(V, C)
        targets = torch.zeros(N, dtype=torch.long, device=self.device)

        def work() -> None:
            with autocast(self.device, self.dtype):
                linear_cross_entropy(hidden, head, targets, rows=MANY)

        return self.seconds(work)

    def table(self, C: int) -> float:
        """An element of the table: a gradient as large as the table is made, and added to the head's."""
        table, ids = torch.nn.Embedding(4 * V, C, device=self.device), torch.arange(MANY, device=self.device)
        of_head = torch.zeros_like(table.weight)

        def work() -> None:
            (gradient,) = torch.autograd.grad(table(ids).sum(), table.weight)
            of_head.add_(gradient)

        return self.seconds(work) / table.weight.numel()

    def muon(self, C: int) -> float:
        """An update of the matrices of a block."""
        shapes = [shape for shape in block_shapes(block_like(self.model, C, 1)).values() if len(shape) == 2]
        matrices = torch.nn.ParameterList(self.random(*shape) for shape in shapes)
        for matrix in matrices:
            matrix.grad = self.random(*matrix.shape)
        return self.seconds(build_optimizer(matrices, replace(TrainConfig(), optimizer="muon")).step)

    def adamw(self) -> float:
        """A parameter's norm, clipping and update, of so many that no cache holds them."""
        parameters = torch.nn.ParameterList([torch.zeros(MOVED // 1024, 1024, device=self.device)])
        parameters[0].grad = torch.zeros_like(parameters[0])
        optimizer = build_optimizer(parameters, TrainConfig())

        def work() -> None:
            torch.nn.utils.clip_grad_norm_(parameters, 1.0)
            optimizer.step()

        return self.seconds(work) / MOVED

    def dropout(self, C: int) -> float:
        x, drop = self.random(MANY, C).requires_grad_(), Dropout(0.1)
        up = torch.ones_like(x)
        return self.seconds(lambda: drop(x).backward(up)) / x.numel()


def _no_attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Each token takes its own value: attention is measured by itself."""
    return v


def _line(few: float, many: float) -> tuple[float, float]:
    """Of seconds at few and at many tokens: what is there at none, and what a token adds."""
    token = max((many - few) / (MANY - FEW), 0.5 * many / MANY)
    return max(0.0, many - token * MANY), token


def _at(tokens: int, batch: float, token: float) -> float:
    """The seconds that a line gives for so many tokens."""
    return batch + tokens * token


def _as_tuple(value: float | tuple[float, ...]) -> tuple[float, ...]:
    return value if isinstance(value, tuple) else (value,)


_W, _T = (0.0,) * len(WIDTHS), (0.0,) * len(LENGTHS)
_NOTHING = Profile(_W, _W, _T, _T, _W, _W, 0.0, _W, 0.0, 0.0, 0.0, 0.0)  # its shape
