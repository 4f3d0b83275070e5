"""Web servers for tests: one that misbehaves in every way a response can, a hub, and an object store."""

import hashlib
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer, ThreadingHTTPServer
from time import time
from typing import Any, TypeVar

from light_llm.data.hub import HubFile

AnyServer = TypeVar("AnyServer", bound=HTTPServer)


@contextmanager
def running(server: AnyServer) -> Iterator[AnyServer]:
    """Run a server in a thread inside the block."""
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()


# ---- a faulty server of one file

BODY = "".join(f"{i}: to be, or not to be, that is the question.\n" for i in range(6000)).encode()

# How each named fault answers: the body, how many of its bytes are sent, and the Content-Length that is announced.
RESPONSES: dict[str, dict[str, Any]] = {
    "good": {},
    "cut": {"send": 100_000},
    "other": {"body": BODY[:-1] + b"!"},
    "othercut": {"body": b"X" + BODY[1:], "send": 100_000},
    "short": {"body": BODY[:1000]},
    "tiny": {"length": 1000},
    "longer": {"body": BODY + b"more"},
    "stall": {"send": 100_000, "stall": True},
    "norange": {"ranges": False},
    "norangecut": {"ranges": False, "send": 50_000},
    "wrongpart": {"ranges": False, "wrong_part": True},
}


class Misbehaving(BaseHTTPRequestHandler):
    """A path names the faults of consecutive requests, as in /cut/503/good; the last one repeats."""

    server: "FaultyServer"

    def do_GET(self) -> None:
        faults = self.path.strip("/").split("/")
        fault = faults[min(len(self.server.ranges), len(faults) - 1)]
        self.server.ranges.append(self.headers.get("Range"))
        if fault == "endless":
            self.send_endlessly()
        elif fault in RESPONSES:
            self.send_body(**RESPONSES[fault])
        elif fault != "hangup":
            self.send_status("302" if fault == "redirect" else fault)
        self.close_connection = True

    def send_status(self, fault: str) -> None:
        code, _, retry_after = fault.partition("@")
        self.send_response(int(code))
        if retry_after:
            self.send_header("Retry-After", formatdate(time() + 3600) if retry_after == "date" else retry_after)
        if code == "302":
            self.send_header("Location", self.server.elsewhere)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def send_body(
        self,
        body: bytes = BODY,
        send: int | None = None,
        length: int | None = None,
        stall: bool = False,
        ranges: bool = True,
        wrong_part: bool = False,
    ) -> None:
        first = int((self.headers.get("Range") or "bytes=0-")[len("bytes=") : -1]) if ranges else 0
        self.send_response(206 if first or wrong_part else 200)
        if first or wrong_part:
            self.send_header("Content-Range", f"bytes {first}-{len(body) - 1}/{len(body)}")
        self.send_header("Content-Length", str(len(body) - first if length is None else length))
        self.end_headers()
        self.wfile.write(body[first : None if send is None else first + send])
        self.wfile.flush()
        if stall:
            self.server.over.wait(60)

    def send_endlessly(self) -> None:
        self.send_response(200)
        self.end_headers()
        sent = 0
        try:
            while not self.server.over.is_set():
                sent += self.wfile.write(BODY)
        except OSError:
            self.server.sent = sent
            self.server.hung_up.set()

    def log_message(self, format: str, *args: object) -> None:
        pass


class FaultyServer(ThreadingHTTPServer):
    """Records the Range header of each request (None if it has none)."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Misbehaving)
        self.over, self.hung_up = threading.Event(), threading.Event()
        self.ranges: list[str | None] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.elsewhere = f"{self.url}/good"
        self.sent = 0

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that hang up."""

    def server_close(self) -> None:
        self.over.set()
        super().server_close()


# ---- a hub

REVISION = "0123456789abcdef0123456789abcdef01234567"
LARGE, SMALL = b"Once upon a time.\n" * 9000, b"To be.\n"
LARGE_FILE = HubFile("someone/Some", REVISION, "texts/large.txt", "some")
SMALL_FILE = HubFile(LARGE_FILE.repo, REVISION, "small.txt", "some")


