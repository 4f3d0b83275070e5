"""L: cross-entropy and what is made of it."""

import math
from itertools import islice

import numpy as np
import torch

from light_llm.data.shards import TokensInMemory
from light_llm.data.tales.generator import generate_story, stories
from light_llm.data.tales.grammar import Grammar, WordClass
from light_llm.evaluate import evaluate_against_limits, evaluate_loss, summarise
from light_llm.evaluate.windows import Window, stride_windows, window_nats
from light_llm.layers.cross_entropy import (
    block_softmax,
    linear_cross_entropy,
    linear_cross_entropy_sum,
    log_sum_exp,
    vocab_blocks,
)
from light_llm.objective import (
    NextTokenLoss,
    token_cross_entropy,
    token_cross_entropy_from_logits,
    token_cross_entropy_reference,
    token_weights,
    total_weight,
)
from tests.support.tools import TINY, some_tokens, tiny_model

from . import tools
from .tools import agree, array, normal, softmax, tensor

X, Y = some_tokens(3, 8), some_tokens(3, 8, seed=6)


def _logits(scale: float = 5) -> tools.Array:
    return array(tiny_model(scale=scale).double()(X))


def _chosen(z: tools.Array) -> tools.Array:
    return np.take_along_axis(z, Y.numpy()[..., None], axis=-1)[..., 0]


def L1_log_sum_exp_from_the_largest() -> None:
    """And it stands where exp(z) alone would overflow."""
    h, table = normal(5, 8), 300 * normal(2100, 8, seed=1)
    z = h @ table.T
    m = z.max(axis=-1)
    lse = m + np.log(np.exp(z - m[:, None]).sum(axis=-1))
    pieces = [block_softmax(tensor(h), b, 0.0, tensor(np.empty(5 * 2048)), None) for b in vocab_blocks(tensor(table))]
    agree(log_sum_exp(pieces), lse, rtol=1e-6)
    with np.errstate(over="ignore"):
        assert np.isinf(np.exp(z)).any()


def L2_log_sum_exp_of_parts() -> None:
    h, table = tensor(normal(5, 8)), tensor(normal(5000, 8, seed=1))
    parts = [tools.log_sum_exp(array(h) @ array(table[i : i + 2048]).T) for i in range(0, 5000, 2048)]
    pieces = [block_softmax(h, b, 0.0, torch.empty(5 * 2048, dtype=torch.float64), None) for b in vocab_blocks(table)]
    assert len(pieces) == len(parts) == 3
    agree(log_sum_exp(pieces), np.log(sum(np.exp(part) for part in parts)), rtol=1e-6)


def L3_nats_of_a_token() -> None:
    z = _logits()
    p = np.take_along_axis(softmax(z), Y.numpy()[..., None], axis=-1)[..., 0]
    agree(-np.log(p), tools.log_sum_exp(z) - _chosen(z))
    agree(token_cross_entropy_from_logits(tensor(z), Y), -np.log(p))
    agree(token_cross_entropy(tiny_model(scale=5).double(), X, Y), -np.log(p), rtol=1e-5)


def L4_the_loss_is_a_weighted_mean() -> None:
    model, w = tiny_model(scale=5), np.random.default_rng(0).random((3, 8))
    y = Y.clone()
    y[0, :3] = -100
    w_counted = np.where(y.numpy() == -100, 0.0, w)
    z = _logits()
    n = tools.log_sum_exp(z) - _chosen(z)
    weights = torch.tensor(w, dtype=torch.float32)
    for chunk in (0, 5):
        loss = NextTokenLoss(model, chunk)(X, y, weights) / total_weight(y, weights)
        agree(loss, (w_counted * n).sum() / w_counted.sum(), rtol=1e-5)
    agree(token_weights(y, weights), w_counted, rtol=1e-6)


def L5_perplexity() -> None:
    found = summarise([30.0, 34.0], [10, 10], 50, 10)
    agree(found.perplexity, math.exp((30 + 34) / 20))
    even = summarise([10 * math.log(7)], [10], 10, 10)  # as hard as one of seven
    agree(even.perplexity, 7)


