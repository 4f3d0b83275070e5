"""A corpus that is encoded in parts: the same bytes however many parts there are, and refused unless it is complete."""

import json
import shutil
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from light_llm.config import DataConfig
from light_llm.data import encode, parts, prepare_dataset
from light_llm.data.corpus import write_corpus
from light_llm.data.join_parts import join_parts, with_weights
from light_llm.data.parts import encode_part, fixed_tokenizer, plan_source, source_name
from light_llm.data.shards import Shard
from light_llm.data.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer
from light_llm.errors import ConfigError, DataError
from light_llm.json_io import dump_with_digest, load_verified
from tests.data.test_encode import FailingTokenizer, Interrupted
from tests.support.tools import flip

FILES = {
    f"{name}.jsonl": [f"{name} {i} " + "word " * 20 for i in range(n)]
    for name, n in zip("abcdefg", range(4, 25, 3), strict=True)
}
CONFIG = DataConfig(data="texts", tokenizer="byte")
OUT = Path("corpus")


@pytest.fixture(autouse=True)
def texts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write seven files of 4 to 22 documents, of which the shards take several each."""
    monkeypatch.setattr(parts, "MIN_SHARD_BYTES", 2000)
    write_texts(Path("texts"))


def write_texts(folder: Path, files: dict[str, list[str]] = FILES) -> None:
    for name, documents in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text("".join(json.dumps({"text": text}) + "\n" for text in documents))


def encode_parts(
    folder: Path = OUT,
    n: int = 2,
    only: list[int] | None = None,
    *,
    source: str = "web",
    tokenizer: Tokenizer | None = None,
    config: DataConfig = CONFIG,
) -> list[Any]:
    """Encode some parts, by default all in order, and return their results."""
    tokenizer = tokenizer or ByteTokenizer()
    plan = plan_source(source, config, tokenizer)
    return [encode_part(folder, plan, tokenizer, k, n) for k in only or range(1, n + 1)]


def join(folder: Path = OUT) -> None:
    sources, tokenizer = join_parts(folder)
    write_corpus(folder, sources, tokenizer)


def tree_of(folder: Path) -> dict[str, bytes]:
    """Return the files of a corpus, without what interrupted encodings left."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def shard_of(name: str, folder: Path = OUT) -> Path:
    [path] = folder.glob(f"{name}-????????")
    return path


def test_the_shards_are_the_same_for_every_number_of_parts(tmp_path: Path) -> None:
    """Encoded in any order, from a text at another place; and joined they are the whole text."""
    encode_parts(n=1)
    join()
    expected = tree_of(OUT)
    write_texts(tmp_path / "elsewhere" / "texts")
    moved = replace(CONFIG, data=str(tmp_path / "elsewhere" / "texts"))
    for folder, n, order in (("a", 3, [3, 1, 2]), ("b", 9, [*range(9, 0, -1)])):
        results = encode_parts(Path(folder), n, order, config=moved)
        join(Path(folder))
        assert tree_of(Path(folder)) == expected
        assert sum(result.shards for result in results) == len(list(OUT.glob("web-*")))
    shards = sorted(OUT.glob("web-*"))
    assert len(shards) > 3, "some shards have several files, and there are several shards"
    separator = ByteTokenizer().separator
    ids = [Shard(shard / f"{split}.bin").ids.tolist() for shard in shards for split in ("train", "held_out")]
    # A shard and its held-out end have the separator at both ends; the whole text has one between two documents.
    joined = [separator, *(i for part in ids for i in part[1:])]
    documents = [text for name in sorted(FILES) for text in FILES[name]]
    assert joined == [separator, *(i for text in documents for i in (*text.encode(), separator))]
    for shard in shards:
        train, held_out = (len(Shard(shard / f"{split}.bin")) for split in ("train", "held_out"))
        assert 0.02 < held_out / (train + held_out) < 0.3


