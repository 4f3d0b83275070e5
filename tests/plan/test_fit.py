"""What is offered where a run does not fit really fits, changes as little as possible, and a budget is kept."""

from dataclasses import replace

import pytest

from light_llm.config import ModelConfig, TrainConfig, matrix_parameters
from light_llm.errors import ConfigError
from light_llm.plan.budget import MAX_PASSES, MIN_STEPS, TOKENS_PER_PARAMETER, Budget, fit_to_budget, parse_budget
from light_llm.plan.parameters import presets_of_kind
from light_llm.plan.plan import DatasetSize, Plan, make_plan
from light_llm.plan.profile import key, names
from light_llm.plan.render import header_lines, refusal, table, warning_lines
from light_llm.plan.suggest import apply, micro_batches, suggest_settings
from light_llm.runtime import MemoryLimit
from light_llm.runtime.machine_cache import cached_measurements

CPU = TrainConfig(device="cpu", dtype="float32", compile="off")
TEXT = DatasetSize(300_000, 36_000)
FRAMEWORK = 250_000_000


def planned(gigabytes: float, preset: str = "micro", train: TrainConfig = CPU) -> Plan:
    limit = MemoryLimit(int(gigabytes * 1e9), "a test's limit")
    return make_plan(ModelConfig.preset(preset), train, 512, TEXT, framework=FRAMEWORK, limit=limit, timed=False)


@pytest.mark.parametrize("gigabytes", [1.0, 1.3, 1.6, 1.9])
def test_each_way_fits_and_says_how(gigabytes: float) -> None:
    plan = planned(gigabytes)
    ways = suggest_settings(plan, timed=False)
    assert not plan.fits and ways
    for way in ways:
        assert way.plan.fits and way.flags.startswith("--") and way.effect
        model, train, T = apply(plan.model, plan.train, plan.T, way.changes)
        again = make_plan(model, train, T, TEXT, framework=FRAMEWORK, limit=plan.limit, timed=False)
        assert again.memory == way.plan.memory


def test_the_first_way_changes_nothing_but_the_pieces() -> None:
    plan = planned(1.9)
    first = suggest_settings(plan, timed=False)[0]
    n = first.changes["train__micro_batch"]
    assert first.changes.keys() == {"train__micro_batch"} and plan.train.batch_size % n == 0
    larger = [m for m in micro_batches(plan.train) if m > n]
    tried = [
        make_plan(
            plan.model,
            replace(plan.train, micro_batch=m),
            512,
            TEXT,
            framework=FRAMEWORK,
            limit=plan.limit,
            timed=False,
        )
        for m in larger
    ]
    assert not any(other.fits for other in tried)  # as few as needed


def test_where_nothing_fits_it_is_said() -> None:
    plan = planned(0.3)
    assert suggest_settings(plan, timed=False) == []
    words = refusal(plan, [])
    assert "nothing offered here fits" in words and "0.30" not in words and "300 MB" in words and "--force" in words


def test_everything_together_is_the_last_that_is_tried() -> None:
    plan = planned(0.62, "small")
    (way,) = suggest_settings(plan, timed=False)
    assert way.plan.fits and "--micro-batch" in way.flags and "bpe" in way.flags


def test_a_refusal_names_both_numbers_and_the_ways_out() -> None:
    plan = planned(1.3)
    words = refusal(plan, suggest_settings(plan))
    assert "1.30 GB" in words and "a test's limit" in words and "--fit" in words and "--force" in words
    assert "nothing was downloaded or written" in words and " a step: " in words
    assert all(len(line) <= 80 for line in words.splitlines())
    assert warning_lines(plan)[0].startswith("notice   this run needs about")


@pytest.mark.parametrize("gigabytes", [1.0, 24.0])
def test_a_table_fits_a_terminal(gigabytes: float) -> None:
    plan = replace(planned(gigabytes), train=replace(CPU, micro_batch=2))
    lines = [*table(plan), *header_lines(plan)]
    assert all(len(line) <= 80 for line in lines) and any("passes over the text" in line for line in lines)
    assert any("only" in line for line in lines) == (gigabytes == 1.0)


# Budgets.


@pytest.mark.parametrize("text", ["", "ten minutes", "5", "-3min", "0GB", "2XB", "nan s", "1e400h"])
def test_a_budget_that_cannot_be_read(text: str) -> None:
    with pytest.raises(ConfigError, match=r"--budget .*cannot be read; write a time, a memory or both"):
        parse_budget(text)


