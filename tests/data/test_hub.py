"""Sources from the Hugging Face hub: a small server that answers as the hub does, and files from the user."""

import ast
import io
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from light_llm.data import sources
from light_llm.data.download import Unavailable
from light_llm.data.hub import HubFile, ensure_hub_file
from light_llm.data.sources import SOURCES, find_source
from light_llm.errors import DataError
from tests.support.web_servers import LARGE, LARGE_FILE, REVISION, SMALL, SMALL_FILE, HubServer, running


@pytest.fixture(autouse=True)
def settings(monkeypatch: pytest.MonkeyPatch, empty_cache: Path) -> None:
    """Set credentials that must never be sent, and let the library wait for nothing."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    # A test that ran earlier in this process may have imported the library offline.
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


@pytest.fixture
def hub() -> Iterator[HubServer]:
    with running(HubServer()) as server:
        yield server


@pytest.mark.parametrize("file", [LARGE_FILE, SMALL_FILE])
def test_a_file_is_downloaded_once(hub: HubServer, file: HubFile, capfd: pytest.CaptureFixture[str]) -> None:
    """Silently, without credentials, with our progress; the second time without a request."""
    data = LARGE if file is LARGE_FILE else SMALL
    steps: list[tuple[int, int]] = []
    path = ensure_hub_file(file, endpoint=hub.url, progress=lambda *step: steps.append(step))
    assert path.read_bytes() == data and steps[-1] == (len(data), len(data))
    requests = len(hub.seen)
    assert requests and ensure_hub_file(file, endpoint=hub.url) == path and len(hub.seen) == requests
    assert ensure_hub_file(file, endpoint=hub.url, offline=True) == path
    for _, _, headers in hub.seen:
        assert "light-llm/" in headers["user-agent"] and "torch/" not in headers["user-agent"]
        assert "authorization" not in {name.lower() for name in headers}
    assert capfd.readouterr() == ("", "")


def test_the_settings_of_the_library_are_restored(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import logging

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    before = constants.HF_HUB_DISABLE_TELEMETRY, logging.get_verbosity()
    ensure_hub_file(LARGE_FILE, endpoint=hub.url)
    hub.broken = 404
    with pytest.raises(DataError):
        ensure_hub_file(HubFile("someone/Some", REVISION, "none.txt", "some"), endpoint=hub.url)
    assert (constants.HF_HUB_DISABLE_TELEMETRY, logging.get_verbosity()) == before


@pytest.mark.parametrize("folder", ["offline", "cache"])
def test_a_file_from_the_user_needs_no_hub(
    hub: HubServer, empty_cache: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.setenv("LIGHT_LLM_OFFLINE_DIR", str(empty_cache.with_name("offline")))
    path = empty_cache.with_name(folder) / "some" / "texts" / "large.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(LARGE)
    assert ensure_hub_file(LARGE_FILE, endpoint=hub.url) == path and not hub.seen


@pytest.mark.parametrize("status", [404, 503, 401])
def test_a_hub_that_fails(hub: HubServer, empty_cache: Path, status: int) -> None:
    """The error names the file, its revision, the folder to put the file in, and an alternative."""
    hub.broken = status
    with pytest.raises(DataError, match=rf"large.txt .*someone/Some at revision {REVISION} .*{status}") as caught:
        ensure_hub_file(LARGE_FILE, endpoint=hub.url)
    target = empty_cache / "some" / "texts" / "large.txt"
    assert f"(revision {REVISION} of someone/Some) at {target}," in str(caught.value)
    assert str(caught.value).endswith("data='tales'") and "\n" not in str(caught.value)


def test_no_network(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(Unavailable, match="texts/large.txt of someone/Some .*downloads nothing"):
        ensure_hub_file(LARGE_FILE, endpoint=hub.url, offline=True)
    assert not hub.seen
    for reason in ("refused", "HF_HUB_OFFLINE"):
        with pytest.raises(DataError, match=f"someone/Some .*{reason}.*data='my.txt'"):
            ensure_hub_file(LARGE_FILE, endpoint="http://127.0.0.1:9")
        monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)


@pytest.mark.parametrize("sent", [LARGE[:-1] + b"?", LARGE[:-5], LARGE + b"more"])
def test_a_download_with_another_hash_is_deleted(hub: HubServer, empty_cache: Path, sent: bytes) -> None:
    hub.sent = sent
    with pytest.raises(DataError, match="texts/large.txt that differs|could not be downloaded"):
        ensure_hub_file(LARGE_FILE, endpoint=hub.url)
    assert not [path for path in empty_cache.rglob("*") if path.is_file() and path.stat().st_size > 1000]
    hub.sent = b""
    assert ensure_hub_file(LARGE_FILE, endpoint=hub.url).read_bytes() == LARGE


def test_other_errors(hub: HubServer, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A cache that cannot be written is a DataError; a bug is not reported as a network error."""
    empty_cache.write_text("")
    with pytest.raises(DataError, match="could not be downloaded from someone/Some"):
        ensure_hub_file(LARGE_FILE, endpoint=hub.url)
    monkeypatch.setattr("huggingface_hub.hf_hub_download", "not a function")
    with pytest.raises(TypeError, match="not callable"):
        ensure_hub_file(LARGE_FILE, endpoint=hub.url)


