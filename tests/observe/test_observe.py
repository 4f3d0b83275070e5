"""The output of a run: rows in a file that survives a crash, and lines for a terminal and a log."""

import errno
import io
import itertools
import json
import math
import re
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from light_llm.checkpoint import RunFolder
from light_llm.observe import BackgroundSink, Console, JsonLines, background_sink, read_rows
from light_llm.report import read_run_log
from light_llm.train import Trainer
from tests.support.power import Recorded
from tests.support.tools import SMALL, byte_loader, byte_model, files_of, rows_of, run_child, train_small


def step_row(step: int, **changes: Any) -> dict[str, Any]:
    row = {"kind": "step", "step": step, "loss": 5.0, "bits_per_byte": 2.25, "lr": 1e-3, "grad_norm": 0.5}
    return row | {"tokens": step * 4096, "seconds": 2.0, "tok_per_sec": 2048.0} | changes


def test_rows_come_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonLines(path)
    sink(step_row(1, loss=math.nan))
    sink({"kind": "progress", "step": 1, "text": "of no lasting interest"})
    sink({"kind": "eval", "step": 1, "loss": 4.0})
    sink.close()
    rows = list(read_rows(path))
    assert [row["kind"] for row in rows] == ["step", "eval"] and rows[0]["loss"] is None


def test_a_torn_last_line_is_passed_over_at_any_byte(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    line = (json.dumps(step_row(2)) + "\n").encode()
    first = (json.dumps(step_row(1)) + "\n").encode()
    for cut in range(len(line) - 1):
        path.write_bytes(first + line[:cut])
        assert [row["step"] for row in read_rows(path)] == [1]


def test_a_resumed_run_cuts_the_rows_it_will_write_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text("".join(json.dumps(step_row(s)) + "\n" for s in range(1, 6)) + '{"kind": "st')
    sink = JsonLines(path, keep=3)
    sink(step_row(4, loss=1.0))
    sink.close()
    assert [(r["step"], r["loss"]) for r in read_rows(path)] == [(1, 5.0), (2, 5.0), (3, 5.0), (4, 1.0)]


def printed(rows: list[dict[str, Any]], **options: Any) -> str:
    out = io.StringIO()
    console = Console(total=30, file=out, **options)
    for row in rows:
        console(row)
    console.close()
    return out.getvalue()


def test_plain_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    text = printed([step_row(s) for s in range(1, 31)], log=tmp_path / "train.log")
    lines = text.splitlines()
    assert [line.split()[1] for line in lines] == ["1/30", "10/30", "20/30", "30/30"]
    assert "loss 5.000" in lines[0] and "2.250 bits/byte" in lines[0] and "2,048 tok/s" in lines[0]
    assert lines[0].endswith(" left") and "\x1b" not in text
    assert (tmp_path / "train.log").read_text() == text


def test_evaluations_and_samples(tmp_path: Path) -> None:
    row = {"kind": "eval", "step": 20, "split": "held_out", "loss": 4.9, "stderr": 0.03, "bits_per_byte": 2.28}
    text = printed([row | {"perplexity": 134.3, "best": True}, {"kind": "sample", "step": 20, "text": "a\n[b]"}])
    assert "step 20/30  held out 4.900 ± 0.030  2.280 bits/byte  perplexity 134.3  best" in text
    assert "a sample at step 20:\n  | a\n  | [b]\n" in text
    text = printed([{"kind": "eval", "step": 20, "split": "training", "loss": 4.9, "best": False}])
    assert text == "step 20/30  mean training loss 4.900\n"


def test_quiet_is_quiet_and_still_logs(tmp_path: Path) -> None:
    assert printed([step_row(10)], quiet=True, log=tmp_path / "train.log") == ""
    assert "step 10/30" in (tmp_path / "train.log").read_text()
    assert "bits" not in printed([step_row(10, bits_per_byte=None)])


def test_in_a_terminal_there_is_one_moving_line(monkeypatch: Any) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    text = printed([step_row(s) for s in range(1, 31)] + [{"kind": "sample", "step": 30, "text": "done"}])
    assert "30/30" in text and "\x1b[" in text and "  | done" in text


# ---- files that cannot be written


@pytest.mark.skipif(sys.platform != "linux", reason="NOT RUN: this needs a limit on the size of files")
def test_rows_wait_for_a_disk_that_is_full(tmp_path: Path) -> None:
    """A real limit, and then more room: a line that was written in part is continued, never written twice."""
    program = (
        "import json, resource, sys\n"
        "from pathlib import Path\n"
        "from light_llm.observe import JsonLines\n"
        "said, whole = [], len(json.dumps({'kind': 'step', 'step': 0})) + 1\n"
        "for limit in range(whole * 3, whole * 4 + 1):\n"  # at every byte of a line
        "    path = Path(f'{limit}.jsonl')\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))\n"
        "    sink = JsonLines(path, warn=said.append)\n"
        "    for step in range(8): sink({'kind': 'step', 'step': step})\n"
        "    assert path.stat().st_size == limit\n"
        "    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))\n"
        "    for step in range(8, 10): sink({'kind': 'step', 'step': step})\n"
        "    assert path.read_text() == ''.join(json.dumps({'kind': 'step', 'step': s}) + chr(10) for s in range(10))\n"
        "    sink.close()\n"
        "print(json.dumps(said))\n"
    )
    child = run_child([sys.executable, "-c", program], cwd=tmp_path)
    assert child.returncode == 0, child.stderr
    said = json.loads(child.stdout)
    assert len(said) == len(list(tmp_path.iterdir()))  # once each
    assert all("cannot be written (File too large): its lines are kept in memory and tried" in line for line in said)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="NOT RUN: this needs /dev/full")
