"""What the project is, on one page: laws of language models that hold for ours, in five seconds."""

import math

import pytest
import torch

from light_llm.config import ModelConfig, TrainConfig, get_model_size
from light_llm.generate.cache import KVCache, visible
from light_llm.model import LightLLM
from light_llm.objective import NextTokenLoss, token_cross_entropy_reference, total_weight
from light_llm.optim import build_optimizer, group_parameters
from tests.support.tools import TINY, gradients, some_tokens, tiny_model


@pytest.mark.parametrize(
    ("config", "size"),
    [(ModelConfig.nano(), 12_515_520), (ModelConfig.micro(), 30_339_456), (ModelConfig.small(), 51_475_968)],
)
def test_presets_have_the_published_sizes(config: ModelConfig, size: int) -> None:
    assert get_model_size(config) == size
    with torch.device("meta"):
        assert sum(p.numel() for p in LightLLM(config).parameters()) == size


def test_the_untrained_loss_is_uniform() -> None:
    """-log(1/V): anything else means the initialisation or the loss is wrong."""
    x, y = some_tokens(8, 32), some_tokens(8, 32, seed=6)
    loss = NextTokenLoss(LightLLM(TINY, seed=0))(x, y) / total_weight(y)
    assert loss.item() == pytest.approx(math.log(TINY.vocab_size), abs=0.05)


def test_future_tokens_cannot_change_the_past() -> None:
    model, a = tiny_model(scale=5), some_tokens()
    b = a.clone()
    b[:, 7:] = (b[:, 7:] + 1) % TINY.vocab_size
    torch.testing.assert_close(model(a)[:, :7], model(b)[:, :7])
    assert not torch.allclose(model(a)[:, 7:], model(b)[:, 7:])


def test_each_token_sees_all_of_the_past() -> None:
    """The other half of causality: a mask that hides too much would pass the test above."""
    model, a = tiny_model(scale=5), some_tokens(1, 8)
    for changed in range(8):
        b = a.clone()
        b[:, changed] = (b[:, changed] + 1) % TINY.vocab_size
        moved = (model(a) - model(b)).abs().amax(dim=-1)[0] > 1e-6
        assert moved.tolist() == [t >= changed for t in range(8)]


def test_order_matters() -> None:
    """Without positions, attention is blind to the order of what it looks at."""
    model, a = tiny_model(scale=5), some_tokens(1, 8)
    b = a[:, [1, 0, 2, 3, 4, 5, 6, 7]]
    assert not torch.allclose(model(a)[:, -1], model(b)[:, -1], atol=1e-4)


def test_a_cache_changes_nothing() -> None:
    """A prompt, a chunk and single tokens on top of a cache give the logits of one pass over all."""
    model, tokens = tiny_model(scale=5), some_tokens(2, 20)
    whole = model(tokens)
    cache = KVCache(model.config, 2, 32, torch.device("cpu"), torch.float32)
    start = 0
    for part in (tokens[:, :5], tokens[:, 5:9], *tokens[:, 9:].split(1, dim=1)):
        at = torch.arange(start, start + part.size(1)).expand(2, -1)
        got = model.logits(model.hidden_states(part, at, visible(at), cache))
        torch.testing.assert_close(got, whole[:, start : start + part.size(1)], atol=1e-5, rtol=1e-5)
        start += part.size(1)


def test_micro_batches_are_one_big_batch() -> None:
    """Ragged on purpose: the first half has far fewer counted targets, so a mean of means would be wrong."""
    x, y = some_tokens(4, 16), some_tokens(4, 16, seed=6)
    y[:2, 3:] = -100
    found = []
    for size in (4, 2, 1):
        model = tiny_model(scale=5)
        for part_x, part_y in zip(x.split(size), y.split(size), strict=True):
            (NextTokenLoss(model)(part_x, part_y) / total_weight(y)).backward()
        found.append(gradients(model))
    torch.testing.assert_close(found[1], found[0])
    torch.testing.assert_close(found[2], found[0])


def test_the_chunked_loss_is_the_plain_loss() -> None:
    """Loss and every gradient, with ignored targets, weights, and a chunk that does not divide the rows."""
    x, y = some_tokens(3, 7), some_tokens(3, 7, seed=6)
    y[0, :3] = -100
    weights = torch.rand(3, 7)
    model = tiny_model(scale=5)
    losses, found = [], []
    for chunk in (0, 5):
        model.zero_grad()
        loss = NextTokenLoss(model, chunk)(x, y, weights)
        loss.backward()
        losses.append(loss.detach())
        found.append(gradients(model))
    torch.testing.assert_close(losses[1], losses[0])
    torch.testing.assert_close(found[1], found[0])
    assert losses[0] == pytest.approx(
        (token_cross_entropy_reference(model, x, y) * weights * (y != -100)).sum().item(), rel=1e-6
    )


def test_the_same_seed_gives_the_same_model() -> None:
    states = []
    for _ in range(2):
        states.append(LightLLM(TINY, seed=3).state_dict())
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_decay_groups_are_complete_and_disjoint() -> None:
    model = tiny_model()
    roles = group_parameters(model)
    names = [name for role in roles.values() for name in role]
    assert sorted(names) == sorted(name for name, _ in model.named_parameters())
    assert sum(p.numel() for role in roles.values() for p in role.values()) == get_model_size(TINY)
    assert all(p.ndim == 1 for p in roles["vector"].values()) and all(p.ndim == 2 for p in roles["matrix"].values())
    assert sorted(roles["table"]) == ["wpe.weight", "wte.weight"]
    decayed, spared = build_optimizer(model, TrainConfig(weight_decay=0.1)).param_groups
    assert decayed["weight_decay"] == 0.1 and spared["weight_decay"] == 0.0
    assert {id(p) for p in spared["params"]} == {id(p) for n, p in model.named_parameters() if p.ndim == 1}
    assert len(decayed["params"]) + len(spared["params"]) == len(list(model.parameters()))


def test_a_model_can_learn_by_heart() -> None:
    """Forty steps on one batch: the gradient points downhill and the optimizer follows it."""
    model, x = LightLLM(TINY, seed=0), some_tokens(2, 17)
    optimizer = build_optimizer(model, TrainConfig(lr=1e-2))
    for group in optimizer.param_groups:
        group["lr"] = 1e-2
    for _ in range(40):
        loss = NextTokenLoss(model)(x[:, :-1], x[:, 1:]) / 32
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 1.0
