"""Downloads from a real server that misbehaves in every way a response can."""

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from light_llm.data.download import PinnedFile, RetryPolicy, download_file, ensure_file
from light_llm.errors import DataError
from tests.support.web_servers import BODY, FaultyServer, running

TARGET = Path("play.txt")
NO_DELAY = RetryPolicy(timeout=60.0, first_delay=0.0, max_delay=0.0)
SHORT_TIMEOUT = RetryPolicy(timeout=1.0, first_delay=0.0)  # for servers that never answer
NOWHERE = "http://127.0.0.1:9/none"


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with running(FaultyServer()) as server:
        yield server


@pytest.fixture
def sleeps(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The delays between attempts, which are recorded instead of waited for."""
    seconds = list[float]()
    monkeypatch.setattr("light_llm.data.download.time.sleep", seconds.append)
    return seconds


def pinned(url: str) -> PinnedFile:
    return PinnedFile("play.txt", url, hashlib.sha256(BODY).hexdigest(), len(BODY))


def offset(n: int) -> str:
    return f"bytes={n}-"


@pytest.mark.parametrize(
    ("path", "ranges"),
    [
        ("good", [None]),
        ("503/good", [None, None]),
        ("500/429/good", [None, None, None]),
        ("hangup/good", [None, None]),
        ("cut/good", [None, offset(100_000)]),
        ("cut/cut/good", [None, offset(100_000), offset(200_000)]),
        ("cut/503/good", [None, offset(100_000), offset(100_000)]),
        ("stall/good", [None, offset(65_536)]),  # complete blocks only
        ("short/good", [None, offset(1000)]),
        ("tiny/good", [None, offset(1000)]),
        ("cut/norange", [None, offset(100_000)]),  # the complete file again, which overwrites the first part
        ("cut/norangecut/good", [None, offset(100_000), offset(50_000)]),
        ("cut/416/good", [None, offset(100_000), None]),
        ("cut/wrongpart/good", [None, offset(100_000), None]),
        ("othercut/good/good", [None, offset(100_000), None]),  # parts of two files: the hash differs
        ("redirect/good", [None, None]),
        ("endless", [None]),
    ],
)
def test_transient_failures_are_retried_and_resumed(server: FaultyServer, path: str, ranges: list[str | None]) -> None:
    steps: list[tuple[int, int]] = []
    target = download_file(
        pinned(f"{server.url}/{path}"),
        Path("new/play.txt"),
        retry=SHORT_TIMEOUT if "stall" in path else NO_DELAY,
        progress=lambda *step: steps.append(step),
    )
    assert target.read_bytes() == BODY and [p.name for p in target.parent.iterdir()] == ["play.txt"]
    assert server.ranges == ranges
    assert steps[-1] == (len(BODY), len(BODY)) and all(done <= total for done, total in steps)


@pytest.mark.parametrize(
    ("path", "message", "requests"),
    [
        ("404", "404", 1),
        ("403", "403", 1),
        ("other", "SHA-256", 1),
        ("longer", rf"{len(BODY) + 4:,} bytes long, not {len(BODY):,}", 1),
        ("503", "503 .*3 tries", 3),
        ("short", f"1,000 bytes of {len(BODY):,}.* 3 tries", 3),
        ("stall", "timed out.* 3 tries", 3),
        ("hangup", "3 tries", 3),
        ("503/404", "404", 2),
    ],
)
def test_a_failed_download_names_the_reason_and_leaves_no_file(
    server: FaultyServer, path: str, message: str, requests: int
) -> None:
    with pytest.raises(DataError, match=message) as caught:
        download_file(pinned(f"{server.url}/{path}"), TARGET, retry=SHORT_TIMEOUT if path == "stall" else NO_DELAY)
    assert hashlib.sha256(BODY).hexdigest() in str(caught.value) and "play.txt" in str(caught.value)
    assert len(server.ranges) == requests and not list(Path().glob("*play*"))


def test_a_wrong_part_is_not_even_read(server: FaultyServer) -> None:
    steps: list[int] = []
    file = pinned(f"{server.url}/cut/wrongpart/good")
    download_file(file, TARGET, retry=NO_DELAY, progress=lambda done, total: steps.append(done))
    again = steps.index(100_000) + 1
    assert steps[again] < 100_000 and steps[again:] == sorted(steps[again:])


def test_a_server_that_sends_without_end_is_cut_off(server: FaultyServer) -> None:
    download_file(pinned(f"{server.url}/endless"), TARGET, retry=NO_DELAY)
    assert server.hung_up.wait(60) and 0 < server.sent < 100 * len(BODY)


@pytest.mark.parametrize(
    ("elsewhere", "message"),
    [
        *(
            (url, "is not followed|not allowed")
            for url in ("file:///etc/passwd", "ftp://127.0.0.1/x", "data:,x", "gopher://x/")
        ),
        ("itself", "302"),
    ],
)
def test_only_redirects_to_http_are_followed(server: FaultyServer, elsewhere: str, message: str) -> None:
    server.elsewhere = f"{server.url}/redirect" if elsewhere == "itself" else elsewhere
    with pytest.raises(DataError, match=message):
        download_file(pinned(f"{server.url}/redirect"), TARGET, retry=NO_DELAY)
    assert not list(Path().glob("*play*"))


@pytest.mark.parametrize(("retry_after", "delay"), [("", 9.0), ("0", 0.0), ("7", 7.0), ("60", 30.0), ("date", 30.0)])
def test_retry_after_is_obeyed_up_to_a_limit(
    server: FaultyServer, sleeps: list[float], retry_after: str, delay: float
) -> None:
    download_file(pinned(f"{server.url}/503@{retry_after}/good"), TARGET, retry=RetryPolicy(60, first_delay=9.0))
    assert sleeps == [delay]


def test_delays_double_up_to_a_limit() -> None:
    policy = RetryPolicy(first_delay=1.0, max_delay=30.0)
    assert [policy.delay(failures, None) for failures in range(1, 8)] == [1, 2, 4, 8, 16, 30, 30]
    assert [policy.delay(1, retry_after) for retry_after in (0.0, 5.0, 1e9, -3.0)] == [0, 5, 30, 0]


def test_this_machine_is_reached_without_a_proxy(server: FaultyServer, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, NOWHERE)
    monkeypatch.delenv("no_proxy", raising=False)
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert download_file(pinned(f"{server.url}/good"), TARGET, retry=NO_DELAY).read_bytes() == BODY
    with pytest.raises(DataError, match="refused"):  # any other host is reached through the proxy
        download_file(pinned("http://light-llm.invalid/play.txt"), Path("b.txt"), retry=NO_DELAY)


def test_errors_that_are_not_retried(server: FaultyServer, sleeps: list[float]) -> None:
    """A refused connection, and a folder that cannot be written."""
    Path("file").write_text("")
    for url, target, message in (
        (NOWHERE, TARGET, r"play.txt .* \(SHA-256 [0-9a-f]{64}\) at .*data=.my.txt"),
        (f"{server.url}/good", Path("file/play.txt"), "play.txt .* file/play.txt.* LIGHT_LLM_CACHE"),
    ):
        with pytest.raises(DataError, match=message):
            download_file(pinned(url), target)
    assert not sleeps


def test_the_search_order(empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Offline folder, cache, extra paths; a file with other bytes is skipped."""
    first, cached, extra = Path("first/play.txt").absolute(), empty_cache / "play.txt", Path("extra.txt")
    for path in (first, cached):
        path.parent.mkdir()
    monkeypatch.setenv("LIGHT_LLM_OFFLINE_DIR", str(first.parent))
    with pytest.raises(DataError, match="play.txt .*, and this command downloads nothing"):
        ensure_file(pinned(NOWHERE), offline=True, extra_paths=[extra])
    for path, content, expected in (
        (extra, BODY, extra),
        (cached, BODY, cached),
        (first, BODY[:-1] + b"?", cached),
        (first, BODY, first),
    ):
        path.write_bytes(content)
        assert ensure_file(pinned(NOWHERE), offline=True, extra_paths=[extra]) == expected


def test_a_damaged_file_is_named(server: FaultyServer, empty_cache: Path) -> None:
    """In the error if no other file is found, otherwise in a message."""
    cached = empty_cache / "play.txt"
    cached.parent.mkdir()
    cached.write_bytes(BODY[:-1] + b"?")
    damaged = rf"{re.escape(str(cached))} is damaged: SHA-256 \w{{12}}\.{{3}} instead of \w{{12}}\.{{3}}"
    with pytest.raises(DataError, match=rf"\({damaged}\), and this command"):
        ensure_file(pinned(NOWHERE), offline=True)
    with pytest.raises(DataError, match=rf"\({damaged}\); put the file"):
        ensure_file(pinned(NOWHERE), retry=NO_DELAY)
    messages: list[str] = []
    assert ensure_file(pinned(f"{server.url}/good"), retry=NO_DELAY, log=messages.append).read_bytes() == BODY
    assert len(messages) == 1 and re.match(damaged, messages[0]), messages
    cached.write_bytes(BODY[:-1])
    with pytest.raises(DataError, match=rf"{len(BODY) - 1:,} bytes instead of {len(BODY):,}\), and this command"):
        ensure_file(pinned(NOWHERE), offline=True)


def test_a_missing_file_is_downloaded_once(server: FaultyServer, empty_cache: Path) -> None:
    for _ in range(2):
        assert ensure_file(pinned(f"{server.url}/good"), retry=NO_DELAY) == empty_cache / "play.txt"
    assert len(server.ranges) == 1
