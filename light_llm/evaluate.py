"""What a model knows of a text it was not trained on: one deterministic pass, exact token-weighted means."""

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from .data import TokenArray
from .errors import DataError
from .model import LightLLM
from .objective import token_nats
from .runtime import autocast


@dataclass(frozen=True)
class Evaluation:
    """The loss over all targets of a text, and how sure it is."""

    loss: float  # nats per token: the mean over all targets
    stderr: float | None  # standard error of `loss` over windows; None with a single window
    bits_per_byte: float  # total bits / UTF-8 bytes of exactly the targets
    tokens: int  # targets
    bytes: int  # of the targets
    windows: int
    context: int  # T, tokens a window can see; each starts cold

    @property
    def perplexity(self) -> float:
        """exp(loss): the number of equally likely tokens that would be as hard to guess."""
        return math.exp(self.loss) if self.loss < 709 else math.inf


def evaluate_loss(
    model: LightLLM,
    tokens: TokenArray,
    byte_lengths: NDArray[np.int64],
    *,
    context: int,
    batch_size: int = 4,
    dtype: str = "float32",
    progress: Callable[[int, int], None] | None = None,
) -> Evaluation:
    """Held-out loss of n tokens: the nats of the n - 1 targets, in windows of `context`, the short last one included.

    Window j sees the tokens jT ... jT + T - 1 and nothing before them, so the first tokens of each are guessed with
    little context: a longer T gives a lower loss for the same model, which is why T is part of the result.

    Args:
        byte_lengths: UTF-8 bytes of each token id, (V,).
        progress: called with (windows done, windows in all).

    Raises:
        DataError: fewer than two tokens.
    """
    n = len(tokens)
    if n < 2:
        raise DataError(f"an evaluation needs at least 2 tokens, this text has {n}; use a longer text")
    starts = list(range(0, n - 1, context))
    sums, counts, n_bytes = [], [], 0
    was_training, device = model.training, model.head_weight.device
    model.eval()
    try:
        for i in range(0, len(starts), batch_size):
            # The short last window makes a batch of its own: no padding, so nothing to mask.
            group = starts[i : i + batch_size]
            full = [s for s in group if s + context < n]
            for batch in filter(None, (full, [s for s in group if s not in full])):
                ids = np.stack([tokens.read(s, min(s + context + 1, n)) for s in batch])  # (B, T + 1)
                n_bytes += int(byte_lengths[ids[:, 1:]].sum())
                window = torch.from_numpy(ids).to(device)
                with torch.no_grad(), autocast(device.type, dtype):
                    nats = token_nats(model, window[:, :-1], window[:, 1:])
                sums += nats.cpu().double().sum(dim=1).tolist()  # MPS has no float64
                counts += [nats.size(1)] * nats.size(0)
            if progress:
                progress(min(i + batch_size, len(starts)), len(starts))
    finally:
        model.train(was_training)
    return summarise(sums, counts, n_bytes, context)


def summarise(sums: list[float], counts: list[int], n_bytes: int, context: int) -> Evaluation:
    """From the nats and targets of each window to the means.

    The standard error is that of a ratio of sums over windows (Cochran, 1977, section 6.3): windows are taken as the
    independent draws, because tokens within one are not.
    """
    total, n, W = math.fsum(sums), sum(counts), len(sums)
    loss = total / n
    stderr = None
    if W > 1:
        spread = math.fsum((s - loss * c) ** 2 for s, c in zip(sums, counts, strict=True))
        stderr = math.sqrt(spread * W / (W - 1)) / n
    bits = total / math.log(2)
    return Evaluation(loss, stderr, bits / n_bytes if n_bytes else math.nan, n, n_bytes, W, context)
