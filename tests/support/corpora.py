"""Small corpora of several sources, encoded as `light-llm prepare` encodes texts."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from light_llm.data.corpus import CorpusSource, describe_shard, write_corpus
from light_llm.data.encode import encode_splits
from light_llm.data.tokenizers import ByteTokenizer, Tokenizer, tokenizer_hash

SHARES = {"wiki": 0.7, "code": 0.3}


def text_of(name: str, i: int, n: int = 3000) -> str:
    """Return a text of n characters that differs by source and shard, and whose places can be told apart."""
    return "".join(f"{name} {i} line {j:05d};" for j in range(n // 10))[:n]


def make_corpus(
    folder: Path,
    weights: Mapping[str, float] = SHARES,
    *,
    shards: int = 2,
    n: int = 3000,
    held_out: int = 300,
    tokenizer: Tokenizer | None = None,
) -> Path:
    """Write a corpus with `shards` shards of n training characters for each source. Returns its folder."""
    tokenizer = tokenizer or ByteTokenizer()
    folder.mkdir(parents=True)
    sources = []
    for name, weight in weights.items():
        folders = [f"{name}-{i:05d}" for i in range(shards)]
        for i, shard in enumerate(folders):
            text = text_of(name, i, n + held_out)
            splits = (("train", iter([text[:n]])), ("held_out", iter([text[n:]])))
            metadata = {"source_sha256": f"{name} {i}", "tokenizer_sha256": tokenizer_hash(tokenizer)}
            encode_splits(folder / shard, splits, tokenizer, metadata=metadata, separators=True)
        sources.append(corpus_source(folder, name, weight, folders, tokenizer))
    write_corpus(folder, sources, tokenizer)
    return folder


def corpus_source(folder: Path, name: str, weight: float, shards: Sequence[str], tokenizer: Tokenizer) -> CorpusSource:
    """Return the entry of a source whose shards are in these folders."""
    train, held_out = ([describe_shard(folder, f"{shard}/{split}.bin") for shard in shards] for split in SPLITS)
    return CorpusSource(
        name=name,
        weight=weight,
        tokenizer_sha256=tokenizer_hash(tokenizer),
        train=tuple(train),
        held_out=tuple(held_out),
        documents=len(shards),
    )


SPLITS = ("train", "held_out")
