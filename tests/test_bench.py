"""`light-llm bench`: a watch that can be trusted, amounts that are right, and a result that is read with care."""

import getpass
import json
import math
import platform
import random
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.cells import cell_len
from torch.utils.flop_counter import FlopCounterMode

from light_llm.bench import effort as efforts
from light_llm.bench import limits, stages, training, writing
from light_llm.bench.beside import ratio, remarks
from light_llm.bench.effort import Effort, usual
from light_llm.bench.limits import copy_rates, product_rates, read_rates
from light_llm.bench.machines import machines_of, shipped_machines
from light_llm.bench.measure import measure
from light_llm.bench.name import machine_name, printable, system_name
from light_llm.bench.result import Figure, Result, read_result, result_of
from light_llm.bench.room import free_memory
from light_llm.bench.timing import Repeats, seconds_of
from light_llm.bench.training import one_step, training_bytes, training_rates
from light_llm.bench.writing import writing_rates
from light_llm.cli.bench import command, number
from light_llm.config import ModelConfig, TrainConfig
from light_llm.errors import ConfigError, DataError, DeviceError, LightLLMError
from light_llm.objective import NextTokenLoss
from light_llm.observe.meter import Meter
from light_llm.optim import build_optimizer, learning_rate
from light_llm.plain import canonical, sealed
from light_llm.runtime import memory_room, resident_memory
from light_llm.train import Trainer

from .tools import SMALL, TINY, some_tokens, tiny_model

QUICKLY = Repeats(times=3, seconds=0.002, patience=2.0)
FEW = Effort(
    dtypes=("float32", "bfloat16"),
    product=(64, 32, 48),
    block=1 << 20,
    training=(("nano", TINY), ("micro", replace(TINY, n_layer=4))),
    batch=(2, 16),
    writing=(("nano", TINY),),
    tokens=6,
    repeats=QUICKLY,
)


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


TRAINING = replace(FEW, dtypes=(), writing=(), block=1 << 10)


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
@pytest.mark.skipif(sys.platform == "win32", reason="the system does not say what a process has taken")
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


# ---- the file


def rewritten(result: Result, change: Callable[[dict[str, Any]], object]) -> Any:
    """Its plain values after a change, with a digest that fits."""
    values = json.loads(canonical(result.to_dict()))
    change(values)
    return json.loads(sealed(values))


def test_a_result_comes_back_from_its_file(measured: Result) -> None:
    Path("mine.json").write_bytes(measured.to_json())
    assert read_result(Path("mine.json")) == measured
    assert all(f.value == float(f"{f.value:.6g}") for f in measured.figures)
    # Neither a mail program's line ends nor another layout make it another result.
    values = json.loads(measured.to_json())
    Path("mailed.json").write_bytes(json.dumps(dict(reversed(values.items())), indent=4).replace("\n", "\r\n").encode())
    assert read_result(Path("mailed.json")) == measured


def test_nothing_in_it_says_whose_machine_it_is(measured: Result) -> None:
    text = measured.to_json().decode()
    private = [platform.node(), getpass.getuser(), str(Path.home()), str(Path.cwd()), sys.prefix, platform.release()]
    assert [word for word in private if len(word) > 3 and word.lower() in text.lower()] == []
    assert "/" not in text.replace("GFLOP/s", "").replace("GB/s", "").replace("tokens/s", "")
    assert set(json.loads(text)) == {
        *("kind", "format", "machine", "device", "system", "cores", "threads", "light_llm", "python", "torch"),
        *("quick", "seconds", "figures", "left_out", "digest"),
    }


def test_no_flipped_bit_is_taken_for_a_measurement(measured: Result) -> None:
    data, chance = measured.to_json(), random.Random(3)
    refused = 0
    for at in chance.sample(range(len(data)), 150):
        damaged = bytearray(data)
        damaged[at] ^= 1 << chance.randrange(8)
        Path("x.json").write_bytes(damaged)
        try:
            assert read_result(Path("x.json")) == measured, "a change of white space at most"
        except DataError as error:
            assert "x.json" in str(error)
            refused += 1
    assert refused > 75


