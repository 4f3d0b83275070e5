"""What is said of a machine: true by other sources, whole and damaged files told apart, and nothing of its owner."""

import json
import os
import platform
import re
import shutil
import socket
import time
import tomllib
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest
import torch

import light_llm
from light_llm.cli.cache_info import cached_files
from light_llm.cli.surroundings import EXTRAS, surroundings, surroundings_lines
from light_llm.data import prepare_dataset
from light_llm.data.fetch import KnownFile
from light_llm.data.sources import SHAKESPEARE
from light_llm.data.tokenizers import GPT2_VOCABULARY
from light_llm.runtime import cache_dir, container_limit, usable_cores
from tests.conftest import CHECKOUT
from tests.support.tools import flip

TELLING = "zebedee-of-acme"


@pytest.fixture
def own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, poem: Path) -> Path:
    """A cache with an encoded text and a vocabulary learnt from it."""
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "cache"))
    prepare_dataset(str(poem), max_length=16, tokenizer="bpe:300")
    (tmp_path / "cache" / "scans").mkdir(exist_ok=True)  # of a file that was just written none is kept
    (tmp_path / "cache" / "scans" / "0.json").write_text("{}")
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
    return " ".join(" ".join(surroundings_lines(facts)).split())


def test_the_facts_are_those_of_other_sources() -> None:
    facts = surroundings()
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
    compilers = ["g++", "c++", "clang++", "cl"]
    assert facts["compiler"] == next(filter(shutil.which, compilers), None)
    assert facts["gpu"] is None or torch.accelerator.is_available()
    for package, version in facts["extras"].items():
        assert version == (metadata.version(package) if version else None)


def test_memory_is_that_of_the_kernel() -> None:
    memory = surroundings()["memory"]
    if not Path("/proc/meminfo").exists():
        assert memory["available"] is None
        return
    known = dict(re.findall(r"^(\w+):\s+(\d+) kB", Path("/proc/meminfo").read_text(), re.MULTILINE))
    assert memory["total"] == pytest.approx(int(known["MemTotal"]) * 1024, rel=0.01)
    assert memory["available"] == pytest.approx(int(known["MemAvailable"]) * 1024, rel=0.2)


@pytest.mark.parametrize(
    ("text", "limit"), [("max\n", None), ("1073741824\n", 1 << 30), ("9223372036854771712\n", None), ("", None)]
)
def test_a_container_s_limit_is_read(text: str, limit: int | None, tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text(text)
    assert container_limit(tmp_path) == limit and container_limit(tmp_path / "none") is None


def test_a_limit_of_the_shell_is_seen() -> None:
    resource = pytest.importorskip("resource")
    before, most = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (64 << 30, most))
    try:
        facts = surroundings()
    finally:
        resource.setrlimit(resource.RLIMIT_DATA, (before, most))
    assert facts["memory"]["data"] == 64 << 30 and "ulimit -d allows 68.7 GB" in text_of(facts)


def test_the_extras_are_those_of_the_project() -> None:
    project = tomllib.loads((CHECKOUT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    for extra, packages in EXTRAS.items():
        named = {re.split(r"[<>=]", line)[0] for line in project[extra]}
        assert set(packages) <= named if extra == "dev" else set(packages) == named
    assert set(EXTRAS) == set(project), "an extra is missing here"


def test_a_package_that_is_not_there_is_named() -> None:
    facts = surroundings()
    facts["extras"] = {"pyarrow": "1.2", "wandb": None}
    assert "pyarrow 1.2; not installed: wandb" in text_of(facts)


@pytest.mark.parametrize("file", [SHAKESPEARE, GPT2_VOCABULARY], ids=lambda file: file.name)
def test_what_is_wrong_with_the_offline_folder_is_named(file: KnownFile, offline: Path) -> None:
    facts = surroundings()
    assert facts["offline"]["complete"] and set(facts["offline"]["files"].values()) == {"intact"}
    flip(offline / file.name)
    facts = surroundings()
    assert not facts["offline"]["complete"] and facts["offline"]["files"][file.name] == "damaged"
    assert f"{file.name} damaged" in text_of(facts)
    (offline / file.name).write_bytes(b"short")
    assert surroundings()["offline"]["files"][file.name] == "damaged"
    (offline / file.name).unlink()
    facts = surroundings()
    assert not facts["offline"]["complete"] and f"{file.name} missing" in text_of(facts)
    (offline / file.name).mkdir()
    assert surroundings()["offline"]["files"][file.name] == "missing"


def test_a_hub_source_is_there_when_all_its_files_are(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIGHT_LLM_OFFLINE_DIR", str(tmp_path))
    (tmp_path / "tinystories").mkdir()
    (tmp_path / "tinystories" / "TinyStoriesV2-GPT4-train.txt").write_text("a")
    assert surroundings()["offline"]["sources"] == []
    (tmp_path / "tinystories" / "TinyStoriesV2-GPT4-valid.txt").write_text("a")
    facts = surroundings()
    assert facts["offline"]["sources"] == ["tinystories"] and "all files of tinystories" in text_of(facts)


def test_without_an_offline_folder_that_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LIGHT_LLM_OFFLINE_DIR", raising=False)
    facts = surroundings()
    assert not facts["offline"]["set"] and not facts["offline"]["complete"]
    assert "LIGHT_LLM_OFFLINE_DIR is not set" in text_of(facts)


def test_the_cache_is_counted(own_cache: Path) -> None:
    found = cached_files(check_shards=True)
    assert (found["shards"], found["tokenizers"], found["scans"], found["texts"]) == (2, 1, 1, 0)
    assert found["bytes"] == sum(f.stat().st_size for f in own_cache.rglob("*") if f.is_file())
    assert not found["damaged"] and not found["partial"] and found["place"] == "set"
    assert "1 tokenizer; none damaged; every byte checked" in text_of(surroundings(check_shards=True))


def test_an_empty_cache_and_none_at_all(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "nowhere" / "cache"))
    facts = surroundings()
    assert facts["cache"]["bytes"] == facts["cache"]["shards"] == 0 and not (tmp_path / "nowhere").exists()
    assert facts["disk"]["cache"] == pytest.approx(facts["disk"]["here"], rel=0.02), "of the folder it would be made in"


def cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-2])


