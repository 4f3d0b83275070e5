"""The live page's server: real requests to a real server, and runs that are still training."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from light_llm.cli import main
from light_llm.errors import ConfigError
from light_llm.report.run_watcher import RunWatcher
from light_llm.report.server import FIRST_PORT, SHARE_WHILE_TRAINING, open_port, serve, serve_while_training
from tests.cli.test_signals import posix
from tests.support.child import Child
from tests.support.made_up_run import made_up_run
from tests.support.tools import rows_of, run_child, same, train_small

SECONDS = 20.0
PATHS = ("/", "/data.json", "/plotly.js", "/health")


class Page:
    """The requests of a browser."""

    def __init__(self, address: str) -> None:
        self.port = int(address.partition("127.0.0.1:")[2].rstrip("/"))

    def ask(self, path: str = "/", method: str = "GET", **headers: str) -> tuple[int, Mapping[str, str], bytes]:
        """Return status, headers and body. Names of headers are written with _ for -."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=SECONDS)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        connection.request(method, path, None, {"Host": f"127.0.0.1:{self.port}"} | names)
        answer = connection.getresponse()
        with contextlib.closing(connection):
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()

    def state(self) -> dict[str, Any]:
        return json.loads(self.ask("/data.json")[2])

    def names(self) -> list[str]:
        return [run["name"] for run in self.state()["runs"]]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small finished runs in one folder."""
    folder = tmp_path_factory.mktemp("runs")
    poem = folder / "poem.txt"
    poem.write_text("The fox went to the mill, and what it saw there nobody knows.\n" * 60)
    for name, seed in (("a", 1), ("b", 2)):
        train_small(poem, str(folder / name), max_steps=20, seed=seed)
    return folder


@pytest.fixture(scope="module")
def page(runs: Path) -> Iterator[Page]:
    """A server of two runs."""
    with serve([runs], open_port(), warn=lambda line: None) as (address, _):
        page = Page(address)
        page.state()
        yield page


def next_step(runs: Path, loss: float = 1.0) -> str:
    """A line with the step after those of run a."""
    return json.dumps(rows_of(runs / "a", "step")[-1] | {"step": 21, "loss": loss, "seconds": 0.1}) + "\n"


def test_the_page_and_what_it_loads(page: Page) -> None:
    status, headers, body = page.ask()
    assert status == 200 and headers["content-type"].startswith("text/html") and b"<!doctype html>" in body
    status, headers, body = page.ask("/plotly.js")
    assert status == 200 and "javascript" in headers["content-type"] and len(body) > 1_000_000
    assert page.ask("/plotly.js", If_None_Match=headers["etag"])[::2] == (304, b"")
    assert json.loads(page.ask("/health")[2]) == {"runs": 2} and page.names() == ["a", "b"]
    for path in ("/nothing", "/data.json/", "/../pyproject.toml", "/%2e%2e/run.json", "/a/run.json", "//etc/passwd"):
        assert page.ask(path)[0] == 404, path


def test_a_known_state_is_not_sent_again(page: Page) -> None:
    status, headers, body = page.ask("/data.json")
    assert status == 200 and headers["content-type"] == "application/json" and headers["cache-control"] == "no-cache"
    status, again, nothing = page.ask("/data.json", If_None_Match=headers["etag"])
    assert (status, nothing, again["etag"]) == (304, b"", headers["etag"])
    assert page.ask("/data.json", If_None_Match='"another"')[::2] == (200, body)


def test_every_answer_has_the_strict_headers(page: Page) -> None:
    answers = [*map(page.ask, (*PATHS, "/nothing")), page.ask("/", "DELETE"), page.ask("/", Host="evil.example")]
    for status, headers, _ in answers:
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy and "frame-ancestors 'none'" in policy, status
        assert headers["x-content-type-options"] == "nosniff" and headers["referrer-policy"] == "no-referrer"
        assert headers["cross-origin-resource-policy"] == "same-origin"
        assert not [name for name in headers if name.startswith("access-control")] and "server" not in headers
    _, headers, body = page.ask()
    policy = headers["content-security-policy"]
    nonce = policy.partition("'nonce-")[2].partition("'")[0]
    scripts = policy.partition("script-src ")[2].partition(";")[0]
    assert scripts == f"'self' 'nonce-{nonce}'" and f'nonce="{nonce}"'.encode() in body
    assert nonce not in page.ask()[1]["content-security-policy"], "a nonce that can be predicted guards nothing"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_this_machine_by_its_names(page: Page, host: str) -> None:
    for name in (host, f"{host}:{page.port}", f"{host}:9"):  # the last: the other end of a tunnel
        assert page.ask("/health", Host=name)[0] == 200, name


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "127.0.0.1:80@e", "", "[::1", "x]", "::1"],
)
def test_another_name_for_this_machine_is_refused(page: Page, host: str) -> None:
    """A page elsewhere whose name was made to resolve to 127.0.0.1 (DNS rebinding) reads nothing."""
    for path in PATHS:
        status, _, body = page.ask(path, Host=host)
        assert status == 421 and b"localhost" in body and b"runs" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
def test_reading_is_all_that_can_be_done(page: Page, method: str) -> None:
    assert {page.ask(path, method)[0] for path in PATHS} == {405} and page.ask("/control", method)[0] == 404


def test_only_this_machine_is_served(page: Page) -> None:
    own = {str(info[4][0]) for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)}
    socket.create_connection(("127.0.0.1", page.port), timeout=5).close()
    for address in [*sorted(own - {"127.0.0.1"}), "127.0.0.2", "::1"]:
        with pytest.raises(OSError):
            socket.create_connection((address, page.port), timeout=1).close()


# ---- runs that are still training


def test_new_rows_and_new_runs_are_seen(runs: Path, tmp_path: Path) -> None:
    later = tmp_path / "later"
    with serve([later], open_port(), share=1.0, warn=lambda line: None) as (address, _):
        page = Page(address)
        assert page.names() == [] and page.ask()[0] == 200
        later.mkdir()
        shutil.copytree(runs / "b", later / "b")
        assert page.names() == ["b"]
        shutil.copytree(runs / "a", later / "a")
        assert page.names() == ["b", "a"], "a run keeps its number"
        tag = page.ask("/data.json")[1]["etag"]
        with (later / "a" / "metrics.jsonl").open("a") as file:
            file.write(next_step(runs, loss=1.2345))
        status, _, body = page.ask("/data.json", If_None_Match=tag)
        assert status == 200 and b"1.234" in body
        (later / "a" / "run.json").write_text("{")  # damaged: its last state stays
        assert page.names() == ["b", "a"]


def test_reading_takes_no_more_than_its_share(runs: Path, tmp_path: Path) -> None:
    """On a clock of the test: what took a second is not done again for 1 / share - 1 seconds."""
    shutil.copytree(runs / "a", tmp_path / "a")
    now, worked = [0.0], [0.0]

    def work() -> float:
        worked[0] += 1.0  # each reading of the runs is a second of work
        return worked[0]

    watcher = RunWatcher([tmp_path], share=0.02, clock=lambda: now[0], work=work)
    first = watcher.state()
    os.utime(tmp_path / "a" / "metrics.jsonl", ns=(1, 1))
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write(next_step(runs))
    now[0] = 48.0
    assert watcher.state() == first and worked[0] == 2.0
    now[0] = 49.5
    assert watcher.state() != first and worked[0] == 4.0


def test_an_unchanged_folder_is_not_read_again(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watcher = RunWatcher([runs], share=1.0)
    first = watcher.state()
    monkeypatch.setattr("light_llm.report.run_watcher.read_run_log", lambda folder: pytest.fail(f"{folder} is read"))
    assert watcher.state() is first and len(watcher) == 2


def test_an_error_ends_nothing(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server beside a training answers 500, and then the next request; its message cannot move the cursor."""
    lines: list[str] = []

    def fail(logs: object) -> None:
        raise ValueError("a\x1b[2Jb\nc\u202e")

    with serve_while_training(runs / "a", warn=lines.append) as address:
        page = Page(address)
        monkeypatch.setattr("light_llm.report.run_watcher.page_state", fail)
        assert page.ask("/data.json")[0] == 500
        monkeypatch.undo()
        assert page.ask("/data.json")[0] == 200
    assert len(lines) == 1 and "/data.json" in lines[0] and r"ValueError: a\x1b[2Jb\nc\u202e" in lines[0]


