"""`make train` says what it downloads, and shows what pip says when that fails."""

import subprocess
import sys

import pytest

from tests.conftest import CHECKOUT
from tools.install import announcement


@pytest.mark.parametrize("system", ["Linux", "Darwin", "Windows"])
@pytest.mark.parametrize("has_gpu", [True, False])
@pytest.mark.parametrize("has_torch", [True, False])
def test_the_cpu_build_is_named_where_the_other_one_is_useless(system: str, has_gpu: bool, has_torch: bool) -> None:
    text = "\n".join(announcement(system, has_torch=has_torch, has_gpu=has_gpu, environment=".venv"))
    useless = system == "Linux" and not has_gpu and not has_torch
    assert ("uv pip install --python .venv torch --torch-backend=cpu" in text) == useless
    assert ("GB" in text) != has_torch


def test_a_failure_shows_what_pip_said() -> None:
    words = [
        sys.executable,
        str(CHECKOUT / "tools" / "install.py"),
        "--no-index",
        "--find-links",
        ".",
        "no-such-package",
    ]
    child = subprocess.run(words, capture_output=True, text=True, check=False)
    assert child.returncode == 1 and "No matching distribution found for no-such-package" in child.stderr
