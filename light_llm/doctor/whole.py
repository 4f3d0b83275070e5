"""The whole model: logits, loss and every gradient, in float32, in lower formats and compiled."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial

import torch
from torch import Tensor

from ..objective import NextTokenLoss, token_cross_entropy
from ..runtime import autocast
from .subject import SHAPE, Subject, numbers, taken
from .tolerance import allowed, forward_sums, gradient_sums, loss_sums, worst_error
from .values import COMPILED, MODEL, Case, Measured

Shape = tuple[int, int]  # B, T
SHORT: tuple[Shape, ...] = ((1, 1), (8, 1), (9, 1), (16, 1), (1, 7), (8, 7), (9, 7), (16, 7))
LONG: tuple[Shape, ...] = ((1, 1023), (1, 1024))
MANY: tuple[Shape, ...] = ((8, 1024), (9, 1024))
ALL: tuple[Shape, ...] = ((1, 1023), (9, 1023), (1, 1024), (8, 1024), (9, 1024), (16, 1024))
SOME_ROWS = 16  # of long sequences every 16th row of logits is compared, and the last


def where(shape: Shape) -> str:
    """A batch in words."""
    return f"batch {shape[0]} x {shape[1]:,} tokens"


@torch.no_grad()
def logits(subject: Subject, shapes: Sequence[Shape], dtype: str = "float32", every: int = 1) -> Iterator[Measured]:
    """Logits over the whole vocabulary, made all at once, at every position or at some."""
    subject.reference.hidden(*max(shapes, key=lambda shape: shape[1]))
    for B, T in shapes:
        with autocast(subject.device, dtype):
            found = subject.model(subject.tokens(B, T)).flatten(0, 1)  # (N, V)
        last = (torch.arange(B) + 1) * T - 1
        rows = torch.cat([torch.arange(0, B * T, every), last]).unique()
        hidden = subject.reference.hidden(B, T).flatten(0, 1)[rows]
        limit = allowed(forward_sums(SHAPE, T), getattr(torch, dtype))
        worst = 0.0
        for part, exact in subject.reference.logits(hidden):
            worst = max(worst, worst_error(found[rows[part].to(found.device)], exact))
        del found  # before the next is made: it can be gigabytes
        yield Measured(worst, limit, where((B, T)))


@torch.no_grad()
def hidden_states(subject: Subject, shapes: Sequence[Shape]) -> Iterator[Measured]:
    """Hidden states after the last norm, at every position of long sequences."""
    subject.reference.hidden(*max(shapes, key=lambda shape: shape[1]))
    for B, T in shapes:
        found = subject.model.hidden_states(subject.tokens(B, T))
        yield Measured(
            worst_error(found, subject.reference.hidden(B, T)), allowed(forward_sums(SHAPE, T)), where((B, T))
        )


def loss(subject: Subject, shapes: Sequence[Shape], summed: Sequence[Shape]) -> Iterator[Measured]:
    """The nats of each target, and of some batches their sum as training makes it, without gradients."""
    objective = NextTokenLoss(subject.model)
    nats = subject.reference.nats(max(B for B, _ in shapes), max(T for _, T in shapes))
    for B, T in shapes:
        exact, limit = nats[:B, :T], allowed(loss_sums(SHAPE, T))
        found = token_cross_entropy(subject.model, subject.tokens(B, T), subject.targets(B, T))
        yield Measured(worst_error(found, exact), limit, where((B, T)))
        if (B, T) in summed:
            with torch.no_grad():
                value = objective(subject.tokens(B, T), subject.targets(B, T))
            yield Measured(worst_error(value, exact.sum()), limit, f"{where((B, T))}, the sum")


def gradients(subject: Subject, shapes: Sequence[Shape], dtype: str = "float32") -> Iterator[Measured]:
    """The loss and every gradient, as a step of training makes them."""
    objective = NextTokenLoss(subject.model.train())
    for B, T in shapes:
        yield from _step(subject, objective, (B, T), dtype)


def _step(subject: Subject, objective: torch.nn.Module, shape: Shape, dtype: str = "float32") -> Iterator[Measured]:
    (B, T), kind = shape, getattr(torch, dtype)
    value, exact = subject.reference.gradients(B, T)
    subject.model.zero_grad(set_to_none=True)  # a step that ran out of memory may have left some
    with autocast(subject.device, dtype):
        found = objective(subject.tokens(B, T), subject.targets(B, T))
    found.backward()
    limit = allowed(loss_sums(SHAPE, T), kind)
    yield Measured(abs(float(found.detach()) - value) / value, limit, f"{where(shape)}, the loss")
    met = subject.reference.ids[:B, : T + 1].unique()  # ids that were read or guessed
    limit = allowed(gradient_sums(SHAPE, B, T), kind)
    yield from _by_name(taken(subject.model), exact, {"wte.weight": met}, limit, where(shape))


def _by_name(
    found: Mapping[str, Tensor], exact: Mapping[str, Tensor], rows: Mapping[str, Tensor], limit: float, place: str
) -> Iterator[Measured]:
    """Each gradient by itself; of a table the rows named and all others apart, whose gradients are far smaller."""
    for name, right in exact.items():
        if name not in found:
            yield Measured(float("inf"), limit, f"{place}, {name} has none")
        elif name in rows:
            named = torch.zeros(len(right), dtype=torch.bool)
            named[rows[name]] = True
            g = found[name].detach().cpu()
            for which, mask in (("ids of the batch", named), ("other ids", ~named)):
                yield Measured(worst_error(g[mask], right[mask]), limit, f"{place}, gradient of {name}, {which}")
        else:
            yield Measured(worst_error(found[name], right), limit, f"{place}, gradient of {name}")


def body_gradients(subject: Subject, shapes: Sequence[Shape]) -> Iterator[Measured]:
    """Every gradient below the head, from fixed numbers above, of long sequences."""
    model, twin = subject.model.train(), subject.reference.twin
    for B, T in shapes:
        above = numbers(B, T, SHAPE.n_embd, seed=41)
        model.zero_grad(set_to_none=True)
        twin.zero_grad(set_to_none=True)
        found = model.hidden_states(subject.tokens(B, T))
        found.backward(above.to(subject.device))
        right = twin.hidden_states(subject.reference.tokens(B, T))
        right.backward(above.double())
        limit = allowed([*forward_sums(SHAPE, T) * 3, B * T])
        yield from _by_name(taken(model), taken(twin), {}, limit, where((B, T)))


def compiled(subject: Subject, dtype: str) -> Iterator[Measured]:
    """Loss and gradients of the compiled objective, as `--compile on` makes it."""
    objective = NextTokenLoss(subject.model.train())
    objective.compile(dynamic=False)
    yield from _step(subject, objective, (9, 7), dtype)


def low_formats(dtype: str) -> tuple[Case, ...]:
    """Logits and gradients under autocast."""
    shapes = ((1, 1), (9, 7))
    forward = partial(logits, shapes=shapes, dtype=dtype)
    return (
        Case(f"logits, {dtype}", f"the model's logits in {dtype}", forward, MODEL, dtype),
        Case(
            f"gradients, {dtype}",
            f"a gradient in {dtype}",
            partial(gradients, shapes=((9, 7),), dtype=dtype),
            MODEL,
            dtype,
        ),
    )


CORE = (
    Case("logits", "the model's logits", partial(logits, shapes=SHORT), MODEL),
    Case(
        "long logits", "the model's logits of long sequences", partial(logits, shapes=LONG[1:], every=SOME_ROWS), MODEL
    ),
    Case("hidden states", "the model's hidden states", partial(hidden_states, shapes=LONG), MODEL),
    Case("loss", "the loss over 50,257 ids", partial(loss, shapes=SHORT[4:], summed=SHORT[6:7]), MODEL),
    Case("gradients", "a gradient", partial(gradients, shapes=((9, 7),)), MODEL),
    Case("long gradients", "a gradient of a long sequence", partial(body_gradients, shapes=LONG[1:]), MODEL),
)
MORE = (
    Case("hidden states, more", "the model's hidden states", partial(hidden_states, shapes=ALL), MODEL),
    Case("loss, more", "the loss over 50,257 ids", partial(loss, shapes=ALL, summed=MANY), MODEL),
    Case("logits, more", "the model's logits of long sequences", partial(logits, shapes=LONG), MODEL),
    Case(
        "logits, all at once",
        "the logits of 8 and 9 sequences of 1,024 tokens, made at once,",
        partial(logits, shapes=MANY, every=SOME_ROWS),
        MODEL,
        large=True,
    ),
    Case("gradients, more", "a gradient", partial(gradients, shapes=((1, 1), (1, 7), (8, 7), (16, 7), *LONG)), MODEL),
    Case("long gradients, more", "a gradient of long sequences", partial(body_gradients, shapes=((9, 1024),)), MODEL),
)
COMPILE = tuple(
    Case(f"compiled, {dtype}", f"the compiled step in {dtype}", partial(compiled, dtype=dtype), COMPILED, dtype)
    for dtype in ("float32", "bfloat16")
)
