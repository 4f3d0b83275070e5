"""Steps that are not finite, spike, or do not fit into memory are reported, skipped or undone, and no work is lost."""

import math
import re
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from light_llm.checkpoint import RunFolder
from light_llm.cli import main
from light_llm.config import TrainConfig
from light_llm.data import Batch, DataLoader
from light_llm.errors import DeviceError
from light_llm.model import LightLLM
from light_llm.objective import NextTokenLoss
from light_llm.observe.nonfinite import first_nonfinite
from light_llm.optim import build_optimizer
from light_llm.runtime import can_gate_updates
from light_llm.train import Result, Trainer
from light_llm.train.callbacks import MIN_LOSSES, SPIKE_THRESHOLD, is_spike, robust_z
from light_llm.train.preflight import smaller_micro_batch
from light_llm.train.step import PendingStep, StepQueue, can_defer
from tests.support.faults import poison
from tests.support.tools import SMALL, byte_loader, byte_model, flip, rows_of, tensors_of, train_small


def poisoned(text: Path, batch: int, out: str = "run", **changes: Any) -> tuple[LightLLM, Result]:
    """A run that goes wrong at one batch of the loader."""
    model, loader = byte_model(dropout=0.2), byte_loader(text)
    poison(model, loader.batch(batch).tokens, model.h[1].mlp)
    return model, Trainer(model, loader, out=out, **(SMALL | {"max_steps": 30} | changes)).train()


class LeavingOut(DataLoader):
    """A loader without some of its batches."""

    def __init__(self, loader: DataLoader, gone: range) -> None:
        super().__init__(loader.dataset, loader.batch_size, loader.seed)
        self.gone = gone

    def batch(self, k: int) -> Batch:
        return super().batch(k if k < self.gone.start else k + len(self.gone))


# ---- not finite


def test_the_report_says_what_where_and_since_when(poem: Path) -> None:
    model, result = poisoned(poem, 13)
    assert (result.status, result.step) == ("nonfinite", 13)
    log = Path("run/train.log").read_text()
    assert re.search(r"step 14 is not finite: loss nan, gradient norm nan, lr \d\.\d\de-0\d", log)
    order = byte_loader(poem).order
    places = ", ".join(f"{order.start(13 * 4 + row):,}" for row in range(4))
    assert f"batch 13, pass {13 * 4 // order.per_epoch + 1}, windows from the tokens {places}" in log
    assert "not finite: the output of h.1.mlp" in log
    assert [p.name for p in RunFolder("run").steps()] == ["step-000010"]
    assert all(p.isfinite().all() for p in model.parameters())


def test_going_back_leaves_out_what_led_to_it(poem: Path) -> None:
    """The run goes on from the checkpoint as one that never had the batches up to the bad one."""
    model, result = poisoned(poem, 13, on_nonfinite="rollback")
    loader = LeavingOut(byte_loader(poem), range(10, 14))
    straight = Trainer(byte_model(dropout=0.2), loader, out="straight", **(SMALL | {"max_steps": 30})).train()
    assert (result.status, straight.status, result.step) == ("done", "done", 30)
    for name in ("model", "optimizer", "rng"):
        assert (
            tensors_of("run/step-000030")[f"{name}.safetensors"]
            == tensors_of("straight/step-000030")[f"{name}.safetensors"]
        )
    assert "rollback to step 10; the batches up to number 13 are skipped" in Path("run/train.log").read_text()
    assert [(row["step"], row["from_step"]) for row in rows_of("run", "rollback")] == [(10, 14)]
    assert [row["step"] for row in rows_of("run", "step")] == [*range(1, 14), *range(11, 31)]


