"""Finding, downloading and reading texts, with a real server that misbehaves."""

import hashlib
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from light_llm.data.fetch import KnownFile, download, find_or_fetch
from light_llm.data.pieces import LONGEST_RUN, at_safe_cuts, split_at
from light_llm.data.reading import read_text
from light_llm.data.sources import SHAKESPEARE, find_source
from light_llm.errors import DataError

BODY = b"To be, or not to be, that is the question.\n" * 500


class Misbehaving(BaseHTTPRequestHandler):
    """One path for each way a download goes wrong."""

    def do_GET(self) -> None:
        body, length = BODY, len(BODY)
        if self.path == "/gone":
            self.send_error(404)
            return
        if self.path == "/other":
            body = BODY[:-1] + b"!"
        if self.path == "/cut":
            body = BODY[:1000]
        if self.path == "/short":
            body, length = BODY[:1000], 1000
        if self.path == "/long":
            body, length = BODY + b"more", len(BODY) + 4
        self.send_response(200)
        self.send_header("Content-Length", str(length))
        self.end_headers()
        if self.path == "/stall":
            self.wfile.write(body[:1000])
            self.wfile.flush()
            self.server.stalled.wait(10)  # type: ignore[attr-defined]
            return
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


@pytest.fixture
def server() -> Iterator[str]:
    http = ThreadingHTTPServer(("127.0.0.1", 0), Misbehaving)
    http.stalled = threading.Event()  # type: ignore[attr-defined]
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{http.server_port}"
    http.stalled.set()  # type: ignore[attr-defined]
    http.shutdown()
    http.server_close()


def known(url: str) -> KnownFile:
    return KnownFile("play.txt", url, hashlib.sha256(BODY).hexdigest(), len(BODY))


