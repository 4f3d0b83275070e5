"""Every path of the training loop on several ranks: they send the same messages, whatever happens on one of them.

The ranks are threads that really wait for each other; gradients are summed as DDP does.
"""

import errno
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from light_llm.atomic_io import Files
from light_llm.checkpoint import RunFolder
from light_llm.config import TrainConfig
from light_llm.data import Batch
from light_llm.errors import CheckpointError, ConfigError
from light_llm.objective import NextTokenLoss
from light_llm.parallel import Parallel
from light_llm.runtime import World
from light_llm.train import Result, Step, Trainer
from light_llm.train.agreement import StopFlag
from tests.support.rank_threads import ThreadWorld, run_threads
from tests.support.tools import byte_loader, byte_model, rows_of
from tests.support.training_runs import FULL

Change = Callable[[Any], None]


class ThreadParallel(Parallel):
    """Replicas whose gradients are summed, one message a parameter."""

    kind = "ddp"

    def __init__(self, objective: NextTokenLoss, world: World, config: TrainConfig) -> None:
        super().__init__(objective, world, config)
        self.model = objective.model
        # The threads share torch's generator, so the initial weights are not those of one seed.
        for parameter in self.model.parameters():
            world.broadcast(parameter.data)

    @contextmanager
    def micro_batch(self, last: bool) -> Iterator[None]:
        yield
        for parameter in self.model.parameters() if last else ():
            assert parameter.grad is not None
            self.world.sum(parameter.grad)


@pytest.fixture(autouse=True)
def threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("light_llm.train.start.parallelize", ThreadParallel)


def run(poem: Path, change: Change = lambda trainer: None, size: int = 2, **changes: Any) -> list[tuple[Any, Result]]:
    """Train on several ranks, and check that all sent the same messages. Returns the trainer and result of each rank.

    Args:
        change: called on each rank before the run.
    """

    n, dropout = changes.pop("batch_size", 4), changes.pop("dropout", 0.0)

    def train(world: ThreadWorld) -> tuple[Any, Result]:
        out = "run" if world.is_first else "no folder"
        trainer = Trainer(
            byte_model(dropout), byte_loader(poem, batch_size=n), out=out, world=world, **(FULL | changes)
        )
        change(trainer)
        return trainer, trainer.train()

    results = run_threads(size, train)
    first = results[0][0]
    for trainer, result in results:
        assert trainer.world.messages == first.world.messages
        assert trainer.world.messages[-1] == ("barrier",), "all wait for rank 0"
        assert trainer.state == first.state and (result.status, result.step) == (results[0][1].status, first.state.step)
        for p, q in zip(trainer.model.parameters(), first.model.parameters(), strict=True):
            assert torch.equal(p, q)
    assert not Path("no folder").exists()
    return results


def steps_of(out: str = "run") -> list[int]:
    return sorted(int(path.name.split("-")[1]) for path in Path(out).glob("step-*"))


def poisoned(trainer: Any, step: int, rank: int) -> None:
    """Make the loss of one rank NaN in a step, once."""
    done: list[int] = []
    accumulate = trainer.accumulate

    def change(batch: Batch, n_targets: float) -> Tensor:
        loss = accumulate(batch, n_targets)
        if trainer.state.step != step - 1 or trainer.world.rank != rank or done:
            return loss
        done.append(step)
        return loss * math.nan

    trainer.accumulate = change


def test_an_undisturbed_run_sends_few_messages(poem: Path) -> None:
    """One message a step beside its gradients: loss, bytes, memory and requests together."""
    results = run(poem, size=3, batch_size=6, eval_interval=100, sample_interval=0, probe_interval=0, save_interval=100)
    n = len(list(results[0][0].model.parameters()))
    kinds = results[0][0].world.messages
    place = [i for i, message in enumerate(kinds) if message == ("sum", (6 + 3,))]
    assert len(place) == 12 and all(b - a == n + 1 for a, b in pairwise(place))


