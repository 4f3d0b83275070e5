"""Measure the speed and memory of `prepare`, in comparison with tiktoken alone.

    python benchmarks/prepare.py [--megabytes 60]

tiktoken encodes the same text from memory, in the chunks that `prepare` uses, and discards the ids: on one thread, and
with its own call for many texts on one thread per core. The first times the number of cores is the ideal; the second is
what these cores give.
"""

import argparse
import tempfile
import time
from datetime import date
from itertools import islice
from pathlib import Path

from light_llm.config import DataConfig
from light_llm.data import Source, Tokenizer
from light_llm.data.bpe import BytePairTokenizer
from light_llm.data.encode import batch_chunks, encode_splits
from light_llm.data.resolve import cached_tokenizer, resolve_source
from light_llm.runtime import device_name, peak_memory, usable_cores

TURNS = 3


def main() -> None:
    """Time both in turn, on one long text and on many short documents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=60)
    megabytes = parser.parse_args().megabytes
    cores = usable_cores()
    lines = [
        f"| {megabytes} MB, MB/s | tiktoken, one thread | tiktoken, {cores} threads | `prepare`, {cores} cores | "
        f"share of one thread x {cores} | share of {cores} threads |",
        "|---|---:|---:|---:|---:|---:|",
    ]
    shakespeare, _ = resolve_source(DataConfig(), chosen=True)
    play = "".join(piece or "" for piece in shakespeare.read())
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        long = folder / "text.txt"
        long.write_text((play * (megabytes + 1))[: megabytes * 1_000_000], encoding="utf-8")
        for what, data, spec in (("one text, gpt2", str(long), "gpt2"), ("stories, bpe", f"tales:{megabytes}", "bpe")):
            lines.append(f"| {what} | {row(data, spec, folder, cores)} |")
    machine = f"{device_name('cpu')}, peak memory of the whole process {(peak_memory() or 0) / 1e9:.2f} GB"
    text = "\n".join([*lines, "", f"The faster of {TURNS} turns. {machine}, {date.today()}."]) + "\n"
    (Path(__file__).parent / "results" / "prepare.md").write_text(text, encoding="utf-8")
    print(text, end="")


def row(data: str, spec: str, folder: Path, cores: int) -> str:
    """Return the speeds and their ratios."""
    source, _ = resolve_source(DataConfig(data=data), chosen=True)
    tokenizer = cached_tokenizer(spec, source, 0.1)
    assert isinstance(tokenizer, BytePairTokenizer)
    alone, threads, ours = [], [], []
    for turn in range(TURNS):
        alone.append(seconds_alone(source, tokenizer))
        threads.append(seconds_of_threads(source, tokenizer, cores))
        start = time.perf_counter()
        parts = iter([("train", source.read())])
        encode_splits(folder / f"{spec}{turn}", parts, tokenizer, metadata={}, separators=source.documents > 1)
        ours.append(time.perf_counter() - start)
    size = source.n_bytes / 1e6
    speeds = " | ".join(f"{size / min(times):.2f}" for times in (alone, threads, ours))
    return f"{speeds} | {min(alone) / min(ours) / cores:.0%} | {min(threads) / min(ours):.0%}"


def seconds_alone(source: Source, tokenizer: Tokenizer) -> float:
    """Time tiktoken on one thread, without reading."""
    spent = 0.0
    for task in batch_chunks(source.read()):
        start = time.perf_counter()
        for piece in task:
            if piece is not None:
                tokenizer.encode(piece)
        spent += time.perf_counter() - start
    return spent


def seconds_of_threads(source: Source, tokenizer: BytePairTokenizer, cores: int) -> float:
    """Time tiktoken's call for many texts, without reading."""
    spent = 0.0
    todo = batch_chunks(source.read())
    while some := list(islice(todo, 4 * cores)):
        texts = [piece for task in some for piece in task if piece is not None]
        start = time.perf_counter()
        tokenizer.encoding.encode_ordinary_batch(texts, num_threads=cores)
        spent += time.perf_counter() - start
    return spent


if __name__ == "__main__":
    main()
