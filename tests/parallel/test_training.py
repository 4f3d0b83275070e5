"""Training on two processes is byte for byte the training of one process, in every file it leaves behind."""

from pathlib import Path
from typing import Any

import pytest

from light_llm.checkpoint import RunFolder
from light_llm.checkpoint.tensors import read_tensors
from light_llm.runtime import World
from tests.support.ranks import run_ranks
from tests.support.tools import rows_of
from tests.support.training_runs import NOWHERE, digests, hammer, train, train_all

TIMEOUT = 300
STOPPED = {"stop_after": 5}
# A "+" continues the run of the folder.
RUNS: dict[str, dict[str, Any]] = {
    "adamw": {},
    "muon": {"optimizer": "muon"},
    "bfloat16": {"dtype": "bfloat16"},
    "muon-bfloat16": {"optimizer": "muon", "dtype": "bfloat16"},
    "stopped": STOPPED,
    "whole": {"dropout": 0.2},
    "parts": STOPPED | {"dropout": 0.2},
    "parts+": {"dropout": 0.2, "resume": True},
}


def numbers_of(out: str) -> list[dict[str, Any]]:
    return [{k: v for k, v in row.items() if k != "phases"} for row in rows_of(out, "step")]


def test_two_processes_leave_the_files_of_one(poem: Path) -> None:
    root = Path.cwd()
    runs = {str(root / out): how for out, how in RUNS.items()}
    first, second = run_ranks(2, train_all, str(poem), runs, timeout=TIMEOUT)
    assert any(path.startswith(str(root / "adamw")) for path in first)
    assert not [path for path in second if path.startswith((str(root), NOWHERE))], "rank 1 has written"
    # One process that computes the rows of the two ranks in turn adds the same two summands.
    for out in ("adamw", "muon", "bfloat16", "muon-bfloat16"):
        train(World(), str(poem), f"one {out}", **(RUNS[out] | {"micro_batch": 2}))
        assert digests(out) == digests(f"one {out}"), out
    train(World(), str(poem), "stopped", resume=True, micro_batch=2)
    assert digests("stopped") == digests("adamw"), "stopped on two processes, continued by one"
    assert digests("parts") == digests("whole"), "stopped and continued on two processes, with dropout"
    rng = read_tensors(Path("whole/step-000012/rng.safetensors"))
    assert sorted(rng) == ["cpu", "cpu.1"] and not rng["cpu"].equal(rng["cpu.1"]), "each rank drops other units"
    log = Path("adamw/train.log").read_text()
    assert "2 processes on 1 machine, ddp" in log and "2 x 2 sequences x 16 tokens" in log


def difference(a: str, b: str) -> float:
    """Return the largest difference between two runs of any weight after the last step."""
    first, second = (read_tensors(Path(out, "step-000012/model.safetensors")) for out in (a, b))
    return max(float((first[name] - second[name]).abs().max()) for name in first)


@pytest.mark.slow
def test_another_number_of_processes_continues_a_run(poem: Path) -> None:
    """Stopped on two processes and continued on four, by replicas or shards; and shards all the way, saved twice."""
    root = Path.cwd()
    how: dict[str, Any] = {"lr": 1.5e-3}
    two = {"ddp": how | STOPPED, "fsdp": how | STOPPED, "shards": how | STOPPED | {"parallel": "fsdp"}}
    two["shards+"] = how | {"resume": True}
    run_ranks(2, train_all, str(poem), {str(root / out): changes for out, changes in two.items()}, timeout=TIMEOUT)
    four = {out: how | {"resume": True, "parallel": out} for out in ("ddp", "fsdp")}
    run_ranks(4, train_all, str(poem), {str(root / out): changes for out, changes in four.items()}, timeout=TIMEOUT)
    train(World(), str(poem), "one", **how, micro_batch=2)
    for out in ("ddp", "fsdp", "shards"):
        assert difference("one", out) < 1e-6, out
        assert [row["step"] for row in rows_of(out, "eval")] == [4, 8, 12]
    assert "2 processes on 1 machine, fsdp" in Path("shards/train.log").read_text()


@pytest.mark.slow
def test_signals_to_any_rank_at_any_time(poem: Path) -> None:
    """Each of them is agreed on: all ranks save and stop at the same step, and none waits for another."""
    first, second = run_ranks(2, hammer, str(poem), str(Path.cwd() / "run"), 20, timeout=2 * TIMEOUT)
    assert first == second and {status for status, _ in first} == {"interrupted"}
    for seed, (_, step) in enumerate(first):
        log = Path(f"run {seed}/train.log").read_text()
        assert 1 <= log.count("as requested") <= 8 and f"run {seed}/step-{step:06d}" in str(
            RunFolder(f"run {seed}").latest_step()
        )
