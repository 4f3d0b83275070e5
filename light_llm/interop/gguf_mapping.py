"""The tensors of a GGUF file and ours: one mapping, used for export and for import.

A matrix is (out, in) in both. Three differences break a model without an error where they are forgotten: llama.cpp's
Llama pairs other rows of a head in its rotation, Gemma's norms are stored with the 1 added, and a tied head has no
tensor: llama.cpp uses the token table where `output` is missing.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from ..config import ModelConfig, block_shapes, outer_shapes
from ..layers.positions import frequencies, unscaled_frequencies
from .architectures import Family

ROPE_FREQS = "rope_freqs.weight"  # divisors of the rotary frequencies, for Llama 3's scaling
NAMES = {
    "wte": "token_embd",
    "wpe": "position_embd",
    "ln_f": "output_norm",
    "lm_head": "output",
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.q_norm": "attn_q_norm",
    "attn.k_norm": "attn_k_norm",
    "attn.c_proj": "attn_output",
    "ln_1_post": "post_attention_norm",
    "ln_2": "ffn_norm",
    "mlp.c_gate": "ffn_gate",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
    "ln_2_post": "post_ffw_norm",
}


@dataclass(frozen=True)
class Part:
    """A tensor of the file: some rows of one of our parameters."""

    name: str
    shape: tuple[int, ...]
    heads: int = 0  # whose rows are interleaved; 0: in our order
    added: float = 0.0  # to each number in the file

    def to_file(self, rows: Tensor) -> Tensor:
        """Return the numbers of the file for our rows."""
        rows = interleave(rows, self.heads) if self.heads else rows
        return rows + self.added if self.added else rows

    def from_file(self, rows: Tensor) -> Tensor:
        """Return our rows for the numbers of the file. Subtracting 1 from a number in [0.5, 2] is exact."""
        rows = rows.float() - self.added if self.added else rows
        return by_halves(rows, self.heads) if self.heads else rows


def parts_of(config: ModelConfig, family: Family) -> Iterator[tuple[str, list[Part]]]:
    """Yield each parameter by our name, with the tensors of the file that hold its rows, in this order."""
    D = config.head_size
    traits = family.gguf
    assert traits
    for name, prefix, local, shape in _parameters(config):
        module, _, kind = local.rpartition(".")
        if module == "attn.c_attn" and not traits.fused_qkv:
            heads = (config.n_head, config.kv_heads, config.kv_heads)
            yield (
                name,
                [
                    Part(
                        f"{prefix}attn_{letter}.{kind}",
                        (n * D, *shape[1:]),
                        heads=n if traits.interleaved and letter != "v" else 0,
                    )
                    for letter, n in zip("qkv", heads, strict=True)
                ],
            )
        else:
            added = 1.0 if config.norm == "rmsnorm1p" and len(shape) == 1 else 0.0
            yield name, [Part(f"{prefix}{NAMES[module]}.{kind}", tuple(shape), added=added)]


def _parameters(config: ModelConfig) -> Iterator[tuple[str, str, str, tuple[int, ...]]]:
    """Yield name, prefix in the file, name within a block, and shape of each parameter."""
    for name, shape in outer_shapes(config).items():
        yield name, "", name, shape
    for i in range(config.n_layer):
        for name, shape in block_shapes(config).items():
            yield f"h.{i}.{name}", f"blk.{i}.", name, shape


def interleave(rows: Tensor, heads: int) -> Tensor:
    """Reorder the rows of each head to 0, D/2, 1, D/2 + 1, ...: (heads D, C) -> (heads D, C).

    Our rotation pairs row i with row i + D/2, llama.cpp's Llama row 2i with row 2i + 1 (Su et al., 2021, equation 34).
    The product of a query and a key does not change with an order that both have.
    """
    halves = rows.view(heads, 2, -1, *rows.shape[1:])  # (heads, 2, D / 2, C)
    return halves.transpose(1, 2).reshape(rows.shape)


def by_halves(rows: Tensor, heads: int) -> Tensor:
    """Undo `interleave`: (heads D, C) -> (heads D, C)."""
    pairs = rows.view(heads, -1, 2, *rows.shape[1:])  # (heads, D / 2, 2, C)
    return pairs.transpose(1, 2).reshape(rows.shape)


def rope_factors(config: ModelConfig) -> Tensor:
    """Return the divisors of the rotary frequencies in llama.cpp: (R / 2,) float32, 1 for no change."""
    device = torch.device("cpu")
    return unscaled_frequencies(config.rope_base, config.rotary_dims, device) / frequencies(config, device)
