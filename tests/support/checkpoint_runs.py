"""A sharded model on real ranks: saved in several files, read back and evaluated, to compare with one process."""

import weakref
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from light_llm.atomic_io import Files, NullFiles
from light_llm.checkpoint import (
    all_see,
    broadcast_tensors,
    gather_rng,
    read_step,
    restore_optimizer,
    restore_weights,
    select_rng,
)
from light_llm.config import TrainConfig
from light_llm.data.shards import TokensInMemory
from light_llm.evaluate import Evaluation, evaluate_batches, evaluate_loss
from light_llm.model import LightLLM
from light_llm.objective import NextTokenLoss
from light_llm.optim import build_optimizer
from light_llm.parallel import Parallel, parallelize
from light_llm.runtime import World, rng_state
from tests.checkpoint.test_checkpoint import fill_disk, meta_of, save
from tests.checkpoint.test_several_files import LIMIT
from tests.checkpoint.test_write_together import Noted
from tests.support.faults import Dying
from tests.support.tools import some_tokens, tiny_model

CONFIG = TrainConfig(device="cpu", dtype="float32", compile="off", parallel="fsdp")
LENGTHS = np.arange(61) % 4


class Measured:
    """A gather that measures how many bytes of gathered tensors are in use at once, as the allocator sees them."""

    def __init__(self, parallel: Parallel) -> None:
        self.parallel, self.alive, self.peak = parallel, dict[int, Any](), 0

    def __call__(self, tensor: Tensor) -> Tensor:
        whole = self.parallel.gather(tensor)
        key = id(whole)
        self.alive[key] = whole.nbytes
        weakref.finalize(whole, self.alive.pop, key, None)
        self.peak = max(self.peak, sum(self.alive.values()))
        return whole


def evaluations(model: LightLLM, world: World) -> tuple[Evaluation, list[Any], Evaluation]:
    """Return the evaluation of 90 tokens with its windows, and of batches: an odd number of both."""
    windows: list[Any] = []
    how: dict[str, Any] = {"context": 8, "batch_size": 2, "world": world}
    keep = lambda first, row: windows.append([first, row.tolist()])  # noqa: E731
    tokens = TokensInMemory(some_tokens(1, 90)[0].tolist())
    of_tokens = evaluate_loss(model, tokens, LENGTHS, on_window=keep, **how)
    batches = [(some_tokens(seed=i), some_tokens(seed=-i)) for i in range(3)]
    return of_tokens, windows, evaluate_batches(model, iter(batches), LENGTHS, world=world)


def build(world: World, seed: int) -> tuple[LightLLM, Parallel, torch.optim.Optimizer]:
    model = tiny_model(seed)
    parallel = parallelize(NextTokenLoss(model), world, CONFIG)
    return model, parallel, build_optimizer(model, CONFIG)


def save_read_and_evaluate(world: World, folder: str) -> dict[str, Any]:
    """Save a step of a sharded model in several files, restore it into another model, and save that."""
    root, meta = Path(folder), meta_of(tiny_model())
    model, parallel, optimizer = build(world, seed=0)
    rows = parallel.rows(4)
    parallel.module(some_tokens(4)[rows], some_tokens(4, seed=9)[rows]).backward()
    optimizer.step()
    torch.manual_seed(world.rank)
    noted, gather = Noted(), Measured(parallel)
    disk: Files = noted if world.is_first else NullFiles(own=noted)
    how: dict[str, Any] = {"meta": meta, "world": world, "file_parameters": LIMIT}
    save(root / "first", model, optimizer, disk, gather=gather, **how)
    largest = max(p.numel() * 4 for p in model.parameters())

    checkpoint = read_step(root / "first") if world.is_first else None
    weights, moments = (checkpoint[0], checkpoint[1]) if checkpoint else (None, None)
    other, placed, fresh = build(world, seed=7)
    restore_weights(other, broadcast_tensors(world, weights), placed.shard)
    restore_optimizer(other, fresh, broadcast_tensors(world, moments), placed.shard)
    save(root / "second", other, fresh, disk, gather=placed.gather, **how)

    gathered = gather_rng(rng_state("cpu"), world.gather)
    own_state = torch.equal(select_rng(gathered, world.rank)["cpu"], rng_state("cpu")["cpu"])

    full: Files = Dying(1, end=fill_disk)
    message = ""
    disk = Files() if world.is_first else NullFiles(own=full)
    try:
        save(root / "third", other, fresh, disk, gather=placed.gather, **how)
    except OSError as error:
        message = str(error)
    of_tokens, windows, of_batches = evaluations(other, world)
    placed.finish_evaluation()
    return {
        "sees": all_see(world, root),
        "wrote": [name for name in noted.names if "-of-" in name],
        "peak": gather.peak / largest,
        "generators": sorted(gathered),
        "own state": own_state,
        "message": message,
        "evaluations": [asdict(of_tokens), windows, asdict(of_batches)],
    }
