"""One flipped bit anywhere, or a cut: every file that is read again names itself, or gives the very same content."""

import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch

from light_llm.checkpoint import Files, read_model, read_step, read_step_files, write_model_file
from light_llm.data import prepare_dataset
from light_llm.data.download import PinnedFile, ensure_file, sha256_of
from light_llm.data.shards import Shard
from light_llm.data.tokenizers import tokenizer_hash
from light_llm.errors import CheckpointError, DataError
from light_llm.json_io import load_verified
from tests.checkpoint.test_checkpoint import FILES, meta_of, save, trained
from tests.support.tools import tiny_model, write_shard

tries = pytest.mark.parametrize("tries", [200, pytest.param(1000, marks=pytest.mark.slow)])  # for each file


def damages(good: bytes, seed: int, tries: int) -> Iterator[tuple[str, bytes]]:
    """Flips of one bit all over the file, and every tenth time a cut."""
    chance = random.Random(seed)
    for i in range(tries):
        at = chance.randrange(len(good))
        if i % 10:
            bit = chance.randrange(8)
            yield f"bit {bit} of byte {at}", good[:at] + bytes([good[at] ^ 1 << bit]) + good[at + 1 :]
        else:
            yield f"cut at {at}", good[:at]


def refused(
    file: Path, read: Callable[[], object], error: type[Exception], tries: int, seed: int = 0, named: str | None = None
) -> int:
    """Return how many damages of a file are refused by name. Those that are not refused must read as the good file."""
    good, truth, n = file.read_bytes(), read(), 0
    for damage, bad in damages(good, seed, tries):
        file.write_bytes(bad)
        try:
            assert read() == truth, f"{damage} of {file.name} was read as something else"
        except error as problem:
            assert (named or file.name) in str(problem), f"{damage}: {problem}"
            n += 1
    file.write_bytes(good)
    assert read() == truth
    return n


@tries
def test_a_model_file(tmp_path: Path, tries: int) -> None:
    """Padding between records, and fields of the archive that nobody reads, may change; what is loaded may not."""
    model = tiny_model(n_embd=12, n_layer=1)
    path = tmp_path / "best_model.pt"
    write_model_file(path, model.state_dict(), meta_of(model), Files(), FILES)

    def content() -> object:
        file = read_model(path)
        return file.meta, file.files, {name: t.numpy().tobytes() for name, t in file.weights.items()}

    assert refused(path, content, CheckpointError, tries) > tries * 0.7
    assert torch.equal(read_model(path).weights["wte.weight"], model.wte.weight)


@tries
def test_each_file_of_a_step(tmp_path: Path, tries: int) -> None:
    step = tmp_path / "step-000003"
    save(step, *trained(n_embd=12, n_layer=1))

    def content() -> object:
        *tensors, state, meta = read_step(step)
        return (
            state,
            meta,
            read_step_files(step),
            [[(name, t.numpy().tobytes()) for name, t in part.items()] for part in tensors],
        )

    files = sorted(file for file in step.iterdir() if file.stat().st_size)  # an empty file has nothing to flip
    assert len(files) == 7 + len(FILES) - 1
    for seed, file in enumerate(files):
        named = step.name if file.name == "MANIFEST.json" else None  # it is the others that do not fit it, then
        assert refused(file, content, CheckpointError, tries, seed, named) == tries


def test_ids_and_their_manifest(tmp_path: Path) -> None:
    path = tmp_path / "train.bin"
    write_shard(path, [range(500)] * 5, vocab_size=500, metadata={"held_out": 0.1})

    def content() -> object:
        shard = Shard(path)
        return shard.manifest, shard.read(0, len(shard)).tolist()

    assert refused(path, content, DataError, 1000) == 1000
    assert refused(path.with_suffix(".json"), content, DataError, 1000, seed=1) == 1000


def test_a_vocabulary_that_was_kept(poem: Path, shared_cache: Path) -> None:
    """It is learnt anew, and a note says so; that takes a moment, so most damages are only shown to the reader."""
    dataset, tokenizer = prepare_dataset(str(poem), 16, "bpe:270")
    truth = tokenizer_hash(tokenizer)
    kept = max((shared_cache / "tokenizers").iterdir(), key=lambda path: path.stat().st_mtime_ns)
    good = kept.read_bytes()
    for i, (what, bad) in enumerate(damages(good, seed=0, tries=1000)):
        kept.write_bytes(bad)
        with pytest.raises(ValueError):
            load_verified(kept)
        if i % 7:
            continue
        dataset, tokenizer = prepare_dataset(str(poem), 16, "bpe:270")
        assert tokenizer_hash(tokenizer) == truth and kept.read_bytes() == good, what
        assert [str(kept) in note for note in dataset.notes] == [True], what


def test_a_download_that_was_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path))
    monkeypatch.delenv("LIGHT_LLM_OFFLINE_DIR", raising=False)
    path = tmp_path / "play.txt"
    path.write_bytes(b"To be, or not to be: that is the question.\n" * 100)
    file = PinnedFile("play.txt", "http://127.0.0.1:9/", sha256_of(path), path.stat().st_size)
    assert refused(path, lambda: ensure_file(file, offline=True), DataError, 1000) == 1000
