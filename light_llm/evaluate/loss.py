"""Evaluate a model on held-out text: one deterministic pass, exact token-weighted means."""

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from ..config import as_plain, check_choice, whole_number
from ..data import TokenArray, TokenDataset
from ..data.tokenizers import byte_lengths as byte_lengths_of
from ..errors import ConfigError, DataError
from ..model import LightLLM, eval_mode
from ..objective import IGNORED, token_cross_entropy
from ..runtime import World, autocast
from .across_ranks import deal, gather_values, same_batches

DTYPES = ("float32", "bfloat16", "float16")  # of the matrix products
Windows = list[tuple[int, int]]  # the first token of each, and the one after the last


@dataclass(frozen=True)
class PositionBucket:
    """The loss of the targets in a range of positions in their windows: it shows how much context helps."""

    upto: int  # last position of the range; a target at position n sees n tokens
    loss: float  # mean nats per token
    tokens: int


@dataclass(frozen=True)
class Evaluation:
    """The loss over all targets of a text, with its standard error."""

    loss: float  # nats per token: the mean over all targets
    stderr: float | None  # standard error of `loss` over windows; None with a single window
    bits_per_byte: float  # total bits / UTF-8 bytes of exactly the targets
    tokens: int  # targets
    bytes: int  # of the targets
    windows: int
    context: int  # T, tokens of a window; each starts without context
    by_position: tuple[PositionBucket, ...] = ()  # the same nats by position in the window

    @property
    def perplexity(self) -> float:
        """Return exp(loss): the number of equally likely tokens that would be as hard to predict."""
        # exp of more overflows a float.
        return math.exp(self.loss) if self.loss < 709 else math.inf