def test_a_corpus_of_parts_is_trained_on() -> None:
    """Two sources, with the weights of their sizes or others."""
    encode_parts()
    write_texts(Path("code"), {"x.txt": ["some code " * 400]})
    encode_parts(source="code", config=replace(CONFIG, data="code"))
    sources, tokenizer = join_parts(OUT)
    assert [source.name for source in sources] == ["code", "web"]
    assert sum(source.weight for source in sources) == pytest.approx(1, abs=1e-5)
    write_corpus(OUT, with_weights(sources, [3, 1]), tokenizer)
    dataset, _ = prepare_dataset(OUT, max_length=16)
    assert [source.weight for source in dataset.sources] == [3, 1]
    assert dataset.sources[1].documents == sum(map(len, FILES.values()))
    assert dataset.sources[1].bytes == sum(len(text) for texts in FILES.values() for text in texts)
    assert len(dataset.held_out) == sum(source.n_held_out for source in sources) > 0


def test_done_shards_are_skipped_and_interrupted_ones_continue(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encode, "BATCH_CHARS", 300)
    monkeypatch.setattr(encode, "CHECKPOINT_SECONDS", 0.0)
    encode_parts(Path("whole"))
    with pytest.raises(Interrupted):
        encode_parts(tokenizer=FailingTokenizer(30))
    assert list(OUT.glob("*.partial"))
    done = {path: path.stat().st_mtime_ns for path in OUT.glob("web-*/*.bin") if ".partial" not in str(path)}
    encoded: list[int] = []
    encode_batch = ByteTokenizer.encode_batch
    monkeypatch.setattr(ByteTokenizer, "encode_batch", lambda t, b: encoded.append(len(b)) or encode_batch(t, b))
    first, _ = encode_parts()
    n, finished = len(encoded), tree_of(OUT)
    assert first.done_before == len(done) // 2 > 0 and finished == tree_of(Path("whole"))
    assert {path: path.stat().st_mtime_ns for path in done} == done
    assert [result.done_before - result.shards for result in encode_parts()] == [0, 0] and len(encoded) == n