@pytest.mark.parametrize("how", ["request_stop", "stop", "request_save"])
def test_a_request_of_one_rank_is_agreed_on(poem: Path, how: str) -> None:
    def ask(trainer: Any) -> None:
        def at_3(step: Step) -> str | None:
            if step.number != 3 or trainer.world.rank != 1:
                return None
            return "stop" if how == "stop" else getattr(trainer, how)()

        trainer.every(1, at_3)

    _, result = run(poem, ask)[0]
    expected = {"request_stop": ("interrupted", 3), "stop": ("stopped", 3), "request_save": ("done", 12)}
    assert (result.status, result.step) == expected[how]
    assert ("step 4, as requested" in Path("run/train.log").read_text()) == (how == "request_save")


@pytest.mark.parametrize("rank", [0, 1])
@pytest.mark.parametrize("at", [1, 2, 5, 60])
def test_an_evaluation_or_sample_is_cancelled_on_all_ranks(poem: Path, at: int, rank: int) -> None:
    """A signal reaches one rank while an evaluation or, at the 60th check, a sample runs."""

    def ask(trainer: Any) -> None:
        flag, check, calls = trainer.stop_flag, trainer.stop_flag.check, [0]

        def counted(done: int = 0, total: int = 0) -> None:
            calls[0] += 1
            if calls[0] == at and trainer.world.rank == rank:
                trainer.request_stop()
            check()

        flag.check = counted

    results = run(poem, ask, sample_interval=4)
    assert {result.status for _, result in results} == {"interrupted"}
    assert {trainer.stop_flag.evaluation_cancelled for trainer, _ in results} == {at < 50}


def test_the_clock_of_one_rank_saves_on_all(poem: Path) -> None:
    def hurry(trainer: Any) -> None:
        due = trainer.checkpointer.is_clock_due
        trainer.checkpointer.is_clock_due = lambda: due() or (trainer.world.rank == 1 and trainer.state.step == 2)

    run(poem, hurry, keep_every=1)
    assert steps_of() == [3, 6, 12]


@pytest.mark.parametrize("policy", ["stop", "skip", "rollback"])
def test_a_loss_that_is_not_finite_on_one_rank(poem: Path, policy: str) -> None:
    def poison(trainer: Any) -> None:
        poisoned(trainer, 8, rank=1)

    _, result = run(poem, poison, on_nonfinite=policy)[0]
    log = Path("run/train.log").read_text()
    assert "step 8 is not finite" in log
    assert result.status == ("nonfinite" if policy == "stop" else "done")
    assert ("rollback to step 6" in log) == (policy == "rollback")
    skipped = [row["step"] for row in rows_of("run", "step") if row.get("skipped")]
    assert skipped == ([8] if policy == "skip" else [])


def test_the_rank_of_a_tensor_that_is_not_finite_is_named(poem: Path) -> None:
    """The weights are the same on all ranks, so the lowest one names them."""

    def poison(trainer: Any) -> None:
        def at_3(step: Step) -> None:
            if step.number == 3:
                trainer.model.ln_f.weight.data.fill_(math.inf)

        trainer.every(1, at_3)

    _, result = run(poem, poison)[0]
    assert result.status == "nonfinite"
    assert "the weights of ln_f.weight, before the step (rank 0)" in Path("run/train.log").read_text()


def test_all_ranks_halve_their_micro_batch_if_one_lacks_memory(poem: Path) -> None:
    def small(trainer: Any) -> None:
        if trainer.world.rank == 1:
            forward = trainer.objective.forward

            def limited(tokens: Tensor, *rest: Any) -> Tensor:
                if len(tokens) > 1 and not trainer.stop_flag.status:
                    raise torch.OutOfMemoryError("out of memory")
                return forward(tokens, *rest)

            trainer.objective.forward = limited

    for trainer, _ in run(poem, small, batch_size=4, eval_interval=100):
        assert trainer.config.micro_batch == 1
    assert trainer.folder.path.name == "no folder"
    log = Path("run/train.log").read_text()
    assert "2 sequences per process at a time do not fit: now 1 at a time" in log
    assert RunFolder("run").read_run()["run"]["train"]["micro_batch"] == 1


class FullDisk(Files):
    """Has no space for a checkpoint."""

    def sync(self, path: Path) -> None:
        if "step-" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device")


def test_a_disk_that_rank_0_cannot_write_ends_all_ranks(poem: Path) -> None:
    messages = []

    def train(world: ThreadWorld) -> None:
        out = "run" if world.is_first else "no folder"
        trainer = Trainer(byte_model(), byte_loader(poem), out=out, world=world, files=FullDisk(), **FULL)
        with pytest.raises(CheckpointError) as raised:
            trainer.train()
        messages.append(str(raised.value))

    run_threads(2, train)
    assert messages[0] == messages[1] and "step-000006 could not be written (No space left" in messages[0]


