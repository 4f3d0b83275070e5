"""Train on a large mixture with two ranks, kill them, resume with one process, and check every read.

    python benchmarks/large_corpus.py [--gigabytes 2] [--out FOLDER]

The corpus has 8 shards of two sources in the shares 70/30; its ids are random numbers, which the writer of the shards
gets directly. A counting reader writes down each range of ids that a process reads, so that these laws are checked on
what was read, not on what should have been:

    each rank reads its own rows of each global batch and nothing else, and the resumed process all rows;
    in each 4,096 sequences both sources have their exact shares;
    no window comes twice in an epoch of its source, and a whole epoch visits each window once;
    the memory of a process does not grow while it trains.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import date
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from light_llm.data import create_dataloader, prepare_dataset
from light_llm.data.corpus import CorpusSource, describe_shard, write_corpus
from light_llm.data.loader import DataLoader
from light_llm.data.order import PERIOD, MixtureOrder
from light_llm.data.shard_list import ShardList
from light_llm.data.shards import ShardWriter
from light_llm.data.tokenizers import ByteTokenizer, tokenizer_hash
from light_llm.runtime import device_name

SOURCES = {"wiki": (0.7, 5), "code": (0.3, 3)}  # weight, shards
HELD_OUT = 4000  # tokens of each shard
PIECE = 1 << 20  # ids made at a time
RANKS = 2
KILLED = signal.SIGKILL


@dataclass(frozen=True)
class Size:
    """The size of a run."""

    n_bytes: int  # of the training ids
    T: int  # tokens of a window
    batch_size: int
    steps: int
    kill_at: int  # the step in which both ranks are killed
    save_interval: int


LARGE = Size(2_000_000_000, T=512, batch_size=64, steps=256, kill_at=160, save_interval=64)
SMALL = Size(2_000_000, T=64, batch_size=64, steps=160, kill_at=90, save_interval=32)


@dataclass
class Run:
    """What a process did: its reads of training ids, in order, and samples of its memory."""

    reads: NDArray[np.int64]  # (n, 2): start and stop
    anonymous: list[int] = field(default_factory=list)  # bytes that are not those of a file
    resident: list[int] = field(default_factory=list)


def build(folder: Path, size: Size) -> float:
    """Write the corpus. Returns the seconds."""
    start, tokenizer = time.perf_counter(), ByteTokenizer()
    metadata = {"tokenizer_sha256": tokenizer_hash(tokenizer)}
    rng = np.random.default_rng(1)
    per_shard = size.n_bytes // 2 // sum(n for _, n in SOURCES.values())
    sources = []
    for name, (weight, n_shards) in SOURCES.items():
        entries: dict[str, Any] = {}
        for split, n_tokens in (("train", per_shard), ("held_out", HELD_OUT)):
            files = [f"{name}-{i:05d}/{split}.bin" for i in range(n_shards)]
            for file in files:
                (folder / file).parent.mkdir(parents=True, exist_ok=True)
                with ShardWriter(
                    folder / file, vocab_size=tokenizer.vocab_size, metadata={**metadata, "split": split}
                ) as writer:
                    for n in (min(PIECE, n_tokens - done) for done in range(0, n_tokens, PIECE)):
                        writer.write(rng.integers(tokenizer.vocab_size, size=n, dtype=np.uint16))
                    writer.finish()
            entries[split] = tuple(describe_shard(folder, file) for file in files)
        sources.append(CorpusSource(name=name, weight=weight, tokenizer_sha256=tokenizer_hash(tokenizer), **entries))
    write_corpus(folder, sources, tokenizer)
    return time.perf_counter() - start


def train(corpus: Path, out: Path, size: Size, logs: Sequence[Path], *, resume: bool) -> list[Run]:
    """Train with one process for each log; without `resume` each is killed in the step `size.kill_at`."""
    words = ["train", "--out", str(out), "--max-steps", str(size.steps), "--skip-doctor"]
    words += ["--resume"] if resume else [
        *("--data", str(corpus), "--preset", "nano", "--max-length", str(size.T), "--batch-size", str(size.batch_size)),
        *("--set", "model.n_layer=1", "--set", "model.n_embd=32", "--set", "model.n_head=2", "--dtype", "float32"),
        *("--device", "cpu", "--compile", "off", "--set", f"train.save_interval={size.save_interval}"),
        *("--set", "train.sample_interval=0", "--set", f"train.eval_interval={size.steps}"),
    ]  # fmt: skip
    rows = size.batch_size // len(logs)
    last_read = 0 if resume else size.kill_at * rows
    with tempfile.TemporaryDirectory() as name:
        children = []
        for rank, log in enumerate(logs):
            numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": len(logs), "LOCAL_WORLD_SIZE": len(logs)}
            env = {key: str(n) for key, n in numbers.items()} | {"LIGHT_LLM_STORE": f"{name}/store"}
            command = [sys.executable, __file__, "--rank", str(log), str(last_read), *words]
            env = os.environ | {"OMP_NUM_THREADS": "1"} | (env if len(logs) > 1 else {})
            children.append(subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT))
        runs = [Run(np.zeros((0, 2), np.int64)) for _ in logs]
        while any(child.poll() is None for child in children):
            for child, run, log in zip(children, runs, logs, strict=True):
                # Before the first read a process loads its libraries.
                if child.poll() is None and log.exists() and log.stat().st_size:
                    sample(child.pid, run)
            time.sleep(0.1)
    for child, run, log in zip(children, runs, logs, strict=True):
        expected = 0 if resume else -KILLED
        output = child.communicate()[0].decode(errors="replace")
        assert child.returncode == expected, f"exit code {child.returncode} instead of {expected}:\n{output}"
        run.reads = np.fromfile(log, dtype=np.int64).reshape(-1, 2)
    return runs


def sample(pid: int, run: Run) -> None:
    """Add the memory of a process to the samples of its run."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return
    kilobytes = {
        name: int(rest.split()[0]) for name, _, rest in (line.partition(":") for line in lines) if "kB" in rest
    }
    if "RssAnon" in kilobytes:
        run.anonymous.append(1024 * kilobytes["RssAnon"])
        run.resident.append(1024 * kilobytes["VmRSS"])