def test_a_text_that_changes_after_an_interruption_begins_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Another text of the same size must not continue the ids of the old one."""
    monkeypatch.setattr(encode, "BATCH_CHARS", 300)
    monkeypatch.setattr(encode, "CHECKPOINT_SECONDS", 0.0)
    with pytest.raises(Interrupted):
        encode_parts(tokenizer=FailingTokenizer(10))
    write_texts(Path("texts"), {name: [text.swapcase() for text in documents] for name, documents in FILES.items()})
    encode_parts()
    join()
    encode_parts(Path("whole"))
    ids = [Shard(shard / "train.bin").ids.tolist() for shard in sorted(Path("whole").glob("web-*"))]
    assert [prepare_dataset(OUT, max_length=8)[0].tokens.read(0, 10**9).tolist()] == [[i for part in ids for i in part]]


def test_several_processes_at_once() -> None:
    """Their locks are those of files, so threads stand for them: all encode everything, and all succeed."""
    encode_parts(Path("whole"), 1)
    results: list[Any] = []
    threads = [threading.Thread(target=lambda: results.extend(encode_parts(n=1))) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert len(results) == 4 and tree_of(OUT) == tree_of(Path("whole"))


def test_a_held_out_text_of_its_own() -> None:
    Path("other").mkdir()
    Path("other", "held.txt").write_text("quite another text " * 30)
    encode_parts(config=replace(CONFIG, val_data="other"), n=3)
    [web], _ = join_parts(OUT)
    assert {entry.file.rpartition("/")[2] for entry in web.train} == {"train.bin"}
    assert [entry.file.rpartition("-")[0] for entry in web.held_out] == ["web-held-out-00000"]
    assert web.n_held_out == 2 + 19 * 30 and web.n_train > sum(len(t) for texts in FILES.values() for t in texts)


def damage_missing() -> str:
    shutil.rmtree(shard_of("web-00001"))
    return r"1 of the \d+ shards of corpus are missing: web-00001 \(from "


def damage_byte() -> str:
    flip(shard_of("web-00001") / "train.bin")
    return "web-00001-.*train.bin is damaged"


def damage_cut() -> str:
    path = shard_of("web-00002") / "held_out.bin"
    path.write_bytes(path.read_bytes()[:-1])
    return "web-00002-.*held_out.bin has .* bytes"


def damage_manifest() -> str:
    flip(shard_of("web-00000") / "train.json")
    return "web-00000-.*train.json is missing, damaged"


def damage_twice() -> str:
    shutil.copytree(shard_of("web-00001"), OUT / "web-00001-00000000")
    return "web-00001-00000000 and web-00001-"


def damage_plan() -> str:
    values = load_verified(OUT / "web.parts.json")
    (OUT / "web.parts.json").write_bytes(dump_with_digest({**values, "held_out": 0.2}))
    return "other files or with other settings"


def damage_copy() -> str:
    """The same shard again, under the name of another source."""
    write_texts(Path("again"), {"z.jsonl": FILES["a.jsonl"] + FILES["b.jsonl"]})
    write_texts(Path("more"), {"y.jsonl": FILES["a.jsonl"] + FILES["b.jsonl"]})
    for source in ("again", "more"):
        encode_parts(source=source, config=replace(CONFIG, data=source))
    return "again-00000-.*, more-00000-.* hold the same text"


def damage_tokenizer() -> str:
    (OUT / "vocabulary.json").write_bytes(dump_with_digest(CharTokenizer("ab").to_dict()))
    return "another tokenizer than vocabulary.json"


@pytest.mark.parametrize(
    "damage",
    [
        damage_missing,
        damage_byte,
        damage_cut,
        damage_manifest,
        damage_twice,
        damage_plan,
        damage_copy,
        damage_tokenizer,
    ],
)
def test_an_incomplete_corpus_is_not_joined(damage: Any) -> None:
    encode_parts()
    words = damage()
    with pytest.raises(DataError, match=words):
        join()
    assert not (OUT / "corpus.json").exists()


def test_parts_of_different_things_are_refused() -> None:
    encode_parts(only=[1])
    other = "was made for another text or other settings"
    with pytest.raises(DataError, match=f"{other}: held_out is 0.1 there and 0.2 here"):
        encode_parts(config=replace(CONFIG, held_out=0.2))
    with pytest.raises(DataError, match=r"another tokenizer \(byte"):
        encode_parts(tokenizer=CharTokenizer("abc"))
    Path("texts", "h.jsonl").write_text('{"text": "new"}\n' * 500)
    with pytest.raises(DataError, match=f"{other}: it has 7 files in .* 8 in .*, from h.jsonl on"):
        encode_parts()
    Path("texts", "h.jsonl").unlink()
    Path("texts", "a.jsonl").write_text('{"text": "repaired"}\n')
    with pytest.raises(DataError, match="web-00000-.* other sizes: a.jsonl"):
        encode_parts()
    with pytest.raises(DataError, match="has no parts of a corpus"):
        join_parts(Path("texts"))


def test_what_cannot_be_encoded_in_parts() -> None:
    for spec, size in (("bpe:300", " --vocab-size 300"), ("bpe", ""), ("char", "")):
        with pytest.raises(ConfigError, match=f"light-llm tokenizer train --data texts{size} --out tokenizer.json"):
            fixed_tokenizer(spec, data="texts")
    for data in ("tales", "-", "shakespeare", "s3://bucket/texts"):
        with pytest.raises(ConfigError, match="a file or a folder"):
            plan_source("web", replace(CONFIG, data=data), ByteTokenizer())
    with pytest.raises(DataError, match="nowhere"):
        plan_source("web", replace(CONFIG, data="nowhere"), ByteTokenizer())
    assert [source_name(*pair) for pair in (("", "a/my texts.d"), ("", "b.jsonl.gz"), ("x.1", "c"))] == [
        "my-texts",
        "b",
        "x.1",
    ]
    for name in ("../x", "", ".hidden", "web-held-out"):
        if name:
            with pytest.raises(ConfigError, match="--source|source="):
                source_name(name, "texts")


def test_ids_that_do_not_tell_their_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The byte counts of a shard are verified when it is joined."""
    monkeypatch.setattr(ByteTokenizer, "needs_byte_counts", True)
    encode_parts()
    join()
    counts = shard_of("web-00000") / "train_bytes.bin"
    assert np.fromfile(counts, "<u4").sum() > 0
    flip(counts)
    with pytest.raises(DataError, match="train_bytes.bin is damaged"):
        join()