def L6_bits_per_byte() -> None:
    lengths = np.arange(61) % 4 + 1
    ids = some_tokens(1, 21)[0].tolist()
    found = evaluate_loss(tiny_model(scale=5), TokensInMemory(ids), lengths, context=8)
    total = found.loss * 20
    agree(found.bits_per_byte, total / (math.log(2) * sum(lengths[i] for i in ids[1:])))
    agree(summarise([30.0, 34.0], [10, 10], 50, 10).bits_per_byte, (30 + 34) / (math.log(2) * 50))


def L7_a_standard_error_over_windows() -> None:
    s, c = np.array([12.0, 30.0, 22.0, 9.0]), np.array([8, 8, 8, 3])
    loss = s.sum() / c.sum()
    W = len(s)
    stderr = math.sqrt(W / (W - 1) * ((s - loss * c) ** 2).sum()) / c.sum()
    agree(summarise(s.tolist(), c.tolist(), 1, 8).stderr, stderr)


def _gradient_of_logits(**options: float) -> tools.Array:
    """d loss / d logits, as the fast loss has it: with an identity for a head, the hidden states are the logits."""
    z = tensor(_logits().reshape(24, -1), grad=True)
    eye = torch.eye(TINY.vocab_size, dtype=torch.float64)
    linear_cross_entropy_sum(z, eye, Y.flatten(), torch.ones(24), rows=5, **options).backward()
    return array(z.grad)


def L8_z_loss() -> None:
    """The gradient of n + zeta l^2 by differences, and a value that is n alone."""
    zeta, step = 0.01, 1e-5
    z, y = _logits().reshape(24, -1), Y.numpy().ravel()

    def total(z: tools.Array) -> tools.Array:
        lse = tools.log_sum_exp(z)
        return lse - z[np.arange(24), y] + zeta * lse**2

    unit = np.eye(TINY.vocab_size) * step
    slopes = np.stack([(total(z + u) - total(z - u)) / (2 * step) for u in unit], axis=-1)
    agree(_gradient_of_logits(z_loss=zeta), slopes, rtol=1e-4, atol=1e-6)
    with_z, without = (NextTokenLoss(tiny_model(scale=5), chunk, weight)(X, Y) for chunk, weight in ((7, zeta), (7, 0)))
    agree(with_z, without)


def L9_a_cap_in_the_loss() -> None:
    z = _logits()
    capped = 3 * np.tanh(z / 3)
    n = tools.log_sum_exp(capped) - _chosen(capped)
    agree(token_cross_entropy_reference(tiny_model(scale=5, logit_cap=3.0), X, Y), n, rtol=1e-4)
    model = tiny_model(scale=5, logit_cap=3.0).double()
    hidden = model.hidden_states(X).flatten(0, 1)
    agree(linear_cross_entropy(hidden, model.head_weight, Y.flatten(), rows=7, cap=3.0), n.ravel(), rtol=1e-5)


def L10_a_wrong_model_pays_the_divergence() -> None:
    """Expected bits of drawing from P and guessing with Q, over all outcomes: H(P) + KL(P || Q)."""
    P, Q = softmax(normal(6)), softmax(normal(6, seed=1))
    everything = torch.arange(6)[None]
    paid = array(token_cross_entropy_from_logits(tensor(np.log(Q)).expand(1, 6, 6), everything))[0]
    H, KL = -(P * np.log(P)).sum(), (P * np.log(P / Q)).sum()
    agree((P * paid).sum(), H + KL)
    assert KL > 0


