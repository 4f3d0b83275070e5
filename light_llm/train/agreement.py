"""Agreement between the ranks of a run: on requests, the numbers of a step, its batch, and the state that is saved.

A signal reaches one rank, or all of them at different steps, and each has its own clock. All ranks must send the same
messages in the same order, so the loop acts on a request only when every rank knows of it. With one process a request
is agreed on at once.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from ..data import Batch, Batches, DataLoader
from ..errors import ConfigError
from ..objective import total_weight
from ..parallel import Parallel
from ..runtime import World, peak_memory
from .step import GuardAction, Status, TrainState

SEVERITY: Sequence[GuardAction] = ("go", "skip", "rollback", "stop")


class EvaluationCancelled(Exception):
    """Raised inside an evaluation or a sample when the run has to stop."""


def _no_requests() -> dict[str, bool]:
    return dict.fromkeys(("interrupt", "end", "save", "clock"), False)


@dataclass
class StopFlag:
    """Requests to an active training run, and what the ranks agreed on. The loop polls the second.

    Callbacks, signal handlers and other threads of any rank may request. Plain attributes without a lock: a signal
    handler may interrupt the thread that holds one.

    Attributes:
        requested: by this rank: to interrupt the run, to end it as a callback does, to save, to save by the clock.
    """

    world: World = field(default_factory=World)
    stop_after: int | None = None  # end the run after so many steps of this process
    requested: dict[str, bool] = field(default_factory=_no_requests)
    # Agreed on by all ranks.
    status: Status | None = None  # set: the run ends after the current step, with this status
    cancel: bool = False  # cancel evaluations and samples as well
    save: bool = False
    save_by_clock: bool = False
    evaluation_cancelled: bool = False  # the last evaluation; a resumed run makes it first

    def request(self, name: str) -> None:
        """Make a request of this rank, from any thread."""
        self.requested[name] = True
        # With other ranks it waits for the next message, which the loop sends and not this thread.
        if self.world.size == 1:
            self.agree()

    def agree(self) -> None:
        """Exchange the requests of all ranks, in a message of their own."""
        self.adopt(self.world.agree(**self.requested))

    def adopt(self, agreed: Mapping[str, float]) -> None:
        """Take over the requests of all ranks."""
        if agreed["interrupt"]:
            self.interrupt()
        if agreed["end"]:
            self.stop("stopped")
        if agreed["save"]:
            self.save, self.requested["save"] = True, False
        if agreed["clock"]:
            self.save_by_clock = True

    def interrupt(self) -> None:
        """End the run after the current step, and cancel a running evaluation: on all ranks at the same place."""
        self.cancel = True
        self.stop("interrupted")

    def stop(self, status: Status) -> None:
        """End the run after the current step: on all ranks at the same place. The first status given wins."""
        self.status = self.status or status

    def restart_clock(self) -> None:
        """Note that the run has just been saved."""
        self.save_by_clock = self.requested["clock"] = False

    def check(self, done: int = 0, total: int = 0) -> None:
        """Raise EvaluationCancelled if the run has to stop at once. Evaluations call it after each batch."""
        self.agree()
        if self.cancel:
            raise EvaluationCancelled


class StepTotals(NamedTuple):
    """The numbers of a step over all ranks."""

    loss: Tensor  # (), mean nats per token of the global batch
    n_bytes: int | None  # UTF-8 bytes of its targets; None if unknown
    memory: int | None  # bytes, of the rank with the highest peak; None with one process


def share_step(parallel: Parallel, requests: StopFlag, loss: Tensor, n_bytes: int | None, *, gated: bool) -> StepTotals:
    """Add up the numbers of a step over the ranks, and agree on requests: the one message that each step needs.

    Args:
        loss: (), the share of this rank.
        n_bytes: of its rows.
        gated: the loss stays on the device, so that the host need not wait for it.
    """
    world = parallel.world
    if world.size == 1:
        requests.agree()
        return StepTotals(loss, n_bytes, None)
    # Ranks that compute the same rows (tensor parallelism) count as one. A power of two, so nothing is rounded.
    share = parallel.data_size / world.size
    loss = loss.detach() * share
    total = world.sum(loss) if gated else None
    memory = [0.0] * world.size
    memory[world.rank] = float(peak_memory() or 0)
    asked = dict(requests.requested)
    # In float64 the sum of two float32 losses is exact, so it rounds to what one process would add up.
    numbers = [0.0 if gated else float(loss), (n_bytes or 0) * share, *map(float, asked.values()), *memory]
    summed = world.sum(torch.tensor(numbers, dtype=torch.float64)).tolist()
    requests.adopt(dict(zip(asked, summed[2:], strict=False)))
    if total is None:
        total = torch.tensor(summed[0], dtype=loss.dtype)
    return StepTotals(total, None if n_bytes is None else round(summed[1]), int(max(summed[2 + len(asked) :])) or None)


def agree_on_action(world: World, action: GuardAction) -> GuardAction:
    """Return the answer of the guards of all ranks: the one that keeps the most steps from the weights."""
    return SEVERITY[world.agree(action=SEVERITY.index(action))["action"]]


class BatchReader:
    """Reads this rank's rows of each global batch."""

    def __init__(self, batches: Batches, parallel: Parallel) -> None:
        self.batches, self.parallel = batches, parallel
        self.compared = False  # whether the ranks have the same first batch

    def read(self, k: int) -> tuple[Batch | None, float]:
        """Return this rank's rows of batch k and the weight of the whole batch; None at the end of a loader.

        Raises:
            ConfigError: the loaders of two ranks give different batches.
        """
        batches, parallel = self.batches, self.parallel
        if parallel.world.size > 1 and isinstance(batches, DataLoader):
            # Every row has the same weight, so no message is needed.
            batch = batches.batch(k, parallel.rows(batches.batch_size))
            return batch, total_weight(batch.targets) * parallel.data_size
        whole = batches.batch(k)
        if parallel.world.size == 1:
            return whole, 0.0 if whole is None else total_weight(whole.targets)
        if not self.compared:
            self._compare(whole)
        own = None
        if whole is not None:
            rows = parallel.rows(len(whole.tokens))
            own = Batch(whole.tokens[rows], whole.targets[rows])
        share = parallel.data_size / parallel.world.size
        weight = 0.0 if own is None else total_weight(own.targets) * share
        total, n_ended = parallel.world.sum(torch.tensor([weight, own is None], dtype=torch.float64)).tolist()
        return (None if n_ended else own), total

    def _compare(self, batch: Batch | None) -> None:
        """Raise ConfigError if the first batch is not the same on all ranks, as with an unseeded shuffle."""
        digests = self.parallel.world.gather(_digest(batch))
        for rank, digest in enumerate(digests):
            if digest != digests[0]:
                raise ConfigError(
                    f"the loader of rank {rank} does not give the first batch of rank 0; give each rank the same "
                    "loader, in the same order (a seeded shuffle, no DistributedSampler): the run divides each batch"
                )
        self.compared = True


def _digest(batch: Batch | None) -> str:
    sha = hashlib.sha256()
    for tensor in batch or ():
        sha.update(f"{tuple(tensor.shape)}".encode() + tensor.contiguous().numpy().tobytes())
    return sha.hexdigest()


def check_same_state(world: World, state: TrainState) -> None:
    """Raise AssertionError if the counters or losses differ between the ranks: they no longer train one model."""
    states = world.gather(hashlib.sha256(repr(state).encode()).hexdigest())
    different = [rank for rank, other in enumerate(states) if other != states[0]]
    assert not different, f"the state of rank {different[0]} is not that of rank 0 in step {state.step}"
