"""The card of an export, and its way to the hub."""

import hashlib
import json
import threading
from base64 import b64encode
from collections.abc import Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from light_llm.checkpoint import LoadedModel
from light_llm.cli import main
from light_llm.config import get_model_size
from light_llm.errors import CheckpointError, ConfigError, DataError
from light_llm.interop import huggingface
from light_llm.interop.model_card import write_card
from tests.interop.test_export_hf import exported
from tests.support.export_tools import tiny_loaded

# --- the card and the hub ------------------------------------------------------------------------------------------


def card_of(loaded: LoadedModel, folder: Path, **changes: Any) -> str:
    write_card(loaded, folder, ["verified with a program: all is well"], **changes)
    return (folder / "README.md").read_text()


def test_the_card_says_what_is_so(tmp_path: Path) -> None:
    loaded, out = exported(tmp_path, vocab_size=320)
    text = card_of(loaded, out)
    assert card_of(loaded, out) == text  # its own hash is not among the others
    cut = replace(loaded.model.config, vocab_size=257)
    for row in (
        f"| parameters | {get_model_size(cut):,} |",
        "| tokens at once | 24; there are 32 positions, and beyond 24 nothing was learnt |",
        "| tokenizer | byte, 257 ids |",
        "| left out | 63 rows of padding in the token table |",
        "| updates | 120 |",
        "| number format in training | bfloat16 |",
        "| text | poem.txt |",
        "| held-out loss | 1.2500 ± 0.0100 nats per token |",
        "| bits per byte | 1.8000 |",
        "- verified with a program: all is well.",
        "In a text that has these 13 characters, the tokenizer of this folder sees the id",
    ):
        assert row in text, row
    for path in out.iterdir():
        sha = hashlib.sha256(path.read_bytes()).hexdigest()
        assert (f"| `{path.name}` | `{sha}` |" in text) == (path.name != "README.md"), path.name


def test_the_code_on_the_card_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    loaded, out = exported(tmp_path, n_positions=72)
    code = card_of(loaded, out).split("```python\n")[1].split("```")[0]
    monkeypatch.chdir(out)
    exec(code, {})
    assert capsys.readouterr().out.startswith("To be")


def test_the_hub_can_read_the_card(tmp_path: Path) -> None:
    from huggingface_hub import ModelCard

    loaded, out = exported(tmp_path, "qwen3")
    said = {"source": "tinystories", "title": 'a "quoted" | title:\n---\n'}
    loaded = replace(loaded, file=replace(loaded.file, data=loaded.file.data | said))
    card = ModelCard(card_of(loaded, out, license="mit"))
    data = card.data.to_dict()
    assert (data["license"], data["library_name"], data["pipeline_tag"]) == ("mit", "transformers", "text-generation")
    assert (data["language"], data["datasets"]) == (["en"], ["roneneldan/TinyStories"])
    assert data["tags"] == ["light-llm", "qwen3"]
    found = {r.metric_type: r.metric_value for r in card.data.eval_results or []}
    assert found == {"loss": 1.25, "bits_per_byte": 1.8, "perplexity": 3.49}
    assert 'a "quoted" \\| title: ---' in card.text and "No licence" not in card.text


def test_the_card_makes_nothing_up(tmp_path: Path) -> None:
    """A model of which little is known, for another program; and no path of the machine it was trained on."""
    from huggingface_hub import ModelCard

    loaded = tiny_loaded(tmp_path)
    secret = {"source": "/home/somebody/diary.txt", "title": "diary.txt"}
    unlucky = {"evaluation": {"loss": 800.0, "perplexity": float("inf")}}
    card = ModelCard(card_of(replace(loaded, file=replace(loaded.file, data=secret, meta=unlucky)), tmp_path))
    assert "which stands between documents" in card.text and "the model never saw" not in card.text
    assert "/home" not in card.content and [r.metric_type for r in card.data.eval_results or []] == ["loss"]
    assert card.data.license == "unknown" and "No licence has been chosen" in card.text
    one = replace(loaded, file=replace(loaded.file, data={"documents": 1}))
    assert "is id 256, which the model never saw: its text was one document" in card_of(one, tmp_path)
    strange = tiny_loaded(tmp_path, mlp="relu2")
    text = card_of(replace(strange, file=replace(strange.file, data={}, meta={}, tokenizer=None)), tmp_path)
    assert "# A transformer, " in text and 'library_name: "onnx"' in text and "\nlanguage:" not in text
    for row in ("| updates | not known |", "| text | not known |", "not measured", "none in the model file"):
        assert row in text