# ---- the sources on the hub


def rows(lines: list[str]) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.table({"text": lines}), out)
    return out.getvalue()


FILES = {
    "tinystories": {
        "TinyStoriesV2-GPT4-train.txt": b"Once a dog.\nIt ran.\n<|endoftext|>\nOnce a cat.\n<|endoftext|>\n",
        "TinyStoriesV2-GPT4-valid.txt": b"Once an owl.\n<|endoftext|>\n",
    },
    "wikitext-2": {
        "wikitext-2-raw-v1/train-00000-of-00001.parquet": rows(["", " = Cats = \n", "", " They sleep . \n"]),
        "wikitext-2-raw-v1/validation-00000-of-00001.parquet": rows(["", " = Dogs = \n"]),
    },
    "wikitext-103": {
        "wikitext-103-raw-v1/train-00000-of-00002.parquet": rows(["", " = Cats = \n"]),
        "wikitext-103-raw-v1/train-00001-of-00002.parquet": rows(["", " They sleep . \n"]),
        "wikitext-103-raw-v1/validation-00000-of-00001.parquet": rows(["", " = Dogs = \n"]),
    },
}
TEXTS = {
    "tinystories": (["Once a dog.\nIt ran.", "Once a cat."], ["Once an owl."]),
    "wikitext-2": ([" = Cats = \n They sleep . \n"], [" = Dogs = \n"]),
    "wikitext-103": ([" = Cats = \n They sleep . \n"], [" = Dogs = \n"]),
}


def put_offline(monkeypatch: pytest.MonkeyPatch, name: str, *files: str) -> None:
    """Put files of a source into an offline folder, all of them by default."""
    folder = Path("offline").absolute()
    monkeypatch.setenv("LIGHT_LLM_OFFLINE_DIR", str(folder))
    for file in files or FILES[name]:
        path = folder / name.split("-")[0] / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(FILES[name][file])


@pytest.mark.parametrize("name", list(FILES))
@pytest.mark.parametrize("offline", [True, False])
def test_the_sources_of_the_hub(hub: HubServer, monkeypatch: pytest.MonkeyPatch, name: str, offline: bool) -> None:
    """Each file by its name on the hub, at its revision; the validation files are held out."""
    source = SOURCES[name]
    files = {file.name: file for file in (*source.training, *source.validation) if isinstance(file, HubFile)}
    assert set(files) == set(FILES[name])
    if offline:
        put_offline(monkeypatch, name)
    else:
        hub.files = [(files[file], data) for file, data in FILES[name].items()]
        monkeypatch.setattr(sources, "ensure_hub_file", partial(ensure_hub_file, endpoint=hub.url))
    text = find_source(name, offline=offline)
    assert text.held_out and text.name == text.title == text.held_out.title == name
    for split, expected in zip((text, text.held_out), TEXTS[name], strict=True):
        assert "".join("\0" if chunk is None else chunk for chunk in split.read()).split("\0") == expected
        assert split.documents == len(expected) and split.n_chars == sum(map(len, expected))
    assert text.held_out.held_out is None


def test_a_missing_file_is_reported_before_others_are_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(FILES["tinystories"], "TinyStoriesV2-GPT4-valid.txt", b"\xff not a text")
    put_offline(monkeypatch, "tinystories", "TinyStoriesV2-GPT4-valid.txt")
    with pytest.raises(DataError, match="TinyStoriesV2-GPT4-train.txt of roneneldan/TinyStories"):
        find_source("tinystories", offline=True)


def test_val_data_replaces_the_validation_files(monkeypatch: pytest.MonkeyPatch) -> None:
    put_offline(monkeypatch, "tinystories")
    Path("mine.txt").write_text("Once a mole.")
    source = find_source("tinystories", val_data="mine.txt", offline=True)
    assert source.held_out and list(source.held_out.read()) == ["Once a mole."]


def test_heavy_packages_are_imported_when_needed() -> None:
    """Importing huggingface_hub and pyarrow takes a second."""
    for file in Path(sources.__file__).parent.glob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            modules = (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "") or ""]
            )
            assert not {"huggingface_hub", "pyarrow"} & {name.split(".")[0] for name in modules}, file
    assert "huggingface_hub" in sys.modules  # imported by the tests
