"""A corpus at a URL: the batches of its folder, with the requests of a rank's own rows, and none when all is cached."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from light_llm.data import DataLoader, TokenDataset, create_dataloader, prepare_dataset, remote_files
from light_llm.data.download import RetryPolicy
from light_llm.data.hf_tokenizer import HuggingFaceTokenizer
from light_llm.data.tokenizers import tokenizer_hash
from light_llm.errors import DataError
from light_llm.train import Trainer
from tests.support.corpora import make_corpus
from tests.support.tokenizer_kinds import tokenizer_kind
from tests.support.tools import SMALL, byte_model, cache_profile
from tests.support.web_servers import FileServer, running

T = 16


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_files, "RETRY", RetryPolicy(attempts=2, first_delay=0.01, max_delay=0.01, timeout=60))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_corpus(tmp_path_factory.mktemp("data") / "corpus", shards=3)


def served(folder: Path) -> dict[str, bytes]:
    return {f"/{path.relative_to(folder)}": path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture
def server(folder: Path) -> Iterator[FileServer]:
    with running(FileServer(served(folder))) as server:
        yield server


def open_corpus(data: str | Path, order: int | None = None, offline: bool = False) -> TokenDataset:
    return prepare_dataset(data, max_length=T, order=order, offline=offline)[0]


def batches(loader: DataLoader, rows: slice | None = None) -> list[list[list[int]]]:
    return [loader.batch(k, rows).tokens.tolist() for k in (0, 1, 2, 3, 40, 900)]


def test_the_batches_are_those_of_the_folder(folder: Path, server: FileServer) -> None:
    for order in (1, 2, 3):
        local, remote = open_corpus(folder, order), open_corpus(f"{server.url}/corpus.json", order)
        assert batches(create_dataloader(remote, 8)) == batches(create_dataloader(local, 8))
    assert remote.source.sha256 == local.source.sha256 and remote.config.weights == local.config.weights
    n = len(remote.held_out)
    assert remote.held_out.read(0, n).tolist() == local.held_out.read(0, n).tolist()
    assert open_corpus(f"{server.url}/corpus.json").config.order == 3
    # Each file of ids was asked for once.
    asked = [path for path, _ in server.requests if path.endswith(".bin")]
    assert sorted(asked) == sorted(path for path in server.files if path.endswith(".bin"))


def test_a_rank_asks_for_its_own_rows_only(folder: Path, server: FileServer) -> None:
    """Two batches of two rows: only the shards of those windows are requested."""
    local = create_dataloader(open_corpus(folder, 1), 2)
    remote = create_dataloader(open_corpus(f"{server.url}/corpus.json", 1), 2)
    remote.read_ahead = None
    needed = set()
    for k in (0, 1):
        assert remote.batch(k, slice(1, 2)).tokens.tolist() == local.batch(k).tokens[1:].tolist()
        needed |= {f"/{shard.path.relative_to(folder)}" for shard, *_ in local._pieces(2 * k + 1)}  # type: ignore[attr-defined]
    assert {path for path, _ in server.requests if path.endswith(".bin")} == needed
    assert 0 < len(needed) < 6


def test_a_run_is_that_on_the_folder_and_resumes_without_the_network(
    folder: Path, server: FileServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache_profile(byte_model().config)
    url = f"{server.url}/corpus.json"

    def train(data: str | Path, out: str, **changes: object) -> None:
        loader = create_dataloader(open_corpus(data, 3), 4, seed=1)
        Trainer(byte_model(), loader, out=out, **(SMALL | {"max_steps": 8, "skip_doctor": True} | changes)).train()

    train(folder, "local")
    with monkeypatch.context() as context:
        context.setenv("LIGHT_LLM_STOP_AFTER", "3")
        train(url, "remote")
    open_corpus(url).check()
    server.files.clear()
    train(url, "remote", resume=True)
    for name in ("model.safetensors", "optimizer.safetensors", "state.json"):
        assert Path("local/step-000008", name).read_bytes() == Path("remote/step-000008", name).read_bytes()
    assert json.loads(Path("remote/run.json").read_text())["data"]["source"] == url


def test_a_published_tokenizer_and_the_bytes_of_its_tokens(tmp_path: Path) -> None:
    kind = tokenizer_kind("llama2")
    tokenizer = HuggingFaceTokenizer(kind.data, separator=kind.eos, prefix=kind.prefix, suffix=kind.suffix)
    folder = make_corpus(tmp_path / "hf", tokenizer=tokenizer)
    with running(FileServer(served(folder))) as server:
        remote, local = open_corpus(f"{server.url}/corpus.json", 1), open_corpus(folder, 1)
        assert tokenizer_hash(remote.tokenizer) == tokenizer_hash(tokenizer)
        loaders = create_dataloader(remote, 4), create_dataloader(local, 4)
        n_bytes = [[loader.target_bytes(loader.batch(k)) for k in range(5)] for loader in loaders]
        assert n_bytes[0] == n_bytes[1]
        remote.check()
        server.files.clear()
        again = open_corpus(f"{server.url}/corpus.json", 1, offline=True)
        assert again.tokens.read(0, len(again.tokens)).tolist() == local.tokens.read(0, len(local.tokens)).tolist()


def test_another_file_than_the_corpus_names_is_refused(folder: Path, server: FileServer) -> None:
    """A shard of another text, correct in itself, and a corpus.json that was changed."""
    names = [f"/{path.relative_to(folder)}" for path in sorted(folder.rglob("train.*"))]
    for suffix in (".bin", ".json"):
        first, second = (name for name in names if "/wiki-0000" in name and name.endswith(suffix) and "2/" not in name)
        server.files[first] = server.files[second]
    remote = open_corpus(f"{server.url}/corpus.json", 1)
    with pytest.raises(DataError, match=rf"{server.url}/wiki-00000/train.json cannot be used: .*SHA-256"):
        remote.tokens.read(0, len(remote.tokens))
    server.files["/c/corpus.json"] = server.files["/corpus.json"].replace(b"wiki", b"viki")
    with pytest.raises(DataError, match=r"/c/corpus.json cannot be used: it was changed"):
        open_corpus(f"{server.url}/c/corpus.json")


def test_addresses_that_are_refused() -> None:
    with pytest.raises(DataError, match="user or password") as error:
        open_corpus("https://me:secret@host/corpus.json")
    assert "secret" not in str(error.value)
    with pytest.raises(DataError, match=r"download it first.*corpus\.json"):
        open_corpus("s3://bucket/web")
    with pytest.raises(DataError, match="offline"):
        open_corpus("https://host/corpus.json", offline=True)