FOREIGN = {
    "": "is no result of light-llm bench",
    "some text": "is no result of light-llm bench",
    "[1, 2]": "is no result of light-llm bench; make one with: light-llm bench --json FILE",
    '{"kind": "other"}': "is no result of light-llm bench",
    "[" * 100_000: "is no result of light-llm bench",
    '{"kind": "light-llm bench"}': "was written by another version of light-llm bench",
    '{"kind": "light-llm bench", "format": 2}': "was written by another version of light-llm bench",
    '{"kind": "light-llm bench", "format": 1}': "its digest does not fit; ask for the file again",
    '{"kind": "light-llm bench", "format": 1, "seconds": NaN}': "its digest does not fit",
    '{"kind": "light-llm bench", "format": 1, "seconds": 1e999}': "its digest does not fit",
}


@pytest.mark.parametrize("text", FOREIGN, ids=range(len(FOREIGN)))
def test_foreign_files_are_refused_in_words(text: str) -> None:
    Path("theirs.json").write_text(text)
    with pytest.raises(DataError, match="theirs.json ") as error:
        read_result(Path("theirs.json"))
    assert FOREIGN[text] in str(error.value) and len(str(error.value)) < 250


def test_files_that_cannot_be_read_are_refused_in_words() -> None:
    with pytest.raises(DataError, match="none.json cannot be read .No such file or directory.; name a file of: "):
        read_result(Path("none.json"))
    Path("folder").mkdir()
    with pytest.raises(DataError, match="folder is no result of light-llm bench .it is no plain file.; make one"):
        read_result(Path("folder"))


def test_a_changed_number_is_refused(measured: Result) -> None:
    values = json.loads(measured.to_json())
    values["figures"][0]["value"] *= 1.0000001
    with pytest.raises(DataError, match="here is not as it was written: its digest does not fit; ask for the file"):
        result_of(values, "here")


def first(name: str, value: Any) -> Callable[[dict[str, Any]], object]:
    return lambda values: values["figures"][0].update({name: value})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda v: v.pop("torch"), "the result lacks or has too much of torch"),
        (lambda v: v.update(host="mine"), "the result lacks or has too much of host"),
        (lambda v: v.update(machine="a\x1b[2J"), "machine is no line of at most 120 letters"),
        (lambda v: v.update(machine="a" * 121), "machine is no line of at most 120 letters"),
        (lambda v: v.update(machine=""), "machine is no line"),
        (lambda v: v.update(system=7), "system is no line"),
        (lambda v: v.update(cores=0), "cores is no count"),
        (lambda v: v.update(cores=True), "cores is no count"),
        (lambda v: v.update(threads=2.0), "threads is no count"),
        (lambda v: v.update(seconds=0), "seconds is no number above 0"),
        (lambda v: v.update(seconds="1"), "seconds is no number above 0"),
        (lambda v: v.update(quick=1), "quick is neither true nor false"),
        (lambda v: v.update(figures={}), "figures is no list of at most 200"),
        (lambda v: v.update(figures=v["figures"] * 100), "figures is no list of at most 200"),
        (lambda v: v.update(figures=v["figures"] * 2), "two figures have one name"),
        (lambda v: v.update(figures=[3]), "a figure is no table"),
        (lambda v: v.update(left_out=["a\nb"]), "left_out is no line"),
        (lambda v: v["figures"][0].pop("how"), "a figure lacks or has too much of how"),
        (first("unit", "horses"), "the unit of a figure is none of GFLOP/s, GB/s, tokens/s, GB"),
        (first("unit", []), "the unit of a figure is none of"),
        (first("taken", "mean"), "the taken of a figure is none of best, median, peak"),
        (first("value", -1), "value is no number above 0"),
        (first("value", 10**400), "value is no number above 0"),
        (first("value", True), "value is no number above 0"),
        (first("low", 1e17), "the value of products float32 is not between its least and its greatest"),
        (first("times", 0), "times is no count"),
    ],
)
def test_values_that_no_measurement_gives_are_refused(
    measured: Result, change: Callable[[dict[str, Any]], object], said: str
) -> None:
    assert result_of(rewritten(measured, lambda values: None), "here") == measured
    with pytest.raises(DataError, match="here has values that no measurement gives: ") as error:
        result_of(rewritten(measured, change), "here")
    assert said in str(error.value)


