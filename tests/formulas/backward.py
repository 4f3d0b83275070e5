"""B: the backward pass of each part, against autograd; and all of it together, for every parameter of a model."""

import math
from types import SimpleNamespace

import numpy as np
import torch

from light_llm.config import TrainConfig
from light_llm.data import Batch
from light_llm.layers.attention import attend_by_formula, attention_weights, blocked_causal_attention
from light_llm.layers.cross_entropy import linear_cross_entropy_sum
from light_llm.layers.dropout import LEVELS, Dropout, drop
from light_llm.model import Block, LightLLM, soft_cap
from light_llm.objective import NextTokenLoss, token_cross_entropy_from_logits, total_weight
from light_llm.parallel import Parallel
from light_llm.runtime import World
from light_llm.train import Trainer
from tests.support.tools import TINY, gradients, some_tokens, tiny_model

from . import tools
from .tools import C_TANH, LN_EPS, Array, agree, array, erf, normal, softmax, tensor


def B1_a_linear_layer() -> None:
    layer = tiny_model(scale=3).double().h[0].mlp.c_fc
    x, dY = tensor(normal(5, 24), grad=True), normal(5, 96, seed=1)
    layer(x).backward(tensor(dY))
    agree(x.grad, dY @ array(layer.weight))
    agree(layer.weight.grad, dY.T @ array(x))
    agree(layer.bias.grad, dY.sum(axis=0))


def B2_a_softmax() -> None:
    """Keys that are unit vectors times sqrt(D): the queries are then the scores."""
    s, dP = tensor(normal(5, 7), grad=True), normal(5, 7, seed=1)
    everything = torch.ones(5, 7, dtype=torch.bool)
    attention_weights(s, math.sqrt(7) * torch.eye(7, dtype=torch.float64), everything).backward(tensor(dP))
    P = softmax(array(s))
    agree(s.grad, P * (dP - (P * dP).sum(axis=-1, keepdims=True)))
    agree(s.grad[0], (np.diag(P[0]) - np.outer(P[0], P[0])) @ dP[0])


def B3_softmax_and_cross_entropy() -> None:
    z, y, w = tensor(normal(6, 61), grad=True), torch.arange(6) * 9, normal(6) ** 2
    (token_cross_entropy_from_logits(z[None], y[None])[0] * tensor(w)).sum().backward()
    agree(z.grad, w[:, None] * (softmax(array(z)) - np.eye(61)[y]))


def B4_the_head_with_its_loss() -> None:
    h, W = tensor(normal(6, 8), grad=True), tensor(normal(61, 8, seed=1), grad=True)
    y, w = torch.arange(6) * 9, normal(6) ** 2
    linear_cross_entropy_sum(h, W, y, tensor(w), rows=4).backward()
    dz = w[:, None] * (softmax(array(h) @ array(W).T) - np.eye(61)[y])
    agree(h.grad, dz @ array(W), rtol=1e-5, atol=1e-6)
    agree(W.grad, dz.T @ array(h), rtol=1e-5, atol=1e-6)


