"""Keys and values of the tokens read so far: a value that belongs to one batch of conversations."""

import torch
from torch import Tensor

from ..config import ModelConfig


class KVCache:
    """Room for S positions of B rows in L layers, allocated once. Slot s of a row holds its token at position s.

    Rows may have different lengths: `lengths` says how far each is filled, and what lies beyond is never looked at,
    because a query at position t sees the slots 0 ... t (`visible`).
    """

    def __init__(
        self, config: ModelConfig, batch_size: int, capacity: int, device: torch.device, dtype: torch.dtype
    ) -> None:
        shape = (config.n_layer, batch_size, config.n_head, capacity, config.head_size)  # (L, B, H, S, D)
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths = torch.zeros(batch_size, dtype=torch.long, device=device)

    def extend(self, layer: int, k: Tensor, v: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Write this call's (B, H, T, D) to the slots `at` (T,) or (B, T); return all slots, (B, H, S, D)."""
        B, T = k.size(0), k.size(2)
        rows = torch.arange(B, device=k.device)[:, None]
        slots = at.expand(B, T)
        self.keys[layer, rows, :, slots] = k.transpose(1, 2).to(self.keys.dtype)
        self.values[layer, rows, :, slots] = v.transpose(1, 2).to(self.values.dtype)
        used = int(at.max()) + 1  # slots beyond the longest row are not worth reading
        return self.keys[layer, :, :, :used].to(k.dtype), self.values[layer, :, :, :used].to(v.dtype)

    def put_rows(self, rows: Tensor, other: "KVCache") -> None:
        """Replace whole rows by those of another cache of the same capacity: rows that were read again."""
        self.keys[:, rows] = other.keys
        self.values[:, rows] = other.values
        self.lengths[rows] = other.lengths


def visible(at: Tensor) -> Tensor:
    """Which slots tokens at these positions may look at: those up to their own. (B, T) -> (B, 1, T, S)."""
    slots = torch.arange(int(at.max()) + 1, device=at.device)
    return (slots <= at[..., None])[:, None]
