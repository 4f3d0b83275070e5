"""Probes: cases with known answers, and no effect on model or run. tests/formulas/probes.py has the formulas."""

import itertools
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from light_llm.data.shards import TokensInMemory
from light_llm.errors import ConfigError
from light_llm.evaluate import bucket_ends
from light_llm.model import LightLLM
from light_llm.observe import activations, attention, predictions
from light_llm.observe.probe import ProbeBatch, make_probe_batch, probe_model, select_attention_maps
from tests.support.tools import byte_loader, byte_model, rows_of, some_tokens, tensors_of, tiny_model, train_small


@pytest.fixture
def opinionated() -> LightLLM:
    return tiny_model(scale=6)


@pytest.fixture
def batch() -> ProbeBatch:
    ids = some_tokens(1, 200)[0].numpy()
    return make_probe_batch(TokensInMemory(ids), context=16, n_ids=61)


# ---- attention


@pytest.mark.parametrize(
    ("relative", "similarity", "previous", "said"),
    [
        ([[0.5, 0.5]], [0.5], None, []),
        ([[0.5, 0.001]], [0.5], [[0.5, 0.5]], ["layer 0, head 1 attends to one position only"]),
        ([[0.001, 0.001]], [0.1], [[0.95, 0.2]], ["layer 0, head 1 attends to one position only"]),
        ([[0.5], [0.999]], [0.0, 0.0], None, ["layer 1, head 0 attends uniformly"]),
        ([[0.5, 0.5]], [0.99], None, ["all heads of layer 0 attend to the same positions"]),
    ],
)
def test_an_alarm_names_layer_and_head(relative: Any, similarity: Any, previous: Any, said: list[str]) -> None:
    """A head that always looks at the previous token raises none."""
    raised = attention.alarms(relative, similarity, previous)
    assert [str(alarm) for alarm in raised] == said


def test_an_alarm_begins_beyond_its_limit() -> None:
    at_limits = attention.alarms([[0.98, 0.02]], [0.98])
    assert at_limits == []
    up, down = math.nextafter(0.98, 1), math.nextafter(0.02, 0)
    assert [a.what for a in attention.alarms([[up, down]], [up])] == ["uniform", "one position", "all heads alike"]
    previous = [[0.9, math.nextafter(0.9, 1)]]  # a previous-token head has more than 0.9 of its weight there
    assert [a.head for a in attention.alarms([[down, down]], [0.5], previous)] == [0]


def test_recording_attention_leaves_the_forward_pass_as_it_is(opinionated: LightLLM) -> None:
    x = some_tokens()
    plain = opinionated(x)
    with attention.record_attention(opinionated) as seen:
        assert torch.equal(opinionated(x), plain)
    assert len(seen) == 2 and seen[0].shape == (3, 3, 16, 16)
    seen.clear()
    opinionated(x)
    assert not seen, "the probe stayed behind"