def run_rank(log: Path, last_read: int, words: list[str]) -> int:
    """Run a command that writes down what it reads of the training ids, and is killed at its last read, if any."""
    from light_llm.cli import run

    read, file, count = ShardList.read, open(log, "ab", buffering=0), 0  # noqa: SIM115  (until the process ends)

    def counting_read(self: ShardList, start: int, stop: int) -> NDArray[np.int64]:
        nonlocal count
        if "train.bin" in self.entries[0].file:
            file.write(np.array([start, stop], dtype=np.int64).tobytes())
            count += 1
            if count == last_read:
                os.kill(os.getpid(), KILLED)
        return read(self, start, stop)

    ShardList.read = counting_read  # type: ignore[method-assign]
    sys.argv = ["light-llm", *words]
    return run()


def check(loader: DataLoader, size: Size, killed: Sequence[Run], resumed: Run) -> list[str]:
    """Check the laws on what was read. Returns the figures as lines; raises AssertionError."""
    order = loader.order
    assert isinstance(order, MixtureOrder)
    B, T = size.batch_size, size.T

    def windows(steps: range, rows: slice = slice(None)) -> NDArray[np.int64]:
        starts = [order.start(k * B + row) for k in steps for row in range(B)[rows]]
        return np.stack([np.array(starts), np.array(starts) + T + 1], axis=1)

    n = B // len(killed)
    for rank, run in enumerate(killed):
        own = windows(range(size.kill_at), slice(rank * n, (rank + 1) * n))
        assert np.array_equal(run.reads, own), f"rank {rank} read something else than its own rows"
    first = size.steps - len(resumed.reads) // B
    assert 0 < first < size.kill_at, first
    assert np.array_equal(resumed.reads, windows(range(first, size.steps))), "the resumed run read something else"

    # All sequences of the run, in order, as they were read.
    by_step = [run.reads.reshape(-1, n, 2)[:first] for run in killed]
    starts = np.concatenate([np.concatenate(by_step, axis=1).reshape(-1, 2), resumed.reads])[:, 0]
    ends = np.array(list(accumulate(source.n_train for source in loader.dataset.sources)))
    source = np.searchsorted(ends, starts, side="right")
    periods = len(starts) // PERIOD
    counts = [np.bincount(source[p * PERIOD : (p + 1) * PERIOD], minlength=2).tolist() for p in range(periods)]
    assert counts and all(tuple(count) == order.slots for count in counts), counts
    for s, own_order in enumerate(order.sources):
        own = starts[source == s]
        for e in range(0, len(own), own_order.per_epoch):
            part = own[e : e + own_order.per_epoch]
            assert len(np.unique(part)) == len(part), "a window came twice in an epoch"
    return [
        f"read: {len(starts):,} windows of {T} tokens; each rank its own rows in {size.kill_at} steps, and the resumed "
        f"process all rows from step {first} on",
        f"shares: {counts[0]} of {PERIOD} in each of {periods} periods; 70/30 is {[0.7 * PERIOD, 0.3 * PERIOD]}",
    ]


