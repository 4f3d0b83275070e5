"""A run read as the pages need it: everything that is there, and nothing that only looks like a number."""

import json
import time
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_llm.cli import main
from light_llm.config import ModelConfig, Run
from light_llm.errors import CheckpointError, ConfigError
from light_llm.report import find_band, read_view, repeat_command
from light_llm.report.bands import Band, Point, read_bands
from light_llm.report.rows import evaluation, probe, sentence
from light_llm.report.step_table import StepTable
from tests.support.made_up_run import ANALYSIS, GROUPS, HASHES, PER_STEP, RUN, H, L, made_up_run, probe_row


def test_everything_a_run_wrote_is_there(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path / "run")
    (folder / "analysis.json").write_text(json.dumps(ANALYSIS))
    view = read_view(folder)
    assert (view.name, view.status, view.flops_per_token) == ("run", "done", 6e6)
    assert view.steps.step == tuple(range(1, 201))
    assert view.steps.tokens[-1] == 200 * PER_STEP
    assert list(view.steps.grad_norms) == list(GROUPS) and set(view.steps.update_ratios["wpe"]) == {1e-3}
    assert [e.step for e in view.held_out] == list(range(20, 201, 20)) and view.held_out[0].upto == (1, 2, 4, 8, 16)
    assert view.probe and view.probe.attention["relative"] == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert view.sentence and view.sentence.maps[0].weights[-1] == (0, 0, 0, 1)
    assert view.samples[-1] == (200, "At 200.") and view.analysis["step"] == 200


def test_an_older_run_has_its_losses(tmp_path: Path) -> None:
    view = read_view(made_up_run(tmp_path / "old", probed=False, status=None))
    assert view.held_out and not view.probes and not view.samples and view.probe is None and view.sentence is None
    assert view.steps.grad_norms == {} and set(view.steps.mfu) == {None} and view.held_out[0].by_position == ()
    assert view.status == "done"  # it made all its steps


@pytest.mark.parametrize(
    ("status", "steps", "seen"),
    [
        (None, 50, "unfinished"),
        ("interrupted", 50, "interrupted"),
        ("nonfinite", 50, "nonfinite"),
        ("done", 200, "done"),
    ],
)
def test_how_a_run_ended(tmp_path: Path, status: str | None, steps: int, seen: str) -> None:
    assert read_view(made_up_run(tmp_path / "run", status=status, steps=steps)).status == seen


def test_a_run_that_goes_on_after_its_end_is_unfinished(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path / "run", steps=50, status="interrupted")
    with open(folder / "metrics.jsonl", "a") as file:
        file.write('{"kind": "step", "step": 51, "loss": 4.0, "tokens": 1, "seconds": 1}\n')
    assert read_view(folder).status == "unfinished"


def test_of_a_step_made_twice_the_last_counts(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path / "run", steps=50)
    with open(folder / "metrics.jsonl", "a") as file:
        file.write(
            '{"kind": "rollback", "step": 30, "from_step": 50}\n{"kind": "step", "step": 31, "loss": 9.0}\n{"torn'
        )
    view = read_view(folder)
    assert view.steps.loss[30] == 9.0 and len(view.steps.step) == 50 and view.rollbacks == ((30, 50),)


def test_there_is_no_run(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="light-llm runs lists the runs"):
        read_view(tmp_path / "nothing")
    folder = made_up_run(tmp_path / "run")
    (folder / "run.json").write_text("{")
    with pytest.raises(CheckpointError, match="it is not JSON"):
        read_view(folder)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(list(probe_row(1))), inner, max_size=3),
    max_leaves=12,
)


@given(
    st.dictionaries(
        st.sampled_from([*probe_row(1), "by_position", "maps", "tokens", "grad_norms", "clipped", "text", "split"]),
        anything,
    )
)
def test_no_row_is_too_odd_to_be_read(fields: dict[str, object]) -> None:
    row = {**fields, "step": 3}
    assert probe(row).step == 3 and sentence(row).step == 3
    evaluation(row)
    table = StepTable()
    table.add(row)
    table.add(row)
    assert table.steps().step == (3,)


def test_a_step_that_is_written_again_is_another() -> None:
    """A run that went back: nothing of the old row is left, and the steps are in order."""
    table = StepTable()
    table.add({"step": 2, "loss": 5.0, "clipped": True, "grad_norms": {"wte": 1.0, "wpe": 2.0}})
    table.add({"step": 1, "loss": 6.0, "clipped": False})
    table.add({"step": 2, "loss": 4.0, "grad_norms": {"wpe": 3.0}, "mfu": 0.5})
    steps = table.steps()
    assert (steps.step, steps.loss, steps.mfu) == ((1, 2), (6.0, 4.0), (None, 0.5))
    assert steps.clipped == (False, None) and steps.grad_norms == {"wte": (None, None), "wpe": (None, 3.0)}


def test_a_map_must_be_a_triangle_over_its_tokens() -> None:
    whole = {"layer": 0, "head": 0, "why": "", "weights": [[1.0], [0.5, 0.5]]}
    cut = {**whole, "weights": [[1.0], [0.5]]}
    assert len(sentence({"step": 1, "tokens": ["a", "b"], "maps": [whole, cut]}).maps) == 1
    assert not sentence({"step": 1, "tokens": ["a", "b", "c"], "maps": [whole]}).maps


def test_a_grid_must_be_even() -> None:
    row = probe_row(1)
    row["attention"]["relative"] = [[0.1] * H, [0.1]]
    assert "relative" not in probe(row).attention and len(probe(row).attention["first"]) == L


