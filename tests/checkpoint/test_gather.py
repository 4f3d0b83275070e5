"""Checkpoints of several ranks: all gather the same tensors, one at a time, whatever the first one's disk does."""

import weakref
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from light_llm.atomic_io import NullFiles
from light_llm.checkpoint import (
    Files,
    gather_rng,
    read_step,
    restore_optimizer,
    restore_weights,
    select_rng,
    write_model_file,
)
from light_llm.checkpoint.commit import verify_folder
from light_llm.checkpoint.tensors import file_order, read_tensors, write_tensors
from light_llm.config import TrainConfig
from light_llm.errors import CheckpointError
from light_llm.optim import build_optimizer
from light_llm.runtime import rng_state
from tests.checkpoint.test_checkpoint import fill_disk, meta_of, save, trained
from tests.support.faults import Dying
from tests.support.tools import tiny_model


class Gathers:
    """A gather of tensors whose numbers are elsewhere: it returns the next of a list, and measures what stays alive."""

    def __init__(self, whole: list[Tensor], fail_at: int = 0) -> None:
        self.whole, self.fail_at = whole, fail_at
        self.shapes: list[tuple[int, ...]] = []
        self.calls = 0
        self.live = self.peak = 0

    def __call__(self, shard: Tensor) -> Tensor:
        self.calls += 1
        if self.calls == self.fail_at:
            raise RuntimeError("Connection closed by peer")
        tensor = self.whole[len(self.shapes)].clone()
        self.shapes.append(tuple(shard.shape))
        self.live += tensor.nbytes
        self.peak = max(self.peak, self.live)
        weakref.finalize(tensor, self.release, tensor.nbytes)
        return tensor

    def release(self, n_bytes: int) -> None:
        self.live -= n_bytes


def in_file_order(path: Path) -> list[Tensor]:
    """Return the weights and optimizer tensors of a step folder in the order of its files."""
    weights, moments, *_ = read_step(path)
    return [tensors[name] for tensors in (weights, moments) for name in file_order(tensors)]


def on_meta(model: Any, optimizer: Any) -> tuple[Any, Any]:
    """Return the model and optimizer without their numbers, which a gather then has to supply."""
    values = [(p, {k: v.to("meta") for k, v in state.items()}) for p, state in optimizer.state.items()]
    bare = tiny_model().to("meta")
    fresh = build_optimizer(bare, TrainConfig())
    owners = dict(zip(model.parameters(), bare.parameters(), strict=True))
    for p, state in values:
        fresh.state[owners[p]] = state
    return bare, fresh


def test_a_step_is_gathered_one_tensor_at_a_time(tmp_path: Path) -> None:
    """Names, types and shapes are known without a number, and at most two tensors are in memory at once."""
    model, optimizer = trained()
    save(tmp_path / "whole", model, optimizer)
    tensors = in_file_order(tmp_path / "whole")
    gather = Gathers(tensors)
    bare, fresh = on_meta(model, optimizer)
    save(tmp_path / "gathered", bare, fresh, meta=meta_of(model), gather=gather)
    assert gather.shapes == [tuple(t.shape) for t in tensors]
    for name in verify_folder(tmp_path / "whole"):
        assert (tmp_path / "whole" / name).read_bytes() == (tmp_path / "gathered" / name).read_bytes(), name
    largest, total = max(t.nbytes for t in tensors), sum(t.nbytes for t in tensors)
    assert gather.live == 0 and gather.peak <= 2 * largest < total / 5


def test_other_ranks_take_part_and_change_nothing(tmp_path: Path) -> None:
    model, optimizer = trained()
    save(tmp_path / "step", model, optimizer)
    tensors = in_file_order(tmp_path / "step")
    before = sorted(tmp_path.rglob("*"))
    gather = Gathers(tensors)
    save(tmp_path / "other", *on_meta(model, optimizer), disk=NullFiles(), meta=meta_of(model), gather=gather)
    assert gather.shapes == [tuple(t.shape) for t in tensors] and gather.peak <= 2 * max(t.nbytes for t in tensors)
    weights = model.state_dict()
    gather = Gathers([weights[name] for name in sorted(weights)])
    write_model_file(tmp_path / "other.pt", weights, meta_of(model), NullFiles(), gather=gather)
    assert len(gather.shapes) == len(weights) and gather.peak <= 2 * max(t.nbytes for t in weights.values())
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("halfway", [False, True])
def test_the_first_rank_gathers_all_tensors_when_its_disk_fails(tmp_path: Path, halfway: bool) -> None:
    """Each file operation fails once: the error is raised after all gathers, which the other ranks make meanwhile."""
    model, optimizer = trained()
    save(tmp_path / "step", model, optimizer)
    tensors = in_file_order(tmp_path / "step")
    for n in range(1, 100):
        gather, disk = Gathers(tensors), Dying(n, end=fill_disk, halfway=halfway)
        with suppress(OSError):
            save(tmp_path / str(n), model, optimizer, disk, gather=gather)
        assert gather.shapes == [tuple(t.shape) for t in tensors], f"operation {n}"
        if disk.left > 0:
            assert n > 20
            return
    raise AssertionError("the save has no end")


