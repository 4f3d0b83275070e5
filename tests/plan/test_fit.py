"""Suggestions for a run that does not fit really fit and change as little as possible; a budget is kept."""

from dataclasses import replace
from functools import partial

import pytest

from light_llm.config import ModelConfig, TrainConfig, matrix_parameters
from light_llm.errors import ConfigError
from light_llm.plan import speed as speed_module
from light_llm.plan.budget import MAX_PASSES, MIN_STEPS, TOKENS_PER_PARAMETER, Budget, fit_to_budget, parse_budget
from light_llm.plan.plan import DatasetSize, Plan, make_plan
from light_llm.plan.render import header_lines, refusal, table, warning_lines
from light_llm.plan.suggest import apply, micro_batches, suggest_settings, without_fixed
from light_llm.runtime import MemoryLimit
from tests.support.tools import PROFILE

CPU = TrainConfig(device="cpu", dtype="float32", compile="off")
MICRO, NANO, SMALL = ModelConfig(), ModelConfig.nano(), ModelConfig.small()
TEXT = DatasetSize(300_000, 36_000)
FRAMEWORK = 250_000_000


@pytest.fixture(autouse=True)
def known_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(speed_module, "profile", lambda device, dtype, model: PROFILE)


def planned(gigabytes: float, model: ModelConfig = MICRO, train: TrainConfig = CPU) -> Plan:
    limit = MemoryLimit(int(gigabytes * 1e9), "a test's limit")
    return make_plan(model, train, 512, TEXT, framework=FRAMEWORK, limit=limit, timed=False)


@pytest.mark.parametrize("gigabytes", [1.0, 1.3, 1.6, 1.9])
def test_each_suggestion_fits_and_names_its_flags(gigabytes: float) -> None:
    plan = planned(gigabytes)
    suggestions = suggest_settings(plan, timed=False)
    assert not plan.fits and suggestions
    for suggestion in suggestions:
        assert suggestion.plan.fits and suggestion.flags.startswith("--") and suggestion.effect
        model, train, T = apply(plan.model, plan.train, plan.T, suggestion.changes)
        again = make_plan(model, train, T, TEXT, framework=FRAMEWORK, limit=plan.limit, timed=False)
        assert again.memory == suggestion.plan.memory


def test_the_first_suggestion_is_the_largest_micro_batch_that_fits() -> None:
    plan = planned(1.9)
    first = suggest_settings(plan, timed=False)[0]
    n = first.changes["train__micro_batch"]
    assert first.changes.keys() == {"train__micro_batch"} and plan.train.batch_size % n == 0
    larger = [planned(1.9, train=replace(CPU, micro_batch=m)) for m in micro_batches(plan.train) if m > n]
    assert not any(other.fits for other in larger)


def test_no_suggestion_makes_a_vocabulary_larger() -> None:
    """The smallest change of all, made where nothing else fits, keeps the bytes of a byte tokenizer."""
    plan = planned(0.5, replace(MICRO, vocab_size=257))
    suggestions = suggest_settings(plan, timed=False)
    assert suggestions and all(s.plan.model.vocab_size == 257 for s in suggestions)


def test_a_refusal_without_suggestions() -> None:
    plan = planned(0.3)
    assert suggest_settings(plan, timed=False) == []
    words = refusal(plan, [])
    assert "300 MB" in words and "--force" in words and "--fit" not in words


def test_everything_together_is_the_last_resort() -> None:
    (suggestion,) = suggest_settings(planned(0.62, SMALL), timed=False)
    assert suggestion.plan.fits and "--micro-batch" in suggestion.flags and "bpe" in suggestion.flags


def test_a_refusal_names_the_limit_and_the_flags() -> None:
    plan = planned(1.3)
    words = refusal(plan, suggest_settings(plan))
    assert all(word in words for word in ("1.30 GB", "a test's limit", "--fit", "--force", " a step: "))
    assert all(len(line) <= 80 for line in words.splitlines())
    assert warning_lines(plan)[0].startswith("notice   ")


@pytest.mark.parametrize("gigabytes", [1.0, 24.0])
def test_a_table_fits_a_terminal(gigabytes: float) -> None:
    plan = replace(planned(gigabytes), train=replace(CPU, micro_batch=2))
    lines = [*table(plan), *header_lines(plan)]
    assert all(len(line) <= 80 for line in lines) and any("passes over the text" in line for line in lines)
    assert any("only" in line for line in lines) == (gigabytes == 1.0)


def test_a_smaller_batch_is_offered_with_its_tokens() -> None:
    plan = planned(20.0, train=replace(CPU, batch_size=9999))
    (smaller,) = [s for s in suggest_settings(plan, timed=False) if s.flags.startswith("--batch-size")]
    n = smaller.changes["train__batch_size"]
    assert smaller.plan.fits and n < 9999 and f"{n * 512:,} instead of {9999 * 512:,}" in smaller.effect
    assert not planned(20.0, train=replace(CPU, batch_size=2 * n)).fits
    pieces = suggest_settings(planned(1.3, train=replace(CPU, micro_batch=4)), timed=False)
    assert any("leave out --micro-batch" in s.effect for s in pieces if "--batch-size" in s.flags)


def test_a_refusal_says_what_a_micro_batch_does() -> None:
    plan = planned(1.0)
    words = refusal(plan, suggest_settings(plan))
    assert "sequences at a time" in words or "1 sequence at a time" in words
    assert words.startswith("This run needs 2.13 GB of memory; 1.00 GB is ") and "pieces" not in words


