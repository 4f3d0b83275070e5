"""The tensors of a checkpoint reach all ranks, one at a time; which ranks see a folder."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from light_llm.checkpoint import all_see, broadcast_tensors
from light_llm.checkpoint.tensors import TYPES
from light_llm.runtime import World
from tests.support.rank_threads import ThreadWorld, run_threads
from tests.support.tools import some_tokens


def some_tensors() -> dict[str, Tensor]:
    """Return tensors of every type and of several shapes, among them none, one and a transposed one."""
    tensors = {str(dtype): some_tokens(3, 5, V=2).to(dtype) for dtype in TYPES}
    return tensors | {"step": torch.tensor(3.0), "none": torch.zeros(2, 0), "T": torch.arange(6.0).view(2, 3).T}


def test_all_ranks_get_the_tensors_of_rank_0() -> None:
    def take(world: ThreadWorld) -> tuple[dict[str, Tensor], dict[str, Tensor], int]:
        mine = some_tensors()
        taken = {name: t.clone() for name, t in broadcast_tensors(world, mine if world.is_first else None)}
        return taken, mine, len(world.messages)

    results, expected = run_threads(3, take), some_tensors()
    for taken, _, n in results:
        assert list(taken) == list(expected) and n == 2 + len(expected) - 1, "an empty tensor needs no message"
        assert all(torch.equal(t, expected[name]) and t.dtype == expected[name].dtype for name, t in taken.items())
    assert results[0][1] == {}, "they leave the dictionary of rank 0"


def test_ranks_that_have_read_the_file_send_no_tensor() -> None:
    def take(world: ThreadWorld) -> tuple[list[str], list[Any]]:
        return [name for name, _ in broadcast_tensors(world, some_tensors())], world.messages

    assert run_threads(2, take) == [(list(some_tensors()), [("agree",)])] * 2
    assert [name for name, _ in broadcast_tensors(World(), some_tensors())] == list(some_tensors())


def test_one_tensor_at_a_time() -> None:
    """A rank that is late delays the others, which then hold one tensor and not all."""

    def take(world: ThreadWorld) -> int:
        tensors: Iterator[tuple[str, Tensor]] = broadcast_tensors(world, some_tensors() if world.is_first else None)
        next(tensors)
        sent = len(world.messages)
        list(tensors)
        return sent

    assert run_threads(2, take) == [3, 3]


@pytest.mark.parametrize("case", ["shared", "other folder", "no such folder", "read-only"])
def test_a_folder_that_all_ranks_see(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    """A rank of another machine has no such file, or another one of that name."""
    read, write = Path.read_text, Path.write_text

    def read_elsewhere(path: Path, *args: Any) -> str:
        if case == "no such folder":
            raise FileNotFoundError(path)
        return "another token"

    def refuse(path: Path, *args: Any) -> int:
        raise PermissionError(path)

    def ask(world: ThreadWorld) -> bool:
        return all_see(world, tmp_path)

    monkeypatch.setattr(Path, "read_text", read if case in ("shared", "read-only") else read_elsewhere)
    monkeypatch.setattr(Path, "write_text", refuse if case == "read-only" else write)
    assert run_threads(3, ask) == [case == "shared"] * 3
    assert os.listdir(tmp_path) == []