class Answering(BaseHTTPRequestHandler):
    """Sends whole answers, to HEAD without their data, and logs nothing."""

    def _send(self, status: int, data: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)

    def log_message(self, format: str, *args: object) -> None:
        pass


class Hub(Answering):
    """Answers as the hub does: HEAD gives commit, size and hash; a large file is on another host, by its SHA-256."""

    server: "HubServer"

    def do_GET(self) -> None:
        self.server.seen.append((self.command, self.path, dict(self.headers)))
        files = {f"/datasets/{f.repo}/resolve/{f.revision}/{f.name}": (f.revision, d) for f, d in self.server.files}
        if self.server.broken or (self.path not in files and not self.path.startswith("/cdn/")):
            return self._send(self.server.broken or 404, b"", {"X-Error-Code": "EntryNotFound"})
        if self.path.startswith("/cdn/"):
            data = self.server.sent or next(d for _, d in self.server.files if self.path.endswith(sha256(d)))
            return self._send(200, data, {})
        revision, data = files[self.path]
        facts = {"X-Repo-Commit": revision, "ETag": f'"{hashlib.sha1(data).hexdigest()}"'}
        if len(data) < 1000:
            return self._send(200, data, facts)
        facts |= {"X-Linked-Size": str(len(data)), "X-Linked-Etag": f'"{sha256(data)}"'}
        self._send(302, b"", facts | {"Location": f"{self.server.elsewhere}/cdn/{sha256(data)}"})

    do_HEAD = do_GET


class HubServer(ThreadingHTTPServer):
    """The files of a hub, the requests it got, and its faults."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hub)
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.elsewhere = f"http://localhost:{self.server_port}"  # another host, as large files are on
        self.files = [(LARGE_FILE, LARGE), (SMALL_FILE, SMALL)]
        self.seen: list[tuple[str, str, dict[str, str]]] = []
        self.broken = 0
        self.sent = b""  # in place of a large file


# ---- files, as an object store serves them


class Serving(Answering):
    """Sends a file or the part of it that is asked for."""

    server: "FileServer"

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.requests.append((self.path, asked))
        data = self.server.files.get(self.path)
        fault = self.server.faults.pop(0) if self.server.faults else ""
        if data is None or fault.isdecimal():
            return self._send(int(fault or 404), b"", {})
        if not asked or fault == "whole":
            return self._send(200, data, {})
        first, last = (int(n) for n in asked.removeprefix("bytes=").split("-"))
        part = data[first : last + 1]
        headers = {"Content-Range": f"bytes {first}-{first + len(part) - 1}/{len(data)}"}
        if fault == "altered":
            part = bytes([part[0] ^ 1]) + part[1:]
        if fault not in ("cut", "stall"):
            return self._send(206, part, headers)
        self.send_response(206)
        for name, value in {**headers, "Content-Length": str(len(part))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(part[: len(part) // 2])
        self.wfile.flush()
        if fault == "stall":
            self.server.over.wait(60)
        self.close_connection = True


class FileServer(ThreadingHTTPServer):
    """Serves `files` by their path, and records the path and the Range header of each request.

    `faults` are those of the next requests: a status, "whole" (ranges are ignored), "altered", "cut", "stall"
    (nothing comes after the half), or "" for none.
    """

    daemon_threads = True

    def __init__(self, files: dict[str, bytes]) -> None:
        super().__init__(("127.0.0.1", 0), Serving)
        self.files, self.faults = files, list[str]()
        self.over = threading.Event()
        self.requests: list[tuple[str, str | None]] = []
        self.url = f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Ignore clients that hang up."""

    def server_close(self) -> None:
        self.over.set()
        super().server_close()

    def ranges(self, path: str) -> list[str | None]:
        """Return the ranges that were asked for of a file."""
        return [asked for name, asked in self.requests if name == path]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