class Hub(BaseHTTPRequestHandler):
    """Answers the calls of an upload as the hub does; every file is small enough to be sent as it is."""

    server: "Server"

    def do_GET(self) -> None:
        self.answer()

    def do_POST(self) -> None:
        self.answer()

    def answer(self) -> None:
        server, body = self.server, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server.seen.append((self.command, self.path, self.headers.get("Authorization"), body))
        place = f"http://127.0.0.1:{server.server_port}/me/tiny"
        status, found = 200, dict[str, Any]()
        if server.refuses:
            status, found = server.refuses, {"error": "no"}
        elif self.path == "/api/whoami-v2":
            found = {"name": "me", "type": "user"}
        elif self.path == "/api/repos/create":
            status, found = 409 if server.public is not None else 200, {"url": place, "name": "me/tiny"}
            server.created = server.created or json.loads(body)
        elif "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            found = {"files": files}
        elif "/commit/" in self.path:
            found = {"success": True, "commitUrl": f"{place}/commit/1", "commitOid": "1" * 40, "hookOutput": ""}
        elif self.path.startswith("/api/models/me/tiny"):
            found = {"id": "me/tiny", "private": not server.public, "sha": "0" * 40, "siblings": [], "tags": []}
        data = json.dumps(found).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """The hub on this machine."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hub)
        self.seen: list[tuple[str, str, str | None, bytes]] = []
        self.created: dict[str, Any] = {}
        self.public: bool | None = None  # what the model is that is there already; None: there is none
        self.refuses = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_nobody")
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An exported model with its card."""
    loaded, out = exported(tmp_path)
    card_of(loaded, out)
    return out


def test_a_push_sends_every_file_to_a_private_model(hub: Server, folder: Path) -> None:
    """The real library on one side of the wire, a stand-in of the hub on the other."""
    assert huggingface.push(folder, "tiny", endpoint=hub.address) == f"{hub.address}/me/tiny"
    assert hub.created["visibility"] == "private" and (hub.created["organization"], hub.created["name"]) == (
        "me",
        "tiny",
    )
    commit = next(body for _, path, _, body in hub.seen if "/commit/" in path)
    sent = [json.loads(line)["value"]["path"] for line in commit.splitlines() if b'"file"' in line]
    assert sorted(sent) == sorted(path.name for path in folder.iterdir())
    assert {token for _, _, token, _ in hub.seen} == {"Bearer hf_nobody"}


def test_a_folder_that_is_there_is_pushed_as_it_is(
    hub: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the command line: the card that a user has changed goes, and nothing is exported again."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
    (folder / "README.md").write_text("My own words.")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["export", "push", "--out", str(folder), "--push", "me/tiny"]) == 0
    assert capsys.readouterr().out == f"uploaded  {hub.address}/me/tiny\n"
    assert hub.created["visibility"] == "private"
    assert any(b64encode(b"My own words.") in body for _, path, _, body in hub.seen if "/commit/" in path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_private_model_never_goes_where_all_can_see_it(hub: Server, folder: Path) -> None:
    hub.public = True
    with pytest.raises(ConfigError, match="me/tiny is on the hub already and public.*nothing was sent"):
        huggingface.push(folder, "me/tiny", endpoint=hub.address)
    assert not [path for _, path, _, _ in hub.seen if "/commit/" in path or "/preupload/" in path]
    assert huggingface.push(folder, "me/tiny", private=False, endpoint=hub.address).endswith("/me/tiny")


def test_what_keeps_a_push_from_beginning(hub: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("a/b/c", "so many words", "me/-x"):
        with pytest.raises(ConfigError, match="is no name of a model"):
            huggingface.push(folder, name, endpoint=hub.address)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(ConfigError, match="no token of the Hugging Face hub on this machine.*hf auth login"):
        huggingface.push(folder, "me/tiny", endpoint=hub.address)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_nobody")
    for name, message in (("model.safetensors", "is damaged or cut"), ("config.json", "is damaged, or no JSON")):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
        with pytest.raises(CheckpointError, match=message):
            huggingface.push(folder, "me/tiny", endpoint=hub.address)
        (folder / name).write_bytes(whole)
    (folder / "README.md").unlink()
    with pytest.raises(ConfigError, match="has no README.md; export it first: light-llm export hf --out"):
        huggingface.push(folder, "me/tiny", endpoint=hub.address)
    assert not hub.seen


def test_a_hub_that_refuses_or_is_not_there(hub: Server, folder: Path) -> None:
    hub.refuses = 403
    with pytest.raises(
        DataError,
        match="could not be pushed .*403.*push it again with: light-llm export push --out .* me/tiny",
    ):
        huggingface.push(folder, "me/tiny", endpoint=hub.address)
    with pytest.raises(DataError, match="me/tiny could not be pushed .*refused"):
        huggingface.push(folder, "me/tiny", endpoint="http://127.0.0.1:9")
