"""The cross-entropy of a head whose rows are split over ranks is that of the whole head."""

import pytest
import torch
from torch import Tensor

from light_llm.layers.cross_entropy import linear_cross_entropy, linear_cross_entropy_sum
from light_llm.layers.vocab_parallel import VocabShard
from tests.support.threads import ThreadGroup, on_threads

N, C, V = 37, 16, 131  # neither divides evenly


def inputs() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    g = torch.Generator().manual_seed(3)
    hidden, head = torch.randn(N, C, generator=g), torch.randn(V, C, generator=g)
    targets, weights = torch.randint(V, (N,), generator=g), torch.randn(N, generator=g)
    targets[::5], weights[::5] = -100, 0.0
    return hidden, head, targets, weights


def relative(a: Tensor, b: Tensor) -> float:
    return float((a - b).abs().max() / b.abs().max())


@pytest.mark.parametrize("n", [2, 3])
@pytest.mark.parametrize(("z_loss", "cap"), [(0.0, 0.0), (0.1, 0.0), (0.0, 3.0), (0.1, 3.0)])
def test_equal_to_the_whole_head(n: int, z_loss: float, cap: float) -> None:
    hidden, head, targets, weights = inputs()
    hidden.requires_grad_(), head.requires_grad_()
    whole = linear_cross_entropy_sum(hidden, head, targets, weights, rows=16, z_loss=z_loss, cap=cap)
    (3 * whole).backward()
    per_row = linear_cross_entropy(hidden, head, targets, rows=16, cap=cap)

    def one_rank(group: ThreadGroup) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        parts = head.detach().tensor_split(n)
        table, first = parts[group.rank].clone().requires_grad_(), sum(map(len, parts[: group.rank]))
        shard, h = VocabShard(table, first, V, group), hidden.detach().clone().requires_grad_()
        value = linear_cross_entropy_sum(h, shard, targets, weights, rows=16, z_loss=z_loss, cap=cap)
        (3 * value).backward()
        assert group.messages == [message for m in (16, 16, 5) for message in (("max", (m,)), ("sum", (2, m)))] + [
            ("sum", (N, C))
        ], "no (rows, V) numbers cross the group, and the hidden states' gradient does once"
        assert h.grad is not None and table.grad is not None
        return value.detach(), h.grad, table.grad, linear_cross_entropy(h, shard, targets, rows=16, cap=cap)

    ranks = on_threads(n, one_rank)
    for value, d_hidden, _, rows in ranks:
        assert torch.equal(value, ranks[0][0]) and torch.equal(d_hidden, ranks[0][1]), "ranks differ"
        assert relative(value, whole.detach()) < 1e-6
        assert hidden.grad is not None and relative(d_hidden, hidden.grad) < 1e-6
        counted = targets >= 0
        assert relative(rows[counted], per_row[counted]) < 1e-6
    assert head.grad is not None and relative(torch.cat([d_head for _, _, d_head, _ in ranks]), head.grad) < 1e-6


def test_large_logits_on_one_rank_do_not_overflow() -> None:
    hidden, head, targets, weights = inputs()
    head[-3:] *= 1000  # exp of these is infinite unless the maximum is that of all ranks
    whole = linear_cross_entropy_sum(hidden, head, targets, weights, rows=16)

    def one_rank(group: ThreadGroup) -> Tensor:
        table = head.tensor_split(2)[group.rank]
        return linear_cross_entropy_sum(hidden, VocabShard(table, 66 * group.rank, V, group), targets, weights, rows=16)

    for value in on_threads(2, one_rank):
        assert torch.isfinite(value) and relative(value, whole) < 1e-6


def test_value_alone_sends_no_gradient() -> None:
    hidden, head, targets, weights = inputs()

    def one_rank(group: ThreadGroup) -> list[str]:
        shard = VocabShard(head.tensor_split(2)[group.rank], 66 * group.rank, V, group)
        linear_cross_entropy_sum(hidden, shard, targets, weights, rows=N)
        return [kind for kind, _ in group.messages]

    assert on_threads(2, one_rank) == [["max", "sum"]] * 2


def test_bfloat16_under_autocast() -> None:
    hidden, head, targets, weights = inputs()
    with torch.autocast("cpu", torch.bfloat16):
        whole = linear_cross_entropy_sum(hidden, head, targets, weights, rows=16)

    def one_rank(group: ThreadGroup) -> Tensor:
        shard = VocabShard(head.tensor_split(2)[group.rank], 66 * group.rank, V, group)
        with torch.autocast("cpu", torch.bfloat16):
            return linear_cross_entropy_sum(hidden, shard, targets, weights, rows=16)

    # The same products rounded alike: only the order of sums differs.
    assert all(relative(value, whole) < 1e-3 for value in on_threads(2, one_rank))
