"""The live page's server: real requests to a real server, and runs that are still training."""

import contextlib
import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from light_llm.errors import ConfigError
from light_llm.report.live import BESIDE_TRAINING, PORT, open_port, serving, watching
from light_llm.report.site import _plain
from light_llm.report.watched import Watched
from tests.cli.test_signals import child_of, ended, posix
from tests.support.tools import light_llm, rows_of, same, train_small

WAIT = 20.0  # seconds


class Page:
    """What a browser would ask, and what came of it."""

    def __init__(self, address: str) -> None:
        self.port = int(address.partition("127.0.0.1:")[2].partition("/")[0])

    def ask(
        self, path: str = "/", method: str = "GET", body: bytes | None = None, **headers: str
    ) -> tuple[int, Mapping[str, str], bytes]:
        """Status, headers and body. Names of headers are written with _ for -."""
        talk = http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT)
        names = {name.replace("_", "-"): value for name, value in headers.items()}
        talk.request(method, path, body, {"Host": f"127.0.0.1:{self.port}"} | names)
        answer = talk.getresponse()
        with contextlib.closing(talk):
            return answer.status, {k.lower(): v for k, v in answer.headers.items()}, answer.read()

    def state(self) -> dict[str, Any]:
        return json.loads(self.ask("/data.json")[2])


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two small runs that are over, in one folder."""
    folder = tmp_path_factory.mktemp("runs")
    poem = folder / "poem.txt"
    poem.write_text("The fox went to the mill, and what it saw there nobody knows.\n" * 60)
    for name, seed in (("a", 1), ("b", 2)):
        train_small(poem, str(folder / name), max_steps=20, seed=seed)
    return folder


@pytest.fixture
def page(runs: Path) -> Iterator[Page]:
    """A server of two runs."""
    with serving([runs], open_port(), warn=lambda line: None) as served:
        page = Page(served.address)
        page.state()
        yield page


def test_the_page_and_what_it_loads(page: Page) -> None:
    status, headers, body = page.ask()
    assert status == 200 and headers["content-type"].startswith("text/html") and b"<!doctype html>" in body
    status, headers, body = page.ask("/plotly.js")
    assert status == 200 and "javascript" in headers["content-type"] and len(body) > 1_000_000
    assert page.ask("/plotly.js", If_None_Match=headers["etag"])[::2] == (304, b"")
    assert json.loads(page.ask("/health")[2]) == {"runs": 2}
    assert [run["name"] for run in page.state()["runs"]] == ["a", "b"]
    for path in ("/nothing", "/data.json/", "/../pyproject.toml", "/%2e%2e/run.json", "/a/run.json", "//etc/passwd"):
        assert page.ask(path)[0] == 404, path


def test_a_state_that_is_known_is_not_sent_again(page: Page) -> None:
    status, headers, body = page.ask("/data.json")
    assert status == 200 and headers["content-type"] == "application/json" and headers["cache-control"] == "no-cache"
    status, again, nothing = page.ask("/data.json", If_None_Match=headers["etag"])
    assert (status, nothing, again["etag"]) == (304, b"", headers["etag"])
    assert page.ask("/data.json", If_None_Match='"another"')[::2] == (200, body)


def test_every_answer_has_the_strict_headers(page: Page) -> None:
    paths = ("/", "/data.json", "/plotly.js", "/health", "/nothing")
    for status, headers, _ in [*map(page.ask, paths), page.ask("/", "DELETE"), page.ask("/", Host="evil.example")]:
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
    assert nonce not in page.ask()[1]["content-security-policy"], "a nonce that can be known beforehand guards nothing"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "LOCALHOST", "[::1]"])
def test_this_machine_by_its_names(page: Page, host: str) -> None:
    for name in (host, f"{host}:{page.port}", f"{host}:9"):  # the last: a tunnel's other end
        assert page.ask("/health", Host=name)[0] == 200, name


def test_no_other_address_of_this_machine_answers() -> None:
    """127.0.0.2 leads to the same machine, and to whatever listens on all of its addresses."""
    with open_port() as listener:
        host, port = listener.getsockname()
        assert host == "127.0.0.1"
        socket.create_connection((host, port), timeout=5).close()
        with pytest.raises(OSError):
            socket.create_connection(("127.0.0.2", port), timeout=5).close()


@pytest.mark.parametrize(
    "host",
    ["evil.example", "127.0.0.1.evil.example", "127.0.0.1@evil.example", "127.0.0.1:80@e", "", "[::1", "x]", "::1"],
)
def test_another_name_for_this_machine_is_refused(page: Page, host: str) -> None:
    """A page elsewhere whose name was made to mean 127.0.0.1 (DNS rebinding) reads nothing."""
    for path in ("/", "/data.json", "/plotly.js", "/health"):
        status, _, body = page.ask(path, Host=host)
        assert status == 421 and b"127.0.0.1 or localhost" in body and b"runs" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE", "BREW"])
def test_reading_is_all_that_can_be_done(page: Page, method: str) -> None:
    for path in ("/", "/data.json", "/plotly.js", "/health"):
        assert page.ask(path, method)[0] == 405, path
    assert page.ask("/control", method)[0] == 404


def test_only_this_machine_is_served(page: Page) -> None:
    others = {info[4][0] for info in socket.getaddrinfo(socket.gethostname(), None, socket.AF_INET)} - {"127.0.0.1"}
    for other in [*sorted(map(str, others)), "::1"]:
        with pytest.raises(OSError), socket.create_connection((other, page.port), timeout=1):
            pass


# ---- runs that go on


def test_new_rows_and_new_runs_are_seen(runs: Path, tmp_path: Path) -> None:
    with serving([tmp_path / "later"], open_port(), share=1.0, warn=lambda line: None) as served:
        page = Page(served.address)
        assert page.state()["runs"] == [] and page.ask()[0] == 200
        (tmp_path / "later").mkdir()
        shutil.copytree(runs / "b", tmp_path / "later" / "b")
        assert [run["name"] for run in page.state()["runs"]] == ["b"]
        shutil.copytree(runs / "a", tmp_path / "later" / "a")
        assert [run["name"] for run in page.state()["runs"]] == ["b", "a"], "a run keeps its number"
        tag = page.ask("/data.json")[1]["etag"]
        row = rows_of(runs / "a", "step")[-1] | {"step": 21, "loss": 1.2345, "seconds": 0.1}
        with (tmp_path / "later" / "a" / "metrics.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
        status, _, body = page.ask("/data.json", If_None_Match=tag)
        assert status == 200 and b"1.234" in body
        (tmp_path / "later" / "a" / "run.json").write_text("{")  # damaged: what was seen last stays
        assert [run["name"] for run in page.state()["runs"]] == ["b", "a"]


def test_reading_takes_no_more_than_its_share(runs: Path, tmp_path: Path) -> None:
    """On a clock of the test's own: what took a second is not done again for 1 / share - 1 seconds."""
    shutil.copytree(runs / "a", tmp_path / "a")
    now, worked = [0.0], [0.0]

    def work() -> float:
        worked[0] += 1.0  # each reading of the runs is a second of work
        return worked[0]

    watched = Watched([tmp_path], share=0.02, clock=lambda: now[0], work=work)
    first = watched.state()
    os.utime(tmp_path / "a" / "metrics.jsonl", ns=(1, 1))
    with (tmp_path / "a" / "metrics.jsonl").open("a") as file:
        file.write(json.dumps(rows_of(runs / "a", "step")[-1] | {"step": 21, "seconds": 0.1}) + "\n")
    now[0] = 48.0
    assert watched.state() == first and worked[0] == 2.0
    now[0] = 49.5
    assert watched.state() != first and worked[0] == 4.0