def test_recorded_weights_have_the_scale_of_the_scores() -> None:
    scaled, usual = tiny_model(scale=4, attn_scale=1.0), tiny_model(scale=4)
    with torch.no_grad():
        for block in usual.h:
            for parameter in block.attn.c_attn.parameters():  # type: ignore[union-attr]
                parameter[:24] *= 8**0.5  # the queries of 3 heads of 8
    with attention.record_attention(scaled) as seen, attention.record_attention(usual) as expected:
        torch.testing.assert_close(scaled(some_tokens()), usual(some_tokens()), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(seen, expected, rtol=1e-4, atol=1e-5)


# ---- activations


def test_the_stream_is_recorded_after_the_embeddings_and_each_block(opinionated: LightLLM) -> None:
    x = some_tokens()
    with activations.record_activations(opinionated) as seen:
        hidden = opinionated.hidden_states(x)
    assert len(seen.stream) == 3 and len(seen.mlp_units) == 2 and seen.mlp_units[0].shape == (3, 16, 96)
    torch.testing.assert_close(seen.stream[0], opinionated.wte(x) + opinionated.wpe(torch.arange(16)))
    torch.testing.assert_close(opinionated.ln_f(seen.stream[-1]), hidden)
    opinionated.hidden_states(x)
    assert len(seen.stream) == 3, "a hook stayed behind"


# ---- predictions


def test_calibration_by_hand() -> None:
    confidence, right = torch.tensor([0.91, 0.95, 0.97, 0.12, 1.0]), torch.tensor([1.0, 0.0, 1.0, 0.0, 1.0])
    error, bins = predictions.calibration(confidence, right)
    rows = [(b.count, pytest.approx(b.accuracy), pytest.approx(b.confidence)) for b in bins]
    assert rows == [(1, 0.0, 0.12), (4, 0.75, 0.9575)]
    assert error == pytest.approx((0.12 + 4 * (0.9575 - 0.75)) / 5)
    error, bins = predictions.calibration(torch.full((4,), math.nan), torch.zeros(4))
    assert math.isnan(error) and bins == []


def test_a_model_that_blew_up_can_be_probed_and_ends_no_run(poem: Path) -> None:
    """The guard reports it at the next step; the probe before that does not fail."""
    _, result = train_small(poem, model=byte_model(), max_steps=12, lr=1e12, warmup_steps=1, probe_interval=1)
    assert result.status == "nonfinite" and rows_of("run", "end")[-1]["status"] == "nonfinite"
    assert any(row["predictions"]["calibration_error"] is None for row in rows_of("run", "probe"))


def test_a_probe_that_fails_is_reported_and_ends_no_run(
    poem: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> Any:
        raise ZeroDivisionError("nothing to look at")

    train_small(poem, "whole", max_steps=6, probe_interval=2)
    monkeypatch.setattr("light_llm.train.evaluation.probe_model", broken)
    _, result = train_small(poem, max_steps=6, probe_interval=2, quiet=False)
    said = capsys.readouterr().out
    assert said.count("the probe at step 2 failed (ZeroDivisionError: nothing to look at)") == 1
    assert result.status == "done" and tensors_of("run/step-000006") == tensors_of("whole/step-000006")


# ---- the loss by position


@pytest.mark.parametrize("T", [1, 2, 3, 512, 1000])
def test_buckets_double_and_end_at_the_context(T: int) -> None:
    ends = bucket_ends(T)
    assert ends[-1] == T and ends == sorted(set(ends)) and all(b <= 2 * a for a, b in itertools.pairwise(ends))


# ---- the whole probe


def test_a_probe_changes_nothing_and_leaves_nothing(opinionated: LightLLM, batch: ProbeBatch) -> None:
    opinionated.train()
    before = {name: t.clone() for name, t in opinionated.state_dict().items()}
    attend, generator = opinionated.h[0].attn.attend, torch.get_rng_state()
    first, second = probe_model(opinionated, batch), probe_model(opinionated, batch)
    assert first.row == second.row and opinionated.training
    assert all(torch.equal(t, before[name]) for name, t in opinionated.state_dict().items())
    assert torch.equal(generator, torch.get_rng_state()) and opinionated.h[0].attn.attend is attend
    assert all(p.grad is None for p in opinionated.parameters())
    assert not any(m._forward_hooks for m in opinionated.modules())


def test_a_probe_that_fails_leaves_nothing_either(opinionated: LightLLM, batch: ProbeBatch) -> None:
    attend = opinionated.h[0].attn.attend
    opinionated.train()
    with pytest.raises(ConfigError, match="token ids"):
        probe_model(opinionated, ProbeBatch(batch.tokens + 1000, batch.targets, batch.repeated))
    assert opinionated.training and opinionated.h[0].attn.attend is attend
    assert not any(m._forward_hooks for m in opinionated.modules())


def test_the_fixed_batch_is_spread_over_the_text() -> None:
    ids = np.arange(10_000)
    batch = make_probe_batch(TokensInMemory(ids), context=128, n_ids=61)
    assert batch.tokens.shape == (4, 128) and torch.equal(batch.targets, batch.tokens + 1)
    assert batch.tokens[0, 0] == 0 and batch.targets[-1, -1] == 9_999
    assert make_probe_batch(TokensInMemory(ids[:5]), context=128, n_ids=61).tokens.shape == (1, 4)
    assert make_probe_batch(TokensInMemory(ids), context=1, n_ids=61).tokens.shape == (512, 1)


@pytest.mark.parametrize("context", [1, 2, 3, 4])
def test_the_shortest_windows_can_be_probed(context: int) -> None:
    model = tiny_model(n_positions=context, scale=6)
    batch = make_probe_batch(TokensInMemory(some_tokens(1, 40)[0].numpy()), context=context, n_ids=61)
    row = probe_model(model, batch).row
    assert (row["induction"]["gain"] is None) == (context < 3)
    assert batch.repeated.size(1) - 1 <= context and select_attention_maps(probe_model(model, batch))


def test_the_maps_are_of_heads_that_stand_out(opinionated: LightLLM, batch: ProbeBatch) -> None:
    seen = probe_model(opinionated, batch)
    maps = select_attention_maps(seen)
    assert len({(m["layer"], m["head"]) for m in maps}) == len(maps) == 6
    facts = seen.row["attention"]
    by_why = {m["why"]: m for m in maps}
    best = by_why["most weight on the previous token"]
    assert facts["previous"][best["layer"]][best["head"]] == max(map(max, facts["previous"]))
    for m in maps:
        assert [len(row) for row in m["weights"]] == list(range(1, 17))
        assert all(sum(row) == pytest.approx(1, abs=0.01) for row in m["weights"])


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_a_run_with_probes_is_the_run_without_to_the_last_bit(poem: Path, dropout: float) -> None:
    model = byte_model(dropout=dropout)
    train_small(poem, "with", model=model, max_steps=12, probe_interval=3)
    train_small(poem, "without", model=byte_model(dropout=dropout), max_steps=12, probe_interval=0)
    assert tensors_of("with/step-000012") == tensors_of("without/step-000012")
    assert rows_of("with", "step") == rows_of("without", "step")
    assert [row["step"] for row in rows_of("with", "probe")] == [3, 6, 9, 12] and not rows_of("without", "probe")
    assert [row["step"] for row in rows_of("with", "attention")] == [12]
    shown = rows_of("with", "attention")[0]["tokens"]
    assert "".join(shown) in byte_loader(poem).dataset.source.path.read_text()  # type: ignore[union-attr]


def test_heads_that_stay_without_information_are_said(poem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A rate of nearly nothing: every head stays as even as at the start."""
    train_small(poem, model=byte_model(), max_steps=8, probe_interval=1, warmup_steps=1, lr=1e-9, quiet=False)
    said = [line for line in capsys.readouterr().out.splitlines() if "attention at step" in line]
    assert len(said) == 1 and "attention at step 4: " in said[0] and "attends uniformly" in said[0]
    assert all(row["alarms"] for row in rows_of("run", "probe"))
