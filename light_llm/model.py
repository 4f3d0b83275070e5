"""The whole GPT in one file: arithmetic and parameters, nothing else.

The architecture is GPT-2's (Radford et al., 2019): learned positions, pre-norm blocks, tanh GELU, tied head.
How it is trained, stored, watched or sampled from is written elsewhere; nothing here knows of it.

Shapes, here and everywhere:
    B batch   T tokens of this call   S tokens that can be looked at (T, or more with a cache)
    C n_embd (d_model)   H heads   D = C / H (d_k)   V vocabulary   L layers
"""

import math
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .config import ModelConfig
from .errors import ConfigError
from .layers.again import same_draws
from .layers.attention import attend
from .layers.dropout import Dropout


class Cache(Protocol):
    """Keys and values of earlier tokens, a value that belongs to one conversation."""

    def extend(self, layer: int, k: Tensor, v: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Store this call's (B, H, T, D) at positions `at`, return all (B, H, S, D)."""


def attention_weights(q: Tensor, k: Tensor, mask: Tensor | None = None) -> Tensor:
    """softmax(Q K^T / sqrt(d_k)): (B, H, T, D), (B, H, S, D) -> (B, H, T, S). Vaswani et al. (2017), equation 1.

    mask is True where a query may look, broadcastable to (B, H, T, S); None means causal: token T - 1 sees all S,
    each one before it sees one fewer.
    """
    T, S = q.size(-2), k.size(-2)
    if mask is None:
        mask = torch.ones(T, S, dtype=torch.bool, device=q.device).tril(S - T)
    scores = q @ k.transpose(-2, -1) / math.sqrt(q.size(-1))
    return scores.masked_fill(~mask, float("-inf")).softmax(dim=-1)


def attend_by_formula(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, dropout: float = 0.0) -> Tensor:
    """Attention(Q, K, V) = softmax(Q K^T / sqrt(d_k)) V, as written.

    The twin of the quick `attend`, and twice differentiable.
    """
    return F.dropout(attention_weights(q, k, mask), dropout) @ v


def soft_cap(logits: Tensor, cap: float) -> Tensor:
    """cap tanh(logits / cap): nearly the same near 0, never beyond the cap (Gemma Team, 2024); 0 means none."""
    return cap * torch.tanh(logits / cap) if cap else logits


class SelfAttention(nn.Module):
    """H heads of causal attention side by side: (B, T, C) -> (B, T, C)."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.n_head = config.n_head
        self.dropout = config.attn_dropout
        self.c_attn = nn.Linear(config.n_embd, 3 * config.n_embd)
        self.c_proj = nn.Linear(config.n_embd, config.n_embd)
        self.attend = attend  # a probe may put the formula here, from outside

    def forward(self, x: Tensor, at: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        B, T, C = x.shape
        q, k, v = self.c_attn(x).view(B, T, 3, self.n_head, C // self.n_head).permute(2, 0, 3, 1, 4)  # (B, H, T, D)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v, at)  # (B, H, S, D)
        y = self.attend(q, k, v, mask, self.dropout if self.training else 0.0)  # (B, H, T, D)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, C))


class MLP(nn.Module):
    """GELU(x W1 + b1) W2 + b2, four times as wide inside: (B, T, C) -> (B, T, C)."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.c_fc = nn.Linear(config.n_embd, 4 * config.n_embd)
        self.gelu = nn.GELU(approximate="tanh" if config.activation == "gelu_tanh" else "none")
        self.c_proj = nn.Linear(4 * config.n_embd, config.n_embd)

    def forward(self, x: Tensor) -> Tensor:
        return self.c_proj(self.gelu(self.c_fc(x)))


class Block(nn.Module):
    """h = x + Attn(LN1 x);  y = h + MLP(LN2 h): two half-steps on the residual stream."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.n_embd)
        self.attn = SelfAttention(config, layer)
        self.ln_2 = nn.LayerNorm(config.n_embd)
        self.mlp = MLP(config)
        self.drop = Dropout(config.dropout)

    def forward(self, x: Tensor, at: Tensor, mask: Tensor | None, cache: Cache | None) -> Tensor:
        h = x + self.drop(self.attn(self.ln_1(x), at, mask, cache))
        return h + self.drop(self.mlp(self.ln_2(h)))


class LightLLM(nn.Module):
    """A GPT-2 of any size: tokens (B, T) -> logits (B, T, V).

    The head is the token table again, so there is no module for it. The loss and the decoder need the two halves of
    `forward` apart: `features` (hidden states) and `unembed` (logits of some of them).
    """

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.checkpointing = False  # recompute each block in the backward pass: less memory, a third more time
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = nn.Embedding(config.n_positions, config.n_embd)
        self.drop = Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = nn.LayerNorm(config.n_embd)
        self.apply(self._initialise)

    @torch.no_grad()
    def _initialise(self, module: nn.Module) -> None:
        """GPT-2's: N(0, 0.02), and 1/sqrt(2L) of that where a branch joins the residual stream (2L of them add up)."""
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear):
            nn.init.zeros_(module.bias)
        if isinstance(module, (SelfAttention, MLP)):  # `apply` comes to a module after its children
            nn.init.normal_(module.c_proj.weight, std=0.02 / math.sqrt(2 * self.config.n_layer))

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits for the token after each position: (B, T) -> (B, T, V)."""
        return self.unembed(self.features(tokens))

    def features(
        self, tokens: Tensor, at: Tensor | None = None, mask: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """Hidden states after the final norm: (B, T) -> (B, T, C).

        Args:
            at: the position of each token, (T,) or (B, T); by default 0, 1, 2, ...
            mask: True where a token may look, broadcastable to (B, H, T, S); by default causal.
            cache: earlier keys and values, extended by this call.

        Raises:
            ConfigError: more tokens than n_positions.
        """
        T = tokens.size(1)
        if T > self.config.n_positions:
            raise ConfigError(
                f"{T} tokens do not fit into n_positions={self.config.n_positions}; "
                "shorten the input or build the model with a larger n_positions"
            )
        if at is None:
            at = torch.arange(T, device=tokens.device)
        x = self.drop(self.wte(tokens) + self.wpe(at))  # (B, T, C)
        for block in self.h:
            if self.checkpointing and self.training and cache is None:
                x = checkpoint(block, x, at, mask, None, use_reentrant=False, context_fn=same_draws(x))
            else:
                x = block(x, at, mask, cache)
        return self.ln_f(x)

    def unembed(self, hidden: Tensor) -> Tensor:
        """Logits by the tied head: (..., C) -> (..., V)."""
        return soft_cap(F.linear(hidden, self.head_weight), self.logit_cap)

    @property
    def head_weight(self) -> Tensor:
        """The (V, C) table that turns hidden states into logits."""
        return self.wte.weight

    @property
    def logit_cap(self) -> float:
        """What bounds the logits, 0 where nothing does."""
        return self.config.logit_cap