BANDS = {
    "bands": {
        "tiny/verse": {
            "settings": {"model.n_layer": L, "train.lr": RUN.train.lr},
            "data_sha256": HASHES["sha256"],
            "tokenizer_sha256": HASHES["tokenizer_sha256"],
            "seeds": 3,
            "train": [[10, 6.0, 0.1]],
            "held_out": [[20, 5.0, 0.1], [40, 4.5, 0.0], ["x", None, 1]],
        }
    }
}


def test_a_band_is_of_the_same_settings_and_text() -> None:
    band = find_band(RUN, HASHES, BANDS)
    assert band and band.name == "tiny/verse" and [p.step for p in band.held_out] == [20, 40]
    assert find_band(RUN.with_settings(train__lr=1e-3), HASHES, BANDS) is None
    assert find_band(RUN.with_settings(train__seed=5), HASHES, BANDS) is not None  # a setting it does not name
    assert find_band(RUN, {**HASHES, "sha256": "c" * 64}, BANDS) is None
    assert find_band(RUN, {}, BANDS) is None
    assert find_band(RUN, HASHES, {}) is None


@pytest.mark.parametrize("preset", ["nano", "micro"])
@pytest.mark.parametrize("text", ["shakespeare", "tales"])
def test_the_bands_that_come_with_the_package_are_those_of_the_defaults(preset: str, text: str) -> None:
    """A change of a default leaves its band behind: then it is to be made again, or to go."""
    values = read_bands()["bands"][f"{preset}/{text}"]
    shape = ModelConfig.preset(preset)
    of_preset = {f"model__{name}": getattr(shape, name) for name in ("n_embd", "n_layer", "n_head")}
    run = Run().with_settings(
        **of_preset, train__lr_horizon=500, model__vocab_size=values["settings"]["model.vocab_size"]
    )
    hashes = {"sha256": values["data_sha256"], "tokenizer_sha256": values["tokenizer_sha256"]}
    band = find_band(run, hashes)
    assert band and band.name == f"{preset}/{text}" and band.seeds == 3
    assert [p.step for p in band.train] == list(range(10, band.train[-1].step + 1, 10)) and band.train[-1].step >= 200
    assert all(later.mean < earlier.mean for earlier, later in pairwise(band.held_out)) and len(band.held_out) >= 2
    if text == "shakespeare":
        assert values["settings"]["model.vocab_size"] == 50257 and values["data_sha256"].startswith("86c4e6aa9db7")


def test_a_band_is_three_standard_errors_wide_and_never_thin() -> None:
    band = Band("x", 3, (), ())
    assert band.width(Point(1, 5.0, 0.1)) == pytest.approx(0.3464, abs=1e-4)  # 3 x 0.1 x sqrt(1 + 1/3)
    assert band.width(Point(1, 5.0, 0.001)) == 0.03
    assert band.position(Point(1, 5.0, 0.0), 5.06) == pytest.approx(2)
    assert band.position(Point(1, 5.0, 0.0), 4.97) == pytest.approx(-1)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"train__lr": 3e-4, "model__dropout": 0.2, "data__data": "my text.txt"},
        {"model__n_embd": 192, "model__n_head": 3, "train__beta2": 0.99, "train__micro_batch": 4},
        {"data__tokenizer": "bpe", "model__vocab_size": 700, "train__seed": 3, "data__seed": 3},
        {"train__seed": 3, "data__seed": 4, "data__val_data": "other.txt", "train__lr_horizon": 900},
    ],
)
def test_the_command_says_every_setting(settings: dict[str, object]) -> None:
    """Read back by the command line's own parser, it is the same run."""
    import shlex

    from light_llm.cli.train import TrainFlags, parse_train

    run = Run().with_settings(**settings)
    words = shlex.split(repeat_command(run))
    assert words[:2] == ["light-llm", "train"]
    again = Run().with_settings(**parse_train(TrainFlags, words[2:], prog="", about="")[2])
    assert (again.train, again.data.seed) == (run.train, run.data.seed)
    wanted = f"bpe:{run.model.vocab_size}" if run.data.tokenizer == "bpe" else run.data.tokenizer
    assert again.data == replace(run.data, tokenizer=wanted)
    vocabulary = run.model.vocab_size if run.data.tokenizer == "gpt2" else again.model.vocab_size
    assert again.model == replace(run.model, vocab_size=vocabulary)


@pytest.mark.parametrize("number", ["9" * 400, "1e308", "-7", "1e999"])
def test_no_number_is_too_large_to_be_read(tmp_path: Path, number: str) -> None:
    folder = made_up_run(tmp_path / "run")
    row = f'{{"kind": "step", "step": %d, "loss": {number}, "seconds": {number}, "tokens": {number}}}\n'
    with (folder / "metrics.jsonl").open("a") as file:
        file.write("".join(row % step for step in (201, 202, 203)) + row.replace("%d", number))
    assert main(["report", str(folder), "--no-page"]) == 0
    assert main(["runs", str(tmp_path)]) == 0
    assert read_view(folder).past.step == 203


@pytest.mark.slow
def test_a_hundred_thousand_steps_are_read_in_seconds(tmp_path: Path) -> None:
    folder = made_up_run(tmp_path / "long", steps=100_000, every=1000, run=RUN.with_settings(train__max_steps=100_000))
    start = time.process_time()
    assert main(["report", str(folder)]) == 0
    assert time.process_time() - start < 60
    assert (folder / "report.html").stat().st_size < 8e6  # of which plotly is 4.8 million
