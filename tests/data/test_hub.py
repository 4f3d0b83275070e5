"""Sources from the Hugging Face hub: a small server in the hub's very layout, and files someone brought along."""

import hashlib
import io
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from light_llm.data import sources
from light_llm.data.hub import HubFile, ensure_hub_file
from light_llm.data.sources import SOURCES, find_source
from light_llm.errors import DataError

REVISION = "0123456789abcdef0123456789abcdef01234567"
LARGE, SMALL = b"Once upon a time.\n" * 9000, b"To be.\n"
FILE = HubFile("someone/Some", REVISION, "texts/large.txt", "some")


class Hub(BaseHTTPRequestHandler):
    """Answers as the hub does: HEAD says commit, size and hash; a large file lies elsewhere, under its SHA-256."""

    server: "Server"

    def do_HEAD(self) -> None:
        self._make_response(body=False)

    def do_GET(self) -> None:
        self._make_response(body=True)

    def _make_response(self, body: bool) -> None:
        self.server.seen.append((self.command, self.path, dict(self.headers)))
        files = {
            f"/datasets/{f.repo}/resolve/{f.revision}/{f.name}": (f.revision, data) for f, data in self.server.files
        }
        if self.server.broken or (self.path not in files and not self.path.startswith("/cdn/")):
            self.send_response(self.server.broken or 404)
            self.send_header("X-Error-Code", "EntryNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if self.path.startswith("/cdn/"):
            data = self.server.sent or next(d for _, d in self.server.files if self.path.endswith(sha256(d)))
            return self._send(200, data, {}, body)
        revision, data = files[self.path]
        facts = {"X-Repo-Commit": revision, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        if len(data) < 1000:
            return self._send(200, data, facts, body)
        facts |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{sha256(data)}"'}
        self._send(302, b"", facts | {"Location": f"{self.server.elsewhere}/cdn/{sha256(data)}"}, body)

    def _send(self, status: int, data: bytes, headers: dict[str, str], body: bool) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if body:
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """What it has, what it was asked, and how it misbehaves."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hub)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.elsewhere = f"http://localhost:{self.server_port}"  # another host, as large files are on
        self.files = [(FILE, LARGE), (HubFile(FILE.repo, REVISION, "small.txt", "some"), SMALL)]
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.broken = 0
        self.sent = b""  # in place of a large file


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(autouse=True)
def nobodys_settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No folder of files, a cache of its own, no proxies; and a library that waits for nothing."""
    for name in ("LIGHT_LLM_OFFLINE_DIR", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("HF_TOKEN", "hf_of_somebody")
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)


@pytest.fixture
def hub() -> Iterator[Server]:
    http = Server()
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield http
    http.shutdown()
    http.server_close()


@pytest.mark.parametrize("file", [FILE, HubFile(FILE.repo, REVISION, "small.txt", "some")])
def test_a_file_is_fetched_once_and_whole(hub: Server, file: HubFile, capfd: pytest.CaptureFixture[str]) -> None:
    """Silently, without anyone's credentials, with our progress; the second time without a request."""
    data = LARGE if file is FILE else SMALL
    steps: list[tuple[int, int]] = []
    path = ensure_hub_file(file, endpoint=hub.url, progress=lambda done, total: steps.append((done, total)))
    assert path.read_bytes() == data and steps[-1] == (len(data), len(data))
    requests = len(hub.seen)
    assert requests and ensure_hub_file(file, endpoint=hub.url) == path and len(hub.seen) == requests
    assert ensure_hub_file(file, endpoint=hub.url, offline=True) == path
    for _, _, headers in hub.seen:
        assert "light-llm/" in headers["user-agent"] and "torch/" not in headers["user-agent"]
        assert "authorization" not in {name.lower() for name in headers}
    assert capfd.readouterr() == ("", "")


def test_the_librarys_settings_are_left_as_they_were(hub: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants
    from huggingface_hub.utils import logging

    monkeypatch.setattr(constants, "HF_HUB_DISABLE_TELEMETRY", False)
    before = constants.HF_HUB_DISABLE_TELEMETRY, logging.get_verbosity()
    ensure_hub_file(FILE, endpoint=hub.url)
    hub.broken = 404
    with pytest.raises(DataError):
        ensure_hub_file(HubFile("someone/Some", REVISION, "none.txt", "some"), endpoint=hub.url)
    assert (constants.HF_HUB_DISABLE_TELEMETRY, logging.get_verbosity()) == before


@pytest.mark.parametrize("folder", ["offline", "cache"])
def test_a_file_someone_brought_along_needs_no_hub(
    hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, folder: str
) -> None:
    monkeypatch.setenv("LIGHT_LLM_OFFLINE_DIR", str(tmp_path / "offline"))
    path = tmp_path / folder / "some" / "texts" / "large.txt"
    path.parent.mkdir(parents=True)
    path.write_bytes(LARGE)
    assert ensure_hub_file(FILE, endpoint=hub.url) == path and not hub.seen


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (
            404,
            "large.txt could not be downloaded from someone/Some at revision 0123456789abcdef0123456789abcdef01234567",
        ),
        (503, "could not be downloaded from someone/Some .*503"),
        (401, "could not be downloaded from someone/Some .*401"),
    ],
)
def test_a_hub_that_fails(hub: Server, tmp_path: Path, broken: int, message: str) -> None:
    """File, revision, the folder to put the file in, and another way out."""
    hub.broken = broken
    with pytest.raises(DataError, match=message) as caught:
        ensure_hub_file(FILE, endpoint=hub.url)
    place = tmp_path / "cache" / "some" / "texts" / "large.txt"
    assert f"put the file (revision {REVISION} of someone/Some) at {place}, or name" in str(caught.value)
    assert str(caught.value).endswith("as in --data my.txt") and "\n" not in str(caught.value)


def test_no_network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DataError, match="could not be downloaded from someone/Some .*refused.*--data my.txt"):
        ensure_hub_file(FILE, endpoint="http://127.0.0.1:9")
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match="could not be downloaded from someone/Some .*HF_HUB_OFFLINE.*--data my.txt"):
        ensure_hub_file(FILE, endpoint="http://127.0.0.1:9")


