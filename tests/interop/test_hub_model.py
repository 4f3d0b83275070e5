"""Models of the hub by name: the commit is recorded, no pickle is fetched, and a refusal says what to do."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from light_llm.checkpoint import load_model
from light_llm.cli import main
from light_llm.errors import ConfigError, DataError
from light_llm.interop.hub_model import HubModel, find_model, parse_name
from tests.support.model_hub import COMMIT, REPO, ModelHub
from tests.support.published import write_folder
from tests.support.web_servers import running

PICKLES = {"pytorch_model.bin": b"a pickle", "onnx/model.onnx": b"another format", "README.md": b"# Tiny"}


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("LIGHT_LLM_OFFLINE_DIR", raising=False)
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def hub(tmp_path: Path, empty_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ModelHub]:
    """A hub with one model in shards, and an empty cache of the library."""
    write_folder(tmp_path / "upstream", "smollm2", shards=True)
    files = {path.name: path.read_bytes() for path in (tmp_path / "upstream").iterdir()}
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hf-cache"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda seconds: None)
    with running(ModelHub(files | PICKLES)) as server:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", server.url)
        template = server.url + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr("huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE", template)
        yield server


def test_a_model_is_imported_by_name(hub: ModelHub, capsys: pytest.CaptureFixture[str]) -> None:
    """By the command; the second time from the cache, without a request."""
    assert main(["import", f"{REPO}@v1", "--tokenizer", "none", "--out", "tiny"]) == 0
    assert f"someone/tiny (Llama, revision {COMMIT[:12]} on the hub)" in capsys.readouterr().out
    origin = load_model("tiny").file.meta["imported"]
    assert (origin["name"], origin["revision"]) == (REPO, COMMIT)
    fetched = {path.rpartition("/")[2] for path in hub.seen if "/resolve/" in path}
    assert fetched == {name for name in hub.files if name not in PICKLES}
    hub.seen.clear()
    assert main(["import", f"{REPO}@{COMMIT}", "--tokenizer", "none", "--out", "again"]) == 0
    assert main(["import", REPO, "--offline", "--revision", COMMIT, "--tokenizer", "none", "--out", "third"]) == 0
    assert not hub.seen


def test_a_path_wins_over_a_name(hub: ModelHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As does a folder that the user has filled for a machine without network."""
    write_folder(Path(REPO), "gpt2")
    assert main(["import", REPO, "--tokenizer", "none", "--out", "local"]) == 0
    assert load_model("local").file.meta["imported"]["family"] == "gpt2"
    monkeypatch.setenv("LIGHT_LLM_OFFLINE_DIR", str(tmp_path / "offline"))
    write_folder(tmp_path / "offline" / "models" / REPO, "qwen3")
    found = find_model(HubModel(REPO))
    assert (found.folder, found.commit) == (tmp_path / "offline" / "models" / REPO, "") and not hub.seen


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ((404, "RepoNotFound"), "there is no such model on the hub, or it is private"),
        ((403, "GatedRepo"), "it is gated: .*hf auth login"),
        ((404, "RevisionNotFound"), "it has no revision v9"),
        ((503, ""), "503"),
    ],
)
def test_a_refusal_says_why_and_what_to_do(answer: tuple[int, str], why: str, hub: ModelHub, empty_cache: Path) -> None:
    hub.refuses = answer
    place = empty_cache / "models" / REPO
    with pytest.raises(
        DataError, match=rf"someone/tiny cannot be imported .*{why}.*config\.json.*safetensors.*{place}"
    ):
        find_model(HubModel(REPO, "v9"))


def test_without_a_network(hub: ModelHub, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["import", REPO, "--offline"]) == 2
    assert "someone/tiny" in (said := capsys.readouterr().err) and "--offline downloads nothing" in said
    assert not hub.seen
    with pytest.raises(DataError, match="someone/tiny .*127.0.0.1|someone/tiny .*refused"):
        find_model(HubModel(REPO), endpoint="http://127.0.0.1:9")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(DataError, match=r"HF_HUB_OFFLINE is set; put its config\.json"):
        find_model(HubModel(REPO))


def test_pickles_and_altered_weights_are_refused(hub: ModelHub) -> None:
    shard = next(name for name in hub.files if name.startswith("model-00001"))
    hub.altered[shard] = hub.files[shard][:-1] + b"?"
    with pytest.raises(DataError, match=f"{REPO} sent a {shard} that differs from the announced file"):
        find_model(HubModel(REPO))
    for name in [name for name in hub.files if "safetensors" in name]:
        del hub.files[name]
    with pytest.raises(
        DataError, match=r"no model\.safetensors on the hub, only pytorch_model\.bin, a pickle.*save_pre"
    ):
        find_model(HubModel(REPO))
    hub.files["model.fp16.safetensors"] = b""
    with pytest.raises(DataError, match=r"only model\.fp16\.safetensors; .*rename it to model\.safetensors"):
        find_model(HubModel(REPO))
    del hub.files["model.fp16.safetensors"]
    hub.files["tiny.Q8_0.gguf"] = b""
    with pytest.raises(DataError, match=r"download one of its GGUF files, such as tiny\.Q8_0\.gguf"):
        find_model(HubModel(REPO))


def test_names() -> None:
    assert parse_name("a/b", "v1") == HubModel("a/b", "v1") == parse_name("a/b@v1", "v1")
    for path in ("gpt2", "./a/b", "a/b/c", "/a/b", "../b", "a/"):
        assert parse_name(path) is None, path
    with pytest.raises(ConfigError, match="name two revisions"):
        parse_name("a/b@v1", "v2")


def test_a_flag_without_effect_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_folder(tmp_path / "model", "gpt2")
    assert main(["import", str(tmp_path / "model"), "--revision", "main"]) == 2
    assert "--revision has no effect on a Hugging Face folder" in capsys.readouterr().err
    assert main(["import", "gpt2"]) == 2
    assert "OWNER/NAME" in capsys.readouterr().err
