"""A: scaled dot-product attention, the causal mask, heads, the cache."""

import itertools
import math

import numpy as np
import torch

from light_llm.generate.cache import KVCache, visible
from light_llm.layers.attention import attend, attend_by_formula, attention_weights, blocked_causal_attention
from tests.support.tools import tiny_model

from . import tools
from .tools import agree, array, causal, normal, softmax, tensor

Q, K, V = normal(2, 3, 6, 4, seed=1), normal(2, 3, 6, 4, seed=2), normal(2, 3, 6, 4, seed=3)  # (B, H, T, D)


def _projections(x: tools.Array, p: dict[str, tools.Array], n_head: int) -> tools.Array:
    """Q, K and V of every head: (T, C) -> (3, H, T, D)."""
    W, b = p["c_attn.weight"], p["c_attn.bias"]
    C = x.shape[-1]
    D = C // n_head
    parts = [x @ W[i * C : (i + 1) * C].T + b[i * C : (i + 1) * C] for i in range(3)]
    return np.array([[part[:, h * D : (h + 1) * D] for h in range(n_head)] for part in parts])


def A1_queries_keys_and_values_are_three_products() -> None:
    attn, x = tiny_model(scale=3).double().h[0].attn, normal(5, 24)
    seen = []

    def watching(q, k, v, *_):  # type: ignore[no-untyped-def]
        seen.extend((q, k, v))
        return attend_by_formula(q, k, v)

    attn.attend = watching
    attn(tensor(x)[None], torch.arange(5), None, None)
    agree(torch.stack(seen)[:, 0], _projections(x, tools.parameters(attn), 3))


def A2_scores_are_scaled_dot_products() -> None:
    """Without a mask, log P differs from the scores by one number a row."""
    scores = np.einsum("bhtd,bhsd->bhts", Q, K) / math.sqrt(4)
    everything = torch.ones(6, 6, dtype=torch.bool)
    log_p = array(attention_weights(tensor(Q), tensor(K), everything).log())
    agree(log_p - log_p[..., :1], scores - scores[..., :1])


def A3_the_mask_shows_the_past() -> None:
    for T, S in ((6, 6), (1, 6), (3, 6)):
        P = attention_weights(tensor(Q[:, :, 6 - T :]), tensor(K))
        assert ((P > 0).numpy() == (causal(T, S) == 0)).all()


def A4_weights_are_the_softmax_of_the_scores() -> None:
    scores = np.einsum("bhtd,bhsd->bhts", Q, K) / math.sqrt(4) + causal(6, 6)
    P = np.exp(scores) / np.exp(scores).sum(axis=-1, keepdims=True)
    agree(attention_weights(tensor(Q), tensor(K)), P)


def A5_the_output_is_a_mean_of_values() -> None:
    Y = tools.attention_weights(Q, K) @ V
    for attention in (attend_by_formula, attend):
        agree(attention(tensor(Q), tensor(K), tensor(V)), Y)


def A6_heads_stand_side_by_side() -> None:
    attn, x = tiny_model(scale=3).double().h[0].attn, normal(5, 24)
    p = tools.parameters(attn)
    q, k, v = _projections(x, p, 3)
    heads = [tools.attention_weights(q[h], k[h]) @ v[h] for h in range(3)]
    y = np.concatenate(heads, axis=-1) @ p["c_proj.weight"].T + p["c_proj.bias"]
    agree(attn(tensor(x)[None], torch.arange(5), None, None)[0], y)


def A7_the_variance_of_a_dot_product_is_D() -> None:
    """Exactly, over all 2^D keys of signs: D unscaled, and 1 for what the code puts into the softmax."""
    D = 8
    keys = np.array(list(itertools.product((-1.0, 1.0), repeat=D)))  # mean 0, variance 1, independent
    q = np.array([[1.0, -1.0] * (D // 2)])
    agree((keys @ q[0]).var(), D)
    log_p = attention_weights(tensor(q), tensor(keys), torch.ones(1, len(keys), dtype=torch.bool)).log()
    agree(log_p.var(unbiased=False), 1.0)


def A8_a_softmax_does_not_see_a_constant() -> None:
    """All keys moved by the same vector: every score of a query moves alike, and no weight does."""
    agree(softmax(Q + 7.0), softmax(Q))
    agree(attention_weights(tensor(Q), tensor(K + normal(4))), tools.attention_weights(Q, K), rtol=1e-8)


def A9_attention_does_not_see_an_order() -> None:
    order = np.random.default_rng(0).permutation(6)
    everything = torch.ones(6, 6, dtype=torch.bool)
    plain = attend_by_formula(tensor(Q), tensor(K), tensor(V), everything)
    mixed = attend_by_formula(tensor(Q[:, :, order]), tensor(K[:, :, order]), tensor(V[:, :, order]), everything)
    agree(mixed, array(plain)[:, :, order])


def A10_a_block_of_queries_needs_only_the_keys_before_its_end() -> None:
    Y = np.zeros_like(Q)
    for start in range(0, 6, 4):
        rows, seen = slice(start, min(start + 4, 6)), min(start + 4, 6)
        Y[:, :, rows] = tools.attention_weights(Q[:, :, rows], K[:, :, :seen]) @ V[:, :, :seen]
    agree(blocked_causal_attention(tensor(Q), tensor(K), tensor(V), 4), Y)
    agree(Y, tools.attention_weights(Q, K) @ V)


def A11_a_cache_is_the_keys_and_values_so_far() -> None:
    """A prompt, a token, a token; their places said once for all rows, or for each row."""
    config, Y = tiny_model(n_head=3, n_embd=12, n_layer=1).config, tools.attention_weights(Q, K) @ V
    for rows in (1, 2):
        cache = KVCache(config, 2, 8, torch.device("cpu"), torch.float64)
        for part in (range(4), range(4, 5), range(5, 6)):
            at = torch.tensor(list(part))
            q, k, v = (tensor(x[:, :, part]) for x in (Q, K, V))
            k, v = cache.extend(0, k, v, at if rows == 1 else at.expand(2, -1))
            agree(k, K[:, :, : part.stop])
            agree(attend_by_formula(q, k, v, visible(at[None])), Y[:, :, part])
