"""Set-up that the tests of data share: local HTTP servers, and an empty cache."""

import threading
from collections.abc import Callable, Iterator
from http.server import HTTPServer
from pathlib import Path

import pytest


@pytest.fixture
def serve() -> Iterator[Callable[[HTTPServer], None]]:
    """A function that runs a server in a thread until the end of the test."""
    servers = list[HTTPServer]()

    def start(server: HTTPServer) -> None:
        servers.append(server)
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


@pytest.fixture
def empty_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A cache that is empty; no offline folder and no proxies are set."""
    for name in ("LIGHT_LLM_OFFLINE_DIR", "http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"
