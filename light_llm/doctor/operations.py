"""Single operations of torch as the model meets them, value and gradient, so that what is wrong gets its own name."""

from collections.abc import Callable, Iterator, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from .subject import Subject, V, numbers
from .tolerance import allowed, worst_error
from .values import MUON, Case, Measured

C, WIDE = 64, 192
ELEMENTWISE = 8  # roundings of a function such as tanh, which few devices round as well as a single product
Layout = Callable[[Tensor], Tensor]


def as_it_is(x: Tensor) -> Tensor:
    """No change of strides."""
    return x


def compared(
    function: Callable[..., Tensor],
    inputs: Sequence[tuple[Tensor, Layout]],
    device: str,
    *,
    sums: Sequence[int],
    back: Sequence[int] = (),
    where: str,
) -> Iterator[Measured]:
    """A function on the device and in float64 on the CPU: the value, and where `back` is given the gradients.

    Args:
        inputs: float32 numbers on the CPU, and how each is laid out in memory on the device.
        sums, back: lengths of the sums of the value and of a gradient.
    """
    exact = [layout(x.double()).contiguous().requires_grad_(bool(back)) for x, layout in inputs]
    found = [layout(x.to(device)).detach().requires_grad_(bool(back)) for x, layout in inputs]
    y, right = function(*found), function(*exact)
    yield Measured(worst_error(y, right.detach()), allowed(sums), where)
    if back:
        above = numbers(*right.shape, seed=99)
        gradients = torch.autograd.grad(y, found, above.to(device))
        for i, (g, e) in enumerate(zip(gradients, torch.autograd.grad(right, exact, above.double()), strict=True)):
            yield Measured(worst_error(g, e), allowed([*sums, *back]), f"{where}, gradient of argument {i + 1}")


def linear(subject: Subject) -> Iterator[Measured]:
    """x W^T + b for the batches and lengths that have gone wrong somewhere."""
    w, b = numbers(WIDE, C, seed=1), numbers(WIDE, seed=2)
    for B, T in ((1, 1), (1, 7), (8, 1), (8, 7), (9, 1), (9, 7), (16, 7), (1, 1023), (1, 1024)):
        x = numbers(B, T, C, seed=3)
        inputs = [(x, as_it_is), (w, as_it_is), (b, as_it_is)]
        where = f"batch {B} x {T:,} tokens"
        yield from compared(F.linear, inputs, subject.device, sums=[C], back=[max(WIDE, B * T)], where=where)


def strided_linear(subject: Subject) -> Iterator[Measured]:
    """The same for inputs that are not in one piece: transposed, cut out of a larger one, every second, repeated."""
    w, b = numbers(WIDE, C, seed=1), numbers(WIDE, seed=2)
    layouts: dict[str, tuple[Tensor, Layout]] = {
        "transposed": (numbers(7, 9, C, seed=4), lambda x: x.transpose(0, 1)),
        "columns 1 to 65 of 66": (numbers(9, 7, C + 2, seed=5), lambda x: x[..., 1 : C + 1]),
        "every second row": (numbers(9, 14, C, seed=6), lambda x: x[:, ::2]),
        "the last row of each": (numbers(9, 7, C, seed=7), lambda x: x[:, -1]),
        "one row for all": (numbers(1, 1, C, seed=8), lambda x: x.expand(9, 7, C)),
    }
    for where, (x, layout) in layouts.items():
        inputs = [(x, layout), (w, as_it_is), (b, as_it_is)]
        yield from compared(F.linear, inputs, subject.device, sums=[C], back=[WIDE], where=where)
    turned = numbers(C, WIDE, seed=9)
    inputs = [(numbers(9, 7, C, seed=4), as_it_is), (turned, lambda w: w.T), (b, as_it_is)]
    yield from compared(F.linear, inputs, subject.device, sums=[C], back=[WIDE], where="weight transposed")


def products(subject: Subject) -> Iterator[Measured]:
    """Batched products of queries, keys and values as attention has them: views of one packed product."""
    H, D = 2, 32
    for B, T in ((2, 7), (9, 7), (1, 1024)):
        packed = numbers(B, T, 3, H, D, seed=10)
        q, k = ((packed, lambda x, i=i: x.permute(2, 0, 3, 1, 4)[i]) for i in (0, 1))
        where = f"batch {B} x {T:,} tokens, heads permuted"
        scores = lambda q, k: q @ k.transpose(-2, -1)  # noqa: E731
        yield from compared(scores, [q, k], subject.device, sums=[D], back=[T], where=where)
        weights = numbers(B, H, T, T, seed=11)
        yield from compared(torch.matmul, [(weights, as_it_is), k], subject.device, sums=[T], back=[T], where=where)


