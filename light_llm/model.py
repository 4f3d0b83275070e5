"""The GPT in one file: arithmetic and parameters, nothing else.

The architecture is GPT-2's (Radford et al., 2019): learned positions, pre-norm blocks, tanh GELU, tied head. The parts
that a config may choose instead (rotary positions, RMSNorm, SwiGLU ...: Llama's) are in `layers/`, one file per choice.
What connects the parts (parallel branches, norms after them, scaled embeddings) is chosen here.
Training, storage, probes and sampling are elsewhere, and this file does not know of them.

Shapes, here and everywhere:
    B batch   T tokens of this call   S tokens that can be looked at (T, or more with a cache)
    C n_embd (d_model)   H heads, H_kv of keys and values   D = C / H by default (d_k)   V vocabulary   L layers
"""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from .config import DEFAULT_SEED, MAX_SEED, ModelConfig, repr_short, whole_number
from .errors import ConfigError
from .layers.attention import additive_mask, attend, key_positions, repeat_kv, sliding_window_mask
from .layers.dropout import Dropout, preserve_rng
from .layers.mlps import MLP, GatedMLP, make_mlp
from .layers.norms import make_norm
from .layers.positions import POSITIONS, RotaryAngles, ScoreBias, rotate


class Cache(Protocol):
    """Keys and values of earlier tokens; a value that belongs to one batch of texts, not to the model."""

    def extend(self, layer: int, k: Tensor, v: Tensor, position_ids: Tensor) -> tuple[Tensor, Tensor]:
        """Store this call's (B, H_kv, T, D) at their positions; return all keys and values (B, H_kv, S, D)."""


def soft_cap(logits: Tensor, cap: float) -> Tensor:
    """cap tanh(logits / cap): nearly the same near 0, never beyond the cap (Gemma Team, 2024); 0 for no cap."""
    return cap * torch.tanh(logits / cap) if cap else logits


class SelfAttention(nn.Module):
    """H heads of causal attention side by side: (B, T, C) -> (B, T, C). Keys and values may have fewer heads."""

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.heads = config.n_head, config.kv_heads, config.kv_heads  # of queries, keys and values
        self.head_size = D = config.head_size
        self.window = config.window_size(layer)
        self.scale = config.attn_scale  # of the scores; 0: 1 / sqrt(D)
        self.dropout = config.attn_dropout
        self.c_attn = nn.Linear(config.n_embd, sum(self.heads) * D, bias=config.has_qkv_bias)
        self.q_norm = make_norm(config, D) if config.qk_norm else nn.Identity()
        self.k_norm = make_norm(config, D) if config.qk_norm else nn.Identity()
        self.c_proj = nn.Linear(config.n_head * D, config.n_embd, bias=config.bias)
        # An attribute, so that probes, curvature and exports can put `attend_by_formula` here from outside.
        self.attend = attend

    def forward(
        self,
        x: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        cache: Cache | None,
        angles: RotaryAngles | None = None,
        score_bias: ScoreBias | None = None,
    ) -> Tensor:
        B, T, _ = x.shape
        heads = self.c_attn(x).view(B, T, sum(self.heads), self.head_size).transpose(1, 2)  # (B, H + 2 H_kv, T, D)
        q, k, v = heads.split(self.heads, dim=1)
        # Under autocast a norm returns float32; q, k and v must have one format.
        q, k = rotate(self.q_norm(q).to(v.dtype), angles), rotate(self.k_norm(k).to(v.dtype), angles)
        if cache is not None:
            k, v = cache.extend(self.layer, k, v, position_ids)  # (B, H_kv, S, D)
        cached, S = cache is not None, k.size(2)
        mask = sliding_window_mask(mask, position_ids, S, self.window, cached=cached)
        if score_bias is not None:
            mask = additive_mask(mask, score_bias(key_positions(position_ids, S, cached=cached)).to(q.dtype))
        k, v = repeat_kv(k, q.size(1)), repeat_kv(v, q.size(1))  # (B, H, S, D)
        y = self.attend(q, k, v, mask, self.dropout if self.training else 0.0, self.scale)  # (B, H, T, D)
        return self.c_proj(y.transpose(1, 2).reshape(B, T, -1))