def test_a_run_that_went_back_is_resumed_bit_for_bit(poem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    poisoned(poem, 13, "whole", on_nonfinite="rollback")
    for stop_at in (11, 16, 25):  # before it, soon after it, long after it: in steps that were made
        name = f"parts{stop_at}"
        monkeypatch.setenv("LIGHT_LLM_STOP_AFTER", str(stop_at))
        poisoned(poem, 13, name, on_nonfinite="rollback")
        monkeypatch.setenv("LIGHT_LLM_STOP_AFTER", "1")  # once more: two saves, and the regular one is still there
        poisoned(poem, 13, name, on_nonfinite="rollback", resume=True)
        monkeypatch.delenv("LIGHT_LLM_STOP_AFTER")
        _, result = poisoned(poem, 13, name, on_nonfinite="rollback", resume=True)
        assert result.step == 30 and tensors_of("whole/step-000030") == tensors_of(f"{name}/step-000030")


def test_going_back_has_an_end(poem: Path) -> None:
    """Every batch is bad: as often as may be, and then the run stops as ever."""
    model = byte_model()
    model.ln_f.register_forward_hook(lambda module, args, output: output * math.nan)
    settings = SMALL | {"on_nonfinite": "rollback", "max_rollbacks": 2, "max_steps": 9}
    result = Trainer(model, byte_loader(poem), out="run", **settings).train()
    assert (result.status, result.step) == ("nonfinite", 0)
    assert len(rows_of("run", "rollback")) == 2
    assert (
        "the run has returned to a checkpoint 2 times, which is the limit (max_rollbacks=2)"
        in Path("run/train.log").read_text()
    )


def test_going_back_passes_over_a_damaged_checkpoint(poem: Path) -> None:
    model, loader = byte_model(), byte_loader(poem)
    poison(model, loader.batch(23).tokens, model.h[0])
    trainer = Trainer(model, loader, out="run", **(SMALL | {"max_steps": 30, "on_nonfinite": "rollback"}))
    trainer.every(22, lambda step: flip(Path("run/step-000020/model.safetensors")) if step.number == 22 else None)
    assert trainer.train().status == "done"
    assert [row["step"] for row in rows_of("run", "rollback")] == [10]
    assert Path("run/step-000020.damaged").is_dir() and Path("run/step-000020").is_dir()


def too_large(model: LightLLM) -> None:
    """Finite numbers whose products are not."""
    model.ln_f.register_forward_hook(lambda module, args, output: output * 0 + 3e38)
    model.wte.weight.data.fill_(1)


@pytest.mark.parametrize(
    ("spoil", "first"),
    [
        (lambda m: m.h[0].attn.c_attn.weight.data[3].fill_(math.nan), "the weights of h.0.attn.c_attn.weight, before"),
        (lambda m: m.h[1].attn.register_forward_hook(lambda *a: a[2] * math.inf), "the output of h.1.attn"),
        (too_large, "the loss: the"),
        (lambda m: m.h[0].mlp.c_fc.weight.register_hook(lambda g: g * math.inf), "the gradient of h.0.mlp.c_fc.weight"),
        (lambda m: m.wte.weight.register_hook(lambda g: g.clamp(-1, 1) + 3e38), "the norm of the gradient: each "),
        (lambda m: None, "nothing when the step is repeated"),
    ],
)
def test_the_first_place_that_is_not_finite(spoil: Callable[[LightLLM], Any], first: str) -> None:
    model = byte_model(dropout=0.1)
    spoil(model)
    before = torch.get_rng_state()
    tokens = torch.randint(257, (2, 16), generator=torch.Generator().manual_seed(1))
    found = first_nonfinite(NextTokenLoss(model), tokens, tokens, device="cpu", dtype="float32")
    assert found.startswith(first)
    assert torch.equal(torch.get_rng_state(), before) and all(p.grad is None for p in model.parameters())


# ---- read late, as on a GPU: gated on the device


# Between callbacks, before a save, the last one, never.
@pytest.mark.parametrize(("batch", "policy"), [*product((13, 19, 29), ("stop", "skip", "rollback")), (999, "stop")])
def test_a_gated_run_is_the_run_that_is_read_at_once(
    poem: Path, monkeypatch: pytest.MonkeyPatch, policy: str, batch: int
) -> None:
    straight, first = poisoned(poem, batch, "first", on_nonfinite=policy)
    monkeypatch.setattr("light_llm.train.step.can_gate_updates", lambda device: True)
    pushed: list[int] = []

    class WatchedQueue(StepQueue):
        def push(self, step: PendingStep) -> None:
            super().push(step)
            assert self.gated
            pushed.append(len(self.steps))

    monkeypatch.setattr("light_llm.train.start.StepQueue", WatchedQueue)
    model, second = poisoned(poem, batch, "late", on_nonfinite=policy)
    assert set(pushed) == {1, 2}  # a step is pushed while the one before it is still unread
    assert (first.status, first.step, first.best_loss) == (second.status, second.step, second.best_loss)
    assert rows_of("first", "step") == rows_of("late", "step")
    assert rows_of("first", "rollback") == rows_of("late", "rollback")
    steps = [p.name for p in RunFolder("first").steps()]
    assert steps == [p.name for p in RunFolder("late").steps()] and steps
    for name in steps:
        assert tensors_of(f"first/{name}") == tensors_of(f"late/{name}")
    for mine, other in zip(model.parameters(), straight.parameters(), strict=True):  # in memory too, where it stopped
        assert torch.equal(mine, other)


def test_only_what_can_be_gated_is_read_late(poem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    adamw, muon = (build_optimizer(byte_model(), TrainConfig(optimizer=name)) for name in ("adamw", "muon"))
    assert [can_gate_updates(device) for device in ("cuda", "cuda:1", "mps", "cpu")] == [True, True, False, False]
    assert can_defer(adamw, "cuda") and not can_defer(adamw, "cpu") and not can_defer(muon, "cuda")
    monkeypatch.setattr("light_llm.train.step.can_gate_updates", lambda device: True)

    def gated(name: str, *, watch: bool = False, **changes: Any) -> bool:
        trainer = Trainer(byte_model(), byte_loader(poem), out=name, **(SMALL | {"max_steps": 1} | changes))
        if watch:
            trainer.every(1, lambda step: None)
        trainer.train()
        assert trainer.active is not None
        return trainer.active.queue.gated

    assert gated("a") and not gated("b", optimizer="muon")
    assert not gated("c", guards=[lambda step: "go"]) and not gated("d", watch=True)


# ---- spikes


@given(st.lists(st.floats(1.0, 9.0), min_size=MIN_LOSSES, max_size=64), st.floats(0.1, 10.0))
def test_a_spike_is_one_in_any_unit(losses: list[float], unit: float) -> None:
    """Nats or bits: the distance in standard deviations is the same, and no usual loss is one."""
    far = max(losses) * 3
    scaled = [x * unit for x in losses]
    assert robust_z(far * unit, scaled) == pytest.approx(robust_z(far, losses), rel=1e-6)
    assert robust_z(sorted(losses)[len(losses) // 2], losses) <= 1
    assert robust_z(min(losses) - 1, losses) < 0


def test_a_new_level_is_said_once_and_the_first_losses_say_nothing() -> None:
    usual = tuple(3.0 + 0.01 * (i % 7) for i in range(32))
    assert is_spike(4.0, usual) and not is_spike(4.0, (*usual, 4.0)) and not is_spike(4.0, usual[: MIN_LOSSES - 1])
    assert not is_spike(3.0 + 0.03 * SPIKE_THRESHOLD / 2, usual)


def test_the_scale_of_a_spike_is_the_robust_standard_deviation() -> None:
    losses = [1.0, 2.0, 3.0] * 8  # median 2, median absolute deviation 1
    assert robust_z(5.0, losses) == pytest.approx(3 / 1.4826, rel=1e-12)
    assert robust_z(2.1, [2.0] * 20) == pytest.approx(5.0), "the deviation counts as at least 1% of the median"
    assert robust_z(5.0, losses[:16]) > 0 == robust_z(5.0, losses[:15])
    at = 2.0 + 8 * 1.4826
    assert is_spike(math.nextafter(at, 99), losses) and not is_spike(at - 1e-9, losses)


class WithNoise(DataLoader):
    """One batch is noise: nothing a model can have learnt."""

    def __init__(self, loader: DataLoader, at: int) -> None:
        super().__init__(loader.dataset, loader.batch_size, loader.seed)
        self.at = at

    def batch(self, k: int) -> Batch:
        tokens, targets = super().batch(k)
        noise = torch.randint(257, targets.shape, generator=torch.Generator().manual_seed(k))
        return Batch(tokens, noise if k == self.at else targets)


@pytest.mark.parametrize("policy", ["warn", "rollback", "off"])
def test_a_spike_is_said_and_undone_if_asked(poem: Path, policy: str) -> None:
    loader = WithNoise(byte_loader(poem), at=53)
    settings = SMALL | {"max_steps": 60, "on_spike": policy}
    result = Trainer(byte_model(), loader, out="run", **settings).train()
    log = Path("run/train.log").read_text()
    assert result.status == "done"
    assert ("loss spike in step 54: " in log and ", recent median 2." in log) == (policy != "off")
    assert log.count("loss spike") == (policy != "off")
    assert [row["step"] for row in rows_of("run", "rollback")] == ([50] if policy == "rollback" else [])


# ---- memory


class Small:
    """A device on which a forward pass of more than `most` sequences does not fit, after so many that did.

    It is noticed in the last block, when the dropout of those before has been drawn.
    """

    def __init__(self, model: LightLLM, most: int, after: int = 0) -> None:
        self.most, self.after, self.calls = most, after, 0
        model.h[-1].mlp.register_forward_pre_hook(self.check)

    def check(self, module: nn.Module, args: Any) -> None:
        self.calls += module.training and torch.is_grad_enabled()
        if self.calls > self.after and len(args[0]) > self.most and torch.is_grad_enabled():
            raise torch.OutOfMemoryError("out of memory: tried to allocate 20.00 GiB")


@pytest.mark.parametrize(("most", "micro"), [(3, 2), (1, 1)])
def test_a_batch_that_does_not_fit_is_read_in_parts(
    poem: Path, capsys: pytest.CaptureFixture[str], most: int, micro: int
) -> None:
    """The same tokens a step, the same losses."""
    train_small(poem, "whole", model=byte_model(), max_steps=12)
    model = byte_model()
    Small(model, most)
    trainer, result = train_small(poem, "parts", model=model, max_steps=12, quiet=False)
    said = capsys.readouterr().out
    assert re.search(rf"memory +4 .*\b{micro} at a time.*\b4\b", said)
    losses = [[row["loss"] for row in rows_of(name, "step")] for name in ("whole", "parts")]
    assert result.status == "done" and losses[0] == pytest.approx(losses[1], rel=1e-5)
    assert RunFolder("parts").read_run()["run"]["train"]["micro_batch"] == micro == trainer.config.micro_batch


def test_a_step_that_fails_in_its_second_part_begins_anew(poem: Path) -> None:
    """The gradient of the first part is not counted twice."""
    for name, after in (("straight", 10**9), ("failed", 1)):
        model = byte_model()
        Small(model, 1, after=after)
        train_small(poem, name, model=model, max_steps=6, micro_batch=2)
    norms = [[row["grad_norm"] for row in rows_of(name, "step")] for name in ("straight", "failed")]
    assert norms[0] == pytest.approx(norms[1], rel=1e-4)


def test_a_single_sequence_that_does_not_fit_ends_with_advice(poem: Path) -> None:
    model = byte_model()
    Small(model, 0)
    message = r"out of memory in step 1 with 1 sequences at a time; nothing is saved. What helps: checkpointing=True"
    with pytest.raises(DeviceError, match=message):
        train_small(poem, model=model, max_steps=12)


def test_memory_that_runs_out_later_costs_no_step(poem: Path) -> None:
    """What was done is saved, with the generators as they were before the step that failed."""
    train_small(poem, "whole", max_steps=20)
    model = byte_model(dropout=0.2)
    Small(model, 2, after=14)
    message = (
        r"out of memory in step 15 with 4 sequences .*; step 14 is saved, continue with: light-llm train --resume --out"
    )
    with pytest.raises(DeviceError, match=message):
        train_small(poem, "parts", model=model, max_steps=20)
    _, result = train_small(poem, "parts", max_steps=20, resume=True)
    assert result.step == 20 and tensors_of("whole/step-000020") == tensors_of("parts/step-000020")


def test_a_model_that_no_memory_holds_is_refused_before_it_is_built(
    poem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--data", str(poem), "--tokenizer", "byte", "--set", "model.n_embd=1000000", "--set", "model.n_head=8"]
    assert main(["train", *words, "--max-length", "16"]) == 2
    assert re.search(r"This run needs 1,?\d{3} TB of memory; .* GB is", capsys.readouterr().err)


def test_the_parts_of_a_batch() -> None:
    sizes = [TrainConfig(batch_size=12)]
    while (smaller := smaller_micro_batch(sizes[-1], rows=12)) is not None:
        sizes.append(TrainConfig(batch_size=12, micro_batch=smaller))
    assert [c.micro_batch for c in sizes] == [None, 6, 3, 1]