def test_a_time_is_kept_and_so_are_four_passes() -> None:
    for seconds in (20.0, 60.0, 36_000.0):
        chosen = fit_to_budget(Budget(seconds=seconds), ModelConfig(), CPU, 512, TEXT)
        assert chosen.plan.seconds is not None and chosen.plan.passes is not None
        assert chosen.plan.seconds.total <= seconds or chosen.plan.train.max_steps == 1
        assert chosen.plan.passes <= MAX_PASSES


def test_the_largest_model_that_sees_enough_is_taken() -> None:
    """Of a text and a time without end; and the smallest where none does."""
    endless = fit_to_budget(Budget(seconds=1e9), ModelConfig(), CPU, 512, DatasetSize(10**12, 10**4))
    assert endless.plan.model.n_embd == ModelConfig.small().n_embd and endless.why.startswith("small")
    assert endless.plan.tokens >= TOKENS_PER_PARAMETER * matrix_parameters(endless.plan.model)
    assert (
        fit_to_budget(Budget(seconds=60), ModelConfig(), CPU, 512, TEXT).plan.model.n_embd == ModelConfig.nano().n_embd
    )


def test_a_short_text_gets_smaller_batches() -> None:
    chosen = fit_to_budget(
        Budget(seconds=1e6), ModelConfig(), replace(CPU, batch_size=64), 128, DatasetSize(100_000, 10_000)
    )
    assert chosen.plan.train.batch_size < 64 and chosen.plan.train.max_steps >= MIN_STEPS


def test_a_memory_is_kept() -> None:
    for size in (1.2e9, 2.0e9, 4.0e9):
        chosen = fit_to_budget(Budget(bytes=int(size)), ModelConfig(), CPU, 512, TEXT, framework=FRAMEWORK)
        assert chosen.plan.memory.total <= size
    assert chosen.plan.model.n_embd == ModelConfig.small().n_embd


@pytest.mark.parametrize(
    ("budget", "message"),
    [
        (Budget(bytes=10**8), "no preset fits into the budget's memory"),
        (Budget(seconds=1e-6), "one step of the smallest"),
    ],
)
def test_a_budget_that_buys_nothing(budget: Budget, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        fit_to_budget(budget, ModelConfig(), CPU, 512, TEXT)


@pytest.mark.parametrize(("layers", "left"), [("0,7", [64, 0, 0]), ("7", [0, 0, 0]), ("all", [64, 64, 64])])
def test_a_smaller_model_keeps_what_was_chosen(layers: str, left: list[int]) -> None:
    """Sizes are a preset's; positions, norms and the like stay, and windows in layers that are gone go with them."""
    chosen = {"qk_norm": True, "tied_head": False, "mlp": "relu2", "window": 64, "window_layers": layers}
    model, bound = ModelConfig.preset("llama-small", vocab_size=4096, **chosen), 600_000_000
    limit = MemoryLimit(bound, "a test's limit")
    known = [1e-9] * len(names())  # seconds are no matter here
    for size in presets_of_kind(model):
        kind = ModelConfig.preset(size, **(chosen | {"window_layers": "all"}))
        cached_measurements(key("cpu", "float32", kind), names(), lambda: known)
    plan = make_plan(model, CPU, 512, TEXT, framework=FRAMEWORK, limit=limit, timed=False)
    smaller = [way.plan.model for way in suggest_settings(plan, timed=False) if "--preset" in way.flags]
    spent = fit_to_budget(Budget(bytes=bound), model, CPU, 64, TEXT, framework=FRAMEWORK)
    assert smaller and spent.plan.model.n_layer == 6
    for found in [*smaller, spent.plan.model]:
        assert (found.positions, found.mlp, found.qk_norm, found.tied_head) == ("rope", "relu2", True, False)
        assert [found.window_size(layer) for layer in range(3)] == left


def test_a_size_of_ones_own_is_to_be_left_out_with_a_preset() -> None:
    """`--set model.n_layer=20` would outlive `--preset nano`."""
    limit = MemoryLimit(600_000_000, "a test's limit")
    for own, said in (({}, ""), ({"n_layer": 20}, "; leave out --set model.n_layer")):
        plan = make_plan(ModelConfig.small(**own), CPU, 512, TEXT, framework=FRAMEWORK, limit=limit, timed=False)
        ways = [way for way in suggest_settings(plan, timed=False) if "--preset" in way.flags]
        assert ways and {way.effect.partition(";")[1] + way.effect.partition(";")[2] for way in ways} == {said}