class Given(torch.nn.Module):
    """A model that says what it was given to say."""

    def __init__(self, logits: torch.Tensor) -> None:
        super().__init__()
        self.logits = logits
        self.head_weight = torch.eye(logits.size(-1))

    def hidden_states(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.logits

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.logits


def B5_the_z_loss() -> None:
    """Both ways of the loss: by blocks, where an identity for a head makes the states the logits, and plain."""
    z, eye = normal(6, 61), torch.eye(61, dtype=torch.float64)
    y, w, zeta = torch.arange(6) * 9, normal(6) ** 2, 0.03
    p, lse = softmax(z), tools.log_sum_exp(z)
    dz = w[:, None] * (p * (1 + 2 * zeta * lse[:, None]) - np.eye(61)[y])
    h = tensor(z, grad=True)
    linear_cross_entropy_sum(h, eye, y, tensor(w), rows=4, z_loss=zeta).backward()
    agree(h.grad, dz, rtol=1e-5, atol=1e-6)
    logits = tensor(z, grad=True)
    NextTokenLoss(Given(logits[None]), 0, zeta)(y[None], y[None], tensor(w)[None]).backward()  # type: ignore[arg-type]
    agree(logits.grad, dz, rtol=1e-5, atol=1e-6)


def B6_the_soft_cap() -> None:
    z, d = tensor(np.linspace(-90, 90, 31), grad=True), normal(31)
    soft_cap(z, 30.0).backward(tensor(d))
    capped = 30 * np.tanh(array(z) / 30)
    agree(z.grad, d * (1 - (capped / 30) ** 2))


def layer_norm_backward(x: Array, gain: Array, dy: Array) -> tuple[Array, Array, Array]:
    """d x, d gain, d bias of a LayerNorm over the last axis."""
    mean, variance = x.mean(axis=-1, keepdims=True), x.var(axis=-1, keepdims=True)
    x_hat, g = (x - mean) / np.sqrt(variance + LN_EPS), dy * gain
    along = (g * x_hat).mean(axis=-1, keepdims=True)
    dx = (g - g.mean(axis=-1, keepdims=True) - x_hat * along) / np.sqrt(variance + LN_EPS)
    return dx, (dy * x_hat).sum(axis=0), dy.sum(axis=0)


def B7_layer_norm() -> None:
    norm, x, dy = tiny_model().double().h[0].ln_1, tensor(normal(5, 24), grad=True), normal(5, 24, seed=1)
    norm(x).backward(tensor(dy))
    agree(x.grad, layer_norm_backward(array(x), array(norm.weight), dy)[0])


def B8_gain_and_bias_of_a_layer_norm() -> None:
    norm, x, dy = tiny_model().double().h[0].ln_1, tensor(normal(5, 24)), normal(5, 24, seed=1)
    norm(x).backward(tensor(dy))
    _, d_gain, d_bias = layer_norm_backward(array(x), array(norm.weight), dy)
    agree(norm.weight.grad, d_gain)
    agree(norm.bias.grad, d_bias)


def B9_layer_norm_gives_nothing_along_its_input() -> None:
    """The gradient has no part along (1, ..., 1), and none along x - mean but for eps."""
    norm, x = tiny_model().double().h[0].ln_1, tensor(100 * normal(5, 24), grad=True)
    norm(x).backward(tensor(normal(5, 24, seed=1)))
    dx, centred = array(x.grad), array(x) - array(x).mean(axis=-1, keepdims=True)
    agree(dx.sum(axis=-1), np.zeros(5))
    agree((dx * centred).sum(axis=-1), np.zeros(5), atol=1e-7)


def B10_gelu() -> None:
    x = tensor(np.linspace(-5, 5, 101), grad=True)
    tiny_model(activation="gelu").h[0].mlp.act(x).sum().backward()
    at = array(x)
    density = np.exp(-(at**2) / 2) / math.sqrt(2 * math.pi)
    agree(x.grad, 0.5 * (1 + erf(at / math.sqrt(2))) + at * density)


def B11_gelu_by_tanh() -> None:
    x = tensor(np.linspace(-5, 5, 101), grad=True)
    tiny_model().h[0].mlp.act(x).sum().backward()
    at = array(x)
    t = np.tanh(C_TANH * (at + 0.044715 * at**3))
    slope = C_TANH * (1 + 0.134145 * at**2)
    agree(x.grad, 0.5 * (1 + t) + 0.5 * at * (1 - t**2) * slope)


def attention_backward(q: Array, k: Array, v: Array, dY: Array) -> dict[str, Array]:
    """Every gradient on the way through softmax(q k^T / sqrt(D) + M) v."""
    D, back = q.shape[-1], lambda a: np.swapaxes(a, -1, -2)
    P = tools.attention_weights(q, k)
    dV = back(P) @ dY
    dP = dY @ back(v)
    dS = P * (dP - (P * dP).sum(axis=-1, keepdims=True))
    return {"P": P, "V": dV, "dP": dP, "dS": dS, "Q": dS @ k / math.sqrt(D), "K": back(dS) @ q / math.sqrt(D)}


def _attention() -> tuple[list[Array], Array, dict[str, Array]]:
    inputs, dY = [normal(2, 3, 6, 4, seed=s) for s in (1, 2, 3)], normal(2, 3, 6, 4, seed=4)
    return inputs, dY, attention_backward(*inputs, dY)


def _agrees_with_both(which: int, found: Array) -> None:
    """With autograd through the formula, and with our own backward pass, whose sums over blocks are float32."""
    inputs, dY, _ = _attention()
    for attention, rtol in ((attend_by_formula, 1e-9), (lambda *a: blocked_causal_attention(*a, 4), 1e-5)):
        tensors = [tensor(x, grad=True) for x in inputs]
        attention(*tensors).backward(tensor(dY))
        agree(tensors[which].grad, found, rtol=rtol, atol=rtol)


def B12_attention_its_values() -> None:
    _agrees_with_both(2, _attention()[2]["V"])


def B13_attention_its_weights() -> None:
    """The gradient that arrives at P: P's own, taken by autograd from the weights on."""
    (q, k, v), dY, found = _attention()
    P = attention_weights(tensor(q), tensor(k)).requires_grad_()
    (P @ tensor(v)).backward(tensor(dY))
    agree(P.grad, found["dP"])
    P, dP = found["P"], found["dP"]
    _agrees_with_both(0, (P * (dP - (P * dP).sum(axis=-1, keepdims=True))) @ k / 2)


def B14_attention_its_scores() -> None:
    (q, k, v), dY, found = _attention()
    scores = tensor(q @ np.swapaxes(k, -1, -2) / 2, grad=True)
    masked = scores.masked_fill(torch.ones(6, 6).triu(1).bool(), -math.inf)
    (masked.softmax(dim=-1) @ tensor(v)).backward(tensor(dY))
    agree(scores.grad, found["dS"])
    _agrees_with_both(0, found["dS"] @ k / 2)


def B15_attention_its_queries() -> None:
    _agrees_with_both(0, _attention()[2]["Q"])


def B16_attention_its_keys() -> None:
    _agrees_with_both(1, _attention()[2]["K"])


def B17_what_all_keys_of_a_query_share() -> None:
    """rowsum(P dP) = rowsum(dY Y): the short way that `blocked_causal_attention` goes."""
    (q, k, v), dY, found = _attention()
    Y = found["P"] @ v
    agree((found["P"] * found["dP"]).sum(axis=-1), (dY * Y).sum(axis=-1))
    dS = found["P"] * (found["dP"] - (dY * Y).sum(axis=-1, keepdims=True))
    _agrees_with_both(1, np.swapaxes(dS, -1, -2) @ q / 2)


def B18_a_lookup() -> None:
    model, ids, dX = tiny_model().double(), some_tokens(2, 16, V=9), normal(2, 16, 24)
    x = model.wte(ids) + model.wpe(torch.arange(16))
    x.backward(tensor(dX))
    d_token, d_position = np.zeros((61, 24)), np.zeros((32, 24))
    for b in range(2):
        for t in range(16):
            d_token[ids[b, t]] += dX[b, t]
            d_position[t] += dX[b, t]
    agree(model.wte.weight.grad, d_token)
    agree(model.wpe.weight.grad, d_position)


class Untied(LightLLM):
    """The same model with a head of its own, of the same numbers: autograd then keeps the two gradients apart."""

    @property
    def head_weight(self) -> torch.Tensor:
        return self.head


def B19_a_tied_table_gets_both_gradients() -> None:
    x, y = some_tokens(2, 9), some_tokens(2, 9, seed=6)
    model = tiny_model(scale=3).double()
    NextTokenLoss(model, 0)(x, y).backward()
    untied = Untied(TINY).double().eval()
    untied.load_state_dict(model.state_dict())
    untied.head = tensor(array(model.wte.weight), grad=True)
    NextTokenLoss(untied, 0)(x, y).backward()
    lookup, head = array(untied.wte.weight.grad), array(untied.head.grad)
    assert np.abs(lookup).max() > 1e-3 and np.abs(head).max() > 1e-3
    agree(model.wte.weight.grad, lookup + head, rtol=1e-5, atol=1e-6)


def B20_a_residual_passes_the_gradient_on() -> None:
    """dx = dy + what comes back through the branch, which the branch alone is asked for."""
    block: Block = tiny_model(scale=3).double().h[0]  # type: ignore[assignment]
    at, dy = torch.arange(5), normal(1, 5, 24, seed=1)
    x = tensor(normal(1, 5, 24), grad=True)
    block(x, at, None, None).backward(tensor(dy))
    h = (x + block.attn(block.ln_1(x), at, None, None)).detach().requires_grad_()
    (through_mlp,) = torch.autograd.grad(block.mlp(block.ln_2(h)), h, tensor(dy))
    dh = dy + array(through_mlp)
    alone = x.detach().requires_grad_()
    (through_attn,) = torch.autograd.grad(block.attn(block.ln_1(alone), at, None, None), alone, tensor(dh))
    agree(x.grad, dh + array(through_attn))


def B21_dropout_keeps_the_mean() -> None:
    """Each element x / (1 - p) or 0; the mean is x and the variance x^2 p / (1 - p). p is a multiple of 2^-16."""
    p = round(0.3 * LEVELS) / LEVELS
    torch.manual_seed(0)
    y = drop(torch.full((200_000,), 2.0, dtype=torch.float64), 0.3)
    assert set(np.unique(array(y)).round(9)) == {0.0, round(2 / (1 - p), 9)}
    agree(y.mean(), 2.0, rtol=0.01)
    agree(y.var(), 4 * p / (1 - p), rtol=0.02)


def B22_dropout_backward() -> None:
    torch.manual_seed(0)
    layer, x, dy = Dropout(0.25).train(), tensor(normal(500), grad=True), normal(500, seed=1)
    y = layer(x)
    y.backward(tensor(dy))
    agree(x.grad, np.where(array(y) == 0, 0.0, dy / 0.75))


def B23_micro_batches_add_up() -> None:
    """Sums over one total weight, as the loop makes them; a mean of means would be something else here."""
    x, y = some_tokens(4, 16), some_tokens(4, 16, seed=6)
    y[:2, 3:] = -100
    model = tiny_model(scale=5)
    parts = []
    for rows in (slice(0, 2), slice(2, 4)):
        model.zero_grad()
        NextTokenLoss(model)(x[rows], y[rows]).backward()
        parts.append({n: array(g) for n, g in gradients(model).items()})
    for micro_batch in (4, 2, 1):
        model.zero_grad()
        config = TrainConfig(batch_size=4, micro_batch=micro_batch, device="cpu", dtype="float32")
        trainer = SimpleNamespace(config=config, parallel=Parallel(NextTokenLoss(model), World(), config))
        Trainer.accumulate(trainer, Batch(x, y), total_weight(y))  # type: ignore[arg-type]
        for name, whole in gradients(model).items():
            agree(whole, (parts[0][name] + parts[1][name]) / total_weight(y), rtol=1e-4, atol=1e-6)


def whole_backward(p: dict[str, Array], ids: Array, targets: Array, L: int, H: int) -> dict[str, Array]:
    """Forward and backward of a whole model on one window, from the formulas alone: the gradient of the sum of nats."""
    T, C = len(ids), p["wte.weight"].shape[1]
    D = C // H
    grads = {name: np.zeros_like(value) for name, value in p.items()}

    def norm(name: str, x: Array) -> Array:
        return tools.layer_norm(x, p[f"{name}.weight"], p[f"{name}.bias"])

    def norm_back(name: str, x: Array, dy: Array) -> Array:
        dx, grads[f"{name}.weight"], grads[f"{name}.bias"] = layer_norm_backward(x, p[f"{name}.weight"], dy)
        return dx

    def linear(name: str, x: Array) -> Array:
        return x @ p[f"{name}.weight"].T + p[f"{name}.bias"]

    def linear_back(name: str, x: Array, dy: Array) -> Array:
        grads[f"{name}.weight"], grads[f"{name}.bias"] = dy.T @ x, dy.sum(axis=0)
        return dy @ p[f"{name}.weight"]

    def heads(x: Array) -> Array:  # (T, C) -> (H, T, D)
        return x.reshape(T, H, D).transpose(1, 0, 2)

    def side_by_side(x: Array) -> Array:
        return x.transpose(1, 0, 2).reshape(T, C)

    x, kept = p["wte.weight"][ids] + p["wpe.weight"][:T], []
    for layer in range(L):
        b = f"h.{layer}"
        n1 = norm(f"{b}.ln_1", x)
        q, k, v = (heads(part) for part in np.split(linear(f"{b}.attn.c_attn", n1), 3, axis=-1))
        y = side_by_side(tools.attention_weights(q, k) @ v)
        h = x + linear(f"{b}.attn.c_proj", y)
        n2 = norm(f"{b}.ln_2", h)
        u = linear(f"{b}.mlp.c_fc", n2)
        kept.append((x, n1, q, k, v, y, h, n2, u))
        x = h + linear(f"{b}.mlp.c_proj", tools.gelu_tanh(u))
    hidden = norm("ln_f", x)
    dz = softmax(hidden @ p["wte.weight"].T) - np.eye(len(p["wte.weight"]))[targets]
    grads["wte.weight"] += dz.T @ hidden  # the head's part of the tied table
    dx = norm_back("ln_f", x, dz @ p["wte.weight"])
    for layer in reversed(range(L)):
        b, (x, n1, q, k, v, y, h, n2, u) = f"h.{layer}", kept[layer]
        du = linear_back(f"{b}.mlp.c_proj", tools.gelu_tanh(u), dx) * tools.gelu_tanh_slope(u)
        dh = dx + norm_back(f"{b}.ln_2", h, linear_back(f"{b}.mlp.c_fc", n2, du))
        found = attention_backward(q, k, v, heads(linear_back(f"{b}.attn.c_proj", y, dh)))
        d_qkv = np.concatenate([side_by_side(found[name]) for name in "QKV"], axis=-1)
        dx = dh + norm_back(f"{b}.ln_1", x, linear_back(f"{b}.attn.c_attn", n1, d_qkv))
    np.add.at(grads["wte.weight"], ids, dx)  # the lookup's part
    grads["wpe.weight"][:T] = dx
    return grads


def B24_the_whole_backward_pass() -> None:
    """Every gradient of a model of two layers, ours in float32 and by blocks, the formulas' in float64."""
    model, ids, targets = tiny_model(scale=3), some_tokens(1, 16), some_tokens(1, 16, seed=6)
    NextTokenLoss(model, 5)(ids, targets).backward()
    found = whole_backward(tools.parameters(model), ids[0].numpy(), targets[0].numpy(), TINY.n_layer, TINY.n_head)
    ours = gradients(model)
    assert ours.keys() == found.keys()
    for name, gradient in ours.items():
        scale = np.abs(found[name]).max()
        agree(array(gradient) / scale, found[name] / scale, rtol=0, atol=2e-5)