def test_the_machines_that_come_along_are_whole(measured: Result) -> None:
    assert all(isinstance(machine, Result) and machine.figures for machine in shipped_machines())
    one = json.loads(measured.to_json())
    assert machines_of([one, one]) == (measured, measured)
    with pytest.raises(DataError, match="entry 2 of machines.json is not as it was written"):
        machines_of([one, one | {"cores": one["cores"] + 1}])
    with pytest.raises(DataError, match="machines.json of this installation is no list; install light-llm again"):
        machines_of(one)  # type: ignore[arg-type]


# ---- beside another machine


def test_a_ratio_is_of_speeds_of_the_same_thing() -> None:
    a, b = (Figure.of("memory read", "GB/s", [v], "best", "how") for v in (30.0, 20.0))
    assert ratio(a, b) == 1.5 and ratio(b, a) == pytest.approx(1 / 1.5)
    assert ratio(a, None) is ratio(None, b) is ratio(a, replace(b, unit="GFLOP/s")) is None
    peak = replace(a, unit="GB")
    assert ratio(peak, peak) is None, "more memory is not faster"


def test_what_else_differs_is_said(measured: Result) -> None:
    assert [line for line in remarks(measured, measured) if not line.startswith("that machine was busy")] == []
    quiet = replace(measured, figures=tuple(replace(f, low=f.value, high=f.value) for f in measured.figures))
    there = replace(quiet, torch="2.0.1", threads=quiet.threads + 1)
    assert remarks(quiet, there) == [f"torch 2.0.1 there, {quiet.torch} here", f"threads {quiet.threads + 1} there, "
                                     f"{quiet.threads} here"]  # fmt: skip
    figures = [replace(f, how="another way") if f.kind == "writing" else f for f in quiet.figures]
    figures[0] = replace(figures[0], high=2 * figures[0].high)
    assert remarks(quiet, replace(quiet, figures=tuple(figures))) == [
        "writing: another way there, 6 tokens after 16, one stream, float32 here",
        "that machine was busy in products float32",
    ]


# ---- the verb


@pytest.fixture
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    """The verb measures small shapes."""
    monkeypatch.setattr(efforts, "usual", lambda device, quick: replace(FEW, quick=quick))
    monkeypatch.setattr("light_llm.runtime.keep_memory", lambda: True)  # it is for a whole process: not for the tests'


def test_the_verb_shows_writes_and_compares(few: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["--json", "mine.json", "--device", "cpu"]) == 0
    first = capsys.readouterr()
    mine = read_result(Path("mine.json"))
    lines = first.out.splitlines()
    assert max(map(cell_len, lines)) <= 80 and lines[0].startswith(mine.machine)
    for figure in mine.figures:
        (line,) = [line for line in lines if line.startswith(f"{figure.name} ")]
        assert number(figure.value) in line.split() and figure.unit in line.split() and figure.taken in line
        if figure.times > 1:
            assert f"{number(figure.low)} .. {number(figure.high)}" in line
    assert lines[-1] == "written to mine.json; it says nothing of whose machine this is"
    assert ("busy  " in first.out) == any(figure.busy for figure in mine.figures)
    assert first.err.splitlines()[0] == "products float32: 64 x 32 by 32 x 48", "a log has a line for each part"
    assert len(first.err.splitlines()) == 7

    assert command(["--beside", "mine.json"]) == 0
    second = capsys.readouterr().out
    lines = second.splitlines()
    assert max(map(cell_len, lines)) <= 80 and "here/A" in second
    table = second[second.index("here/A") :]
    speeds = [figure for figure in mine.figures if figure.unit != "GB"]
    for figure in speeds:
        (line,) = [line for line in table.splitlines() if line.startswith(figure.name)]
        here, there, times = line.split()[2:]
        assert there == number(figure.value) and times.endswith("x")
        pair = [float(word.replace(",", "").rstrip("x")) for word in (here, there, times)]
        assert pair[2] == pytest.approx(pair[0] / pair[1], rel=0.06)
    assert "peak" not in table