def test_a_failed_gather_is_the_last_one(tmp_path: Path) -> None:
    """Another rank is gone: a further message would only wait for it."""
    model, optimizer = trained()
    save(tmp_path / "step", model, optimizer)
    gather = Gathers(in_file_order(tmp_path / "step"), fail_at=5)
    with pytest.raises(RuntimeError, match="closed by peer"):
        save(tmp_path / "again", model, optimizer, gather=gather)
    assert gather.calls == 5 and not (tmp_path / "again").exists()
    gather = Gathers(list(model.state_dict().values()), fail_at=5)
    with pytest.raises(RuntimeError, match="closed by peer"):
        write_model_file(tmp_path / "m.pt", model.state_dict(), meta_of(model), Files(), gather=gather)
    assert gather.calls == 5


def test_gathered_model_files_are_the_same_bytes(tmp_path: Path) -> None:
    model = tiny_model()
    weights, bare = model.state_dict(), tiny_model().to("meta").state_dict()
    gather = Gathers([weights[name] for name in sorted(weights)])
    write_model_file(tmp_path / "whole.pt", weights, meta_of(model), Files())
    write_model_file(tmp_path / "gathered.pt", bare, meta_of(model), Files(), gather=gather)
    assert (tmp_path / "whole.pt").read_bytes() == (tmp_path / "gathered.pt").read_bytes()


def test_writing_holds_one_gathered_tensor(tmp_path: Path) -> None:
    """Tensors of about 1 MB, by name: never three of them, and all numbers come from the gather."""
    tensors = {f"{i:02}": torch.full(((1 << 18) - i,), float(i)) for i in reversed(range(16))}
    gather = Gathers([tensors[name] for name in sorted(tensors)])
    with open(tmp_path / "x", "wb") as file:
        write_tensors(file, {name: t.to("meta") for name, t in tensors.items()}, gather)
    assert gather.shapes == [tuple(tensors[name].shape) for name in sorted(tensors)] and gather.peak <= 2 << 20
    assert all(torch.equal(t, tensors[name]) for name, t in read_tensors(tmp_path / "x").items())


def test_tensors_are_restored_one_by_one_where_their_owners_are() -> None:
    """A stand-in for shards: each parameter keeps the even rows; scalars, such as step counters, stay whole."""
    model, optimizer = trained()
    weights = {name: t.clone() for name, t in model.state_dict().items()}
    moments = {f"{n}/{k}": v for n, p in model.named_parameters() for k, v in optimizer.state[p].items()}
    other = tiny_model(seed=3)
    fresh = build_optimizer(other, TrainConfig())
    placed: list[tuple[int, ...]] = []

    def place(tensor: Tensor, like: Tensor) -> Tensor:
        placed.append(tuple(tensor.shape))
        assert like.shape == tensor.shape
        return tensor + 1

    restore_weights(other, iter(weights.items()), place)
    assert all(torch.equal(t, weights[name] + 1) for name, t in other.state_dict().items())
    restore_optimizer(other, fresh, iter(moments.items()), place)
    assert len(placed) == 3 * len(weights) and () not in placed
    for (name, p), q in zip(model.named_parameters(), other.parameters(), strict=True):
        assert torch.equal(fresh.state[q]["exp_avg"], optimizer.state[p]["exp_avg"] + 1), name
        assert torch.equal(fresh.state[q]["step"], optimizer.state[p]["step"])

    restore_weights(other, taken := dict(weights))
    assert not taken and all(torch.equal(t, weights[name]) for name, t in other.state_dict().items())
    with pytest.raises(CheckpointError, match=r"'wte\.weight' of shape \(2,\)"):
        restore_weights(other, {"wte.weight": torch.zeros(2)})
    with pytest.raises(CheckpointError, match=r"wte\.weight"):
        restore_weights(other, {name: t for name, t in weights.items() if name != "wte.weight"})


def test_generators_of_all_ranks_have_names_of_their_own() -> None:
    before = rng_state("cpu")
    try:
        states = []
        for seed in range(3):
            torch.manual_seed(seed)
            states.append({"cpu": torch.get_rng_state(), "cuda": torch.arange(seed, seed + 4, dtype=torch.uint8)})
    finally:
        torch.set_rng_state(before["cpu"])
    sent: list[Any] = []
    for state in states:
        gather_rng(state, lambda value: sent.append(value) or [value])  # type: ignore[func-returns-value]
    gathered = gather_rng(states[1], lambda value: sent)
    assert gathered.keys() == {"cpu", "cuda", "cpu.1", "cuda.1", "cpu.2", "cuda.2"}
    for rank, state in enumerate(states):
        found = select_rng(gathered, rank)
        assert found.keys() == state.keys() and all(torch.equal(found[name], state[name]) for name in state)
    assert select_rng(gathered, 3) == {} and select_rng(states[0], 1) == {}