def softmax(subject: Subject) -> Iterator[Measured]:
    """softmax and log-sum-exp along the last dimension: long rows, masked ones, views with strides."""
    rows: dict[str, tuple[Tensor, Layout]] = {
        "1,024 long": (numbers(9, 1024, seed=12, scale=3), as_it_is),
        "1,023 long, transposed": (numbers(1023, 9, seed=13, scale=3), lambda x: x.T),
        "every second of 14": (numbers(9, 14, seed=14, scale=3), lambda x: x[:, ::2]),
        "large numbers": (numbers(9, 65, seed=15, scale=3) + 1000, as_it_is),
    }
    for where, (x, layout) in rows.items():
        n = layout(x).size(-1)
        yield from compared(lambda x: x.softmax(-1), [(x, layout)], subject.device, sums=[n, n], back=[n], where=where)
        yield from compared(lambda x: x.logsumexp(-1), [(x, layout)], subject.device, sums=[n, n], where=where)
    masked = lambda x: x.masked_fill(torch.ones_like(x, dtype=torch.bool).triu(1), float("-inf")).softmax(-1)  # noqa: E731
    square = (numbers(2, 65, 65, seed=16, scale=3), as_it_is)
    yield from compared(masked, [square], subject.device, sums=[65, 65], back=[65], where="65 x 65, the future masked")


def layer_norm(subject: Subject) -> Iterator[Measured]:
    """Layer norm, also of rows so small that its eps counts, and of views with strides."""
    rows: dict[str, tuple[Tensor, Layout]] = {
        "rows of size 1": (numbers(9, 7, C, seed=17), as_it_is),
        "rows of size 0.002": (numbers(9, 7, C, seed=18, scale=0.002), as_it_is),
        "1,024 rows, transposed": (numbers(1024, 1, C, seed=19), lambda x: x.transpose(0, 1)),
        "columns 1 to 65 of 66": (numbers(9, 7, C + 2, seed=20), lambda x: x[..., 1 : C + 1]),
    }
    gain, bias = (numbers(C, seed=21, scale=0.1) + 1, as_it_is), (numbers(C, seed=22, scale=0.1), as_it_is)
    norm = lambda x, g, b: F.layer_norm(x, (C,), g, b, 1e-5)  # noqa: E731
    for where, x in rows.items():
        n = x[0].numel() // C
        yield from compared(norm, [x, gain, bias], subject.device, sums=[C, C], back=[C, C, n], where=where)


def gelu(subject: Subject) -> Iterator[Measured]:
    """GELU in its tanh form, over all of its curve."""
    x = torch.linspace(-6, 6, 4099)
    for where, layout in (("4,099 numbers", as_it_is), ("every second", lambda x: x[::2])):
        function = lambda x: F.gelu(x, approximate="tanh")  # noqa: E731
        chain = [ELEMENTWISE, ELEMENTWISE]
        yield from compared(function, [(x, layout)], subject.device, sums=chain, back=chain, where=where)


def embedding(subject: Subject) -> Iterator[Measured]:
    """Rows of a table by id, bit for bit, and the gradient of ids that come several times."""
    table = numbers(V, 8, seed=23)
    ids = subject.reference.tokens(9, 33)  # ids with gaps between the rows; the first, the last, and few that repeat
    found, exact = table.to(subject.device).requires_grad_(), table.double().requires_grad_()
    y, right = F.embedding(subject.tokens(9, 33), found), F.embedding(ids, exact)
    yield Measured(float((y.detach().cpu() != right.detach().float()).sum()), 0.0, "rows that are not the table's")
    above = numbers(*right.shape, seed=24)
    (g,) = torch.autograd.grad(y, [found], above.to(subject.device))
    (e,) = torch.autograd.grad(right, [exact], above.double())
    most = int(ids.flatten().bincount().max())
    yield Measured(worst_error(g, e), allowed([most]), f"gradient, an id {most} times")


def lerp(subject: Subject) -> Iterator[Measured]:
    """a + t (b - a), in place and not, of pieces and of views: the moving averages of an optimizer."""
    shapes: dict[str, tuple[Tensor, Layout]] = {
        "one piece": (numbers(129, 65, seed=25), as_it_is),
        "transposed": (numbers(65, 129, seed=26), lambda x: x.T),
        "every second column": (numbers(129, 130, seed=27), lambda x: x[:, ::2]),
    }
    end = numbers(129, 65, seed=28), as_it_is
    for where, start in shapes.items():
        for t in (0.05, 0.95):
            into = lambda a, b, t=t: a.clone().lerp_(b, t)  # noqa: E731
            apart = lambda a, b, t=t: torch.lerp(a, b, t)  # noqa: E731
            for function in (into, apart):
                yield from compared(function, [start, end], subject.device, sums=[4], where=f"{where}, weight {t}")


OPERATIONS = (
    Case("linear", "linear, x W^T + b,", linear),
    Case("linear, strided", "linear of inputs that are not in one piece", strided_linear),
    Case("products", "batched matrix products", products),
    Case("softmax", "softmax", softmax),
    Case("layer norm", "layer norm", layer_norm),
    Case("gelu", "GELU", gelu),
    Case("embedding", "embedding, rows of a table by id,", embedding),
    Case("lerp", "lerp, the moving average of an optimizer,", lerp, part=MUON),
)