class Block(nn.Module):
    """h = x + Attn(norm1 x);  y = h + MLP(norm2 h): two half-steps on the residual stream.

    Parallel branches read the same x: y = h + MLP(norm2 x). Each branch may have a norm at its end too.
    """

    def __init__(self, config: ModelConfig, layer: int) -> None:
        super().__init__()
        self.ln_1 = make_norm(config, config.n_embd)
        self.attn = SelfAttention(config, layer)
        self.ln_2 = make_norm(config, config.n_embd)
        self.mlp = make_mlp(config)
        self.ln_1_post = make_norm(config, config.n_embd) if config.post_norms else None
        self.ln_2_post = make_norm(config, config.n_embd) if config.post_norms else None
        self.parallel_residual = config.parallel_residual
        self.drop = Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        position_ids: Tensor,
        mask: Tensor | None,
        cache: Cache | None,
        angles: RotaryAngles | None = None,
        score_bias: ScoreBias | None = None,
    ) -> Tensor:
        branch = self.attn(self.ln_1(x), position_ids, mask, cache, angles, score_bias)
        h = x + self.drop(branch if self.ln_1_post is None else self.ln_1_post(branch))
        branch = self.mlp(self.ln_2(x if self.parallel_residual else h))
        return h + self.drop(branch if self.ln_2_post is None else self.ln_2_post(branch))


class LightLLM(nn.Module):
    """A GPT-2, or a relative, of any size: tokens (B, T) -> logits (B, T, V).

    The loss and the decoder need the two halves of `forward` apart: `hidden_states`, and `logits` of some of them.

    Args:
        seed: of the initial weights. The same seed gives the same weights, whatever was drawn before, and torch's
            global generator is left as it was. None: draw from the global generator, as other modules do.
    """

    def __init__(self, config: ModelConfig, *, seed: int | None = DEFAULT_SEED) -> None:
        super().__init__()
        if not isinstance(config, ModelConfig):
            raise ConfigError(
                f"LightLLM takes a ModelConfig, not {repr_short(config)}; make one with ModelConfig.nano(), or "
                "ModelConfig(n_layer=2, ...)"
            )
        self.config = config
        self.seed = seed = None if seed is None else whole_number("seed", seed, low=0, high=MAX_SEED)
        self.checkpointing = False  # recompute each block in the backward pass: less memory, a third more time
        # Layers whose rotations have a base of their own.
        self.local_rope = [
            config.rope_local_base > 0 and config.window_size(layer) > 0 for layer in range(config.n_layer)
        ]
        with _seeded(seed):
            self._build(config)

    def _build(self, config: ModelConfig) -> None:
        """Make the modules and draw their weights."""
        self.wte = nn.Embedding(config.vocab_size, config.n_embd)
        self.wpe = POSITIONS[config.positions](config)
        self.drop = Dropout(config.dropout)
        self.h = nn.ModuleList(Block(config, layer) for layer in range(config.n_layer))
        self.ln_f = make_norm(config, config.n_embd)
        # A tied head is the token table itself and has no module, so that each parameter has one name.
        self.lm_head = None if config.tied_head else nn.Embedding(config.vocab_size, config.n_embd)
        self.apply(self._initialise)

    @torch.no_grad()
    def _initialise(self, module: nn.Module) -> None:
        """Initialise as GPT-2: N(0, 0.02), and 1/sqrt(2L) of that where a branch joins the residual stream.

        2L branches add up there.
        """
        if isinstance(module, (nn.Linear, nn.Embedding)):
            nn.init.normal_(module.weight, std=0.02)
        if isinstance(module, nn.Linear) and module.bias is not None:
            nn.init.zeros_(module.bias)
        # `apply` visits a module after its children, so this overwrites what c_proj got above.
        if isinstance(module, (SelfAttention, MLP, GatedMLP)):
            nn.init.normal_(module.c_proj.weight, std=0.02 / math.sqrt(2 * self.config.n_layer))

    def forward(self, tokens: Tensor) -> Tensor:
        """Return the logits for the token after each position: (B, T) -> (B, T, V)."""
        return self.logits(self.hidden_states(tokens))

    def hidden_states(
        self, tokens: Tensor, position_ids: Tensor | None = None, mask: Tensor | None = None, cache: Cache | None = None
    ) -> Tensor:
        """Return the hidden states after the final norm: (B, T) -> (B, T, C).

        Args:
            position_ids: the position of each token, (T,) or (B, T); by default 0, 1, 2, ...
            mask: True where a token may look, broadcastable to (B, H, T, S); by default causal.
            cache: earlier keys and values, extended by this call.

        Raises:
            ConfigError: more tokens than n_positions, an id that the model lacks (on the CPU), or `tokens` is no tensor
                (B, T) of int64 or int32.
        """
        check_tokens(tokens)
        T = tokens.size(1)
        if T > self.config.n_positions:
            raise ConfigError(
                f"{T} tokens do not fit into n_positions={self.config.n_positions}; "
                "shorten the input or build the model with a larger n_positions"
            )
        if position_ids is None:
            position_ids = torch.arange(T, device=tokens.device)
        x = self.drop(self.wpe.embed(self._embed(tokens), position_ids))  # (B, T, C)
        angles, score_bias = self.wpe.angles(position_ids), self.wpe.score_bias(position_ids)
        local_angles = self.wpe.local_angles(position_ids) if any(self.local_rope) else None
        for block, is_local in zip(self.h, self.local_rope, strict=True):
            inputs = x, position_ids, mask, cache, local_angles if is_local else angles, score_bias
            # A block that extends a cache cannot run twice.
            if self.checkpointing and self.training and cache is None:
                x = checkpoint(block, *inputs, use_reentrant=False, **preserve_rng(x))
            else:
                x = block(*inputs)
        return self.ln_f(x)

    def _embed(self, tokens: Tensor) -> Tensor:
        """Return the embeddings of tokens, (B, T) -> (B, T, C). Raises ConfigError for an id that the model lacks."""
        try:
            embeddings: Tensor = self.wte(tokens)
        except IndexError:
            V = self.config.vocab_size
            raise ConfigError(
                f"the model has the token ids 0 ... {V - 1}, and these go from {int(tokens.min())} to "
                f"{int(tokens.max())}; encode the text with the model's own tokenizer"
            ) from None
        if self.config.scale_embeddings:
            # The factor in the format of the weights, as Gemma's published code has it.
            embeddings = embeddings * torch.tensor(math.sqrt(self.config.n_embd), dtype=embeddings.dtype)
        return embeddings

    def logits(self, hidden: Tensor) -> Tensor:
        """Apply the head, and the soft cap if there is one: (..., C) -> (..., V)."""
        return soft_cap(F.linear(hidden, self.head_weight), self.logit_cap)

    def gather_units(self, x: Tensor, dim: int) -> Tensor:
        """Return attention heads or hidden units of all processes: x itself, unless they are divided among several."""
        return x

    @property
    def head_weight(self) -> Tensor:
        """The (V, C) table that turns hidden states into logits."""
        return self.wte.weight if self.lm_head is None else self.lm_head.weight

    @property
    def logit_cap(self) -> float:
        """The bound of the logits, 0 for none."""
        return self.config.logit_cap