def test_a_good_download_is_the_file(server: str, tmp_path: Path) -> None:
    path = download(known(f"{server}/good"), tmp_path / "new" / "play.txt")
    assert path.read_bytes() == BODY
    assert [p.name for p in path.parent.iterdir()] == ["play.txt"]


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("/gone", "could not be downloaded .* 404|could not be downloaded .*Not Found"),
        ("/other", "sent other bytes than expected: SHA-256 .*nothing was kept"),
        ("/cut", "could not be downloaded|sent 1,000 bytes of 21,500"),
        ("/short", "sent 1,000 bytes of 21,500; try again"),
        ("/long", "sent more than"),
        ("/stall", "could not be downloaded .*timed out"),
    ],
)
def test_a_bad_download_is_refused_and_leaves_nothing(server: str, tmp_path: Path, path: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        download(known(server + path), tmp_path / "play.txt", timeout=0.5)
    assert hashlib.sha256(BODY).hexdigest() in str(caught.value) and "play.txt" in str(caught.value)
    assert not list(tmp_path.glob("*play*"))


def test_no_connection_names_file_hash_and_folder(tmp_path: Path) -> None:
    with pytest.raises(
        DataError, match=r"play.txt could not be downloaded .* put the file \(SHA-256 [0-9a-f]{64}\) at"
    ):
        download(known("http://127.0.0.1:9/none"), tmp_path / "play.txt", timeout=0.5)


def test_the_places_are_tried_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Offline folder, cache, elsewhere; a file with other bytes is passed over."""
    file = known("http://127.0.0.1:9/none")
    first, cache, also = tmp_path / "first", tmp_path / "cache", tmp_path / "also.txt"
    for folder in (first, cache):
        folder.mkdir()
    monkeypatch.setenv("LIGHT_LLM_OFFLINE_DIR", str(first))
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(cache))
    with pytest.raises(DataError, match=r"play.txt is not on this machine and --offline forbids"):
        find_or_fetch(file, offline=True, also=[also])
    also.write_bytes(BODY)
    assert find_or_fetch(file, offline=True, also=[also]) == also
    (cache / "play.txt").write_bytes(BODY)
    assert find_or_fetch(file, offline=True, also=[also]) == cache / "play.txt"
    (first / "play.txt").write_bytes(BODY[:-1] + b"?")
    assert find_or_fetch(file, offline=True, also=[also]) == cache / "play.txt"
    (first / "play.txt").write_bytes(BODY)
    assert find_or_fetch(file, offline=True) == first / "play.txt"


def test_shakespeare_is_pinned(offline_files: Path) -> None:
    source = find_source("shakespeare", offline=True)
    assert (source.n_bytes, source.n_chars, len(source.alphabet)) == (1_115_394, 1_115_394, 65)
    assert source.sha256 == SHAKESPEARE.sha256 and source.title == "shakespeare"


# ---- reading


@given(st.text(max_size=60), st.booleans(), st.integers(1, 7))
def test_any_text_is_read_as_it_is(text: str, mark: bool, piece: int) -> None:
    """In pieces of any size, so that characters are cut in the middle; a byte-order mark is dropped."""
    import tempfile

    from light_llm.data import reading

    expected = text if mark else text.removeprefix("\ufeff")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "t.txt")
        path.write_bytes((b"\xef\xbb\xbf" if mark else b"") + text.encode("utf-8"))
        before, reading.PIECE = reading.PIECE, piece
        try:
            found = "".join(read_text(path))
        finally:
            reading.PIECE = before
    assert found == expected


@pytest.mark.parametrize("before", [0, 1, 5, (1 << 20) - 1, (1 << 20) + 3])
def test_bytes_that_are_not_utf8_are_named(tmp_path: Path, before: int) -> None:
    path = tmp_path / "latin.txt"
    path.write_bytes(b"a" * before + b"caf\xe9 ole")
    with pytest.raises(DataError, match=rf"latin.txt is not UTF-8 text: byte 0xe9 at offset {before + 3:,} "):
        list(read_text(path))


def test_a_character_cut_off_at_the_end_is_named(tmp_path: Path) -> None:
    path = tmp_path / "cut.txt"
    path.write_bytes(b"abc\xc3")
    with pytest.raises(DataError, match="byte 0xc3 at offset 3 .*unexpected end"):
        list(read_text(path))


@given(st.lists(st.text(alphabet="ab \n", max_size=9), max_size=9))
def test_safe_cuts_lose_nothing_and_cut_before_white_space(pieces: list[str]) -> None:
    found = list(at_safe_cuts(iter(pieces)))
    assert "".join(found) == "".join(pieces)
    for left, right in zip(found, found[1:], strict=False):
        assert not left[-1].isspace() and right[0] in " \n"


def test_a_text_without_spaces_is_cut_all_the_same() -> None:
    found = list(at_safe_cuts(iter(["a" * (2 * LONGEST_RUN + 7), "b" * 5])))
    assert "".join(found) == "a" * (2 * LONGEST_RUN + 7) + "b" * 5
    assert max(map(len, found)) <= LONGEST_RUN


@given(st.lists(st.text(max_size=5), max_size=6), st.integers(0, 20))
def test_a_split_is_exact(pieces: list[str], n: int) -> None:
    whole = "".join(pieces)
    n = min(n, len(whole))
    head, tail = split_at(iter(pieces), n)
    assert ("".join(head), "".join(tail())) == (whole[:n], whole[n:])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("shakespear", r"no source or file 'shakespear'; did you mean shakespeare\?"),
        ("nowhere/at/all.txt", "no source or file 'nowhere/at/all.txt'. The sources are shakespeare; or give a path"),
        ("pome.txt", r"no source or file 'pome.txt'; did you mean poem.txt\?"),
        (".", "is a folder; name one text file in it"),
    ],
)
def test_a_text_that_is_not_there(poem: Path, data: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        find_source(data)


def test_an_empty_text(tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("")
    with pytest.raises(DataError, match="empty.txt holds no text; training needs a file with"):
        find_source("empty.txt")


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="cannot be read: Is a directory|cannot be read: Permission denied"):
        list(read_text(tmp_path))