@pytest.mark.parametrize("resumed", [False, True])
def test_only_what_can_still_change_is_suggested(resumed: bool) -> None:
    plan = planned(1.3)
    every = suggest_settings(plan, timed=False)
    left = without_fixed(every, resumed=resumed)
    assert any("--preset" in s.flags for s in every) and not any("--preset" in s.flags for s in left)
    assert any("--micro-batch" in s.flags for s in left)
    assert any("--batch-size" in s.flags for s in left) == (not resumed)


@pytest.mark.parametrize(
    ("model", "train"),
    [
        (MICRO, replace(CPU, batch_size=10**20)),
        (replace(MICRO, n_layer=10**8), CPU),
        (replace(MICRO, n_layer=10**8, window=64), CPU),
        (MICRO, replace(CPU, batch_size=10**20, micro_batch=10**19)),
    ],
)
def test_absurd_sizes_are_answered_without_counting_them_one_by_one(model: ModelConfig, train: TrainConfig) -> None:
    plan = planned(20.0, model, train)
    assert not plan.fits and refusal(plan, suggest_settings(plan, timed=False))


def test_a_very_long_run_is_remarked_on() -> None:
    week = make_plan(MICRO, replace(CPU, max_steps=10**7), 512, TEXT)
    assert any("more than a week" in line for line in header_lines(week))
    assert any("more than a week" in line for line in table(week))
    assert not any("week" in line for line in table(make_plan(MICRO, CPU, 512, TEXT)))


# ---- budgets

within = partial(fit_to_budget, model=MICRO, train=CPU, T=512, text=TEXT)


@pytest.mark.parametrize("text", ["", "ten minutes", "5", "-3min", "0GB", "2XB", "nan s", "1e400h"])
def test_a_budget_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ConfigError, match=r"budget.*10min"):
        parse_budget(text)


def test_a_time_is_kept_and_so_are_four_passes() -> None:
    for seconds in (20.0, 60.0, 36_000.0):
        plan = within(Budget(seconds=seconds)).plan
        assert plan.seconds is not None and plan.passes is not None and plan.passes <= MAX_PASSES
        assert plan.seconds.total <= seconds or plan.train.max_steps == 1


def test_the_largest_model_that_sees_enough_is_taken_or_else_the_smallest() -> None:
    endless = within(Budget(seconds=1e9), text=DatasetSize(10**12, 10**4))
    assert endless.plan.model.n_embd == SMALL.n_embd and endless.why.startswith("small")
    assert endless.plan.tokens >= TOKENS_PER_PARAMETER * matrix_parameters(endless.plan.model)
    assert within(Budget(seconds=60)).plan.model.n_embd == NANO.n_embd


def test_a_short_text_gets_smaller_batches() -> None:
    train, text = replace(CPU, batch_size=64), DatasetSize(100_000, 10_000)
    chosen = within(Budget(seconds=1e6), train=train, T=128, text=text).plan.train
    assert chosen.batch_size < 64 and chosen.max_steps >= MIN_STEPS


def test_a_budget_says_what_limits_it() -> None:
    assert within(Budget(seconds=5.0)).why.endswith("Limited by the time")
    more = within(Budget(seconds=36_000.0))
    assert more.why == f"nano, {more.plan.train.max_steps} steps. Limited by the text: 4 passes over it " + (
        "(a longer text would allow more training)"
    )
    assert "Limited by {--max-steps}" in within(Budget(seconds=36_000.0), text=DatasetSize()).why
    assert within(Budget(bytes=2 * 10**9), framework=FRAMEWORK).why.endswith(
        "The largest preset that fits into 2.00 GB"
    )


def test_a_memory_is_kept() -> None:
    for size in (1.2e9, 2.0e9, 4.0e9):
        chosen = within(Budget(bytes=int(size)), framework=FRAMEWORK)
        assert chosen.plan.memory.total <= size
    assert chosen.plan.model.n_embd == SMALL.n_embd


@pytest.mark.parametrize(
    ("budget", "named"), [(Budget(bytes=10**8), "max_length"), (Budget(seconds=1e-6), "batch_size")]
)
def test_a_budget_that_is_too_small(budget: Budget, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        within(budget)


@pytest.mark.parametrize(("layers", "left"), [("0,7", [64, 0, 0]), ("7", [0, 0, 0]), ("all", [64, 64, 64])])
def test_a_smaller_model_keeps_the_other_choices(layers: str, left: list[int]) -> None:
    """Sizes are a preset's; positions, norms and the like stay, and windows go with their layers."""
    choices = {"qk_norm": True, "tied_head": False, "mlp": "relu2", "window": 64, "window_layers": layers}
    model = ModelConfig.preset("llama-small", vocab_size=4096, **choices)
    smaller = [s.plan.model for s in suggest_settings(planned(0.6, model), timed=False) if "--preset" in s.flags]
    spent = within(Budget(bytes=600_000_000), model=model, T=64, framework=FRAMEWORK).plan.model
    assert smaller and spent.n_layer == 6
    for config in [*smaller, spent]:
        assert (config.positions, config.mlp, config.qk_norm, config.tied_head) == ("rope", "relu2", True, False)
        assert [config.window_size(layer) for layer in range(3)] == left


@pytest.mark.parametrize(("sizes", "advice"), [({}, ""), ({"n_layer": 20}, "--set model.n_layer")])
def test_a_preset_is_suggested_without_the_flags_of_sizes(sizes: dict[str, int], advice: str) -> None:
    """`--set model.n_layer=20` would override the layers of `--preset nano`."""
    suggestions = suggest_settings(planned(0.6, ModelConfig.small(**sizes)), timed=False)
    effects = [s.effect for s in suggestions if "--preset" in s.flags]
    assert effects and all(effect.partition("leave out ")[2] == advice for effect in effects)