def test_offline_asks_nobody(hub: Server) -> None:
    with pytest.raises(DataError, match="texts/large.txt of someone/Some is not on this machine and --offline forbids"):
        ensure_hub_file(FILE, endpoint=hub.url, offline=True)
    assert not hub.seen


@pytest.mark.parametrize("sent", [LARGE[:-1] + b"?", LARGE[:-5], LARGE + b"more"])
def test_other_bytes_than_announced_are_not_kept(hub: Server, tmp_path: Path, sent: bytes) -> None:
    hub.sent = sent
    with pytest.raises(
        DataError, match="sent other bytes for texts/large.txt than it announced|could not be downloaded"
    ):
        ensure_hub_file(FILE, endpoint=hub.url)
    assert not [path for path in (tmp_path / "cache").rglob("*") if path.is_file() and path.stat().st_size > 1000]
    hub.sent = b""
    assert ensure_hub_file(FILE, endpoint=hub.url).read_bytes() == LARGE


def test_a_cache_that_cannot_be_written(hub: Server, tmp_path: Path) -> None:
    (tmp_path / "cache").write_text("")
    with pytest.raises(DataError, match="could not be downloaded from someone/Some"):
        ensure_hub_file(FILE, endpoint=hub.url)


def test_a_fault_in_a_program_is_not_called_a_fault_of_the_network(
    hub: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def wrong(*args: object, **kwargs: object) -> str:
        raise TypeError("a bug")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", wrong)
    with pytest.raises(TypeError, match="a bug"):
        ensure_hub_file(FILE, endpoint=hub.url)


# ---- the sources that come from there


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


@pytest.mark.parametrize("name", list(FILES))
@pytest.mark.parametrize("brought", [True, False])
def test_the_sources_of_the_hub(
    hub: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, brought: bool
) -> None:
    """Each file by its name in the hub, at its revision; the validation files are what is held out."""
    known = SOURCES[name]
    files = {file.name: file for file in (*known.training, *known.validation) if isinstance(file, HubFile)}
    assert set(files) == set(FILES[name])
    if brought:
        monkeypatch.setenv("LIGHT_LLM_OFFLINE_DIR", str(tmp_path / "brought"))
        for file, data in FILES[name].items():
            path = tmp_path / "brought" / name.split("-")[0] / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    else:
        hub.files = [(files[file], data) for file, data in FILES[name].items()]
        fetch = ensure_hub_file
        monkeypatch.setattr(
            sources, "ensure_hub_file", lambda file, **options: fetch(file, endpoint=hub.url, **options)
        )
    source = find_source(name, offline=brought)
    assert source.held_out and source.name == source.title == source.held_out.title == name
    for found, expected in zip((source, source.held_out), TEXTS[name], strict=True):
        assert "".join("\0" if piece is None else piece for piece in found.read()).split("\0") == expected
        assert found.documents == len(expected) and found.n_chars == sum(map(len, expected))
    assert source.held_out.held_out is None


def test_what_is_missing_is_said_before_anything_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHT_LLM_OFFLINE_DIR", str(tmp_path))
    (tmp_path / "tinystories").mkdir()
    (tmp_path / "tinystories" / "TinyStoriesV2-GPT4-valid.txt").write_bytes(b"\xff not a text")
    with pytest.raises(
        DataError, match="TinyStoriesV2-GPT4-train.txt of roneneldan/TinyStories is not on this machine"
    ):
        find_source("tinystories", offline=True)


def test_a_validation_text_of_your_own_takes_the_place_of_the_hubs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LIGHT_LLM_OFFLINE_DIR", str(tmp_path))
    (tmp_path / "tinystories").mkdir()
    for name, data in FILES["tinystories"].items():
        (tmp_path / "tinystories" / name).write_bytes(data)
    (tmp_path / "mine.txt").write_text("Once a mole.")
    source = find_source("tinystories", val_data="mine.txt", offline=True)
    assert source.held_out and list(source.held_out.read()) == ["Once a mole."]


def test_nothing_heavy_is_imported_before_it_is_needed() -> None:
    """huggingface_hub and pyarrow cost a second between them."""
    import ast

    import light_llm.data

    for file in Path(light_llm.data.__file__).parent.glob("*.py"):
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            names = (
                [a.name for a in node.names] if isinstance(node, ast.Import) else [getattr(node, "module", "") or ""]
            )
            assert not {"huggingface_hub", "pyarrow"} & {name.split(".")[0] for name in names}, file
    assert "huggingface_hub" in sys.modules  # this test has them
