"""The page and the command that writes it: complete in one file, inert with any texts, the same numbers in text."""

import hashlib
import json
import re
from base64 import b64decode
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from light_llm.atomic_io import Files
from light_llm.cli import main
from light_llm.report import RunLog, read_run_log, write_report
from light_llm.report.page import page_state, render_live_page, render_page
from tests.support.made_up_run import made_up_run, memorised, turning

HOSTILE = "</script><img src=x onerror=alert(1)><!--\u2028{{7*7}}"


class Parsed(HTMLParser):
    """The elements of a page, the text of its scripts, and the addresses it loads from."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.loads: list[str] = []
        self.metas: dict[str, str] = {}
        self.inside: dict[str, str | None] | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attrs)
        self.loads += [v for k, v in values.items() if k in ("src", "href") and v and not v.startswith(("#", "data:"))]
        if tag == "meta":
            self.metas[values.get("http-equiv") or values.get("name") or ""] = values.get("content") or ""
        self.inside = values if tag == "script" else None
        if tag == "script":
            self.scripts.append((values, ""))

    def handle_data(self, data: str) -> None:
        if self.inside is not None:
            self.scripts[-1] = (self.inside, self.scripts[-1][1] + data)

    def handle_endtag(self, tag: str) -> None:
        self.inside = None

    def island(self, id: str) -> Any:
        """Return the JSON in an element."""
        return json.loads(next(text for values, text in self.scripts if values.get("id") == id))


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> RunLog:
    return read_run_log(made_up_run(tmp_path_factory.mktemp("page") / "run"))


def test_a_page_needs_nothing_else(log: RunLog) -> None:
    text = render_page([log])
    page = Parsed(text)
    assert page.loads == [] and len(page.scripts) == 4
    assert page.island("state") == json.loads(json.dumps(page_state([log]))) and page.island("live") is None
    for landmark in ("header", "nav", "main", "footer", "noscript"):
        assert landmark in page.tags
    assert "width=device-width" in page.metas["viewport"]
    rest = re.sub(r"<script>.*?</script>", "", text, flags=re.DOTALL)
    assert "http://" not in rest and "https://" not in rest


def test_only_its_own_scripts_run(log: RunLog) -> None:
    page = Parsed(render_page([log]))
    policy = page.metas["Content-Security-Policy"]
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy and "script-src 'sha256-" in policy
    hashes = {b64decode(h) for h in re.findall(r"'sha256-([^']+)'", policy)}
    code = [text for values, text in page.scripts if "type" not in values]
    assert {hashlib.sha256(text.encode()).digest() for text in code} == hashes and len(code) == 2


def test_a_hostile_run_is_inert(tmp_path: Path, log: RunLog) -> None:
    def hostile(row: dict[str, Any]) -> None:
        if row["kind"] == "sample":
            row["text"] = HOSTILE
        if row["kind"] == "attention":
            row["tokens"] = [HOSTILE] * 4
            row["maps"][0]["why"] = HOSTILE
        if row["kind"] == "step":
            row["grad_norms"] = {HOSTILE: 0.5}

    name = "<b>run & 'co'"
    folder = made_up_run(tmp_path / name, change=hostile, data={"title": HOSTILE})
    text = render_page([read_run_log(folder)])
    page, plain = Parsed(text), Parsed(render_page([log]))
    assert page.tags == plain.tags  # not one element more
    assert "<title>&lt;b&gt;run &amp; &#x27;co&#x27; - light-llm</title>" in text
    state = page.island("state")
    assert state["runs"][0]["samples"][0]["text"] == HOSTILE and state["runs"][0]["name"] == name
    for section in state["runs"][0]["sections"]:
        for figure in section["figures"]:
            assert "<img" not in json.dumps([figure["traces"], figure["layout"]])  # plotly reads marks in its texts


def test_a_live_page_loads_from_its_server_only(log: RunLog) -> None:
    state = page_state([log])
    page = Parsed(render_live_page(json.dumps(state), "n0"))
    assert page.loads == ["/plotly.js"] and page.island("live")["poll"] > 0
    assert page.island("state") == json.loads(json.dumps(state))
    assert "Content-Security-Policy" not in page.metas  # the server sends it
    assert all(values.get("nonce") == "n0" for values, _ in page.scripts if "type" not in values)


def test_several_runs_on_one_page(tmp_path: Path, log: RunLog) -> None:
    state = page_state([log, read_run_log(made_up_run(tmp_path / "b"))])
    assert [run["name"] for run in state["runs"]] == ["run", "b"] and state["together"]["title"] == "Loss of all runs"
    assert page_state([log])["together"] is None


def test_notes_stand_beside_their_figures(tmp_path: Path) -> None:
    run = page_state([read_run_log(made_up_run(tmp_path / "run", loss=memorised, held=turning))])["runs"][0]
    gap = next(f for s in run["sections"] for f in s["figures"] if f["id"] == "gap")
    assert gap["level"] == "bad" and "memorising" in gap["remarks"][0][1]
    assert run["notes"][0]["rule"] == "memorising"


def test_what_it_takes_to_repeat_the_run(log: RunLog) -> None:
    run = page_state([log])["runs"][0]
    assert run["repeat"]["command"].startswith("light-llm train --data verse.txt --tokenizer bpe:512 ")
    tables = {t["title"]: t["rows"] for t in run["repeat"]["tables"]}
    assert ["text", "a" * 64] in tables["Text and vocabulary"] and ["torch", "2.13.0"] in tables["Versions"]
    assert ["model.n_layer", "2", "6"] in tables["What differs from the defaults"]
    assert ["train.beta2", "0.95", "0.95"] in tables["All settings"]
    plan = {row[0]: row[1:] for row in run["plan"]["rows"]}
    assert plan["steps"] == ["200", "200"] and plan["time with start, evaluation and saving"] == ["", "5 min 00 s"]
    assert plan["passes over the text"] == ["20", "20.00"]


def test_the_command_prints_and_writes_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made_up_run(tmp_path / "run", loss=memorised, held=turning)
    assert main(["report", str(folder)]) == 0
    out = capsys.readouterr().out
    for words in ("bad   The model is overfitting", "best held-out loss", "gradient norm", "layer 1", "repeat it with"):
        assert words in out
    assert str(folder / "report.html") in out.splitlines()[-1]
    assert Parsed((folder / "report.html").read_text(encoding="utf-8")).island("state")["runs"][0]["name"] == "run"
    charts = out[out.index("loss, nats") : out.index("repeat it with")]
    assert all(len(line) <= 80 for line in charts.splitlines())


def test_the_command_without_a_page_and_without_a_run(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = made_up_run(tmp_path / "checkpoints", steps=30, status=None)  # killed
    assert main(["report", "--no-page"]) == 0  # in this folder, by its default name
    out = capsys.readouterr().out
    assert "interrupted at step 30 of 200" in out and "page" not in out and not (folder / "report.html").exists()
    assert main(["report", "nowhere"]) == 2
    assert "light-llm runs lists the runs" in capsys.readouterr().err
    assert main(["report", "a", "b"]) == 2
    assert "expected at most 1 run folder" in capsys.readouterr().err


def test_a_terminal_without_blocks_gets_ascii(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("light_llm.cli.report._can_show", lambda letters: False)
    folder = made_up_run(tmp_path / "run")
    assert main(["report", str(folder), "--no-page"]) == 0
    out = capsys.readouterr().out
    assert out[out.index("loss, nats") :].isascii()


def test_a_page_is_whole_or_as_it_was(tmp_path: Path) -> None:
    class Full(Files):
        def sync(self, path: Path) -> None:
            raise OSError(28, "No space left on device")

    folder = made_up_run(tmp_path / "run")
    path = write_report(folder)
    before = path.read_bytes()
    with pytest.raises(OSError, match="No space"):
        write_report(folder, Full())
    assert path.read_bytes() == before and not list(folder.glob(".report*"))