def L11_the_probability_of_a_tale() -> None:
    """A grammar small enough to write down all its texts: each one's bits are -log2 of its product of choices."""
    words = {"animal": (WordClass("fox, cat, owl"),)}  # weights 1000 // 8, // 9, // 10
    grammar = Grammar(words, {}, {"one": "[3:A|Every] {a=animal} saw [a|the] {b=animal}."})
    first, second = {"A": 3 / 4, "Every": 1 / 4}, {"a": 1 / 2, "the": 1 / 2}
    weight = {"fox": 125, "cat": 111, "owl": 100}
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(300):
        told = generate_story(grammar, lambda total: int(rng.integers(total)))
        article, a, _, other, b = told.text.rstrip(".").split()
        left = sum(weight.values()) - weight[a]
        P = first[article] * weight[a] / sum(weight.values()) * second[other] * weight[b] / left
        agree(told.bits, -math.log2(P))
        seen.add((told.text, P))
    agree(sum(P for _, P in seen), 1.0)


def L12_the_limit_and_the_distance_to_it() -> None:
    """Two documents between separators 0: their bits, their bytes, and what the model pays for exactly those."""
    ids = [0, 5, 9, 4, 0, 7, 3, 0]
    lengths = np.arange(61) % 4 + 1
    model = tiny_model(scale=5)
    known = [(3.0, "a"), (2.5, "b")]
    _, found = evaluate_against_limits(model, TokensInMemory(ids), lengths, known, 0, context=16)
    n = array(token_cross_entropy_reference(model, torch.tensor([ids[:-1]]), torch.tensor([ids[1:]])))
    n_bytes = sum(lengths[i] for i in ids[1:])
    agree(found.limit, (3.0 + 2.5) / n_bytes)
    agree(found.distance, n.sum() / math.log(2) / n_bytes - (3.0 + 2.5) / n_bytes, rtol=1e-5)


def L13_the_loss_by_position() -> None:
    """Buckets that double, and their weighted mean is the loss."""
    ids = some_tokens(1, 45)[0].tolist()
    model = tiny_model(scale=5)
    found = evaluate_loss(model, TokensInMemory(ids), np.ones(61, dtype=np.int64), context=8)
    at: list[list[float]] = [[] for _ in range(9)]  # nats of the targets that see n tokens
    for start in range(0, 44, 8):
        window = torch.tensor([ids[start : start + 9]])
        for n, nats_of_target in enumerate(
            array(token_cross_entropy_reference(model, window[:, :-1], window[:, 1:]))[0], start=1
        ):
            at[n].append(nats_of_target)
    buckets = [at[1], at[2], at[3] + at[4], at[5] + at[6] + at[7] + at[8]]
    assert [b.upto for b in found.by_position] == [1, 2, 4, 8]
    agree([b.loss for b in found.by_position], [np.mean(b) for b in buckets], rtol=1e-4)
    agree(sum(b.loss * b.tokens for b in found.by_position) / 44, found.loss)


def L14_the_loss_by_a_stride() -> None:
    """Each token by its own call, in the window that the formula names."""
    ids, model = some_tokens(1, 30)[0].tolist(), tiny_model(scale=5)
    for c, stride in ((8, 3), (8, 7), (9, 1), (40, 5)):
        expected = []
        for i in range(1, 30):
            start = stride * max(0, math.ceil((i + 1 - c) / stride))
            assert start == 0 or i - start >= c - stride
            z = array(model(torch.tensor([ids[start:i]])))[0, -1]
            expected.append(tools.log_sum_exp(z) - z[ids[i]])
        windows = [Window(ids[a:b], scored) for a, b, scored in stride_windows(30, c, stride)]
        assert sum(window.scored for window in windows) == 29
        ends = np.cumsum([window.scored for window in windows])
        agree(np.cumsum(window_nats(model, windows, "float32")), np.cumsum(expected)[ends - 1], rtol=1e-5)


def bits_of_tales(n: int) -> tuple[float, float]:
    """Mean bits of a story, and bits per byte with the blank lines around the separator: of the first n of seed 1."""
    told = list(islice(stories(1), n))
    bits = sum(story.bits for story in told)
    return bits / n, bits / sum(len(story.text.encode()) + 2 for story in told)
