"""Downloads, with a real server that misbehaves in every way a request can be made to."""

import hashlib
import re
import threading
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from time import monotonic, time

import pytest

from light_llm.data.download import PinnedFile, RetryPolicy, download_file, ensure_file
from light_llm.errors import DataError

BODY = "".join(f"{i}: to be, or not to be, that is the question.\n" for i in range(6000)).encode()
SOON = RetryPolicy(timeout=0.3, first_delay=0.0, max_delay=0.05)


class Misbehaving(BaseHTTPRequestHandler):
    """A path names the faults of one request after the other, as in /cut/503/good; the last one stays."""

    server: "Server"

    def do_GET(self) -> None:
        faults = self.path.strip("/").split("/")
        fault = faults[min(len(self.server.ranges), len(faults) - 1)]
        self.server.ranges.append(self.headers.get("Range"))
        getattr(self, f"_{fault}", self._status)(fault)

    def _status(self, fault: str) -> None:
        code, _, retry_after = fault.partition("@")
        self.send_response(int(code))
        if retry_after:
            self.send_header("Retry-After", formatdate(time() + 3600) if retry_after == "date" else retry_after)
        if code.startswith("3"):
            self.send_header("Location", self.server.elsewhere)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _good(self, fault: str, body: bytes = BODY, send: int | None = None, length: int | None = None) -> None:
        """The file, or the rest of it, as a server sends it that knows ranges; `send` bytes of it and no more."""
        first = int((self.headers.get("Range") or "bytes=0-")[len("bytes=") : -1])
        self.send_response(206 if first else 200)
        if first:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - first if length is None else length))
        self.end_headers()
        self.wfile.write(body[first : None if send is None else first + send])
        self.close_connection = True

    def _cut(self, fault: str) -> None:
        self._good(fault, send=100_000)

    def _other(self, fault: str) -> None:
        self._good(fault, body=BODY[:-1] + b"!")

    def _othercut(self, fault: str) -> None:
        self._good(fault, body=b"X" + BODY[1:], send=100_000)

    def _short(self, fault: str) -> None:
        self._good(fault, body=BODY[:1000])

    def _tiny(self, fault: str) -> None:
        """Announces less than it sends."""
        self._good(fault, length=1000)

    def _longer(self, fault: str) -> None:
        self._good(fault, body=BODY + b"more")

    def _endless(self, fault: str) -> None:
        """No length, and bytes without end."""
        self.send_response(200)
        self.end_headers()
        sent = 0
        try:
            while not self.server.over.is_set():
                sent += self.wfile.write(BODY)
        except OSError:
            self.server.sent = sent

    def _stall(self, fault: str) -> None:
        self._good(fault, send=100_000)
        self.wfile.flush()
        self.server.over.wait(10)

    def _norange(self, fault: str) -> None:
        del self.headers["Range"]
        self._good(fault)

    def _norangecut(self, fault: str) -> None:
        del self.headers["Range"]
        self._good(fault, send=50_000)

    def _wrongpart(self, fault: str) -> None:
        self.send_response(206)
        self.send_header("Content-Range", f"bytes 0-{len(BODY) - 1}/{len(BODY)}")
        self.send_header("Content-Length", str(len(BODY)))
        self.end_headers()
        self.wfile.write(BODY)

    def _hangup(self, fault: str) -> None:
        self.close_connection = True

    def _redirect(self, fault: str) -> None:
        self._status("302")

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class Server(ThreadingHTTPServer):
    """Remembers the Range header of each request, None where there was none."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Misbehaving)
        self.over = threading.Event()
        self.ranges: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.elsewhere = f"{self.url}/good"
        self.sent = 0

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no news."""


