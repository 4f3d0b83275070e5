"""Describe a machine: true by other sources, files counted and checked, and nothing that identifies its user."""

import json
import os
import platform
import re
import shutil
import socket
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

import light_llm
from light_llm.cli.cache_info import cached_files, offline_files
from light_llm.cli.system_info import OPTIONAL_PACKAGES, system_info, system_info_lines
from light_llm.data import prepare_dataset
from light_llm.data.sources import SHAKESPEARE
from light_llm.data.tokenizers import GPT2_VOCABULARY
from light_llm.runtime import cache_dir, container_limit, usable_cores
from tests.conftest import CHECKOUT
from tests.support.tools import flip

PRIVATE = "zebedee-of-acme"


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, poem: Path) -> Path:
    """A cache with an encoded text and a vocabulary learned from it."""
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "cache"))
    prepare_dataset(str(poem), max_length=16, tokenizer="bpe:300")
    return tmp_path / "cache"


@pytest.fixture
def offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, offline_files: Path) -> Path:
    """A copy of the folder for runs without a network."""
    for file in (SHAKESPEARE, GPT2_VOCABULARY):
        (tmp_path / "offline" / file.name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(offline_files / file.name, tmp_path / "offline" / file.name)
    monkeypatch.setenv("LIGHT_LLM_OFFLINE_DIR", str(tmp_path / "offline"))
    return tmp_path / "offline"


def text_of(facts: dict[str, Any]) -> str:
    return " ".join(" ".join(system_info_lines(facts)).split())


def test_the_facts_are_those_of_other_sources() -> None:
    facts = system_info()
    assert facts["light_llm"] == light_llm.__version__ and facts["python"] == platform.python_version()
    # The build may name what it was built for ("+cu130"), which the package's metadata leaves out.
    assert facts["torch"]["version"].partition("+")[0] == metadata.version("torch").partition("+")[0]
    assert facts["torch"]["threads"] == torch.get_num_threads()
    for_gpus = bool(re.search("USE_CUDA=(ON|1)", torch.__config__.show())) or torch.backends.mps.is_built()
    assert (facts["torch"]["built_for"] != "cpu") == for_gpus
    assert facts["system"]["name"] == os.uname().sysname and facts["system"]["machine"] == os.uname().machine
    assert os.uname().release.startswith(facts["system"]["version"]) or platform.mac_ver()[0]
    assert 1 <= facts["processor"]["usable_cores"] == usable_cores() <= facts["processor"]["cores"]
    assert facts["disk"]["here"] == pytest.approx(shutil.disk_usage(".").free, rel=0.02)
    assert facts["compiler"] == next(filter(shutil.which, ["g++", "c++", "clang++", "cl"]), None)
    assert facts["gpu"] is None or torch.accelerator.is_available()
    for package, version in facts["extras"].items():
        assert version == (metadata.version(package) if version else None)


def test_memory_is_that_of_the_kernel() -> None:
    memory = system_info()["memory"]
    if not Path("/proc/meminfo").exists():
        assert memory["available"] is None
        return
    known = dict(re.findall(r"^(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE))
    assert memory["total"] == pytest.approx(int(known["MemTotal"]) * 1024, rel=0.01)
    assert memory["available"] == pytest.approx(int(known["MemAvailable"]) * 1024, rel=0.2)


@pytest.mark.parametrize(
    ("text", "limit"), [("max\n", None), ("1073741824\n", 1 << 30), ("9223372036854771712\n", None), ("", None)]
)
def test_the_limit_of_a_container_is_read(text: str, limit: int | None, tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(text)
    assert container_limit(tmp_path) == limit and container_limit(tmp_path / "none") is None


def test_a_limit_of_the_shell_is_read() -> None:
    resource = pytest.importorskip("resource")
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (64 << 30, most))
    try:
        facts = system_info()
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))
    assert facts["memory"]["data"] == 64 << 30 and "data 68.7 GB" in text_of(facts)


def test_the_optional_packages_are_those_of_the_project() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    packages = [line for extra, lines in project.items() if extra != "dev" for line in lines]
    assert set(OPTIONAL_PACKAGES) == {re.split(r"[<>=]", line)[0] for line in packages}


@pytest.mark.parametrize("file", [SHAKESPEARE, GPT2_VOCABULARY], ids=lambda file: file.name)
def test_damaged_and_missing_offline_files_are_named(file: Any, offline: Path) -> None:
    path = offline / file.name
    assert offline_files()["complete"] and set(offline_files()["files"].values()) == {"intact"}
    for change, state in (
        (lambda: flip(path), "damaged"),
        (lambda: path.write_bytes(b"short"), "damaged"),
        (path.unlink, "missing"),
        (path.mkdir, "missing"),
    ):
        change()
        facts = offline_files()
        assert not facts["complete"] and facts["files"][file.name] == state
    assert f"{file.name} missing" in text_of(system_info())


def test_a_hub_source_is_complete_with_all_its_files(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIGHT_LLM_OFFLINE_DIR", str(tmp_path))
    (tmp_path / "tinystories").mkdir()
    (tmp_path / "tinystories" / "TinyStoriesV2-GPT4-train.txt").write_text("a")
    assert offline_files()["sources"] == []
    (tmp_path / "tinystories" / "TinyStoriesV2-GPT4-valid.txt").write_text("a")
    assert offline_files()["sources"] == ["tinystories"]
    monkeypatch.delenv("LIGHT_LLM_OFFLINE_DIR")
    assert not offline_files()["set"] and not offline_files()["complete"]


def test_the_cache_is_counted(own_cache: Path) -> None:
    (own_cache / "stdin").mkdir()
    (own_cache / "stdin" / "a.txt").write_text("text")
    (own_cache / "shards" / "x.12.partial").write_text("half")
    counts = cached_files()
    assert (counts["shards"], counts["tokenizers"], counts["texts"], counts["partial"]) == (2, 1, 1, 1)
    assert counts["bytes"] == sum(f.stat().st_size for f in own_cache.rglob("*") if f.is_file())
    assert "texts 1, shards 2, tokenizers 1" in text_of(system_info())


def test_a_cache_that_does_not_exist_is_not_created(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "nowhere" / "cache"))
    facts = system_info()
    assert facts["cache"]["bytes"] == facts["cache"]["shards"] == 0 and not (tmp_path / "nowhere").exists()
    assert facts["disk"]["cache"] == pytest.approx(facts["disk"]["here"], rel=0.02)


def test_only_the_default_cache_path_is_shown(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("LIGHT_LLM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cached_files()["place"] == "~/" + str(cache_dir().relative_to(tmp_path))
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "clients"))
    assert cached_files()["place"] == "set"


@pytest.mark.parametrize("damaged", [False, True])
def test_nothing_identifies_the_user(
    damaged: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_cache: Path, offline: Path
) -> None:
    home = tmp_path / PRIVATE
    for folder, name in ((own_cache, "cache"), (offline, "offline")):
        shutil.move(folder, home / name)
    for name in ("USER", "LOGNAME", "USERNAME", "HOSTNAME", "WANDB_API_KEY", "HF_TOKEN", "LIGHT_LLM_STOP_AFTER"):
        monkeypatch.setenv(name, f"{PRIVATE}-{name}")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(home / "cache"))
    monkeypatch.setenv("LIGHT_LLM_OFFLINE_DIR", str(home / "offline"))
    monkeypatch.setattr(platform, "node", lambda: f"{PRIVATE}-node")
    monkeypatch.setattr(socket, "gethostname", lambda: f"{PRIVATE}-host")
    monkeypatch.setattr(platform, "release", lambda: f"6.1.0-{PRIVATE}")
    monkeypatch.chdir(home)
    if damaged:
        flip(home / "offline" / "shakespeare.txt")
    facts = system_info()
    text = json.dumps(facts) + "\n".join(system_info_lines(facts))
    assert facts["cache"]["shards"] == 2 and facts["offline"]["set"] and facts["system"]["version"] == "6.1.0"
    assert facts["offline"]["complete"] != damaged
    assert PRIVATE not in text and str(tmp_path) not in text and os.sep + "home" not in text


def test_lines_fit_and_values_are_plain(own_cache: Path) -> None:
    facts = system_info()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    most: dict[str, Any] = json.loads(json.dumps(facts))
    most["memory"] |= {"container": 1 << 30, "address_space": 1 << 33, "data": 1 << 20}
    most["gpu"] = {"name": "A GPU with a very long product name of some eighty letters, " * 2, "kind": "x", "memory": 1}
    least = most | {"gpu": None, "compiler": None, "memory": dict.fromkeys(most["memory"])}
    for values in (facts, most, least):
        lines = system_info_lines(values)
        assert max(map(len, lines)) <= 80 and all(line == line.rstrip() for line in lines)
        labels = [line[:11].rstrip() for line in lines if line[0] != " "]
        assert labels[:4] == ["light-llm", "python", "torch", "system"] and len(set(labels)) == len(labels) == 12
    assert "memory unknown" in text_of(least) and "address space 8.59 GB" in text_of(most)