def test_the_figures_alone_go_to_standard_output(few: None, capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["--json", "-", "--quick"]) == 0
    found = result_of(json.loads(capsys.readouterr().out), "standard output")
    assert found.quick and len(found.figures) >= 7 and list(Path().iterdir()) == []


def test_many_machines_fit_eighty_columns(
    few: None, measured: Result, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Large numbers, long names, and more machines than stand side by side."""
    figures = tuple(replace(f, value=1e6, low=1e-2, high=9.9e6, how="w" * 100) for f in measured.figures)
    other = replace(measured, machine="m" * 60, torch="2.13.0+cu130", figures=figures)
    monkeypatch.setattr("light_llm.cli.bench.shipped_machines", lambda: (other,) * 7)
    Path("x.json").write_bytes(replace(other, threads=99).to_json())
    assert command(["--beside", "x.json"]) == 0
    out = capsys.readouterr().out
    assert max(map(cell_len, out.splitlines())) <= 80
    for letter in "ABCDEFGH":
        assert f"here/{letter}" in out and f"\n{letter}        {'m' * 60}" in out
    assert "threads 99 there" in out and f"torch 2.13.0+cu130 there, {torch.__version__} here" in " ".join(out.split())
    assert "that machine was busy in" in " ".join(out.split())


def test_what_is_left_out_is_said(
    few: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(efforts, "usual", lambda device, quick: replace(TRAINING, most=0.0))
    assert command([]) == 0
    assert "training micro is left out: its 4 steps would take about 0 s more" in capsys.readouterr().out


def refusal(*words: str) -> LightLLMError:
    with pytest.raises(LightLLMError) as error:
        command(words)
    return error.value


def test_mistakes_are_said_before_anything_is_measured(measured: Result, monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object, **__: object) -> Result:
        raise AssertionError("a minute would have been spent")

    monkeypatch.setattr("light_llm.bench.measure.measure", never)
    Path("there.json").write_text("mine")
    Path("damaged.json").write_bytes(measured.to_json()[:-9])
    for words, kind, said in (
        (["--json", "there.json"], ConfigError, "--json there.json is there already and would be lost; name another"),
        (["--json", "."], ConfigError, "--json . is a folder; name a file in a folder that is there, or -"),
        (["--json", "no/x.json"], ConfigError, "--json no/x.json is in a folder that does not exist; name a file"),
        (["--json", "-", "--beside", "x"], ConfigError, "--beside has no effect with --json -, which prints no table"),
        (["--beside", "there.json"], DataError, "there.json is no result of light-llm bench"),
        (["--beside", "damaged.json"], DataError, "damaged.json is no result of light-llm bench"),
        (["--beside", "none.json"], DataError, "none.json cannot be read (No such file or directory)"),
        (["--device", "gpu"], DeviceError, "there is no device 'gpu'"),
        (["--fast"], ConfigError, "there is no flag --fast"),
    ):
        error = refusal(*words)
        assert type(error) is kind and str(error).startswith(said), words
    assert Path("there.json").read_text() == "mine"


def test_a_folder_that_may_not_be_written_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda path, how: False)
    said = "--json x.json is in a folder that may not be written; name a file elsewhere"
    assert str(refusal("--json", "x.json")) == said


def test_help_waits_for_nothing_heavy() -> None:
    check = "import light_llm.cli.bench, sys; print('torch' in sys.modules)"
    child = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert (child.stdout, child.stderr) == ("False\n", "")


@pytest.mark.slow
def test_the_quick_measurement_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["--quick", "--json", "mine.json", "--device", "cpu"]) == 0
    mine, lines = read_result(Path("mine.json")), capsys.readouterr().out.splitlines()
    assert mine.left_out == () and len(mine.figures) == 7 and max(map(cell_len, lines)) <= 80
    speed = mine.figure("training nano")
    assert speed and speed.how.startswith("8 x 512 tokens a step, 50,257 ids, ")
