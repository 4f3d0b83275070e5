"""N: LayerNorm, GELU, the block, the head, and where the weights start."""

import math

import numpy as np
import torch

from light_llm.config import ModelConfig
from light_llm.model import MLP, Block, LightLLM, soft_cap
from tests.support.tools import TINY, some_tokens, tiny_model

from .tools import LN_EPS, agree, array, gelu, gelu_tanh, layer_norm, log_sum_exp, normal, parameters, tensor

AT = torch.arange(5)


def _block() -> Block:
    return tiny_model(scale=3).double().h[0]  # type: ignore[return-value]


def N1_mean_and_variance_of_a_row() -> None:
    """What is left of a row: mean 0 and variance s / (s + eps), s its own variance."""
    norm, x = _block().ln_1, normal(5, 24)
    plain = (array(norm(tensor(x))) - array(norm.bias)) / array(norm.weight)
    mean = x.sum(axis=-1) / 24
    variance = ((x - mean[:, None]) ** 2).sum(axis=-1) / 24
    agree(plain.mean(axis=-1), np.zeros(5))
    agree((plain**2).mean(axis=-1), variance / (variance + LN_EPS))


def N2_layer_norm() -> None:
    norm, x = _block().ln_1, normal(5, 24)
    gain, bias = array(norm.weight), array(norm.bias)
    mean = x.mean(axis=-1, keepdims=True)
    x_hat = (x - mean) / np.sqrt(((x - mean) ** 2).mean(axis=-1, keepdims=True) + LN_EPS)
    agree(norm(tensor(x)), gain * x_hat + bias)


def N3_layer_norm_does_not_see_size_or_shift() -> None:
    norm, x = _block().ln_1, normal(5, 24)
    agree(norm(tensor(7 * x + 3)), norm(tensor(x)), rtol=1e-4, atol=1e-4)  # but for eps
    agree(norm(tensor(7 * x + 3)), layer_norm(7 * x + 3, array(norm.weight), array(norm.bias)))


def N4_gelu_is_x_times_the_normal_distribution() -> None:
    x = np.linspace(-5, 5, 101)
    agree(tiny_model(activation="gelu").h[0].mlp.act(tensor(x)), gelu(x))


def N5_gelu_by_tanh() -> None:
    x = np.linspace(-5, 5, 101)
    agree(tiny_model().h[0].mlp.act(tensor(x)), gelu_tanh(x))


def N6_the_mlp() -> None:
    mlp: MLP = _block().mlp
    p, x = parameters(mlp), normal(5, 24)
    inside = gelu_tanh(x @ p["c_fc.weight"].T + p["c_fc.bias"])
    assert inside.shape[-1] == 4 * 24
    agree(mlp(tensor(x)), inside @ p["c_proj.weight"].T + p["c_proj.bias"])


def N7_the_first_half_of_a_block() -> None:
    """The input of the second norm is h."""
    block, x, seen = _block(), normal(5, 24), []
    block.ln_2.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    block(tensor(x)[None], AT, None, None)
    normed = layer_norm(x, array(block.ln_1.weight), array(block.ln_1.bias))
    agree(seen[0][0], x + array(block.attn(tensor(normed)[None], AT, None, None)[0]))


def N8_the_second_half_of_a_block() -> None:
    block, x, seen = _block(), normal(5, 24), []
    block.ln_2.register_forward_pre_hook(lambda _, args: seen.append(args[0]))
    y = block(tensor(x)[None], AT, None, None)
    h = array(seen[0][0])
    normed = layer_norm(h, array(block.ln_2.weight), array(block.ln_2.bias))
    agree(y[0], h + array(block.mlp(tensor(normed))))


def N9_the_stream_is_a_sum() -> None:
    model, ids, branches, ends = tiny_model(scale=3).double(), some_tokens(1, 5), [], []
    for block in model.h:
        block.attn.register_forward_hook(lambda *args: branches.append(array(args[2])))
        block.mlp.register_forward_hook(lambda *args: branches.append(array(args[2])))
    model.ln_f.register_forward_pre_hook(lambda _, args: ends.append(args[0]))
    model(ids)
    start = array(model.wte(ids) + model.wpe(torch.arange(5)))
    assert len(branches) == 2 * TINY.n_layer
    agree(ends[0], start + sum(branches))


def N10_logits_are_products_with_the_token_table() -> None:
    model, ids, ends = tiny_model(scale=3).double(), some_tokens(1, 5), []
    model.ln_f.register_forward_pre_hook(lambda _, args: ends.append(array(args[0])))
    logits = model(ids)
    hidden = layer_norm(ends[0], array(model.ln_f.weight), array(model.ln_f.bias))
    agree(logits, hidden @ array(model.wte.weight).T)


def N11_a_soft_cap() -> None:
    z = np.linspace(-200, 200, 41)
    agree(soft_cap(tensor(z), 30.0), 30 * np.tanh(z / 30))
    agree(soft_cap(tensor(z), 0.0), z)


WIDE = ModelConfig(vocab_size=400, n_positions=64, n_embd=128, n_layer=8, n_head=4)


def N12_weights_start_small() -> None:
    model = LightLLM(WIDE, seed=0)
    tables = torch.cat([p.flatten() for n, p in model.named_parameters() if p.ndim == 2 and "c_proj" not in n])
    agree(tables.std(), 0.02, rtol=0.01)
    agree(tables.mean(), 0.0, atol=1e-4)


def N13_smaller_where_a_branch_joins_the_stream() -> None:
    model = LightLLM(WIDE, seed=0)
    joins = torch.cat([p.flatten() for n, p in model.named_parameters() if n.endswith("c_proj.weight")])
    agree(joins.std(), 0.02 / math.sqrt(2 * 8), rtol=0.01)


def N14_the_variance_that_the_branches_add_does_not_grow_with_depth() -> None:
    """Each MLP adds 4 d E[a^2] (0.02)^2 / (2 L) on average: L of them together have no L in it."""
    added = []
    for L in (2, 8):
        config = ModelConfig(vocab_size=5, n_positions=8, n_embd=128, n_layer=L, n_head=4)
        blocks = LightLLM(config, seed=0).double().h
        total = 0.0
        for block in blocks:
            x = block.ln_2(tensor(normal(200, 128)))
            a = gelu_tanh(array(block.mlp.c_fc(x)))
            expected = 4 * 128 * (a**2).mean() * 0.02**2 / (2 * L)
            agree((array(block.mlp(x)) ** 2).mean(), expected, rtol=0.1)
            total += expected
        added.append(total)
    agree(added[1], added[0], rtol=0.05)


def N15_an_untrained_model_guesses() -> None:
    """log V and d 0.02^2 / 2 more, over targets that are any token: the variance of a logit is d 0.02^2."""
    z = array(LightLLM(WIDE, seed=0)(some_tokens(4, 32, V=400)))
    nats = log_sum_exp(z)[..., None] - z  # of every possible target
    agree(z.var(axis=-1).mean(), 128 * 0.02**2, rtol=0.1)
    agree(nats.mean() - math.log(400), 128 * 0.02**2 / 2, rtol=0.1)
