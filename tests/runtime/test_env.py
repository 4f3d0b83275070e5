"""Paths from environment variables and from users."""

import pwd
from pathlib import Path

import pytest

from light_llm.checkpoint import RunFolder, load_model
from light_llm.data.sources import find_source
from light_llm.data.tokenizers import make_tokenizer
from light_llm.errors import CheckpointError, ConfigError
from light_llm.runtime import cache_dir, expand_path, offline_dir, tiktoken_cache_dir


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home folder of its own, which is not the working folder."""
    folder = tmp_path / "home"
    folder.mkdir()
    monkeypatch.setenv("HOME", str(folder))
    return folder


def test_a_leading_tilde_is_the_home_folder(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert [str(expand_path(path)) for path in ("~", "~/a/b.txt", Path("~/a"))] == [
        str(home),
        f"{home}/a/b.txt",
        f"{home}/a",
    ]
    for path in ("a/~/b", "~other/a", "./~/a", "-", ""):
        assert expand_path(path) == Path(path) or path == "./~/a"
    Path("~").mkdir()  # a folder that is there as it is written
    assert expand_path("~/a") == Path("~/a")


def test_every_path_that_a_user_gives_is_expanded(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, path in (("CACHE", cache_dir), ("OFFLINE_DIR", offline_dir)):
        monkeypatch.setenv(f"LIGHT_LLM_{name}", "~/files")
        assert path() == home / "files"
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", "~/files")
    assert tiktoken_cache_dir() == home / "files"
    assert RunFolder("~/runs/a").path == home / "runs" / "a"
    (home / "a.txt").write_text("a text")
    assert find_source("~/a.txt").path == home / "a.txt"
    with pytest.raises(CheckpointError, match=f"{home}/none.pt"):
        load_model("~/none.pt")
    with pytest.raises(ConfigError, match=f"{home}/none.json"):
        make_tokenizer("~/none.json")


def test_a_user_without_a_home_folder_is_told_which_variable_helps(monkeypatch: pytest.MonkeyPatch) -> None:
    """As in `docker run -u 12345`."""

    def no_such_user(uid: int) -> None:
        raise KeyError(uid)

    for name in ("HOME", "LIGHT_LLM_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(pwd, "getpwuid", no_such_user)
    with pytest.raises(ConfigError, match="no home folder .*set LIGHT_LLM_CACHE to a folder"):
        cache_dir()
    assert expand_path("~/a") == Path("~/a")