def test_the_loaders_of_all_ranks_have_to_agree(poem: Path) -> None:
    """Each rank takes its rows of the same batches; an unseeded shuffle is refused on all of them."""

    def train(world: ThreadWorld, seeds: tuple[int, int]) -> Any:
        loader = byte_loader(poem, seed=seeds[world.rank])
        pairs: Any = [tuple(loader.batch(k)) for k in range(3)]
        pairs[1][1][: 2 + world.rank, 3:] = -100 if seeds[0] == seeds[1] else 0
        out = f"own {seeds[1]}" if world.is_first else "no folder"
        trainer = Trainer(byte_model(), pairs, out=out, world=world, **(FULL | {"skip_doctor": True}))
        try:
            return trainer.train()
        except ConfigError as error:
            return str(error)

    first, second = run_threads(2, lambda world: train(world, (1, 1)))
    assert isinstance(first, Result) and (first.status, first.best_loss) == ("done", second.best_loss)
    first, second = run_threads(2, lambda world: train(world, (1, 2)))
    assert first == second and "the loader of rank 1 does not give" in str(first)


@pytest.mark.parametrize(
    ("answers", "status", "step"),
    [(("go", "skip"), "done", 12), (("rollback", "skip"), "done", 12), (("skip", "stop"), "stopped", 7)],
)
def test_guards_that_answer_differently_are_agreed_on(
    poem: Path, answers: tuple[str, str], status: str, step: int
) -> None:
    """As one that reads a clock, or a number of its own rank."""

    def guard(trainer: Any) -> None:
        left = [answers[trainer.world.rank]]
        trainer.guards.append(lambda step: left.pop() if step.number == 8 and left else "go")

    result = run(poem, guard)[0][1]
    assert (result.status, result.step) == (status, step)
    assert len(rows_of("run", "rollback")) == ("rollback" in answers)
    assert [row["step"] for row in rows_of("run", "step") if row.get("skipped")] == [8] * (answers == ("go", "skip"))


@pytest.mark.parametrize("kind", ["callback", "guard"])
def test_a_callback_or_guard_of_one_rank_alone_is_refused(poem: Path, kind: str) -> None:
    """The other ranks would wait for messages that this one does not send, or send more of them."""

    def add(trainer: Any) -> None:
        if trainer.world.is_first and kind == "callback":
            trainer.every(5, lambda step: None)
        elif trainer.world.is_first:
            trainer.guards.append(lambda step: "go")

    with pytest.raises(ConfigError, match=f"rank 1 on .* another .*{kind}"):
        run(poem, add)
    assert not Path("run").exists()


def test_a_save_finds_ranks_with_different_states(poem: Path) -> None:
    """Only a bug of ours could lead there."""

    def forget(trainer: Any) -> None:
        def at_5(step: Step) -> None:
            if step.number == 5 and trainer.world.rank == 1:
                trainer.state = replace(trainer.state, tokens=0)

        trainer.every(1, at_5)

    with pytest.raises(AssertionError, match="the state of rank 1 is not that of rank 0 in step 6"):
        run(poem, forget)


def test_a_run_continued_by_more_ranks_says_what_differs(poem: Path) -> None:
    def stop(trainer: Any) -> None:
        trainer.stop_flag.stop_after = 5

    run(poem, stop, dropout=0.2)
    run(poem, size=4, dropout=0.2, resume=True)
    log = Path("run/train.log").read_text()
    assert "saved by 2 and resumed by 4 processes: dropout draws other numbers" in log
    assert steps_of() == [6, 12] and [row["step"] for row in rows_of("run", "step")] == list(range(1, 13))


def test_a_stop_flag_of_one_process_needs_no_message() -> None:
    flag = StopFlag()
    flag.request("save")
    assert flag.save and not flag.requested["save"]
    flag.request("interrupt")
    flag.request("end")
    assert flag.status == "interrupted" and flag.cancel
    other = StopFlag(World(1, 2))
    other.request("interrupt")
    assert other.status is None and not other.cancel