def test_a_folder_that_nothing_changed_in_is_not_read_again(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    watched = Watched([runs], share=1.0)
    first = watched.state()

    def not_again(folder: Path) -> None:
        raise AssertionError(f"{folder} is read again")

    monkeypatch.setattr("light_llm.report.watched.read_view", not_again)
    assert watched.state() is first and len(watched.views()) == 2


def test_a_line_for_the_terminal_has_no_control_characters() -> None:
    assert _plain("a\x1b[2Jb\nc\u202e é") == "a\\x1b[2Jb\\nc\\u202e é"


def test_an_error_ends_nothing(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server beside a training answers 500 and goes on."""
    lines: list[str] = []
    with watching(runs / "a", warn=lines.append) as address:
        page = Page(address)
        monkeypatch.setattr("light_llm.report.watched.state_of", lambda views: 1 / 0)
        assert page.ask("/data.json")[0] == 500
        monkeypatch.undo()
        assert page.ask("/data.json")[0] == 200
    assert lines == ["the live page could not answer /data.json: ZeroDivisionError: division by zero"]


# ---- beside a training


def test_it_comes_and_goes_with_its_block(runs: Path) -> None:
    before, handlers = threading.active_count(), [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)]
    with watching(runs / "a") as address:
        assert Page(address).ask("/health")[0] == 200
        assert [signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)] == handlers
        browser = socket.create_connection(("127.0.0.1", Page(address).port))  # one that holds on
        browser.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n")
        browser.recv(1000)
        began = time.monotonic()
    assert time.monotonic() - began < 1.5 and threading.active_count() == before
    with pytest.raises(OSError):
        socket.create_connection(("127.0.0.1", Page(address).port), timeout=1)
    browser.close()


def test_a_training_that_is_watched_is_the_same(poem: Path) -> None:
    """Bit for bit, with a page that asks without a pause."""
    train_small(poem, "whole", max_steps=60)
    asks, over = [0], threading.Event()

    def visit(page: Page) -> None:
        while not over.is_set():
            asks[0] += page.ask("/data.json")[0] == page.ask()[0] == 200

    with watching(Path("two")) as address:
        visitor = threading.Thread(target=visit, args=[Page(address)], daemon=True)
        visitor.start()
        train_small(poem, "two", max_steps=60)
        over.set()
        visitor.join(WAIT)
    assert asks[0] > 3 and same()


def test_a_port_that_is_taken(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with ExitStack() as taken:
        first = taken.enter_context(open_port())
        assert first.getsockname()[0] == "127.0.0.1"
        number = first.getsockname()[1]
        assert PORT <= number
        with watching(runs / "a", port=number) as address:
            assert Page(address).port != number and Page(address).ask("/health")[0] == 200
        with pytest.raises(ConfigError, match=rf"--port {number} cannot be opened .*; without --port a free one is"):
            open_port(number)
    with pytest.raises(ConfigError, match="--port 70000 is no port; name one from 1024 to 65535, or leave it out"):
        open_port(70000)


def test_a_machine_without_ports_trains_all_the_same(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*args: Any) -> None:
        raise OSError(24, "Too many open files")

    lines: list[str] = []
    monkeypatch.setattr("socket.create_server", none)
    with watching(runs / "a", warn=lines.append) as address:
        assert address == ""
    assert lines == ["there is no live page: no port of 127.0.0.1 can be opened (Too many open files)"]


def test_a_training_pays_little_for_being_watched(runs: Path, tmp_path: Path) -> None:
    """Of 5,000 steps: all numbers in a moment, an answer that nothing is new at once, and a bound on the share."""
    shutil.copytree(runs / "a", tmp_path / "long")
    step = rows_of(runs / "a", "step")[-1] | {"seconds": 0.1, "tok_per_sec": 640.0}
    groups = dict.fromkeys(
        ["wte", "wpe", *(f"h.{i}.{part}" for i in range(6) for part in ("attn", "mlp")), "ln_f"], 0.1
    )
    step |= {"grad_norms": groups, "update_ratios": groups, "weight_norm": 40.0, "clipped": False}
    lines = [json.dumps(step | {"step": n, "tokens": 64 * n, "loss": 5 / n**0.1}) + "\n" for n in range(1, 5001)]
    (tmp_path / "long" / "metrics.jsonl").write_text("".join(lines))
    began = time.thread_time()
    Watched([tmp_path / "long"]).state()
    assert time.thread_time() - began < 0.6  # 0.3 on a quiet machine
    with watching(tmp_path / "long") as address:
        page = Page(address)
        _, headers, body = page.ask("/data.json")
        assert len(body) < 1_000_000
        known = [timed(lambda: page.ask("/data.json", If_None_Match=headers["etag"])) for _ in range(20)]
        assert {answer[0] for _, answer in known} == {304} and min(t for t, _ in known) < 0.01
    assert BESIDE_TRAINING <= 0.02


def timed(what: Any) -> tuple[float, Any]:
    """Seconds, and what came."""
    began = time.perf_counter()
    answer = what()
    return time.perf_counter() - began, answer


# ---- the verb


@posix
def test_watch_says_where_and_ends_by_ctrl_c(runs: Path) -> None:
    child = child_of(["watch", str(runs), "not-yet"])
    assert child.stdout is not None
    waiting, where, how = (child.stdout.readline().decode().rstrip() for _ in range(3))
    assert waiting == "waiting for a run to begin in not-yet" and how == "Ctrl-C ends it; runs go on."
    assert where.startswith("live page  http://127.0.0.1:") and where.endswith("/")
    assert [run["name"] for run in Page(where.split()[-1]).state()["runs"]] == ["a", "b"]
    code, _, err, seconds = ended(child, signal.SIGINT)
    assert (code, err) == (130, "\ninterrupted\n") and seconds < 5


def test_watch_refuses_what_it_cannot_serve(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    done = light_llm("watch", "file", cwd=tmp_path)
    assert (done.returncode, done.stderr) == (2, "error: file is no folder; name a run folder, or a folder of runs\n")
    with open_port() as taken:
        done = light_llm("watch", "--port", str(taken.getsockname()[1]), cwd=tmp_path)
    assert done.returncode == 2 and "without --port a free one is found" in done.stderr


def test_help_waits_for_nothing_heavy() -> None:
    program = (
        "import sys; from light_llm.cli import main; assert main(['watch', '--help']) == 0; import light_llm.report\n"
        "print([name for name in ('torch', 'numpy', 'plotly', 'starlette', 'uvicorn') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "[]" and "--port" in done.stdout