def test_a_run_whose_metrics_and_log_cannot_be_written_is_a_run(
    poem: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    train_small(poem, "whole", max_steps=12)
    settings = SMALL | {"max_steps": 12, "quiet": False}
    trainer = Trainer(byte_model(dropout=0.2), byte_loader(poem, seed=1), out="run", **settings)
    Path("run").mkdir()
    # Files that are not a run's are never replaced, so that a start would refuse these links.
    monkeypatch.setattr(RunFolder, "archive_existing_run", lambda self, **_: None)
    for name in ("metrics.jsonl", "train.log"):
        Path("run", name).symlink_to("/dev/full")
    result = trainer.train()
    said = capfd.readouterr().out
    assert result.status == "done" and files_of(Path("run/step-000012")) == files_of(Path("whole/step-000012"))
    for name in ("metrics.jsonl", "train.log"):
        assert said.count(f"run/{name} cannot be written (No space left on device)") == 1
    assert "run/metrics.jsonl lacks its last 17 lines: it cannot be written" in said  # 12 steps, 5 others
    assert "run/train.log lacks its last" in said and Path("/dev/full").is_char_device()


def test_the_cut_of_a_resumed_run_is_durable(poem: Path) -> None:
    """The shorter file is synced before it takes the place of the longer one, and the folder after it."""

    train_small(poem, max_steps=10)
    files = Recorded()
    train_small(poem, max_steps=12, resume=True, files=files)
    n = next(i for i, (kind, *paths) in enumerate(files.done) if kind == "rename" and paths[1].name == "metrics.jsonl")
    (before, partial), (after, folder) = files.done[n - 1], files.done[n + 1]
    assert (before, after, folder.name) == ("sync", "sync_folder", "run")
    assert partial.name.startswith(".metrics.jsonl.tmp-")


def test_a_reader_of_a_running_run_sees_whole_rows_wherever_it_is_cut(poem: Path) -> None:
    train_small(poem, max_steps=3)
    path = Path("run/metrics.jsonl")
    data = path.read_bytes()
    ends = [i + 1 for i, byte in enumerate(data) if byte == 10]
    near_ends = {end + i for end in (0, *ends) for i in range(-3, 4)} & {*range(len(data) + 1)}
    for cut in sorted(near_ends | {*range(0, len(data), 13)}):
        path.write_bytes(data[:cut])
        seen = len(read_run_log("run").steps)
        assert seen - sum(end <= cut for end in ends[:3]) in (0, int(cut + 1 in ends)), cut  # or all but its line end


# ---- screens that go away


def test_a_screen_that_fails_falls_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also in the thread that draws the progress line; the log has everything."""
    failed: list[Any] = []
    monkeypatch.setattr(threading, "excepthook", failed.append)
    monkeypatch.setenv("TERM", "xterm")

    class Gone(io.StringIO):
        def isatty(self) -> bool:
            return True

        def write(self, text: str = "") -> int:
            raise OSError(errno.EIO, "Input/output error")

        flush = write  # type: ignore[assignment]

    console = Console(total=30, file=Gone(), log=tmp_path / "train.log")
    console.say("hello")
    console(step_row(1))
    assert console.progress is not None
    console.progress.refresh()
    thread = console.progress.live._refresh_thread
    assert thread is not None and not thread.done.wait(0.5) and thread.is_alive()  # it has drawn by now
    console.close()
    assert not failed and "hello\nstep 1/30" in (tmp_path / "train.log").read_text()


# ---- sinks of the user


class Sink:
    """A tracker that raises at its n-th row, or when it is closed."""

    def __init__(self, fail_at: int = 0, error: BaseException | None = None, at_close: bool = False) -> None:
        self.rows: list[Any] = []
        self.closed = False
        self.fail_at, self.error, self.at_close = fail_at, error or RuntimeError("the service is down"), at_close

    def __call__(self, row: Any) -> None:
        row["loss"] = "spoilt"  # a row of its own
        self.rows.append(row)
        if len(self.rows) == self.fail_at:
            raise self.error

    def close(self) -> None:
        self.closed = True
        if self.at_close:
            raise self.error


def test_a_sink_gets_every_row_and_is_closed(poem: Path) -> None:
    sink = Sink()
    train_small(poem, max_steps=12, sinks=[sink], sample_interval=6)
    kinds = [row["kind"] for row in sink.rows]
    assert (kinds.count("step"), kinds.count("eval"), kinds.count("sample")) == (12, 2, 2) and sink.closed
    assert all(isinstance(row["loss"], float) for row in rows_of("run", "step"))


@pytest.mark.parametrize(
    ("sink", "n"),
    [(Sink(1), 1), (Sink(7, SystemExit(1)), 7), (Sink(3, KeyboardInterrupt()), 3), (Sink(at_close=True), 17)],
)
def test_a_sink_that_raises_is_dropped(sink: Sink, n: int, poem: Path) -> None:
    train_small(poem, "whole", max_steps=12)
    _, result = train_small(poem, max_steps=12, sinks=[sink])
    assert result.status == "done" and len(sink.rows) == n
    assert all(rows_of("run", kind) == rows_of("whole", kind) for kind in ("step", "eval"))
    assert files_of(Path("run/step-000012")) == files_of(Path("whole/step-000012"))
    log = Path("run/train.log").read_text()
    assert log.count("the tracker Sink failed") == 1 and f"({type(sink.error).__name__}: {sink.error})" in log


def test_a_tracker_that_cannot_begin_is_said(tmp_path: Path) -> None:
    def login() -> Any:
        raise ConnectionError("no network")

    said: list[str] = []
    tracker = BackgroundSink("W&B", login, said.append)
    assert tracker.finished.wait(10)
    tracker(step_row(1))
    tracker(step_row(2))
    tracker.close()
    assert len(said) == 1 and "the tracker W&B failed (ConnectionError: no network)" in said[0]


@pytest.mark.timeout(60)
def test_a_sink_that_sleeps_for_ever_holds_nothing_up(poem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_sink, "MAX_WAITING_ROWS", 5)
    monkeypatch.setattr(background_sink, "CLOSE_TIMEOUT", 0.2)
    asleep = threading.Event()
    _, result = train_small(poem, max_steps=12, sinks=[lambda row: asleep.wait(3600)])
    assert result.status == "done" and len(rows_of("run", "step")) == 12
    log = Path("run/train.log").read_text()
    assert log.count("the tracker <lambda> does not keep up: rows for it are dropped") == 1
    assert log.count("the tracker <lambda> did not take its last rows in 0.2 s") == 1
    asleep.set()


# ---- clocks


def test_a_clock_that_jumps_changes_nothing(poem: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train_small(poem, "whole", max_steps=12)
    calls = itertools.count()
    monkeypatch.setattr(time, "time", lambda: 1.7e9 + (-1) ** next(calls) * 86_400.0)
    _, result = train_small(poem, max_steps=12, save_minutes=1000.0)
    assert all(rows_of("run", kind) == rows_of("whole", kind) for kind in ("step", "eval"))
    assert [p.name for p in Path("run").glob("step-*")] == [p.name for p in Path("whole").glob("step-*")]
    seconds = [row["seconds"] for row in read_rows(Path("run/metrics.jsonl")) if "seconds" in row]
    assert 0 < result.seconds < 3600 and all(0 <= s < 3600 for s in seconds)
    left = re.findall(r"tok/s +(.+) left", Path("run/train.log").read_text())
    assert left and all(re.fullmatch(r"[\d.]+ m?s|\d min \d\d s", time) for time in left)
