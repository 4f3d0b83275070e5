"""`light-llm bench`: a watch that can be trusted, amounts that are right, and a result that is read with care."""

import math
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from light_llm.bench import limits, stages, training, writing
from light_llm.bench.effort import usual
from light_llm.bench.limits import copy_rates, product_rates, read_rates
from light_llm.bench.measure import measure
from light_llm.bench.name import machine_name, printable, system_name
from light_llm.bench.result import Figure, Result
from light_llm.bench.room import free_memory
from light_llm.bench.timing import Repeats, seconds_of
from light_llm.bench.training import one_step, training_bytes, training_rates
from light_llm.bench.writing import writing_rates
from light_llm.config import ModelConfig, TrainConfig
from light_llm.objective import NextTokenLoss
from light_llm.observe.meter import Meter
from light_llm.optim import build_optimizer, learning_rate
from light_llm.runtime import memory_room, resident_memory
from light_llm.train import Trainer
from tests.support.bench_tools import FEW, QUICKLY, TRAINING
from tests.support.tools import SMALL, TINY, some_tokens, tiny_model


class Watch:
    """A clock on which only work passes time."""

    def __init__(self) -> None:
        self.now, self.calls = 100.0, 0

    def __call__(self) -> float:
        return self.now

    def work(self, *seconds: float) -> Callable[[], None]:
        """Takes so long the first time, the second, ..., and then always as long as the last."""

        def work() -> None:
            self.now += seconds[min(self.calls, len(seconds) - 1)]
            self.calls += 1

        return work


# ---- the watch


def test_a_repetition_says_the_seconds_of_one_call() -> None:
    watch = Watch()
    found = seconds_of(watch.work(0.03), Repeats(times=4, seconds=0.1), clock=watch)
    assert found == pytest.approx([0.03] * 4, rel=1e-9)


def test_the_first_call_is_not_counted() -> None:
    watch = Watch()
    assert seconds_of(watch.work(9.0, 1.0), Repeats(times=3), clock=watch) == pytest.approx([1.0] * 3)
    watch = Watch()
    assert seconds_of(watch.work(9.0, 5.0, 1.0), Repeats(times=3), settle=2, clock=watch) == pytest.approx([1.0] * 3)


def test_long_work_is_done_once_a_repetition_and_short_work_many_times() -> None:
    long, short = Watch(), Watch()
    seconds_of(long.work(0.5), Repeats(times=5), clock=long)
    assert long.calls == 1 + 5
    found = seconds_of(short.work(1e-4), Repeats(times=5), clock=short)
    assert found == pytest.approx([1e-4] * 5) and 5 * 0.1 / 1e-4 <= short.calls < 2.5 * 5 * 0.1 / 1e-4


@pytest.mark.parametrize(("seconds", "times"), [(0.5, 5), (2.0, 5), (2.1, 4), (4.0, 2), (50.0, 2)])
def test_patience_ends_it_after_two(seconds: float, times: int) -> None:
    watch = Watch()
    assert len(seconds_of(watch.work(seconds), Repeats(times=5, least=2, patience=10.0), clock=watch)) == times


def test_what_the_device_still_does_is_counted() -> None:
    watch = Watch()
    waited = watch.work(2.0)
    assert seconds_of(lambda: None, Repeats(times=2), wait=waited, clock=watch) == [2.0, 2.0]


def test_it_ticks_at_the_first_call_and_each_repetition() -> None:
    watch, ticks = Watch(), []
    seconds_of(watch.work(1e-3), Repeats(times=4), tick=lambda: ticks.append(watch.now), clock=watch)
    assert len(ticks) == 5 and ticks == sorted(ticks)


