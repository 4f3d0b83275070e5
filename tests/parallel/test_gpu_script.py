"""The script that checks several processes on a GPU, as far as a CPU allows."""

import sys
from pathlib import Path

import pytest
import torch

from tests.support.child import Child

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))

import gpu_parallel


def test_without_a_gpu_it_says_so(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert gpu_parallel.main([]) == 2
    assert "--device cpu" in capsys.readouterr().out


@pytest.mark.slow
def test_its_checks_pass_on_a_cpu() -> None:
    child = Child(["--device", "cpu"], function=gpu_parallel.main, env={"OMP_NUM_THREADS": "1"})
    code, lines = child.wait(), child.output[0].splitlines()
    assert code == 0 and len(lines) == 13, child.output
    assert all(line[28:30] == "ok" for line in lines), lines
