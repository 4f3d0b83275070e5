"""The loop: what it computes, how it stops, what it leaves behind."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from light_llm.checkpoint import RunFolder, load_model, read_model
from light_llm.checkpoint.commit import verify_folder
from light_llm.config import ModelConfig, TrainConfig
from light_llm.data import DataLoader, create_dataloader, prepare_dataset
from light_llm.errors import CheckpointError, ConfigError, LightLLMError
from light_llm.model import LightLLM
from light_llm.train import Callback, EvaluateHeldOut, Step, Trainer, TrainState, WriteSample
from light_llm.train.callbacks import MAX_SKIPS, NonFiniteGuard
from light_llm.train.step import Status
from tests.support.tools import SMALL, Foreign, byte_loader, byte_model, files_of, rows_of, tensors_of, train_small

# ---- what it computes


def test_training_learns_and_leaves_a_complete_folder(poem: Path) -> None:
    trainer, result = train_small(poem, max_steps=40)
    losses = [row["loss"] for row in rows_of("run", "step")]
    assert len(losses) == 40 and losses[0] == pytest.approx(math.log(257), abs=0.1) and losses[-1] < 3.2
    assert (result.status, result.step, result.best_step) == ("done", 40, 40)
    assert sorted(p.name for p in Path("run").iterdir()) == [
        "best_model.pt",
        "metrics.jsonl",
        "run.json",
        "step-000030",
        "step-000040",
        "train.log",
    ]
    assert result.tokens_per_second > 0 and result.seconds > 0 and trainer.state.tokens == 40 * 4 * 16
    best = read_model("run")
    assert best.meta["step"] == 40 and best.meta["evaluation"]["loss"] == result.best_loss
    assert best.data["source"] == str(poem) and best.tokenizer is not None


def test_the_evaluation_in_the_file_is_that_of_the_model(poem: Path) -> None:
    import numpy as np

    from light_llm.data.tokenizers import byte_lengths
    from light_llm.evaluate import evaluate_loss

    _, result = train_small(poem, max_steps=20)
    dataset, tokenizer = prepare_dataset(str(poem), 16, "byte")
    found = evaluate_loss(
        load_model("run").model, dataset.held_out, np.array(byte_lengths(tokenizer)), context=16, batch_size=4
    )
    assert found.loss == result.best_loss == rows_of("run", "eval")[-1]["loss"]


def test_a_step_is_the_formula(poem: Path) -> None:
    """One step by hand: mean loss, its gradient clipped to norm 1, AdamW at the first rate of the warm-up."""
    loader = byte_loader(poem)
    by_hand = byte_model()
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in by_hand.parameters() if p.ndim > 1], "weight_decay": 0.1},
            {"params": [p for p in by_hand.parameters() if p.ndim == 1], "weight_decay": 0.0},
        ],
        lr=1e-2 / 3,
        betas=(0.9, 0.95),
        eps=TrainConfig().eps,
    )
    tokens, targets = loader.batch(0)
    loss = torch.nn.functional.cross_entropy(by_hand(tokens).flatten(0, 1), targets.flatten())
    loss.backward()
    norm = torch.nn.utils.clip_grad_norm_(by_hand.parameters(), 1.0)
    optimizer.step()

    ours = byte_model()
    train_small(poem, model=ours, max_steps=1, lr_horizon=40)
    row = rows_of("run", "step")[0]
    assert row["loss"] == pytest.approx(loss.item(), rel=1e-5)
    assert row["grad_norm"] == pytest.approx(norm.item(), rel=1e-4)
    assert row["lr"] == pytest.approx(1e-2 / 3)
    assert row["bits_per_byte"] == pytest.approx(loss.item() / math.log(2), rel=1e-5)  # a byte is a token here
    for (name, mine), (_, theirs) in zip(ours.named_parameters(), by_hand.named_parameters(), strict=True):
        torch.testing.assert_close(mine, theirs, atol=2e-5, rtol=1e-4, msg=name)


def test_the_same_seed_is_the_same_run(poem: Path) -> None:
    runs = []
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        model, loader = byte_model(dropout=0.2), byte_loader(poem, seed=seed)
        Trainer(model, loader, out=name, max_steps=12, seed=seed, **SMALL).train()
        runs.append(rows_of(name, "step"))
    assert runs[0] == runs[1] != runs[2]
    assert files_of(Path("a/step-000012")) == files_of(Path("b/step-000012"))


def test_what_auto_became_is_what_is_recorded(poem: Path) -> None:
    train_small(poem, max_steps=2, dtype="auto", device="auto")
    record = json.loads(Path("run/run.json").read_text())
    settled = record["run"]["train"]
    assert settled["device"] in ("cpu", "mps", "cuda") and settled["dtype"] in ("float32", "bfloat16")
    assert settled["compile"] == "off" and settled["lr_horizon"] == 2
    assert record["decided"]["dtype"]["reason"] and record["plan"]["tokens_per_step"] == 64
    assert record["run"]["data"]["data"] == str(poem) and record["run"]["data"]["seed"] == 1
    assert read_model("run").meta["dtype"] == settled["dtype"]


# ---- stopping


def test_an_interruption_leaves_a_model_even_before_an_evaluation(poem: Path) -> None:
    model, loader = byte_model(), byte_loader(poem)
    trainer = Trainer(model, loader, out="run", max_steps=50, **SMALL)
    trainer.every(3, lambda step: trainer.request_stop())
    result = trainer.train()
    assert (result.status, result.step, result.best_loss) == ("interrupted", 3, None)
    stand_in = load_model("run/best_model.pt")
    assert stand_in.file.meta["evaluation"] is None
    assert torch.equal(stand_in.model.wte.weight, model.wte.weight)
    verify_folder(Path("run/step-000003"))


def test_a_callback_may_stop_a_run_and_it_is_evaluated(poem: Path) -> None:
    trainer = Trainer(byte_model(), byte_loader(poem), out="run", max_steps=50, **SMALL)
    seen: list[Step] = []

    def callback(step: Step) -> str | None:
        seen.append(step)
        return "stop" if step.number == 6 else None

    trainer.every(2, callback)
    result = trainer.train()
    assert (result.status, result.step, [s.number for s in seen]) == ("stopped", 6, [2, 4, 6])
    assert [row["step"] for row in rows_of("run", "eval")] == [6]
    with pytest.raises(AttributeError):
        seen[0].loss = 0.0  # type: ignore[misc]


def poisoned(loader: DataLoader, at: int, weight: float = math.nan) -> tuple[LightLLM, Callable[[], None]]:
    """A model whose forward pass goes wrong at one batch, as an overflow would."""
    model = byte_model()
    calls = [0]

    def spoil(module: Any, args: Any, hidden: torch.Tensor) -> torch.Tensor:
        calls[0] += 1
        return hidden * weight if calls[0] == at else hidden

    handle = model.ln_f.register_forward_hook(spoil)
    return model, handle.remove


def test_a_step_that_is_not_finite_never_reaches_the_weights(poem: Path) -> None:
    model, remove = poisoned(byte_loader(poem), at=5)
    trainer = Trainer(model, byte_loader(poem), out="run", max_steps=20, **SMALL)
    weights: dict[int, torch.Tensor] = {}
    trainer.every(1, lambda step: weights.update({step.number: model.wte.weight.detach().clone()}) or None)
    result = trainer.train()
    assert (result.status, result.step) == ("nonfinite", 4)
    assert torch.equal(model.wte.weight, weights[4])
    assert not list(Path("run").glob("step-*")) and not Path("run/best_model.pt").exists()
    remove()


@pytest.mark.parametrize("weight", [math.nan, math.inf])
def test_skipping_goes_on_without_the_step(poem: Path, weight: float) -> None:
    model, remove = poisoned(byte_loader(poem), at=5, weight=weight)
    trainer = Trainer(
        model, byte_loader(poem), out="run", **(SMALL | {"max_steps": 12, "eval_interval": 12, "on_nonfinite": "skip"})
    )
    result = trainer.train()
    remove()
    rows = rows_of("run", "step")
    assert (result.status, result.step) == ("done", 12)
    assert [row["step"] for row in rows if row.get("skipped")] == [5] and rows[4]["loss"] is None
    assert all(p.isfinite().all() for p in model.parameters())


def test_skipping_gives_up() -> None:
    guard = NonFiniteGuard("skip")
    bad, good = Step(1, math.nan, 1.0, 0.1), Step(1, 2.0, 1.0, 0.1)
    assert [guard(bad) for _ in range(MAX_SKIPS)] == ["skip"] * MAX_SKIPS
    assert guard(good) == "go" and [guard(bad) for _ in range(MAX_SKIPS + 1)][-1] == "stop"
    assert NonFiniteGuard("stop")(Step(1, 1.0, math.inf, 0.1)) == "stop"


def test_a_guard_of_ones_own_decides_before_the_weights_change(poem: Path) -> None:
    model = byte_model()
    before = model.wte.weight.detach().clone()
    proposals: list[Step] = []
    trainer = Trainer(
        model, byte_loader(poem), out="run", max_steps=3, guards=[lambda p: proposals.append(p) or "skip"], **SMALL
    )
    trainer.train()
    assert torch.equal(model.wte.weight, before) and [p.number for p in proposals] == [1, 2, 3]


def test_only_a_better_and_finite_loss_is_best(poem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    best = Trainer(byte_model(), byte_loader(poem), out="run", **SMALL).checkpointer
    monkeypatch.setattr(best, "write_best", lambda step, evaluation: written.append(step))
    losses = ((1, 5.0), (2, 6.0), (3, math.nan), (4, 4.0), (5, 4.0))
    offers = [best.offer_best(step, loss, {}) for step, loss in losses]
    assert offers == [True, False, False, True, False] and written == [1, 4] and best.best_loss == 4.0


def test_a_guards_stop_on_finite_numbers_keeps_the_work(poem: Path) -> None:
    guard = [lambda p: "stop" if p.number == 7 else "go"]
    result = Trainer(byte_model(), byte_loader(poem), out="run", max_steps=20, guards=guard, **SMALL).train()
    assert (result.status, result.step) == ("stopped", 6)
    assert [row["step"] for row in rows_of("run", "eval")] == [6]
    verify_folder(Path("run/step-000006"))


def test_a_guard_that_forgets_to_answer(poem: Path) -> None:
    trainer = Trainer(byte_model(), byte_loader(poem), out="run", guards=[lambda p: None], **SMALL)
    with pytest.raises(ConfigError, match="guard.*None.*go, skip, stop"):
        trainer.train()


def test_a_stop_at_the_last_or_an_evaluated_step_adds_nothing(poem: Path) -> None:
    for name, max_steps, status in (("a", 10, "done"), ("b", 30, "stopped")):
        trainer = Trainer(byte_model(), byte_loader(poem), out=name, max_steps=max_steps, **SMALL)
        trainer.every(10, lambda step: "stop")
        assert trainer.train().status == status
        assert [row["step"] for row in rows_of(name, "eval")] == [10]


def test_the_stand_in_follows_the_run(poem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupted twice before any evaluation: the model in the folder is the later one."""
    settings = SMALL | {"eval_interval": 100}
    for stop_after, step in (("3", 3), ("4", 7)):
        monkeypatch.setenv("LIGHT_LLM_STOP_AFTER", stop_after)
        trainer = Trainer(byte_model(), byte_loader(poem), out="run", max_steps=50, resume=step == 7, **settings)
        trainer.train()
        assert read_model("run").meta["step"] == step