@contextmanager
def _seeded(seed: int | None) -> Iterator[None]:
    """Draw from a generator with this seed inside the block, and leave the global one as it was; None: do nothing."""
    if seed is None:
        yield
        return
    with torch.random.fork_rng(devices=[]):
        # Not torch.manual_seed, which would also reseed every GPU.
        torch.default_generator.manual_seed(seed)
        yield


def check_tokens(tokens: Tensor) -> None:
    """Raise ConfigError unless the input of a model is a tensor (B, T) of ids."""
    if not isinstance(tokens, Tensor):
        raise ConfigError(
            f"the model takes a tensor of token ids (B, T), not {repr_short(tokens)}; "
            "make one with torch.tensor([tokenizer.encode(text)])"
        )
    if tokens.ndim != 2:
        remedy = "for one sequence write model(tokens[None])" if tokens.ndim == 1 else "give a batch of sequences"
        raise ConfigError(f"the model takes token ids of shape (B, T), and these are {tuple(tokens.shape)}; {remedy}")
    if tokens.size(1) == 0:
        raise ConfigError("the model takes at least one token; start an empty text with the tokenizer's separator")
    if tokens.dtype not in (torch.int32, torch.int64):
        raise ConfigError(f"the model takes token ids, whole numbers, and these are {tokens.dtype}; use tokens.long()")


@contextmanager
def eval_mode(model: nn.Module) -> Iterator[None]:
    """Switch a module and all its children to evaluation inside the block; restore the mode of each one afterwards."""
    # Each module's own flag, because `model.train(was_training)` would also switch on modules that a caller had frozen.
    training = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, mode in training.items():
            module.training = mode