def check_epochs(loader: DataLoader) -> list[str]:
    """Check that the first epoch of each source visits each of its windows once. Returns the figures as lines."""
    lines = []
    for source, order in zip(loader.dataset.sources, loader.order.sources, strict=True):  # type: ignore[union-attr]
        begin = time.perf_counter()
        starts = np.array([order.start(i) for i in range(order.per_epoch)])
        seconds = time.perf_counter() - begin
        assert (np.diff(np.sort(starts)) == order.T).all() and starts.max() + order.T < source.n_train
        lines.append(
            f"epoch of {source.name}: each of {len(starts):,} windows once ({1e6 * seconds / len(starts):.0f} us a "
            "window)"
        )
    return lines


def memory_lines(runs: Sequence[Run]) -> list[str]:
    """Check that the memory of each process did not grow. Returns the figures as lines."""
    lines = []
    for what, run in zip((*(f"rank {rank}" for rank in range(RANKS)), "resumed"), runs, strict=True):
        if len(run.anonymous) < 8:  # too short to say anything
            continue
        # The first third has the first step, which allocates the gradients and the moments.
        third = len(run.anonymous) // 3
        before, after = (max(run.anonymous[part]) for part in (slice(third, 2 * third), slice(2 * third, None)))
        assert after < before + 50e6, f"{what} grew from {before:,} to {after:,} bytes"
        lines.append(
            f"memory of {what}: {before / 1e6:.0f} MB in its second third, {after / 1e6:.0f} MB in its last; with "
            f"pages of mapped files {max(run.resident) / 1e6:.0f} MB"
        )
    return lines


def measure(folder: Path, size: Size) -> list[str]:
    """Build the corpus, train, kill, resume and check. Returns the figures as lines."""
    seconds = build(folder / "corpus", size)
    marks = [time.perf_counter()]
    killed = train(folder / "corpus", folder / "run", size, [folder / f"{r}.log" for r in range(RANKS)], resume=False)
    marks.append(time.perf_counter())
    (resumed,) = train(folder / "corpus", folder / "run", size, [folder / "resumed.log"], resume=True)
    marks.append(time.perf_counter())
    dataset, _ = prepare_dataset(folder / "corpus", max_length=size.T)
    loader = create_dataloader(dataset, size.batch_size)
    lines = check(loader, size, killed, resumed)
    first, second = (b - a for a, b in pairwise(marks))
    return [
        f"corpus: {2 * len(dataset.tokens) / 1e9:.3g} GB in {sum(n for _, n in SOURCES.values())} shards, built in "
        f"{seconds:.1f} s",
        f"trained on {RANKS} ranks, killed after {first:.1f} s; resumed on 1: {second:.1f} s",
        *lines,
        *check_epochs(loader),
        *memory_lines([*killed, resumed]),
    ]


def main() -> int:
    """Print the figures of a run of the given size."""
    if sys.argv[1:2] == ["--rank"]:
        return run_rank(Path(sys.argv[2]), int(sys.argv[3]), sys.argv[4:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2.0)
    parser.add_argument("--out", type=Path, default=Path("large_corpus"), help="a new folder; it is removed at the end")
    flags = parser.parse_args()
    flags.out.mkdir(parents=True)
    size = SMALL if flags.gigabytes < 0.1 else LARGE
    size = Size(**(vars(size) | {"n_bytes": int(flags.gigabytes * 1e9)}))
    start = time.perf_counter()
    try:
        lines = measure(flags.out.absolute(), size)
    finally:
        shutil.rmtree(flags.out)
    text = "\n".join(f"- {line}" for line in lines) + (
        f"\n\n{device_name('cpu')}, {time.perf_counter() - start:.0f} s in all, {date.today()}.\n"
    )
    print(text, end="")
    if flags.gigabytes >= 2:
        (Path(__file__).parent / "results" / "large_corpus.md").write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