def test_a_callback_needs_an_interval_and_a_place_that_exists(poem: Path) -> None:
    trainer = Trainer(byte_model(), byte_loader(poem), **SMALL)
    with pytest.raises(ConfigError, match="every=0"):
        trainer.every(0, lambda step: None)
    with pytest.raises(ConfigError, match="WriteSample.*EvaluateHeldOut"):  # sample_interval is 0
        trainer.add_callback(Callback(), before=WriteSample)
    with pytest.raises(ConfigError, match="function.*trainer.every"):
        trainer.add_callback(print_step)  # type: ignore[arg-type]


def print_step(step: Step) -> None:
    print(step.number)


def test_a_callback_runs_at_its_place_and_at_each_point_of_a_run(poem: Path) -> None:
    """Before the evaluation: the checkpoint of the step is there, and its evaluation is not."""
    calls: list[tuple[Any, ...]] = []

    class Watch(Callback):
        def on_start(self) -> None:
            calls.append(("start", Path("run/run.json").exists()))

        def on_step(self, step: Step) -> None:
            calls.append((step.number, Path(f"run/step-{step.number:06d}").is_dir(), len(rows_of("run", "eval"))))

        def on_rollback(self, from_step: int, state: TrainState) -> None:
            calls.append(("rollback", from_step, state.step))

        def on_end(self, status: Status) -> None:
            calls.append(("end", status))

    guard = iter(["go"] * 24 + ["rollback"] + ["go"] * 99)
    how = SMALL | {"max_steps": 25, "guards": [lambda step: next(guard)]}
    trainer = Trainer(byte_model(), byte_loader(poem), out="run", **how)
    trainer.add_callback(Watch(), every=10, before=EvaluateHeldOut)
    trainer.train()
    steps = [(10, True, 0), (20, True, 1), ("rollback", 25, 20), (25, True, 2)]
    assert calls == [("start", True), *steps, ("end", "done")]


