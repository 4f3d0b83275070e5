"""What the benchmarks count is what they say they count."""

import sys
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from light_llm.config import ModelConfig
from light_llm.layers.attention import attend_by_formula
from light_llm.objective import NextTokenLoss
from tests.support.tools import tiny_model

sys.path.insert(0, str(Path(__file__).parent.parent / "benchmarks"))

import cluster
import scaling
import train_speed
from measure import Row, as_table


def test_a_step_costs_what_is_counted() -> None:
    """torch counts all of the T x T square by itself, of which causal attention needs half."""
    T, C, L = train_speed.T, 16, 2
    model = tiny_model(n_embd=C, n_layer=L, n_head=2, n_positions=T, vocab_size=50)
    for block in model.h:
        block.attn.attend = attend_by_formula  # type: ignore[union-attr]
    x = torch.randint(50, (1, T))
    with FlopCounterMode(display=False) as counter:
        NextTokenLoss(model, chunk=0)(x, x).backward()
    half_a_square = 6 * L * C * T * T
    assert counter.get_total_flops() == train_speed.flops(model.config, T) + half_a_square
    size = scaling.Size(T=T, B=3, C=C, L=L, V=50)
    assert size.flops == 3 * train_speed.flops(ModelConfig(n_embd=C, n_layer=L, n_head=2, vocab_size=50), T)


def test_a_row_knows_what_is_better() -> None:
    assert Row("speed", "tokens/s", ours=30.0, plain=10.0, limit=40.0).ratio == 3.0
    assert Row("peak", "GB", ours=2.0, plain=4.0, limit=3.0).share == 1.5
    assert "| speed | tokens/s | 30 | 10 | 3 | 40 | 75% |  |" in as_table([Row("speed", "tokens/s", 30.0, 10.0, 40.0)])


@pytest.mark.parametrize(("seconds", "found"), [((1.0, 2.0), 0), ((1.0, 2.9), 1), ((1.0, 1.0), 0)])
def test_what_grows_too_fast_is_named(seconds: tuple[float, float], found: int) -> None:
    points = [
        scaling.Point("B", n, 0.0, s, flops=n * 1e9, rate=1e11, peak=0, parameters=0)
        for n, s in zip((1, 2), seconds, strict=True)
    ]
    assert len(scaling.steeper(points)) == found


def test_the_table_of_clusters_is_the_one_that_is_published() -> None:
    assert (cluster.RESULTS / "cluster.md").read_text() == cluster.as_table()
    assert cluster.main() == 0
