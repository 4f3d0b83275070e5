"""What a run says: rows in a file that survives a crash, lines for people."""

import io
import json
import math
from pathlib import Path
from typing import Any

from light_llm.observe import Console, JsonLines, read_rows


def step_row(step: int, **changes: Any) -> dict[str, Any]:
    row = {"kind": "step", "step": step, "loss": 5.0, "bits_per_byte": 2.25, "lr": 1e-3, "grad_norm": 0.5}
    return row | {"tokens": step * 4096, "seconds": 2.0, "tok_per_sec": 2048.0} | changes


def test_rows_come_back(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    sink = JsonLines(path)
    sink(step_row(1, loss=math.nan))
    sink({"kind": "sample", "step": 1, "text": "not a number"})
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


def told(rows: list[dict[str, Any]], **options: Any) -> str:
    out = io.StringIO()
    console = Console(total=30, file=out, **options)
    for row in rows:
        console(row)
    console.close()
    return out.getvalue()


def test_plain_lines_where_there_is_no_terminal(tmp_path: Path) -> None:
    text = told([step_row(s) for s in range(1, 31)], log=tmp_path / "train.log")
    lines = text.splitlines()
    assert [line.split()[1] for line in lines] == ["1/30", "10/30", "20/30", "30/30"]
    assert "loss 5.000" in lines[0] and "2.250 bits/byte" in lines[0] and "2,048 tok/s" in lines[0]
    assert lines[0].endswith(" left") and "\x1b" not in text
    assert (tmp_path / "train.log").read_text() == text


def test_evaluations_and_samples(tmp_path: Path) -> None:
    row = {"kind": "eval", "step": 20, "split": "held_out", "loss": 4.9, "stderr": 0.03, "bits_per_byte": 2.28}
    text = told([row | {"perplexity": 134.3, "best": True}, {"kind": "sample", "step": 20, "text": "a\n[b]"}])
    assert "step 20/30  held out 4.900 ± 0.030  2.280 bits/byte  perplexity 134.3  best" in text
    assert "a sample at step 20:\n  | a\n  | [b]\n" in text
    text = told([{"kind": "eval", "step": 20, "split": "training", "loss": 4.9, "best": False}])
    assert text == "step 20/30  mean training loss 4.900\n"


def test_quiet_is_quiet_and_still_logs(tmp_path: Path) -> None:
    assert told([step_row(10)], quiet=True, log=tmp_path / "train.log") == ""
    assert "step 10/30" in (tmp_path / "train.log").read_text()


def test_without_bytes_there_are_no_bits() -> None:
    assert "bits" not in told([step_row(10, bits_per_byte=None)])


def test_in_a_terminal_there_is_one_moving_line(monkeypatch: Any) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    text = told([step_row(s) for s in range(1, 31)] + [{"kind": "sample", "step": 30, "text": "done"}])
    assert "30/30" in text and "\x1b[" in text and "  | done" in text