def test_twice_the_work_takes_twice_the_time() -> None:
    """With real products, on the clock of this thread, which stands still while the machine does something else."""
    a, b = torch.randn(128, 256), torch.randn(256, 256)

    def twice() -> None:
        a @ b
        a @ b

    def least(work: Callable[[], object]) -> float:
        return min(seconds_of(work, Repeats(times=9, seconds=0.004), clock=time.thread_time))

    pairs = [(least(lambda: a @ b), least(twice)) for _ in range(3)]
    once, double = (min(side) for side in zip(*pairs, strict=True))
    assert 1.6 < double / once < 2.5


# ---- amounts: by a watch that always says one second, a rate is what one call does


@pytest.fixture
def one_second(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Each piece of work is done once and takes a second. Returns the operations that torch itself counted in it."""
    counted: list[int] = []

    def watch(work: Callable[[], object], *_: Any, **__: Any) -> list[float]:
        with FlopCounterMode(display=False) as counter:
            work()
        counted.append(counter.get_total_flops())
        return [1.0]

    for room in (limits, training, writing):
        monkeypatch.setattr(room, "seconds_of", watch)
    return counted


def test_products_are_as_many_operations_as_torch_counts(one_second: list[int]) -> None:
    assert product_rates("cpu", "float32", (64, 32, 48), QUICKLY) == [2 * 64 * 32 * 48] == one_second


def test_bytes_are_those_read_and_those_written(one_second: list[int]) -> None:
    assert copy_rates("cpu", 1 << 16, QUICKLY) == [2 << 16]
    assert read_rates("cpu", 1 << 16, QUICKLY) == [1 << 16]


def test_a_step_and_a_text_are_so_many_tokens(one_second: list[int]) -> None:
    assert training_rates(TINY, (2, 16), device="cpu", dtype="float32", repeats=QUICKLY) == [32]
    assert writing_rates(TINY, 6, device="cpu", repeats=QUICKLY)[0] == [6]


@pytest.mark.parametrize("what", ["training", "writing"])
def test_tokens_per_second_times_seconds_is_tokens(what: str) -> None:
    """The repetitions, each of one call, fit into the time that measuring took, and are a good part of it."""
    repeats, start = Repeats(times=8, seconds=0.0), time.perf_counter()
    config = replace(TINY, n_embd=96)
    if what == "training":
        rates, tokens = training_rates(config, (8, 32), device="cpu", dtype="float32", repeats=repeats), 256
    else:
        rates, tokens = writing_rates(config, 16, device="cpu", repeats=repeats)[0], 16
    wall = time.perf_counter() - start
    measured = sum(tokens / rate for rate in rates)
    assert len(rates) == 8 and wall / 50 < measured < wall


def test_one_step_is_the_trainers_step() -> None:
    """The same weights, to the last bit, from the same batch at the same rate."""
    x, y = some_tokens(2, 16), some_tokens(2, 16, seed=3)
    trainer = Trainer(tiny_model(), [(x, y)], out="run", **(SMALL | {"max_steps": 1, "lr": 1.5e-3}))
    trainer.train()
    model, recipe = tiny_model().train(), TrainConfig()
    optimizer = build_optimizer(model, recipe)
    for group in optimizer.param_groups:
        group["lr"] = learning_rate(0, trainer.config)
    with Meter(model, optimizer) as meter:
        loss = one_step(NextTokenLoss(model), optimizer, meter, (x, y), device="cpu", dtype="float32")
        assert meter.current is not None and meter.current.update_ratios(), "the meter saw the update"
    assert loss.item() == pytest.approx(math.log(TINY.vocab_size), rel=0.1) and not loss.requires_grad
    before = tiny_model().state_dict()
    for name, weight in trainer.model.state_dict().items():
        assert weight.equal(model.state_dict()[name]), name
        assert not weight.equal(before[name]), f"{name} was not trained"


# ---- all of it, small


@pytest.fixture(scope="module")
def measured() -> Result:
    return measure(FEW, "cpu")


def test_every_figure_is_there_with_its_unit(measured: Result) -> None:
    units = {figure.name: figure.unit for figure in measured.figures if figure.kind != "peak"}
    assert units == {
        "products float32": "GFLOP/s",
        "products bfloat16": "GFLOP/s",
        "memory copy": "GB/s",
        "memory read": "GB/s",
        "training nano": "tokens/s",
        "training micro": "tokens/s",
        "writing nano": "tokens/s",
    }
    for figure in measured.figures:
        assert 0 < figure.low <= figure.value <= figure.high < math.inf
        assert figure.times == (1 if figure.kind == "peak" else 3)
    assert measured.left_out == ()
    assert (measured.device, measured.threads, measured.torch) == ("cpu", torch.get_num_threads(), torch.__version__)
    micro = measured.figure("training micro")
    assert micro and micro.how.startswith("2 x 16 tokens a step, 61 ids, ") and micro.taken == "median"
    assert micro.how.endswith(("float32", "bfloat16"))
    assert 0 < measured.seconds < 60


def test_a_limit_is_the_best_and_a_speed_the_median() -> None:
    found = [5.0, 9.0, 8.0, 1.0, 7.0]
    best, median = (Figure.of("a b", "GB/s", found, taken, "how") for taken in ("best", "median"))
    assert (best.value, median.value) == (9.0, 7.0)
    assert (best.low, best.high, best.times) == (median.low, median.high, median.times) == (1.0, 9.0, 5)


@pytest.mark.parametrize(("high", "busy"), [(125.0, False), (125.1, True)])
def test_repetitions_a_quarter_apart_are_of_a_busy_machine(high: float, busy: bool) -> None:
    assert Figure.of("a b", "GB/s", [100.0, high], "best", "how").busy == busy


def test_progress_goes_forward_to_the_end() -> None:
    told: list[tuple[str, float, float]] = []
    measure(FEW, "cpu", lambda *what: told.append(what))
    shares = [done / total for _, done, total in told]
    assert shares == sorted(shares) and shares[0] == 0 and shares[-1] == pytest.approx(1)
    names = list(dict.fromkeys(what.partition(":")[0] for what, _, _ in told))
    assert names[0] == "products float32" and names[-1] == "writing nano" and len(names) == 7
    assert len(told) == 7 * (1 + 1 + 3), "its beginning, the first call, and each repetition"


def test_the_usual_effort_is_that_of_train() -> None:
    whole, quick = usual("cpu"), usual("cpu", quick=True)
    assert whole.batch == (TrainConfig().batch_size, 512)
    assert [name for name, _ in whole.training] == ["nano", "micro", "small"]
    assert dict(whole.training)["micro"] == ModelConfig.micro() and ModelConfig().vocab_size == 50257
    assert [name for name, _ in (*quick.training, *quick.writing)] == ["nano", "nano"] and quick.quick
    assert replace(whole, training=quick.training, writing=quick.writing, quick=True) == quick


# ---- what is left out


def test_a_model_without_room_is_left_out(monkeypatch: pytest.MonkeyPatch, measured: Result) -> None:
    nano = measured.figure("training nano")
    assert nano
    needed = training_bytes(FEW.training[1][1], FEW.batch, nano.how.split()[-1])
    monkeypatch.setattr(stages, "free_memory", lambda device: needed - 1)
    found = measure(TRAINING, "cpu")
    assert found.figure("training nano") and not found.figure("training micro")
    size = f"{needed / 1e9:.1f} GB"
    assert found.left_out == (f"training micro is left out: it takes about {size}, and {size} are free",)
    monkeypatch.setattr(stages, "free_memory", lambda device: needed)
    assert measure(TRAINING, "cpu").left_out == ()


def test_a_model_without_time_is_left_out() -> None:
    found = measure(replace(TRAINING, most=0.0), "cpu")
    assert found.figure("training nano") and not found.figure("training micro"), "the first one shows how long it takes"
    assert found.left_out[0].startswith("training micro is left out: its 4 steps would take about ")


@pytest.mark.parametrize(("before", "after", "known"), [(3, 3_000_000_000, True), (7, 7, False), (0, None, False)])
def test_a_peak_is_known_where_nothing_before_took_more(
    before: int, after: int | None, known: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stages, "forget_peak", lambda device: before)
    monkeypatch.setattr(stages, "most_taken", lambda device: after)
    found = measure(replace(TRAINING, training=FEW.training[:1]), "cpu").figure("peak nano")
    assert (found is not None) == known
    assert not known or (found and (found.value, found.unit, found.times, found.taken) == (3.0, "GB", 1, "peak"))


def test_what_takes_more_memory_than_there_is_is_left_out() -> None:
    found = measure(replace(TRAINING, training=FEW.training[:1], block=1 << 50), "cpu")
    assert found.left_out == tuple(f"memory {name} is left out: memory ran out" for name in ("copy", "read"))
    assert found.figure("training nano") and not found.figure("memory copy")


def test_a_format_that_is_not_multiplied_is_left_out() -> None:
    found = measure(replace(TRAINING, dtypes=("bool", "float32"), training=()), "cpu")
    assert found.left_out == ("products bool is left out: this torch does not multiply bool on this device",)
    assert found.figure("products float32")


def test_steps_that_are_not_finite_give_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(training, "TrainConfig", lambda **more: TrainConfig(lr=1e38, **more))
    left_out = measure(TRAINING, "cpu").left_out
    assert left_out[0] == (
        "training nano is left out: the loss is not a finite number: this device computes something wrong"
    )


# ---- memory and names


def test_free_memory_is_what_this_process_does_not_have_yet() -> None:
    room, free = memory_room("cpu"), free_memory("cpu")
    assert room and free and free == pytest.approx(room.bytes - resident_memory(), rel=0.1)


def test_what_training_takes_grows_with_what_it_is_of() -> None:
    nano, small = ModelConfig.nano(), ModelConfig.small()
    needed = training_bytes(nano, (8, 512), "bfloat16")
    assert needed > 16 * 12_500_000
    for more in (
        training_bytes(small, (8, 512), "bfloat16"),
        training_bytes(nano, (16, 512), "bfloat16"),
        training_bytes(nano, (8, 1024), "bfloat16"),
        training_bytes(nano, (8, 512), "float32"),
    ):
        assert more > 1.2 * needed


MEMORY = """
import sys
from light_llm.bench.timing import Repeats
from light_llm.bench.training import training_bytes, training_rates
from light_llm.config import ModelConfig
from light_llm.runtime import keep_memory, peak_memory
keep_memory()
config, dtype, before = ModelConfig.preset(sys.argv[1]), sys.argv[2], peak_memory()
repeats = Repeats(times=2, seconds=0)
training_rates(config, (8, 512), device="cpu", dtype=dtype, repeats=repeats)
print((peak_memory() - before) / training_bytes(config, (8, 512), dtype))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="NOT RUN: the system does not say what a process has taken")
@pytest.mark.parametrize(("name", "dtype"), [("nano", "bfloat16"), ("nano", "float32"), ("micro", "bfloat16")])
def test_training_takes_about_what_was_foretold(name: str, dtype: str) -> None:
    child = subprocess.run([sys.executable, "-c", MEMORY, name, dtype], capture_output=True, text=True, check=True)
    assert 0.85 < float(child.stdout) < 1.15


def test_the_name_of_a_machine_is_its_processors(tmp_path: Path) -> None:
    cpuinfo = tmp_path / "cpuinfo"
    cpuinfo.write_text("processor\t: 0\nmodel name\t: Some(R) Processor(TM)  CPU @ 2.60GHz\nflags\t\t: a b\n")
    assert machine_name("cpu", cpuinfo) == "Some Processor CPU @ 2.60GHz"
    assert printable(machine_name("cpu", tmp_path / "none")) == machine_name("cpu", tmp_path / "none") != ""
    assert printable("a\x1b[2J\nb" + 100 * "c", 10) == "a [2J bccc"
    assert platform.release() not in system_name() and platform.system() in system_name()