# ---- folders


def test_the_default_folder_sets_an_earlier_run_aside(poem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for _ in range(2):
        Trainer(byte_model(), byte_loader(poem), max_steps=2, **(SMALL | {"quiet": False})).train()
    assert Path("checkpoints/run.json").exists() and Path("checkpoints.1/best_model.pt").exists()
    assert "the earlier run in checkpoints is now in checkpoints.1" in capsys.readouterr().out


def test_a_named_folder_is_refused_or_overwritten(poem: Path) -> None:
    train_small(poem, max_steps=4)
    Path("run/notes.txt").write_text("mine")
    with pytest.raises(CheckpointError, match="run .*overwrite=True"):
        train_small(poem, max_steps=4)
    _, result = train_small(poem, max_steps=6, overwrite=True)
    assert result.step == 6 and Path("run/notes.txt").read_text() == "mine"
    assert [p.name for p in RunFolder("run").steps()] == ["step-000006"] and not Path("run/.previous-run").exists()


def test_an_overwriting_run_without_a_checkpoint_gives_the_old_one_back(
    poem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train_small(poem, max_steps=4)
    before = files_of(Path("run/step-000004"))
    trainer = Trainer(byte_model(), byte_loader(poem), out="run", overwrite=True, **(SMALL | {"quiet": False}))
    trainer.request_stop()
    assert (trainer.train().status, trainer.state.step) == ("interrupted", 0)
    shown = capsys.readouterr().out
    assert (
        "interrupted before the first step; nothing was saved" in shown and "kept     the earlier run in run" in shown
    )
    assert files_of(Path("run/step-000004")) == before and not Path("run/.previous-run").exists()
    assert train_small(poem, max_steps=6, resume=True)[1].step == 6


def test_a_batch_size_that_is_not_the_loaders(poem: Path) -> None:
    with pytest.raises(ConfigError, match="batch_size=64.* 4; .*create_dataloader"):
        Trainer(byte_model(), byte_loader(poem), batch_size=64)


# ---- loaders that are not ours


def test_a_foreign_loader_trains_and_says_what_is_missing(poem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    trainer = Trainer(byte_model(), Foreign(byte_loader(poem)), out="run", max_steps=23, **(SMALL | {"quiet": False}))
    result = trainer.train()
    rows = rows_of("run", "eval")
    assert [row["step"] for row in rows] == [10, 20, 23] and rows[0]["split"] == "training"
    steps = [row["loss"] for row in rows_of("run", "step")]
    assert rows[1]["loss"] == pytest.approx(sum(steps[10:20]) / 10)
    assert result.best_loss == min(row["loss"] for row in rows)
    assert read_model("run").tokenizer is None
    said = capsys.readouterr().out
    assert "your own loader" in said
    resumed = Trainer(byte_model(), Foreign(byte_loader(poem)), out="run", max_steps=26, resume=True, **SMALL).train()
    assert resumed.step == 26


@pytest.mark.parametrize(
    ("loader", "message"),
    [
        ([], "the loader gives no batches"),
        ([torch.zeros(2, 3)], r"the loader gives a tensor \(2, 3\) of float32; it must yield pairs"),
        ([(torch.zeros(2, 3).long(), torch.zeros(3, 2).long())], r"tensor \(2, 3\) of int64 and a tensor \(3, 2\)"),
        ([(torch.zeros(2, 3).long(), torch.zeros(2, 3))], r"a tensor \(2, 3\) of float32; .* and whole numbers"),
        ([(torch.zeros(0, 3).long(), torch.zeros(0, 3).long())], r"a tensor \(0, 3\) of int64 and"),
        ([{"input_ids": torch.zeros(2, 3), "labels": 1}], "gives a dict with the keys input_ids, labels; it must"),
        ([([1, 2], [2, 3])], "gives a tuple of a list of 2 values and a list of 2 values; it must"),
        (
            [(torch.zeros(2, 3).long(), torch.full((2, 3), -1))],
            r"gives id -1; .* a target that is ignored is -100",
        ),
        ([(torch.zeros(2, 3).long(), torch.full((2, 3), 257))], r"gives id 257; this model has 0 ... 256"),
        ([(torch.full((2, 3), -100), torch.zeros(2, 3).long())], r"gives id -100; this model has 0 ... 256"),
    ],
)
def test_a_loader_that_cannot_be_used(loader: list[Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Trainer(byte_model(), loader, out="run", max_steps=2, **SMALL).train()


# ---- what cannot be


def test_settings_that_do_not_exist_name_the_near_one(poem: Path) -> None:
    with pytest.raises(ConfigError, match=r"'max_step'.*max_steps"):
        Trainer(byte_model(), byte_loader(poem), max_step=3)


def test_a_model_that_does_not_fit_the_data(poem: Path) -> None:
    small = LightLLM(ModelConfig(vocab_size=100, n_positions=32, n_embd=24, n_layer=1, n_head=2))
    with pytest.raises(ConfigError, match="257 .*vocab_size=100"):
        Trainer(small, byte_loader(poem))
    with pytest.raises(ConfigError, match=r"max_length=64 .*n_positions=32"):
        Trainer(byte_model(), byte_loader(poem, max_length=64))


def test_nothing_is_written_by_a_trainer_that_never_trains(poem: Path) -> None:
    before = set(Path().iterdir())
    Trainer(byte_model(), byte_loader(poem), out="run", **SMALL)
    with pytest.raises(LightLLMError):
        Trainer(byte_model(), byte_loader(poem), out="run2", **(SMALL | {"device": "tpu"}))
    assert set(Path().iterdir()) == before


def test_a_trainer_trains_once(poem: Path) -> None:
    trainer, _ = train_small(poem, max_steps=2)
    with pytest.raises(ConfigError, match="resume=True"):
        trainer.train()


def test_a_model_larger_than_its_tokenizer_never_samples_the_rest(poem: Path) -> None:
    from light_llm.generate import TextGenerator

    model = LightLLM(ModelConfig(vocab_size=300, n_positions=32, n_embd=24, n_layer=1, n_head=2))
    dataset, _ = prepare_dataset(str(poem), 16, "byte")
    Trainer(model, create_dataloader(dataset, 2), TrainConfig(), out="run", max_steps=1, **SMALL).train()
    assert TextGenerator("run", device="cpu").generate("a", 50, temperature=50.0, top_k=0, seed=1)


def test_samples_are_shown_and_change_nothing(poem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train_small(poem, "with", max_steps=8, sample_interval=4, quiet=False)
    train_small(poem, "without", max_steps=8)
    assert "a sample at step 4:" in capsys.readouterr().out
    assert tensors_of("with/step-000008") == tensors_of("without/step-000008")


def test_a_sample_starts_as_the_generator_does(poem: Path) -> None:
    """One training document and several held out: the ids have separators, so both begin with one."""
    from light_llm.generate import TextGenerator

    Path("held_out").mkdir()
    for name in "ab":
        Path("held_out", f"{name}.txt").write_text(poem.read_text())
    dataset, _ = prepare_dataset(str(poem), 16, "byte", val_data="held_out")
    settings = SMALL | {"max_steps": 2, "sample_interval": 2, "quiet": True}
    Trainer(byte_model(), create_dataloader(dataset, 2), TrainConfig(), out="run", **settings).train()
    (row,) = rows_of("run", "sample")
    text = TextGenerator("run/step-000002", device="cpu").generate("", 48, temperature=0.8, top_k=40, seed=1)
    assert row["text"] == text.strip("\n")
