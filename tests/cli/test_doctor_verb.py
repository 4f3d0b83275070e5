"""`light-llm doctor`, what it prints, and what is remembered of a sound device."""

import json
import platform
from pathlib import Path

import pytest
import torch

from light_llm.cli.doctor import command
from light_llm.doctor import Diagnosis, core, examine, remembered, remembered_core
from light_llm.doctor.words import verdict_lines
from light_llm.errors import ConfigError, DeviceError
from tests.support import broken_operations as broken

FEW = ("linear", "fused attention", "gelu", "products, bfloat16")


@pytest.fixture(autouse=True)
def few_cases(monkeypatch: pytest.MonkeyPatch) -> None:
    """The real examination, of a few cases: what is printed and kept does not depend on how many there are."""
    monkeypatch.setattr(examine, "CORE", tuple(case for case in examine.CORE if case.name in FEW))


@pytest.fixture(autouse=True)
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_safe_device_is_said_to_be_safe_first(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(["--quick", "--device", "cpu"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cpu (") and lines[0].endswith(": safe")
    assert {"float32   right", "bfloat16  right", "float16   not checked"} <= set(lines)
    rows = [line.split() for line in lines if line.startswith(FEW)]
    assert [row[-1] for row in rows] == ["right"] * len(FEW)
    assert all(len(line) <= 80 for line in lines if line.startswith(FEW))


def test_a_wrong_device_ends_with_2_and_the_name_of_what_is_wrong(capsys: pytest.CaptureFixture[str]) -> None:
    with broken.exact_gelu():
        assert command(["--quick", "--device", "cpu"]) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("NOT SAFE, it computes wrong")
    assert any(line.startswith("wrong     GELU is wrong (4,099 numbers") for line in lines)
    assert any(line.startswith("  instead nothing is computed") for line in lines)
    assert any(line.startswith("gelu ") and line.endswith("WRONG") for line in lines)


def test_a_device_with_a_remedy_ends_with_0_and_says_it(capsys: pytest.CaptureFixture[str]) -> None:
    with broken.ignored_mask():
        assert command(["--quick", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert "safe, but not in every way" in out and "float32   right with a remedy" in out
    assert "attention goes by its formula" in out and "fused attention kernel is wrong (batch" in out


def test_what_could_not_be_checked_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    with broken.raising(MemoryError("20 GiB"), "gelu"):
        assert command(["--quick", "--device", "cpu"]) == 2
    out = capsys.readouterr().out
    assert "not known to be safe" in out and "left out  GELU: not enough memory: 20 GiB" in out


def test_json_is_one_object_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    with broken.sums_in_bfloat16():
        assert command(["--quick", "--json", "--device", "cpu"]) == 0
    captured = capsys.readouterr()
    found = json.loads(captured.out)
    assert captured.err == "" and found["safe"] and found["machine"]
    assert found["formats"] == {"float32": "right", "bfloat16": "wrong", "float16": "not checked"}
    assert [remedy["name"] for remedy in found["remedies"]] == ["float32"]


def test_a_flag_or_device_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="did you mean --quick"):
        command(["--quik"])
    with pytest.raises(DeviceError, match="there is no device 'toaster'"):
        command(["--device", "toaster"])


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DeviceError, match="needs a C\\+\\+ compiler"):
        core("cpu", compile=True)


def test_a_diagnosis_is_the_same_after_json() -> None:
    with broken.no_numbers():
        found = core("cpu")
    again = Diagnosis.from_dict(json.loads(json.dumps(found.to_dict(), allow_nan=False)))
    assert again == found and verdict_lines(again) == verdict_lines(found) and not again.safe


def test_a_sound_device_is_examined_once(own_cache: Path) -> None:
    first = remembered_core("cpu")
    assert first.sound
    with broken.exact_gelu():
        assert remembered_core("cpu") == first, "it is not looked at again"
    (file,) = (own_cache / "doctor").iterdir()
    assert platform.node() not in file.read_text(), "nothing in it names the machine"


@pytest.mark.parametrize("how", ["one bit", "half of it", "another object", "no file", "a folder"])
def test_what_is_damaged_is_found_out_anew(how: str, own_cache: Path) -> None:
    remembered_core("cpu")
    (file,) = (own_cache / "doctor").iterdir()
    data = bytearray(file.read_bytes())
    if how == "one bit":
        data[data.index(b'"ok": true') + 7] ^= 1
        file.write_bytes(data)
    elif how == "half of it":
        file.write_bytes(data[: len(data) // 2])
    elif how == "another object":
        file.write_bytes(remembered.dump_with_digest({"device": "cpu"}))
    else:
        file.unlink()
        if how == "a folder":
            file.mkdir()
    with broken.exact_gelu():
        assert remembered_core("cpu").refused
    assert remembered_core("cpu").sound


def test_a_wrong_device_is_not_held_to_it() -> None:
    with broken.exact_gelu():
        assert remembered_core("cpu").refused
    assert remembered_core("cpu").sound, "mended, by another driver for example"


def test_other_cases_or_another_torch_are_another_examination(monkeypatch: pytest.MonkeyPatch) -> None:
    remembered_core("cpu")
    for owner, name, value in ((remembered, "VERSION", 10**6), (torch, "__version__", "9.9")):
        with monkeypatch.context() as patch, broken.exact_gelu():
            patch.setattr(owner, name, value)
            assert remembered_core("cpu").refused


def test_a_cache_that_cannot_be_written_only_costs_time(own_cache: Path) -> None:
    own_cache.write_text("a file where the folder should be")
    assert remembered_core("cpu").sound and remembered_core("cpu").sound
