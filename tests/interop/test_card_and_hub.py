"""The model card of an export, and its upload to the hub."""

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
from light_llm.errors import CheckpointError, ConfigError, DataError, LightLLMError
from light_llm.interop.hub import push
from light_llm.interop.model_card import write_card
from tests.interop.test_export_hf import exported
from tests.support.export_tools import tiny_loaded


def card_of(loaded: LoadedModel, folder: Path) -> str:
    write_card(loaded, folder, "verified with a program: all is well")
    return (folder / "README.md").read_text()


def with_data(loaded: LoadedModel, **changes: Any) -> LoadedModel:
    return replace(loaded, file=replace(loaded.file, **changes))


def test_the_card_has_the_facts_of_the_model_file(tmp_path: Path) -> None:
    loaded, out = exported(tmp_path, vocab_size=320)
    text = card_of(loaded, out)
    assert card_of(loaded, out) == text, "its own hash is not on it"
    trimmed = replace(loaded.model.config, vocab_size=257)
    for row in (
        f"| parameters | {get_model_size(trimmed):,} |",
        "| context | 24 tokens in training, 32 positions |",
        "| tokenizer | byte, 257 ids |",
        "| padding rows of the vocabulary, removed | 63 |",
        "| updates | 120 |",
        "| training dtype | bfloat16 |",
        "| text | poem.txt |",
        "| held-out nats per token | 1.2500 |",
        "| standard error of the loss | 0.0100 |",
        "| held-out bits per byte | 1.8000 |",
        "- verified with a program: all is well.",
        "`<|endoftext|>` is id 256, between documents",
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
    loaded = with_data(loaded, data=loaded.file.data | {"title": 'a "quoted" | title:\n---\n'})
    card = ModelCard(card_of(loaded, out))
    data = card.data.to_dict()
    assert (data["library_name"], data["pipeline_tag"]) == ("transformers", "text-generation")
    assert data["tags"] == ["light-llm", "qwen3"]
    assert 'a "quoted" \\| title: ---' in card.text


def test_the_card_leaves_out_what_is_unknown(tmp_path: Path) -> None:
    """Also the path of the text on the machine that the model was trained on."""
    from huggingface_hub import ModelCard

    loaded = tiny_loaded(tmp_path)
    secret = {"source": "/home/somebody/diary.txt", "title": "diary.txt"}
    card = ModelCard(card_of(with_data(loaded, data=secret, meta={}), tmp_path))
    assert "/home" not in card.content and "diary.txt" in card.text
    assert card.data.license == "unknown" and "No licence is chosen yet" in card.text
    one = with_data(loaded, data={"documents": 1})
    assert "is id 256, never seen by the model" in card_of(one, tmp_path)
    strange = tiny_loaded(tmp_path, mlp="relu2")
    text = card_of(with_data(strange, data={}, meta={}, tokenizer=None), tmp_path)
    assert "# Transformer, " in text and "library_name: onnx" in text
    for fact in ("| updates |", "| text |", "held-out", "| tokenizer |", "endoftext"):
        assert fact not in text


class Hub(BaseHTTPRequestHandler):
    """Answers the calls of an upload as the hub does; every file is small enough to be sent as it is."""

    server: "Server"

    def do_POST(self) -> None:
        server, body = self.server, self.rfile.read(int(self.headers.get("Content-Length") or 0))
        server.requests.append((self.command, self.path, self.headers.get("Authorization"), body))
        url = f"http://127.0.0.1:{server.server_port}/me/tiny"
        status, answer = 200, dict[str, Any]()
        if server.refuses:
            status, answer = server.refuses, {"error": "no"}
        elif self.path == "/api/whoami-v2":
            answer = {"name": "me", "type": "user"}
        elif self.path == "/api/repos/create":
            status, answer = 409 if server.public is not None else 200, {"url": url, "name": "me/tiny"}
            server.created = server.created or json.loads(body)
        elif "/preupload/" in self.path:
            names = [f["path"] for f in json.loads(body)["files"]]
            answer = {"files": [{"path": n, "uploadMode": "regular", "shouldIgnore": False} for n in names]}
        elif "/commit/" in self.path:
            answer = {"success": True, "commitUrl": f"{url}/commit/1", "commitOid": "1" * 40, "hookOutput": ""}
        elif self.path.startswith("/api/models/me/tiny"):
            answer = {"id": "me/tiny", "private": not server.public, "sha": "0" * 40, "siblings": [], "tags": []}
        data = json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST

    def log_message(self, *args: Any) -> None:
        pass


class Server(ThreadingHTTPServer):
    """A stand-in of the hub on this machine."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Hub)
        self.requests: list[tuple[str, str, str | None, bytes]] = []
        self.created: dict[str, Any] = {}
        self.public: bool | None = None  # of an existing model; None: there is none
        self.refuses = 0

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setattr("huggingface_hub.get_token", lambda: "hf_nobody")
    with Server() as server:
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
        yield server
        server.shutdown()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """An exported model with its card."""
    loaded, out = exported(tmp_path)
    card_of(loaded, out)
    return out


def test_a_push_sends_every_file_to_a_private_model(hub: Server, folder: Path) -> None:
    """The real client library talks to the stand-in."""
    assert push(folder, "tiny", endpoint=hub.address) == f"{hub.address}/me/tiny"
    assert [hub.created[name] for name in ("visibility", "organization", "name")] == ["private", "me", "tiny"]
    commit = next(body for _, path, _, body in hub.requests if "/commit/" in path)
    sent = [json.loads(line)["value"]["path"] for line in commit.splitlines() if b'"file"' in line]
    assert sorted(sent) == sorted(path.name for path in folder.iterdir())
    assert {token for _, _, token, _ in hub.requests} == {"Bearer hf_nobody"}


def test_an_existing_folder_is_pushed_unchanged(
    hub: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """By the command: a card that the user has edited is sent, and nothing is exported again."""
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.address)
    (folder / "README.md").write_text("My own words.")
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main(["export", "push", "--out", str(folder), "--push", "me/tiny"]) == 0
    assert capsys.readouterr().out == f"uploaded  {hub.address}/me/tiny\n"
    assert hub.created["visibility"] == "private"
    assert any(b64encode(b"My own words.") in body for _, path, _, body in hub.requests if "/commit/" in path)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before


def test_a_private_model_is_not_sent_to_a_public_one(hub: Server, folder: Path) -> None:
    hub.public = True
    with pytest.raises(ConfigError, match="me/tiny is on the hub already and public"):
        push(folder, "me/tiny", endpoint=hub.address)
    assert not [path for _, path, _, _ in hub.requests if "/commit/" in path or "/preupload/" in path]
    assert push(folder, "me/tiny", private=False, endpoint=hub.address).endswith("/me/tiny")


def test_a_push_that_cannot_succeed_sends_nothing(hub: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(error: type[LightLLMError], match: str, name: str = "me/tiny") -> None:
        with pytest.raises(error, match=match):
            push(folder, name, endpoint=hub.address)

    for name in ("a/b/c", "so many words", "me/-x"):
        refused(ConfigError, "is not a name for a model", name)
    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.get_token", lambda: None)
        refused(ConfigError, "no token .*hf auth login")
    for name in ("model.safetensors", "config.json"):
        whole = (folder / name).read_bytes()
        (folder / name).write_bytes(whole[: len(whole) // 2])
        refused(CheckpointError, f"{name} is damaged")
        (folder / name).write_bytes(whole)
    (folder / "README.md").unlink()
    refused(ConfigError, "has no README.md; .*light-llm export hf --out")
    assert not hub.requests


def test_an_error_of_the_hub_says_how_to_push_again(hub: Server, folder: Path) -> None:
    hub.refuses = 403
    with pytest.raises(DataError, match="403.*light-llm export push --out .* me/tiny"):
        push(folder, "me/tiny", endpoint=hub.address)
    with pytest.raises(DataError, match="me/tiny could not be pushed .*refused"):
        push(folder, "me/tiny", endpoint="http://127.0.0.1:9")