@pytest.fixture
def server() -> Iterator[Server]:
    http = Server()
    thread = threading.Thread(target=http.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield http
    http.over.set()
    http.shutdown()
    http.server_close()


def known(url: str) -> PinnedFile:
    return PinnedFile("play.txt", url, hashlib.sha256(BODY).hexdigest(), len(BODY))


def rest(n: int) -> str:
    return f"bytes={n}-"


@pytest.mark.parametrize(
    ("path", "ranges"),
    [
        ("good", [None]),
        ("503/good", [None, None]),
        ("500/429/good", [None, None, None]),
        ("hangup/good", [None, None]),
        ("cut/good", [None, rest(100_000)]),
        ("cut/cut/good", [None, rest(100_000), rest(200_000)]),
        ("cut/503/good", [None, rest(100_000), rest(100_000)]),
        ("stall/good", [None, rest(65_536)]),  # what came before the silence, in whole pieces
        ("short/good", [None, rest(1000)]),
        ("tiny/good", [None, rest(1000)]),
        ("cut/norange", [None, rest(100_000)]),  # the whole file again, and nothing of it twice
        ("cut/norangecut/good", [None, rest(100_000), rest(50_000)]),
        ("cut/416/good", [None, rest(100_000), None]),
        ("cut/wrongpart/good", [None, rest(100_000), None]),
        ("othercut/good/good", [None, rest(100_000), None]),  # parts of two files: the hash tells
        ("redirect/good", [None, None]),
        ("endless", [None]),
    ],
)
def test_a_download_that_becomes_the_file(server: Server, tmp_path: Path, path: str, ranges: list[str | None]) -> None:
    """What is here is gone on with, what may pass is tried again, and the file is the file."""
    steps: list[tuple[int, int]] = []
    found = download_file(
        known(f"{server.url}/{path}"),
        tmp_path / "new" / "play.txt",
        retry=SOON,
        progress=lambda done, total: steps.append((done, total)),
    )
    assert found.read_bytes() == BODY and [p.name for p in found.parent.iterdir()] == ["play.txt"]
    assert len(server.ranges) == len(ranges)
    for asked, expected in zip(server.ranges, ranges, strict=True):
        assert (asked is None) == (expected is None)
        if path.startswith(("cut", "short", "tiny", "othercut")):
            assert asked == expected
    assert steps[-1] == (len(BODY), len(BODY)) and all(done <= total for done, total in steps)


@pytest.mark.parametrize(
    ("path", "message", "requests"),
    [
        ("404", "could not be downloaded .*404", 1),
        ("403", "could not be downloaded .*403", 1),
        ("other", "sent other bytes than expected: SHA-256 .*nothing was kept", 1),
        ("longer", r"it is 294,894 bytes long, not 294,890", 1),
        ("503", "503 .*3 tries; try again later", 3),
        ("short", "it sent 1,000 bytes of 294,890.* 3 tries", 3),
        ("stall", "timed out.* 3 tries", 3),
        ("hangup", "3 tries", 3),
        ("503/404", "could not be downloaded .*404", 2),
    ],
)
def test_a_bad_download_is_refused_and_leaves_nothing(
    server: Server, tmp_path: Path, path: str, message: str, requests: int
) -> None:
    body = len(BODY)
    message = message.replace("294,894", f"{body + 4:,}").replace("294,890", f"{body:,}")
    with pytest.raises(DataError, match=message) as caught:
        download_file(known(f"{server.url}/{path}"), tmp_path / "play.txt", retry=SOON)
    assert hashlib.sha256(BODY).hexdigest() in str(caught.value) and "play.txt" in str(caught.value)
    assert len(server.ranges) == requests and not list(tmp_path.glob("*play*"))


def test_another_part_than_was_asked_for_is_not_even_read(server: Server, tmp_path: Path) -> None:
    steps: list[int] = []
    download_file(
        known(f"{server.url}/cut/wrongpart/good"),
        tmp_path / "play.txt",
        retry=SOON,
        progress=lambda done, total: steps.append(done),
    )
    again = steps.index(100_000) + 1
    assert steps[again] < 100_000 and steps[again:] == sorted(steps[again:])


def test_no_more_is_taken_than_the_file_has(server: Server, tmp_path: Path) -> None:
    """A server that does not stop is left in the middle of its sentence."""
    download_file(known(f"{server.url}/endless"), tmp_path / "play.txt", retry=SOON)
    deadline = monotonic() + 5
    while not server.sent and monotonic() < deadline:
        threading.Event().wait(0.01)
    assert 0 < server.sent < 100 * len(BODY)


@pytest.mark.parametrize("elsewhere", ["file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "gopher://x/"])
def test_a_redirection_leads_to_the_web_only(server: Server, tmp_path: Path, elsewhere: str) -> None:
    server.elsewhere = elsewhere
    with pytest.raises(DataError, match="could not be downloaded .*(is not followed|not allowed)"):
        download_file(known(f"{server.url}/redirect"), tmp_path / "play.txt", retry=SOON)
    assert not list(tmp_path.glob("*play*"))


def test_redirections_in_a_circle_end(server: Server, tmp_path: Path) -> None:
    server.elsewhere = f"{server.url}/redirect"
    with pytest.raises(DataError, match="could not be downloaded .*302"):
        download_file(known(f"{server.url}/redirect"), tmp_path / "play.txt", retry=SOON)


@pytest.mark.parametrize(("asked", "waits"), [("0", (0.0, 0.3)), ("1", (0.4, 2.0)), ("date", (0.4, 2.0))])
def test_a_server_is_given_the_time_it_asks_for_up_to_a_bound(
    server: Server, tmp_path: Path, asked: str, waits: tuple[float, float]
) -> None:
    policy = RetryPolicy(first_delay=9.0, max_delay=0.4)
    began = monotonic()
    download_file(known(f"{server.url}/503@{asked}/good"), tmp_path / "play.txt", retry=policy)
    assert waits[0] <= monotonic() - began < waits[1]


def test_waiting_doubles_within_bounds() -> None:
    policy = RetryPolicy(first_delay=1.0, max_delay=30.0)
    assert [policy.delay(tried, None) for tried in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]
    assert [policy.delay(1, asked) for asked in (0.0, 5.0, 1e9, -3.0)] == [0, 5, 30, 0]


def test_proxies_of_the_environment_are_not_for_this_machine(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert download_file(known(f"{server.url}/good"), tmp_path / "a.txt", retry=SOON).read_bytes() == BODY
    with pytest.raises(DataError, match="refused"):  # any other host goes through it
        download_file(known("http://light-llm.invalid/play.txt"), tmp_path / "b.txt", retry=SOON)


def test_no_connection_is_said_at_once_with_file_hash_and_folder(tmp_path: Path) -> None:
    began = monotonic()
    with pytest.raises(
        DataError, match=r"play.txt could not be downloaded .* put the file \(SHA-256 [0-9a-f]{64}\) at .*--data"
    ):
        download_file(known("http://127.0.0.1:9/none"), tmp_path / "play.txt", retry=RetryPolicy(first_delay=5.0))
    assert monotonic() - began < 2


def test_a_folder_that_cannot_be_written_is_named(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="play.txt cannot be kept at .*; make room there, or set LIGHT_LLM_CACHE"):
        download_file(known(f"{server.url}/good"), tmp_path / "file" / "play.txt", retry=SOON)


def test_the_places_are_tried_in_order(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Offline folder, cache, elsewhere; a file with other bytes is passed over."""
    file = known("http://127.0.0.1:9/none")
    first, cache, extra = tmp_path / "first", tmp_path / "cache", tmp_path / "also.txt"
    for folder in (first, cache):
        folder.mkdir()
    monkeypatch.setenv("LIGHT_LLM_OFFLINE_DIR", str(first))
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(cache))
    with pytest.raises(DataError, match=r"play.txt is not on this machine and --offline forbids"):
        ensure_file(file, offline=True, extra_paths=[extra])
    extra.write_bytes(BODY)
    assert ensure_file(file, offline=True, extra_paths=[extra]) == extra
    (cache / "play.txt").write_bytes(BODY)
    assert ensure_file(file, offline=True, extra_paths=[extra]) == cache / "play.txt"
    (first / "play.txt").write_bytes(BODY[:-1] + b"?")
    assert ensure_file(file, offline=True, extra_paths=[extra]) == cache / "play.txt"
    (first / "play.txt").write_bytes(BODY)
    assert ensure_file(file, offline=True) == first / "play.txt"


def test_a_damaged_file_is_named(server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In the error where nothing better is found, and in a line for the user where it is."""
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LIGHT_LLM_OFFLINE_DIR", raising=False)
    (tmp_path / "cache").mkdir()
    kept = tmp_path / "cache" / "play.txt"
    kept.write_bytes(BODY[:-1] + b"?")
    damaged = (
        rf"{re.escape(str(kept))} is there but damaged: SHA-256 [0-9a-f]{{12}}\.\.\. instead of [0-9a-f]{{12}}\.\.\."
    )
    with pytest.raises(DataError, match=rf"play.txt is not on this machine \({damaged}\) and --offline forbids"):
        ensure_file(known("http://127.0.0.1:9/none"), offline=True)
    with pytest.raises(DataError, match=rf"could not be downloaded .*\({damaged}\); put the file"):
        ensure_file(known("http://127.0.0.1:9/none"), retry=SOON)
    lines: list[str] = []
    assert ensure_file(known(f"{server.url}/good"), retry=SOON, log=lines.append).read_bytes() == BODY
    assert len(lines) == 1 and re.fullmatch(rf"{damaged}; it was fetched anew", lines[0]), lines
    kept.write_bytes(BODY[:-1])
    with pytest.raises(DataError, match=r"it has [\d,]+ bytes instead of [\d,]+\) and --offline"):
        ensure_file(known("http://127.0.0.1:9/none"), offline=True)


def test_what_is_nowhere_is_fetched_into_the_cache(
    server: Server, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("LIGHT_LLM_OFFLINE_DIR", raising=False)
    file = known(f"{server.url}/good")
    for _ in range(2):
        assert ensure_file(file, retry=SOON) == tmp_path / "cache" / "play.txt"
    assert len(server.ranges) == 1
