"""Describe a machine: true by other sources, files counted, and nothing that identifies its user."""

import os
import platform
import re
import shutil
import socket
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
import torch

import light_llm
from light_llm import runtime
from light_llm.cli.cache_info import cached_files
from light_llm.cli.doctor import OPTIONAL_PACKAGES, system_info
from light_llm.data import prepare_dataset
from light_llm.runtime import MemoryLimit, usable_cores
from light_llm.text_format import format_bytes
from tests.conftest import CHECKOUT

PRIVATE = "zebedee-of-acme"


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, poem: Path) -> Path:
    """A cache with an encoded text and a vocabulary learned from it."""
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "cache"))
    prepare_dataset(str(poem), max_length=16, tokenizer="bpe:300")
    return tmp_path / "cache"


def test_the_facts_are_those_of_other_sources() -> None:
    facts = system_info()
    assert facts["light-llm"] == light_llm.__version__ and facts["python"] == platform.python_version()
    # The build may name what it was built for ("+cu130"), which the package's metadata leaves out.
    assert facts["torch"].startswith(metadata.version("torch").partition("+")[0])
    assert facts["torch"].endswith(f"threads {torch.get_num_threads()}")
    for_gpus = bool(re.search("USE_CUDA=(ON|1)", torch.__config__.show())) or torch.backends.mps.is_built()
    assert ("built for cpu" not in facts["torch"]) == for_gpus
    assert facts["system"].startswith(os.uname().sysname) and os.uname().machine in facts["system"]
    version = facts["system"].split()[1]
    assert os.uname().release.startswith(version) or platform.mac_ver()[0]
    assert facts["processor"].startswith(f"{usable_cores()} of {os.cpu_count()} cores")
    number, unit, *_ = facts["disk"].split()
    free, free_unit = format_bytes(shutil.disk_usage(".").free).split()
    assert unit == free_unit and float(number) == pytest.approx(float(free), rel=0.02)
    assert facts["compiler"] == next(filter(shutil.which, ["g++", "c++", "clang++", "cl"]), "none")
    assert facts["gpu"] == "none" or torch.accelerator.is_available()
    for extra in facts["extras"].split(", "):
        assert extra == "none" or metadata.version(extra.split()[0]) == extra.split()[1]


def test_memory_is_the_tightest_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    assert re.search(r"\d [GM]B (free|left|this|ulimit)", system_info()["memory"])
    monkeypatch.setattr(runtime, "memory_limit", lambda device: MemoryLimit(1 << 30, f"of {device}"))
    assert system_info()["memory"].startswith("1.07 GB of ")
    monkeypatch.setattr(runtime, "memory_limit", lambda device: None)
    assert system_info()["memory"] == "unknown"


def test_the_optional_packages_are_those_of_the_project() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    packages = [line for extra, lines in project.items() if extra != "dev" for line in lines]
    assert set(OPTIONAL_PACKAGES) == {re.split(r"[<>=]", line)[0] for line in packages}


def test_the_cache_is_counted(own_cache: Path) -> None:
    (own_cache / "stdin").mkdir()
    (own_cache / "stdin" / f"{'a' * 64}.txt").write_text("text")
    (own_cache / "shards" / f"{'1' * 24}.partial").mkdir()
    (own_cache / "shards" / f"{'1' * 24}.partial" / "train.bin").write_text("half")
    size = sum(f.stat().st_size for f in own_cache.rglob("*") if f.is_file())
    assert cached_files() | {"scans": ""} == {
        "size": format_bytes(size),
        "texts": "0",
        "stdin": "1",
        "ids": "4",  # both splits and their manifests
        "remote": "0",
        "vocabularies": "1",
        "scans": "",
        "measurements": "0",
        "history": "0",
        "partial": "1",
    }
    assert "stdin 1, ids 4, remote 0, vocabularies 1" in system_info()["cache"]


def test_a_cache_that_does_not_exist_is_not_created(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "nowhere" / "cache"))
    assert "size 0 bytes, texts 0" in system_info()["cache"] and not (tmp_path / "nowhere").exists()


def test_nothing_identifies_the_user(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_cache: Path) -> None:
    home = tmp_path / PRIVATE
    shutil.move(own_cache, home / "cache")
    for name in ("USER", "LOGNAME", "USERNAME", "HOSTNAME", "WANDB_API_KEY", "HF_TOKEN", "LIGHT_LLM_STOP_AFTER"):
        monkeypatch.setenv(name, f"{PRIVATE}-{name}")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(home / "cache"))
    monkeypatch.setenv("LIGHT_LLM_OFFLINE_DIR", str(home / "offline"))
    monkeypatch.setattr(platform, "node", lambda: f"{PRIVATE}-node")
    monkeypatch.setattr(socket, "gethostname", lambda: f"{PRIVATE}-host")
    monkeypatch.setattr(platform, "release", lambda: f"6.1.0-{PRIVATE}")
    monkeypatch.chdir(home)
    facts = system_info()
    text = " ".join(facts.values())
    assert "ids 4" in text and facts["offline"].endswith(" is set") and " 6.1.0 " in facts["system"]
    assert PRIVATE not in text and str(tmp_path) not in text and os.sep + "home" not in text
    assert all(text.isprintable() for text in facts.values())
