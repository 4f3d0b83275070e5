"""What tests share. Each test gets a cache and a working folder of its own; nothing outside them is touched."""

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import hypothesis
import pytest
import torch

from light_llm import doctor
from light_llm.data.tokenizers import CharTokenizer
from light_llm.doctor import runner
from light_llm.generate import TextGenerator
from tests.support.tools import ALPHABET, cache_profile, model_path

hypothesis.settings.register_profile("here", deadline=None, max_examples=40, derandomize=True)
hypothesis.settings.load_profile("here")

# Tiny models are faster on one thread, and two test runs on one machine do not spin against each other.
torch.set_num_threads(1)

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # ONNX Runtime is imported by tests themselves

FEW_CHECKS = ("linear", "GELU", "long sums, bfloat16")
CHECKOUT = Path(__file__).parent.parent
LONG = ("test_readme.py", "test_front_door.py", "test_analyze.py", "test_browser.py", "test_verify_resume.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The long ones first: one that is begun last keeps a core waiting."""
    items.sort(key=lambda item: LONG.index(item.path.name) if item.path.name in LONG else len(LONG))


@pytest.fixture(scope="session", autouse=True)
def shared_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """One cache for the whole session, all its workers together, so that a text is encoded once and the
    machine not measured at all: never the user's own.

    Child processes find the package, whatever folder they are started in.
    """
    workers = "PYTEST_XDIST_WORKER" in os.environ
    cache = tmp_path_factory.getbasetemp().parent / "cache" if workers else tmp_path_factory.mktemp("cache")
    cache.mkdir(exist_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LIGHT_LLM_CACHE", str(cache))
        patch.setenv("PYTHONPATH", str(CHECKOUT))
        patch.setenv("COLUMNS", "80")
        patch.setenv("OMP_NUM_THREADS", "1")  # of child processes: see above
        of_trackers = ("WANDB_API_KEY", "WANDB_MODE")  # no test may send a developer's rows anywhere
        for name in ("LIGHT_LLM_STOP_AFTER", "FORCE_COLOR", "TIKTOKEN_CACHE_DIR", "DATA_GYM_CACHE_DIR", *of_trackers):
            patch.delenv(name, raising=False)
        cache_profile()
        yield cache


@pytest.fixture(autouse=True)
def own_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Each test works in a folder of its own and leaves nothing in the checkout."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def offline_files() -> Path:
    """The folder with Shakespeare and GPT-2's vocabulary; without it a test is skipped, and says so."""
    folder = os.environ.get("LIGHT_LLM_OFFLINE_DIR")
    if not folder or not all(Path(folder, name).is_file() for name in ("shakespeare.txt", "gpt2/vocab.bpe")):
        pytest.skip("NOT RUN: set LIGHT_LLM_OFFLINE_DIR to a folder with shakespeare.txt and gpt2/vocab.bpe")
    return Path(folder)


@pytest.fixture
def few_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let the doctor of this process run a few of its checks: its output does not depend on how many there are."""
    few = [check for check in runner.QUICK if check.name in FEW_CHECKS]
    monkeypatch.setattr(doctor, "quick_check", partial(runner.run_checks, checks=few))


@pytest.fixture
def poem(tmp_path: Path) -> Path:
    """A small text of the repository's own."""
    path = tmp_path / "poem.txt"
    lines = [
        f"The {a} {b} went down to the {c},\nand what it saw there nobody knows.\n"
        for a in ("old", "young", "grey", "quick", "silent", "proud")
        for b in ("cat", "fox", "owl", "hen", "mole")
        for c in ("river", "garden", "mill", "harbour")
    ]
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model over a few characters that sees 16 of them and never ends a text by itself."""
    return model_path(tmp_path_factory.mktemp("model"), CharTokenizer(ALPHABET))


@pytest.fixture(scope="module")
def writer(model: Path) -> TextGenerator:
    return TextGenerator(model, device="cpu")
