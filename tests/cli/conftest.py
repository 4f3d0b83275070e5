"""A small trained run for the tests of commands."""

from pathlib import Path

import pytest

from light_llm.cli import main
from tests.support.tools import NANO_RUN

LEARN = ["--max-steps", "30", "--lr", "1e-2", "--warmup-steps", "2"]


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a small text, text.txt, and a run on it, run/. Tests may not change it."""
    folder = tmp_path_factory.mktemp("trained")
    (folder / "text.txt").write_text("A fox and an owl went up the hill to see what they could see.\n" * 60)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        assert main(["train", "--data", "text.txt", *NANO_RUN, *LEARN, "--out", "run", "--quiet"]) == 0
    return folder
