"""Tensor parallelism: each rank computes with some heads, hidden units and ids, and all get what one process gets."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from light_llm.config import ModelConfig, TrainConfig
from light_llm.config.param_shapes import param_shapes
from light_llm.config.tensor_parallel import check_tensor_parallel
from light_llm.errors import ConfigError
from light_llm.parallel.tensor_layout import Layout, first_row, layouts
from tests.support.ranks import run_ranks
from tests.support.tensor_runs import SHAPES, checks, largest_differences

# Of each kind of number, relative. Weights are those after a step of Adam, which enlarges the smallest gradients.
TOLERANCE = {"gradient": 2e-6, "weight": 3e-4, "logits": 2e-6, "nats": 2e-6, "loss": 1e-6}
TOLERANCE |= {"norm": 1e-6, "norms": 1e-6, "updates": 2e-3, "probes": 1e-5, "samples": 1e-9}


def check(cases: list[dict[str, Any]], by_rank: list[list[dict[str, float]]]) -> None:
    for rank, results in enumerate(by_rank):
        for case, found in zip(cases, results, strict=True):
            wrong = {kind: error for kind, error in found.items() if not error < TOLERANCE[kind]}
            assert not wrong, f"rank {rank}, {case}: {wrong}"


def test_two_ranks_share_each_matrix(tmp_path: Path) -> None:
    shapes: list[dict[str, Any]] = [{"shape": shape, "tensor": 2} for shape in SHAPES]
    others: list[dict[str, Any]] = [
        {"shape": "gpt", "tensor": 2, "dropout": 0.2, "checkpointing": True, "micro_batch": 2},
        {"shape": "qk norm", "tensor": 2, "z_loss": 1e-2, "micro_batch": 1},
    ]
    cases = [*shapes, *others]
    found = run_ranks(2, checks, cases, str(tmp_path), timeout=120)
    check(cases, [differences for differences, _ in found])
    for rank, (_, checkpoint) in enumerate(found):
        assert all(checkpoint.values()), f"rank {rank}: {checkpoint}"


@pytest.mark.slow
def test_four_ranks() -> None:
    alone = [{"shape": shape, "tensor": 4} for shape in SHAPES]
    both = [
        {"shape": shape, "tensor": 2, "parallel": kind, "micro_batch": 1}
        for shape in ("gpt", "llama", "qk norm")
        for kind in ("ddp", "fsdp")
    ]
    cases: list[dict[str, Any]] = [
        *alone,
        *both,
        {"shape": "llama", "tensor": 2, "parallel": "fsdp", "checkpointing": True},
    ]
    check(cases, run_ranks(4, largest_differences, cases, timeout=300))


def test_parts_of_a_packed_matrix_are_whole_heads() -> None:
    """Rows of 4 query heads and 2 of keys and values, with 3 rows each: rank 1 of 2 has q2 q3, k1 and v1."""
    layout = Layout(0, (12, 6, 6))
    rows = torch.arange(24)
    assert layout.part(rows, 1, 2).tolist() == [*range(6, 12), *range(15, 18), *range(21, 24)]


@pytest.mark.parametrize("n", [1, 2, 4])
@pytest.mark.parametrize("shape", SHAPES)
def test_parts_make_up_the_whole(shape: str, n: int) -> None:
    config = ModelConfig(**SHAPES[shape])
    divided = layouts(config)
    assert {name.rpartition(".")[0].rpartition(".")[2] for name in divided} >= {"c_attn", "c_proj", "c_fc", "wte"}
    for name, layout in divided.items():
        whole = torch.randn(param_shapes(config)[name])
        parts = [layout.part(whole, rank, n) for rank in range(n)]
        assert [part.size(layout.dim) for part in parts] == layout.sizes(n)
        assert torch.equal(layout.join(parts), whole) and layout.whole_shape(parts[0]) == whole.shape
    table = torch.arange(131)
    assert all(table.tensor_split(n)[rank][0] == first_row(131, rank, n) for rank in range(n))


@pytest.mark.parametrize(
    ("model", "train", "processes", "words"),
    [
        ({}, {"tensor": 3}, 4, "tensor=3.*4 processes.*1, 2, 4"),
        ({}, {"tensor": 2}, 1, "tensor=2 needs 2 processes.*has 1"),
        ({"n_head": 6, "n_embd": 36}, {"tensor": 4}, 4, "n_head=6.*1, 2, 3, 6"),
        ({"n_head": 8, "n_kv_head": 2}, {"tensor": 4}, 4, "n_kv_head=2.*1, 2"),
        ({"n_inner": 66}, {"tensor": 4}, 4, "n_inner=66.*1, 2"),
        ({"vocab_size": 3}, {"tensor": 4}, 4, "vocab_size=3"),
        ({"attn_dropout": 0.1}, {"tensor": 2}, 4, "attn_dropout=0.1"),
        ({}, {"tensor": 2, "optimizer": "muon"}, 4, "optimizer=muon"),
    ],
)
def test_what_cannot_be_divided_is_refused(
    model: dict[str, Any], train: dict[str, Any], processes: int, words: str
) -> None:
    config = ModelConfig(**SHAPES["gpt"] | model)
    with pytest.raises(ConfigError, match=words):
        check_tensor_parallel(config, TrainConfig(**train), processes)
    check_tensor_parallel(config, replace(TrainConfig(**train), tensor=1), processes)
