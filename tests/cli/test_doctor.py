"""`light-llm doctor`: exit codes and what it prints."""

import json
import re

import pytest

from light_llm.cli.doctor import command
from tests.conftest import FEW_CHECKS as FEW
from tests.support import broken_operations as broken

QUICK = ["--quick", "--device", "cpu"]
pytestmark = pytest.mark.usefixtures("few_checks")


def test_a_safe_device(capsys: pytest.CaptureFixture[str]) -> None:
    assert command(QUICK) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("cpu (") and lines[0].endswith(": safe")
    assert {"float32   passed", "bfloat16  passed", "float16   not checked"} <= set(lines)
    rows = [line.split() for line in lines if line.startswith(FEW)]
    assert [row[-1] for row in rows] == ["passed"] * len(FEW)
    assert all(len(line) <= 80 for line in lines if line.startswith(FEW))


def test_a_wrong_device_is_named_and_exits_with_2(capsys: pytest.CaptureFixture[str]) -> None:
    with broken.exact_gelu():
        assert command(QUICK) == 2
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("NOT SAFE: it computes wrong results")
    assert any(
        line.startswith("problem   the check of GELU failed") and "another version of torch" in line for line in lines
    )
    assert any(line.startswith("GELU ") and line.endswith("FAILED") for line in lines)


def test_a_format_that_is_wrong_exits_with_0_and_names_the_flag(capsys: pytest.CaptureFixture[str]) -> None:
    with broken.sums_in_bfloat16():
        assert command([*QUICK, "--json"]) == 0
    captured = capsys.readouterr()
    result = json.loads(captured.out)
    assert captured.err.startswith("checking: cpu against float64") and captured.err.count("\n") == 1
    assert result["safe"] and result["machine"]
    assert result["formats"] == {"float32": "right", "bfloat16": "wrong", "float16": "not checked"}
    assert [each["action"] for each in result["remedies"]] == ["use --dtype float32"]


def test_a_check_that_could_not_run_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    with broken.raising(MemoryError("20 GiB"), "gelu"):
        assert command(QUICK) == 2
    out = capsys.readouterr().out
    assert "not known to be safe" in out and re.search("GELU .*not checked: not enough memory: 20 GiB", out)