@pytest.mark.parametrize(
    ("pattern", "harm", "kind"),
    [
        ("shards/*/train.bin", cut, "shards"),
        ("shards/*/train.json", flip, "shards"),
        ("shards/*/held_out.json", Path.unlink, "shards"),
        ("tokenizers/*.json", flip, "tokenizers"),
        ("scans/*.json", cut, "scans"),
    ],
)
def test_what_is_damaged_in_the_cache_is_named_by_its_kind(pattern: str, harm: Any, kind: str, own_cache: Path) -> None:
    (path,) = own_cache.glob(pattern)
    harm(path)
    facts = surroundings()
    assert facts["cache"]["damaged"] == {kind: 1} and f"damaged: 1 of {kind}" in text_of(facts)


def test_every_byte_of_a_shard_is_checked_only_on_demand(own_cache: Path) -> None:
    (path,) = own_cache.glob("shards/*/train.bin")
    flip(path)
    assert not surroundings()["cache"]["damaged"]
    assert surroundings(check_shards=True)["cache"]["damaged"] == {"shards": 1}


def test_texts_of_the_cache_and_what_was_left_behind(own_cache: Path) -> None:
    (own_cache / "stdin").mkdir()
    (own_cache / "stdin" / "a.txt").write_text("text")
    (own_cache / "stdin" / "b.txt").touch()
    (own_cache / "shards" / "x.12.partial").write_text("half")
    (own_cache / SHAKESPEARE.name).write_text("other bytes")
    found = surroundings()
    assert found["cache"]["texts"] == 2 and found["cache"]["damaged"] == {"texts": 1}
    assert found["cache"]["files"] == {SHAKESPEARE.name: "damaged"} and found["cache"]["partial"] == 1
    assert "shakespeare.txt damaged; 1 unfinished file" in text_of(found)


def test_the_usual_place_is_shown_and_any_other_is_not(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("LIGHT_LLM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    assert cached_files(check_shards=False)["place"] == "~/" + str(cache_dir().relative_to(tmp_path))
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "clients"))
    assert cached_files(check_shards=False)["place"] == "set"


@pytest.mark.parametrize("harm", [None, flip])
def test_nothing_says_whose_machine_it_is(
    harm: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, own_cache: Path, offline: Path
) -> None:
    home = tmp_path / TELLING
    for folder, name in ((own_cache, "cache"), (offline, "offline")):
        shutil.move(folder, home / name)
    for name in ("USER", "LOGNAME", "USERNAME", "HOSTNAME", "WANDB_API_KEY", "HF_TOKEN", "LIGHT_LLM_STOP_AFTER"):
        monkeypatch.setenv(name, f"{TELLING}-{name}")
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(home / "cache"))
    monkeypatch.setenv("LIGHT_LLM_OFFLINE_DIR", str(home / "offline"))
    monkeypatch.setattr(platform, "node", lambda: f"{TELLING}-node")
    monkeypatch.setattr(socket, "gethostname", lambda: f"{TELLING}-host")
    monkeypatch.setattr(platform, "release", lambda: f"6.1.0-{TELLING}")
    monkeypatch.chdir(home)
    if harm:
        for path in [home / "offline" / "shakespeare.txt", *(home / "cache").glob("*/*.json")]:
            harm(path)
    facts = surroundings(check_shards=True)
    said = json.dumps(facts) + "\n".join(surroundings_lines(facts))
    assert facts["cache"]["shards"] == 2 and facts["offline"]["set"] and facts["system"]["version"] == "6.1.0"
    assert bool(facts["cache"]["damaged"]) == bool(harm)
    assert TELLING not in said and str(tmp_path) not in said and os.sep + "home" not in said


def test_lines_fit_and_values_are_plain(own_cache: Path, offline: Path) -> None:
    facts = surroundings()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    most: dict[str, Any] = json.loads(json.dumps(facts))
    most["memory"] |= {"container": 1 << 30, "address_space": 1 << 33, "data": 1 << 20}
    most["cache"]["damaged"] = {"texts": 12, "shards": 100, "tokenizers": 3, "scans": 4}
    most["gpu"] = {"name": "A GPU with a very long product name of some eighty letters, " * 2, "kind": "x", "memory": 1}
    most["processor"] |= {"bfloat16": None, "amx": True}
    least = most | {"gpu": None, "compiler": None, "memory": dict.fromkeys(most["memory"])}
    for values in (facts, most, least):
        lines = surroundings_lines(values)
        assert max(map(len, lines)) <= 80 and all(line == line.rstrip() for line in lines)
        labels = [line[:9].rstrip() for line in lines if line[0] != " "]
        assert labels[:3] == ["version", "torch", "system"] and len(set(labels)) == len(labels) == 11
    assert "unknown, unknown available" in text_of(least) and "ulimit -v allows 8.59 GB" in text_of(most)


def test_it_takes_no_time(own_cache: Path, offline: Path) -> None:
    surroundings()  # what is imported is imported
    start = time.perf_counter()
    surroundings()
    assert time.perf_counter() - start < 1