def evaluate_loss(
    model: LightLLM,
    tokens: TokenDataset | TokenArray,
    byte_lengths: NDArray[np.int64] | None = None,
    *,
    context: int | None = None,
    batch_size: int = 4,
    dtype: str = "float32",
    progress: Callable[[int, int], None] | None = None,
    on_window: Callable[[int, NDArray[np.float64]], None] | None = None,
    world: World = World(),
) -> Evaluation:
    """Return the held-out loss of a dataset, or that of n tokens: the mean nats of n - 1 targets.

    Window j sees the tokens jT ... jT + T - 1 and nothing before them, so the first targets of each have little
    context: a longer T gives a lower loss for the same model, which is why T is part of the result. The last window may
    be shorter.

    Args:
        tokens: a dataset, whose held-out split is evaluated, or token ids.
        byte_lengths: UTF-8 bytes of each token id, (V,), for bits per byte; a dataset has its own.
        context: T, tokens of a window; by default the max_length of the dataset.
        batch_size: windows that are evaluated at once; the result does not depend on it.
        dtype: float32, bfloat16 or float16: the format of the matrix products.
        progress: called with (windows done, windows in total), on all ranks equally often; an error that it raises on
            all of them cancels the evaluation.
        on_window: called with the index of a window's first target (1 ... n - 1) and the nats of its targets, on each
            rank for all windows in their order.
        world: the ranks that evaluate together: each takes some of the batches, and all return the same result, that
            of one process.

    Raises:
        DataError: fewer than two tokens.
        ConfigError: an argument of a wrong kind, or a context that the model does not have.
    """
    tokens, byte_lengths, context = _check_arguments(model, tokens, byte_lengths, context)
    batch_size = whole_number("batch_size", batch_size, low=1)
    dtype = as_plain(dtype)
    check_choice("dtype", dtype, DTYPES)
    n = len(tokens)
    if n < 2:
        raise DataError(f"an evaluation needs at least 2 tokens, this text has {n}; use a longer text")
    n_windows = -(-(n - 1) // context)
    sums, counts, n_bytes = [], [], 0
    position_nats, position_counts = np.zeros(context), np.zeros(context, dtype=np.int64)
    with eval_mode(model):
        for batches, own in deal(_batches_of_windows(n, context, batch_size), world):
            ids = np.stack([tokens.read(start, stop) for start, stop in own])
            own_nats = _target_nats(model, ids, dtype)
            if world.rank < len(batches):
                n_bytes += _count_target_bytes(tokens, own, ids, byte_lengths)
            shapes = [(len(batch), batch[0][1] - batch[0][0] - 1) for batch in batches]
            for batch, nats in zip(batches, gather_values(own_nats, shapes, world), strict=True):
                B, T = nats.shape
                sums += nats.sum(dim=1).tolist()
                counts += [T] * B
                position_nats[:T] += nats.sum(dim=0).numpy()
                position_counts[:T] += B
                if on_window:
                    for (start, _), row in zip(batch, nats.numpy(), strict=True):
                        on_window(start + 1, row)
            if progress:
                progress(len(sums), n_windows)
    n_bytes = int(world.sum(torch.tensor(n_bytes)))
    buckets = tuple(position_buckets(position_nats, position_counts))
    return replace(summarise(sums, counts, n_bytes, context), by_position=buckets)


def _count_target_bytes(
    tokens: TokenArray, windows: Windows, ids: NDArray[np.integer[Any]], lengths: NDArray[np.int64]
) -> int:
    """Return the bytes of the targets of windows, whose ids are (B, T + 1)."""
    if tokens.byte_counts is None:
        return count_bytes(ids[:, 1:], lengths)
    return sum(int(tokens.byte_counts.read(start + 1, stop).sum()) for start, stop in windows)


def _check_arguments(
    model: LightLLM, data: TokenDataset | TokenArray, lengths: NDArray[np.int64] | None, context: int | None
) -> tuple[TokenArray, NDArray[np.int64], int]:
    """Return the tokens, byte lengths and context to evaluate with. Raises ConfigError."""
    check_model(model, "evaluate_loss")
    if isinstance(data, TokenDataset):
        lengths = np.array(byte_lengths_of(data.tokenizer)) if lengths is None else lengths
        context = data.max_length if context is None else context
        tokens: TokenArray = data.held_out
    elif hasattr(data, "read"):
        tokens = data
    else:
        raise ConfigError(
            f"evaluate_loss takes a dataset or its tokens, not a {type(data).__name__}; "
            "make one of a text with prepare_dataset"
        )
    if lengths is None or context is None:
        raise ConfigError("evaluate_loss of bare tokens needs byte_lengths and context as well; a dataset has both")
    lengths = np.asarray(lengths)
    if lengths.ndim != 1 or not np.issubdtype(lengths.dtype, np.integer):
        raise ConfigError(
            f"byte_lengths of shape {lengths.shape} and type {lengths.dtype} cannot be used; it has the UTF-8 bytes of "
            "each token id, (V,): numpy.array(byte_lengths(tokenizer))"
        )
    if len(lengths) > len(model.head_weight):
        raise ConfigError(
            f"the tokenizer has {len(lengths):,} ids and the model {len(model.head_weight):,}; "
            "evaluate on a dataset with the model's own tokenizer: prepare_dataset(path, tokenizer=tokenizer)"
        )
    return tokens, lengths, whole_number("context", context, low=1)


def check_model(model: object, function: str) -> None:
    """Raise ConfigError unless a model is a LightLLM, or something with its methods."""
    if hasattr(model, "hidden_states"):
        return
    name = type(model).__name__
    if hasattr(getattr(model, "module", None), "hidden_states"):
        raise ConfigError(f"{function} takes a LightLLM, and this is a {name} around one; pass model.module")
    raise ConfigError(f"{function} takes a LightLLM, not a {name}")


def use_bfloat16_weights(model: LightLLM) -> None:
    """Round the matrices of a model to bfloat16, in place, for evaluation with dtype="bfloat16" in half the memory.

    Norms, biases and the residual stream are in float32, as under autocast with float32 weights; the difference to that
    is only that the embeddings are rounded too.
    """
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            dtype = torch.bfloat16 if parameter.ndim > 1 else torch.float32
            setattr(module, name, nn.Parameter(parameter.detach().to(dtype), requires_grad=False))
    model.wte.register_forward_hook(lambda module, inputs, output: output.float())


def count_bytes(ids: NDArray[np.integer[Any]], lengths: NDArray[np.integer[Any]]) -> int:
    """Return the UTF-8 bytes of token ids. Raises ConfigError for an id without an entry in `lengths`."""
    if ids.size and int(ids.max()) >= len(lengths):
        raise ConfigError(
            f"byte_lengths has {len(lengths):,} entries and the text has token id {int(ids.max())}; give one for each "
            "id of the tokenizer: numpy.array(byte_lengths(tokenizer))"
        )
    return int(lengths[ids].sum())


def evaluate_batches(
    model: LightLLM,
    batches: Iterable[tuple[Tensor, Tensor]],
    byte_lengths: NDArray[np.int64] | None,
    *,
    dtype: str = "float32",
    progress: Callable[[int, int], None] | None = None,
    world: World = World(),
) -> Evaluation:
    """Return the mean nats over all targets of pairs (tokens, targets), both (B, T); targets of -100 are ignored.

    Args:
        batches: the same on all ranks.
        byte_lengths: UTF-8 bytes of each token id, (V,); without them bits per byte are NaN.
        progress: called with (sequences done, 0), on all ranks equally often.
        world: as in `evaluate_loss`.

    Raises:
        ConfigError: there are no targets, or the batches of two ranks differ.
    """
    sums: list[float] = []
    counts: list[int] = []
    n_bytes = context = 0
    device = model.head_weight.device
    with eval_mode(model):
        for group, own in deal(same_batches(batches, world), world):
            with torch.no_grad(), autocast(device.type, dtype):
                own_nats = token_cross_entropy(model, own[0].to(device), own[1].to(device)).cpu().double()
            shapes = [(len(tokens),) for tokens, _ in group]
            for nats in gather_values(own_nats.sum(dim=1), shapes, world):
                sums += nats.tolist()
            for tokens, targets in group:
                counted = targets != IGNORED
                counts += counted.sum(dim=1).tolist()
                context = max(context, tokens.size(1))
                if byte_lengths is not None:
                    n_bytes += count_bytes(targets[counted].numpy(), byte_lengths)
            if progress:
                progress(len(sums), 0)
    if not sum(counts):
        raise ConfigError("the held-out loader gives no targets; it must yield pairs (tokens, targets) every time")
    return summarise(sums, counts, n_bytes, context)


def _batches_of_windows(n: int, context: int, batch_size: int) -> Iterator[Windows]:
    """Yield the windows of n tokens, each of T inputs and one target more, in batches of equal length."""
    full = [(start, start + context + 1) for start in range(0, n - context, context)]
    for i in range(0, len(full), batch_size):
        yield full[i : i + batch_size]
    # The short last window is a batch of its own: without padding there is nothing to mask.
    if (last := len(full) * context) < n - 1:
        yield [(last, n)]


def _target_nats(model: LightLLM, ids: NDArray[np.integer[Any]], dtype: str) -> Tensor:
    """Return the loss of each target in nats, (B, T + 1) -> (B, T), float64 on the CPU."""
    device = model.head_weight.device
    window = torch.from_numpy(ids).to(device)
    with torch.no_grad(), autocast(device.type, dtype):
        nats = token_cross_entropy(model, window[:, :-1], window[:, 1:])
    # On the CPU first: MPS has no float64.
    return nats.cpu().double()


def position_buckets(nats: NDArray[np.float64], targets: NDArray[np.int64]) -> Iterator[PositionBucket]:
    """Merge nats and targets by position, (T,), into buckets of doubling width; their weighted mean is the loss."""
    for start, end in itertools.pairwise([0, *bucket_ends(len(nats))]):
        if n := int(targets[start:end].sum()):
            yield PositionBucket(end, math.fsum(nats[start:end]) / n, n)


def bucket_ends(T: int) -> list[int]:
    """Return the last position of each bucket, doubling: 1, 2, 4, ... T.

    >>> bucket_ends(12)
    [1, 2, 4, 8, 12]
    """
    doubling = itertools.takewhile(lambda n: n < T, (1 << i for i in itertools.count()))
    return [*doubling, T]


def summarise(sums: Sequence[float], counts: Sequence[int], n_bytes: int, context: int) -> Evaluation:
    """Return the means from the nats and the number of targets of each window.

    The standard error is that of a ratio of sums over windows (Cochran, 1977, section 6.3): windows count as
    independent, because the tokens within one are not.
    """
    total, n = math.fsum(sums), sum(counts)
    bits = total / math.log(2)
    bits_per_byte = bits / n_bytes if n_bytes else math.nan
    return Evaluation(total / n, ratio_stderr(sums, counts), bits_per_byte, n, n_bytes, len(sums), context)


def ratio_stderr(sums: Sequence[float], sizes: Sequence[int]) -> float | None:
    """Return the standard error of sum(sums) / sum(sizes) over independent parts of a text; None for a single part."""
    W, n = len(sums), sum(sizes)
    if W < 2 or not n:
        return None
    ratio = math.fsum(sums) / n
    squares = math.fsum((s - ratio * size) ** 2 for s, size in zip(sums, sizes, strict=True))
    return math.sqrt(squares * W / (W - 1)) / n
