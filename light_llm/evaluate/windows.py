"""Windows of a text: which tokens a model reads at once, which of them are counted, and the nats of those."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..config import whole_number
from ..errors import ConfigError
from ..model import LightLLM
from ..objective import IGNORED, token_cross_entropy_from_hidden
from ..runtime import autocast


@dataclass(frozen=True)
class Window:
    """Some ids: all but the last are the input, and the last `scored` of them are the targets."""

    ids: Sequence[int] | NDArray[np.int32]
    scored: int


def check_windows(context: int | None, stride: int | None, default: int, n_positions: int) -> tuple[int, int]:
    """Return context and stride as whole numbers. None: `default` for the context, and the context for the stride.

    Raises:
        ConfigError: a context that the model does not have, or a stride that leaves tokens out.
    """
    context = min(default, n_positions) if context is None else whole_number("context", context, low=1)
    if context > n_positions:
        raise ConfigError(
            f"{{--context {context}}} is more than the {n_positions:,} positions of the model; "
            f"use {{--context {n_positions}}} or less"
        )
    stride = context if stride is None else whole_number("stride", stride, low=1)
    if stride > context:
        raise ConfigError(
            f"{{--stride {stride}}} is more than {{--context {context}}}, and the tokens between two windows would be "
            f"left out; use {{--stride {context}}} or less"
        )
    return context, stride


def stride_windows(n: int, context: int, stride: int) -> Iterator[tuple[int, int, int]]:
    """Yield the windows of a text of n tokens as (start, stop, scored): the last `scored` of ids[start:stop] count.

    Each of the n - 1 tokens after the first is scored once.

    stride < context: windows of `context` tokens start every `stride` tokens, and those that no earlier window scored
    count: each has at least context - stride tokens before it. This is the loop of Hugging Face's guide "Perplexity of
    fixed-length models", with max_length=context.

    stride = context: the windows do not overlap. Each reads `context` tokens and predicts the token after each of them,
    as `evaluate_loss` does. (The guide's loop would leave out the first token of each window.)

    >>> list(stride_windows(9, 4, 2))
    [(0, 4, 3), (2, 6, 2), (4, 8, 2), (6, 9, 1)]
    >>> list(stride_windows(9, 4, 4))
    [(0, 5, 4), (4, 9, 4)]
    """
    size = context if stride < context else context + 1
    scored = 1  # tokens before this one are scored, or are the first
    for start in range(0, n, stride):
        if scored >= n:
            return
        stop = min(start + size, n)
        yield start, stop, stop - scored
        scored = stop


def pad_windows(windows: Sequence[Window], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return inputs and targets, both (B, T), padded on the right, where a causal model does not look."""
    # The last id of a window is a target only, so inputs are one shorter.
    T = max(len(window.ids) for window in windows) - 1
    tokens = torch.zeros(len(windows), T, dtype=torch.long)
    targets = torch.full((len(windows), T), IGNORED)
    for b, window in enumerate(windows):
        ids, n = torch.as_tensor(window.ids), len(window.ids) - 1
        tokens[b, :n] = ids[:-1]
        targets[b, n - window.scored : n] = ids[-window.scored :]
    return tokens.to(device), targets.to(device)


def window_nats(model: LightLLM, windows: Sequence[Window], dtype: str) -> list[float]:
    """Return the sum of -log P over the targets of each window, in nats."""
    device = model.head_weight.device
    tokens, targets = pad_windows(windows, device)
    with torch.no_grad(), autocast(device.type, dtype):
        # Only positions with a target reach the head, the largest part of a small model.
        is_target = targets != IGNORED
        hidden = model.hidden_states(tokens)[is_target]
        losses = token_cross_entropy_from_hidden(model, hidden[None], targets[is_target][None])[0]
    # Summed in float64, on the CPU: a window has thousands of targets, and MPS has no float64.
    parts = losses.cpu().double().split([window.scored for window in windows])
    return [float(part.sum()) for part in parts]
