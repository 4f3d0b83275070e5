"""`light-llm bench`: its file, the machines beside it, and the verb."""

import getpass
import json
import platform
import random
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.cells import cell_len

from light_llm.bench import effort as efforts
from light_llm.bench.beside import ratio, remarks
from light_llm.bench.machines import machines_of, shipped_machines
from light_llm.bench.measure import measure
from light_llm.bench.result import Figure, Result, read_result, result_of
from light_llm.cli.bench import command, number
from light_llm.errors import ConfigError, DataError, DeviceError, LightLLMError
from light_llm.plain import canonical, sealed
from tests.support.bench_tools import FEW, TRAINING
from tests.support.tools import run_child

# ---- the file


@pytest.fixture(scope="module")
def measured() -> Result:
    return measure(FEW, "cpu")


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
    """The verb measures small shapes, and stands beside no machine but those that a test names."""
    monkeypatch.setattr("light_llm.cli.bench.shipped_machines", lambda: ())
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
def test_the_quick_measurement_as_it_is() -> None:
    """In a process of its own: one that had more memory before does not know the peak of this."""
    words = ["bench", "--quick", "--json", "mine.json", "--device", "cpu"]
    child = run_child([sys.executable, "-m", "light_llm", *words])
    assert child.returncode == 0, child.stderr
    mine, lines = read_result(Path("mine.json")), child.stdout.splitlines()
    assert mine.left_out == () and len(mine.figures) == 7 and max(map(cell_len, lines)) <= 80
    speed = mine.figure("training nano")
    assert speed and speed.how.startswith("8 x 512 tokens a step, 50,257 ids, ")
