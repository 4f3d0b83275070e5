"""The key/value cache of the tokens read so far: a value that belongs to one batch of texts."""

import torch
from torch import Tensor

from ..config import ModelConfig


class KVCache:
    """Keys and values of S positions of B rows in L layers, allocated once. Slot s of a row is its position s.

    Rows may have different lengths. Slots beyond a row's length are never looked at, because a query at position t
    sees the slots 0 ... t (`visible`).
    """

    def __init__(
        self,
        config: ModelConfig,
        batch_size: int,
        capacity: int,
        device: torch.device,
        dtype: torch.dtype,
        *,
        kv_heads: int | None = None,
    ) -> None:
        # Fewer than those of the config where heads are divided among processes.
        H_kv = config.kv_heads if kv_heads is None else kv_heads
        shape = (config.n_layer, batch_size, H_kv, capacity, config.head_size)  # (L, B, H_kv, S, D)
        # Zeros and not empty memory: an unwritten slot is read under a mask, through which NaN and inf would pass.
        self.keys = torch.zeros(shape, device=device, dtype=dtype)
        self.values = torch.zeros(shape, device=device, dtype=dtype)
        self.lengths = [0] * batch_size  # a list on the host, so that no step waits for the device
        self._position_ids: Tensor | None = None
        self._first = self._used = 0

    def extend(self, layer: int, k: Tensor, v: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Write this call's (B, H_kv, T, D) to its slots; return views of all slots in use, (B, H_kv, S, D).

        Args:
            position_ids: (T,), consecutive and the same for all rows, or (B, T), any.

        Returns:
            Keys and values in the number format of k and v.
        """
        # All layers of a call pass the same tensor, and reading its numbers makes a GPU wait: once per call.
        if position_ids is not self._position_ids:
            self._position_ids = position_ids
            self._used = int(position_ids.max()) + 1
            self._first = int(position_ids[0]) if position_ids.ndim == 1 else 0
        keys, values = self.keys[layer], self.values[layer]
        if position_ids.ndim == 1:
            keys[:, :, self._first : self._used] = k
            values[:, :, self._first : self._used] = v
            if self._first == 0:
                return k, v
        else:
            rows = torch.arange(k.size(0), device=k.device)[:, None]
            keys[rows, :, position_ids] = k.transpose(1, 2).to(keys.dtype)
            values[rows, :, position_ids] = v.transpose(1, 2).to(values.dtype)
        return keys[:, :, : self._used].to(k.dtype), values[:, :, : self._used].to(v.dtype)

    def put_rows(self, rows: Tensor, other: "KVCache") -> None:
        """Replace whole rows by those of another cache of the same capacity."""
        self.keys[:, rows] = other.keys
        self.values[:, rows] = other.values
        for row, length in zip(rows.tolist(), other.lengths, strict=True):
            self.lengths[row] = length


def visible(position_ids: Tensor) -> Tensor:
    """Return the mask of the slots up to each token's own position: (B, T) -> (B, 1, T, S)."""
    slots = torch.arange(int(position_ids.max()) + 1, device=position_ids.device)
    return (slots <= position_ids[..., None])[:, None]
