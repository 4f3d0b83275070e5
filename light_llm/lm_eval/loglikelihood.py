"""How likely a model finds the targets of windows, and whether it would have written them."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..model import LightLLM
from ..objective import IGNORED, token_cross_entropy_from_hidden
from ..runtime import autocast
from .windows import Window, by_length

ROWS = 1024  # of logits that exist at once


@dataclass(frozen=True)
class Score:
    """The targets of one window."""

    nats: float  # the sum of -log P
    greedy: bool | None  # each target is the likeliest token; None: not asked for


def score(
    model: LightLLM,
    windows: Sequence[Window],
    *,
    batch_size: int,
    dtype: str = "float32",
    n_ids: int | None = None,
    greedy: bool = True,
    progress: Callable[[int], None] | None = None,
) -> list[Score]:
    """Score windows in batches of about one length. No (B, T, V) logits: only rows that are targets go to the head.

    Args:
        dtype: the number format of the products.
        n_ids: ids from here on are never the likeliest: for a model with a larger table than its tokenizer.
        greedy: also look for the likeliest tokens.
        progress: called with the number of windows of each batch that is done.
    """
    found: dict[int, Score] = {}
    device = model.head_weight.device
    for batch in by_length([len(window.ids) for window in windows], batch_size):
        tokens, targets = padded([windows[i] for i in batch], device)
        chosen = targets != IGNORED  # (B, T)
        with torch.no_grad(), autocast(device.type, dtype):
            hidden, wanted = model.hidden_states(tokens)[chosen], targets[chosen]  # (N, C), (N,)
            nats = token_cross_entropy_from_hidden(model, hidden[None], wanted[None], ROWS)[0].cpu().double().tolist()
            right = (likeliest(model, hidden, n_ids) == wanted).tolist() if greedy else []
        end = 0
        for i in batch:
            start, end = end, end + windows[i].scored
            found[i] = Score(math.fsum(nats[start:end]), all(right[start:end]) if greedy else None)
        if progress:
            progress(len(batch))
    return [found[i] for i in range(len(windows))]


def padded(windows: Sequence[Window], device: torch.device) -> tuple[Tensor, Tensor]:
    """What is read and what is guessed, both (B, T), padded on the right, where no causal model looks."""
    T = max(len(window.ids) for window in windows) - 1
    tokens = torch.zeros(len(windows), T, dtype=torch.long)
    targets = torch.full((len(windows), T), IGNORED)
    for b, window in enumerate(windows):
        ids, n = torch.tensor(window.ids), len(window.ids) - 1
        tokens[b, :n] = ids[:-1]
        targets[b, n - window.scored : n] = ids[-window.scored :]
    return tokens.to(device), targets.to(device)


def likeliest(model: LightLLM, hidden: Tensor, n_ids: int | None = None) -> Tensor:
    """The likeliest token after each hidden state, a block of rows at a time: (N, C) -> (N,)."""
    parts = [model.logits(rows)[:, :n_ids].argmax(dim=-1) for rows in hidden.split(ROWS)]
    return torch.cat(parts) if parts else hidden.new_empty(0, dtype=torch.long)
