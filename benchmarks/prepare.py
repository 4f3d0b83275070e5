"""How fast a text becomes token ids: `prepare` beside tiktoken alone, in turn, in one run; and what it holds in memory.

    python benchmarks/prepare.py [--megabytes 60]

tiktoken alone encodes the same text from memory on one thread, in the stretches `prepare` uses, and keeps nothing.
"""

import argparse
import tempfile
import time
from datetime import date
from pathlib import Path

from light_llm.config import DataConfig
from light_llm.data import Source, Tokenizer
from light_llm.data.choose import find_text, kept_tokenizer
from light_llm.data.encode import tasks, write_splits
from light_llm.runtime import device_name, peak_memory, usable_cores

TURNS = 3


def main() -> None:
    """Time both, in turn, on one long text and on many short documents."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--megabytes", type=int, default=60)
    megabytes = parser.parse_args().megabytes
    cores = usable_cores()
    lines = [
        f"| {megabytes} MB | tiktoken, one thread, MB/s | `prepare`, {cores} cores, MB/s | share of tiktoken x cores |",
        "|---|---:|---:|---:|",
    ]
    shakespeare, _ = find_text(DataConfig(), by_name=True)
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
    """Both speeds and their ratio."""
    source, _ = find_text(DataConfig(data=data), by_name=True)
    tokenizer = kept_tokenizer(spec, source, 0.1)
    alone, ours = [], []
    for turn in range(TURNS):
        alone.append(seconds_alone(source, tokenizer))
        start = time.perf_counter()
        parts = iter([("train", source.read())])
        write_splits(folder / f"{spec}{turn}", parts, tokenizer, facts={}, separators=source.documents > 1)
        ours.append(time.perf_counter() - start)
    size = source.n_bytes / 1e6
    share = min(alone) / min(ours) / cores
    return f"{size / min(alone):.2f} | {size / min(ours):.2f} | {share:.0%}"


def seconds_alone(source: Source, tokenizer: Tokenizer) -> float:
    """tiktoken on one thread; reading is not counted."""
    spent = 0.0
    for task in tasks(source.read()):
        start = time.perf_counter()
        for piece in task:
            if piece is not None:
                tokenizer.encode(piece)
        spent += time.perf_counter() - start
    return spent


if __name__ == "__main__":
    main()
