"""Heads that share keys and values, and layers that see only so far back: both in front of attention itself."""

import torch
from torch import Tensor


def shared(x: Tensor, H: int) -> Tensor:
    """Each head of keys or values once for every query head it serves: (B, H_kv, S, D) -> (B, H, S, D).

    Query head h has the keys and values of head h H_kv / H (Ainslie et al., 2023).
    """
    return x if x.size(1) == H else x.repeat_interleave(H // x.size(1), dim=1)


def within(mask: Tensor | None, at: Tensor, S: int, window: int, *, cached: bool) -> Tensor | None:
    """The mask of a layer that sees `window` tokens, its own included: query t the keys t - window + 1 ... t.

    Args:
        mask: True where a query may look anyway, broadcastable to (B, H, T, S); None means causal.
        at: the positions of the T queries, (T,) or (B, T).
        cached: keys stand at the positions 0 ... S - 1; otherwise they are those of the queries.

    Returns:
        The mask as it was where no window ends within S keys.
    """
    if not window or S <= window:
        return mask
    keys = torch.arange(S, device=at.device) if cached else at
    back = at[..., :, None] - keys[..., None, :]  # ([B,] T, S) tokens from the query to the key
    near = back < window if mask is not None else (back < window) & (back >= 0)
    near = near[:, None] if near.ndim == 3 else near
    return near if mask is None else near & mask