# ---- beside a training


def test_it_comes_and_goes_with_its_block(runs: Path) -> None:
    before, handlers = threading.active_count(), [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with serve_while_training(runs / "a") as address:
        page = Page(address)
        assert page.ask("/health")[0] == 200
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
        browser = socket.create_connection(("127.0.0.1", page.port))  # one that keeps its connection
        browser.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        browser.recv(1000)
    assert threading.active_count() == before
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", page.port), timeout=1)
    browser.close()


def test_a_training_that_is_watched_is_the_same(poem: Path) -> None:
    """Bit for bit, with a page that asks without a pause."""
    train_small(poem, "whole", max_steps=60)
    answers, is_over = [0], threading.Event()

    def visit(page: Page) -> None:
        while not is_over.is_set():
            answers[0] += page.ask("/data.json")[0] == page.ask()[0] == 200

    with serve_while_training(Path("two")) as address:
        visitor = threading.Thread(target=visit, args=[Page(address)], daemon=True)
        visitor.start()
        train_small(poem, "two", max_steps=60)
        is_over.set()
        visitor.join(SECONDS)
    assert answers[0] > 3 and same()


def test_a_port_that_is_taken(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with open_port() as taken:
        number = taken.getsockname()[1]
        assert number >= FIRST_PORT
        with serve_while_training(runs / "a") as address:
            assert Page(address).port != number and Page(address).ask("/health")[0] == 200
        assert main(["watch", "--port", str(number)]) == 2
        line = f"error: port {number} is used by another program. Leave out --port to take a free one\n"
        assert capsys.readouterr().err == line
    with pytest.raises(ConfigError, match="port=70000 is not a port"):
        open_port(70000)


def test_a_machine_without_ports_trains_all_the_same(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: Any) -> None:
        raise OSError(24, "Too many open files")

    lines: list[str] = []
    monkeypatch.setattr("socket.create_server", refuse)
    with serve_while_training(runs / "a", warn=lines.append) as address:
        assert address == ""
    assert len(lines) == 1 and "Too many open files" in lines[0]


def test_a_training_pays_little_for_being_watched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """5,000 steps make a small page, and are read once."""
    with serve_while_training(made_up_run(tmp_path, steps=5000, every=100), warn=pytest.fail) as address:
        page = Page(address)
        _, headers, body = page.ask("/data.json")
        assert len(body) < 1_000_000
        monkeypatch.setattr("light_llm.report.run_watcher.read_run_log", lambda folder: pytest.fail("read again"))
        for _ in range(20):
            assert page.ask("/data.json", If_None_Match=headers["etag"])[::2] == (304, b"")
    assert SHARE_WHILE_TRAINING <= 0.02


# ---- the command


@posix
def test_watch_says_where_what_it_waits_for_and_ends_by_ctrl_c(runs: Path) -> None:
    """It waits in a folder without a run as in one that does not exist yet, and says so in the terminal and page."""
    Path("empty").mkdir()
    child = Child(["watch", str(runs), "not-yet", "empty"])
    child.wait_until(lambda: child.output[0].count("\n") == 4)
    address, *waiting, _ = child.output[0].splitlines()
    for line, name in zip(waiting, ("not-yet", "empty"), strict=True):
        assert line.startswith(f"waiting    no run in {Path(name).absolute()} yet;")
    page = Page(address.split()[-1])
    assert page.names() == ["a", "b"] and str(Path("empty").absolute()).encode() in page.ask()[2]
    code, _, err = child.end(signal.SIGINT)
    assert (code, err) == (130, "\ninterrupted\n")


def test_watch_refuses_a_file(capsys: pytest.CaptureFixture[str]) -> None:
    Path("file").write_text("")
    assert main(["watch", "file"]) == 2 and capsys.readouterr().err.startswith("error: file ")


def test_help_waits_for_nothing_heavy() -> None:
    done = run_child([sys.executable, "-X", "importtime", "-m", "light_llm", "watch", "--help"])
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "--port" in done.stdout and not imported & {"torch", "numpy", "plotly", "starlette", "uvicorn"}
