"""Shards at URLs: the same ids as on the disk, few requests, a bounded cache, a message for every kind of failure."""

import os
import pickle
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from light_llm.data import chunk_cache, remote_files
from light_llm.data.chunk_cache import ChunkCache
from light_llm.data.download import RetryPolicy
from light_llm.data.remote_shards import CHUNKS_AHEAD, ReadAhead, RemoteShard
from light_llm.data.shards import BLOCK_BYTES, Shard, ShardWriter
from light_llm.errors import ConfigError, DataError
from light_llm.runtime import lock_folder, unlock
from tests.support.child import Child
from tests.support.web_servers import FileServer, running

CHUNK = 2 * BLOCK_BYTES
ROOM = 8  # chunks in the cache
V, N = 5000, 4_200_000  # tokens of 2 bytes: 8.01 blocks, 4.005 chunks
URL = "/web/train.bin"


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> Shard:
    """A shard on the disk, which the remote ones are compared with."""
    path = tmp_path_factory.mktemp("corpus") / "train.bin"
    with ShardWriter(path, vocab_size=V, metadata={"split": "train"}) as writer:
        writer.write(np.random.default_rng(0).integers(0, V, N))
        writer.finish()
    return Shard(path)


def files_at(shard: Shard, folder: str = "/web") -> dict[str, bytes]:
    return {f"{folder}/train{suffix}": shard.path.with_suffix(suffix).read_bytes() for suffix in (".bin", ".json")}


@pytest.fixture
def server(local: Shard) -> Iterator[FileServer]:
    with running(FileServer(files_at(local))) as server:
        yield server


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remote_files, "RETRY", RetryPolicy(attempts=3, first_delay=0.01, max_delay=0.01, timeout=60))


def open_shard(url: str, **options: object) -> RemoteShard:
    room = int(os.environ.get("ROOM", ROOM))
    return RemoteShard(url, cache=ChunkCache(room * CHUNK, CHUNK), **options)  # type: ignore[arg-type]


def ids_at(shard: Shard | RemoteShard, start: int, length: int = 3000) -> list[int]:
    return shard.read(start, start + length).tolist()


def test_the_ids_are_those_of_the_disk(local: Shard, server: FileServer, tmp_path: Path) -> None:
    """By http, file and memory; within chunks, across their borders and at both ends. Each chunk is asked for once."""
    for path, data in files_at(local).items():
        fsspec.filesystem("memory").pipe_file(path, data)
    for url in (server.url + URL, local.path.as_uri(), f"memory:/{URL}"):
        remote = open_shard(url, expected={"split": "train"})
        assert len(remote) == len(local) and remote.manifest == local.manifest
        for start in (0, N - 3000, CHUNK // 2 - 1500, BLOCK_BYTES // 2 - 1, 3 * CHUNK // 2 - 2999):
            assert ids_at(remote, start) == ids_at(local, start)
        assert remote.read(5, 5).tolist() == [] and remote.read(N - 2, N + 9).tolist() == ids_at(local, N - 2, 2)
        assert ids_at(pickle.loads(pickle.dumps(remote)), 7) == ids_at(local, 7)
    # The copies at the other addresses have the same content, and so the same chunks.
    assert server.ranges(URL) == [f"bytes={k * CHUNK}-{min((k + 1) * CHUNK, 2 * N) - 1}" for k in (0, 4, 1, 2, 3)]
    assert [path for path, _ in server.requests].count("/web/train.json") == 2  # the unpickled copy reads it too
    with pytest.raises(DataError, match="split.*'train'.*'held_out'"):
        open_shard(server.url + URL, expected={"split": "held_out"})


def test_a_run_resumes_without_the_network(local: Shard, server: FileServer) -> None:
    first = open_shard(server.url + URL)
    ids_at(first, 0)
    server.faults = ["503"] * 99
    again = open_shard(server.url + URL)
    assert ids_at(again, 0) == ids_at(local, 0)
    with pytest.raises(DataError, match=rf"2,097,152 to 4,194,303 of {server.url}{URL} .*503.*3 times"):
        ids_at(again, CHUNK // 2)
    n = len(server.requests)
    offline = open_shard(server.url + URL, offline=True)
    assert ids_at(offline, 0) == ids_at(local, 0)
    with pytest.raises(DataError, match="not in the cache.*offline"):
        ids_at(offline, CHUNK // 2)
    assert len(server.requests) == n
    with pytest.raises(DataError, match="offline"):
        open_shard("https://host/another.bin", offline=True)


@pytest.mark.parametrize(
    ("faults", "requests"),
    [(["503"], 2), (["cut"], 2), (["cut", "cut"], 3), (["altered"], 2), (["cut", "altered", ""], 3)],
)
def test_a_short_failure_is_tried_again(local: Shard, server: FileServer, faults: list[str], requests: int) -> None:
    """What a cut response brought is kept, unless it was altered."""
    remote = open_shard(server.url + URL)
    server.faults = faults
    assert ids_at(remote, 100) == ids_at(local, 100)
    ranges = server.ranges(URL)
    assert len(ranges) == requests
    if faults == ["cut", "cut"]:
        half, rest = CHUNK // 2, CHUNK - CHUNK // 4
        assert ranges == [f"bytes={start}-{CHUNK - 1}" for start in (0, half, rest)]


@pytest.mark.parametrize(
    ("faults", "words"),
    [
        (["altered"] * 9, "not the ones that its manifest describes"),
        (["cut"] * 9, "sent 1,[0-9,]+ bytes of 2,097,152|IncompleteRead|sent"),
        (["404"], "404"),
        (["500"] * 9, "500"),
    ],
)
def test_a_lasting_failure_names_the_address(server: FileServer, faults: list[str], words: str) -> None:
    remote = open_shard(f"{server.url}{URL}")
    server.faults = faults
    with pytest.raises(DataError, match=rf"bytes 0 to 2,097,151 of {server.url}{URL} cannot be read: .*({words})"):
        ids_at(remote, 0)
    # Nothing unverified, and no half of a file, is left for the next reader.
    assert remote.cache.size() == 0


def test_a_slow_server(local: Shard, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """What came before it stopped is kept; one that sends little in each attempt is given up."""
    remote = open_shard(server.url + URL)
    server.faults = ["stall"]
    with monkeypatch.context() as context:
        context.setattr(remote_files, "RETRY", RetryPolicy(attempts=2, first_delay=0.01, timeout=0.3))
        assert ids_at(remote, 0) == ids_at(local, 0)
    assert server.ranges(URL) == [f"bytes={start}-{CHUNK - 1}" for start in (0, CHUNK // 2)]
    monkeypatch.setattr(remote_files, "ATTEMPT_SECONDS", -1.0)
    with pytest.raises(DataError, match=r"sent [0-9,]+ bytes of 2,097,152 in -1 s \(tried 3 times\)"):
        ids_at(remote, CHUNK // 2)


def test_a_server_without_ranges_is_named_and_its_first_chunk_is_used(local: Shard, server: FileServer) -> None:
    remote = open_shard(f"{server.url}{URL}")
    server.faults = ["whole", "whole"]
    assert ids_at(remote, 0) == ids_at(local, 0)
    with pytest.raises(DataError, match="parts of a file"):
        ids_at(remote, CHUNK // 2)


def test_another_shard_at_the_address_is_refused(local: Shard, server: FileServer) -> None:
    """A byte that is changed, a file that is shorter, a manifest that is changed."""
    remote = open_shard(server.url + URL)
    ids_at(remote, 0)
    data = bytearray(server.files[URL])
    data[2 * CHUNK + 5] ^= 1
    server.files[URL] = bytes(data[: 3 * CHUNK + 100])
    assert ids_at(remote, 0) == ids_at(local, 0) and ids_at(remote, CHUNK // 2) == ids_at(local, CHUNK // 2)
    with pytest.raises(DataError, match="4,194,304 to .* manifest"):
        ids_at(remote, CHUNK)
    with pytest.raises(DataError, match="sent 100 bytes of 2,097,152"):
        ids_at(remote, 3 * CHUNK // 2)
    manifest = server.files["/web/train.json"]
    server.files["/web/other.json"] = manifest.replace(b'"tokens": 4200000', b'"tokens": 4200001')
    with pytest.raises(DataError, match="other.json.*changed after it was written"):
        open_shard(f"{server.url}/web/other.bin")
    with pytest.raises(DataError, match="train.json.*SHA-256"):
        open_shard(server.url + URL, sha256="0" * 64)


def test_ids_outside_the_vocabulary_are_refused(tmp_path: Path) -> None:
    with ShardWriter(tmp_path / "train.bin", vocab_size=V, metadata={}) as writer:
        writer.write(np.full(1000, V - 1))
        # The hashes are right, and the vocabulary of the manifest is too small.
        writer.vocab_size = V - 1
        writer.finish()
    with pytest.raises(DataError, match="4999.*4999"):
        ids_at(open_shard((tmp_path / "train.bin").as_uri()), 0, 10)


def test_a_chunk_that_is_damaged_on_this_disk_is_downloaded_again(local: Shard, server: FileServer) -> None:
    remote = open_shard(server.url + URL)
    ids_at(remote, 0)
    path = remote.cache.path(remote.key, 0)
    for damaged in (b"x" + path.read_bytes()[1:], path.read_bytes()[:100]):
        path.write_bytes(damaged)
        assert ids_at(open_shard(server.url + URL), 0) == ids_at(local, 0)
    assert len(server.ranges(URL)) == 3


def test_the_bound_of_the_cache_holds(local: Shard, server: FileServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The chunk that was used longest ago is deleted, and never one that is being read."""
    small = BLOCK_BYTES
    cache = ChunkCache(ROOM * small, small)
    remote = RemoteShard(server.url + URL, cache=cache)
    for chunk in range(ROOM):
        ids_at(remote, chunk * small // 2, 1)
        os.utime(cache.path(remote.key, chunk), (chunk, chunk))
    assert cache.size() == ROOM * small
    ids_at(remote, 0, 1)  # used now
    in_use = lock_folder(cache.path(remote.key, 1), shared=True)
    ids_at(remote, 8 * small // 2, 1)
    unlock(in_use)
    assert [k for k in range(9) if (remote.key, k) in cache] == [0, 1, 3, 4, 5, 6, 7, 8]
    assert cache.size() <= ROOM * small
    monkeypatch.setenv("LIGHT_LLM_REMOTE_CACHE", "20GB")
    assert ChunkCache().max_bytes == 20 * 10**9
    for bad in ("20 apples", "1MB"):
        monkeypatch.setenv("LIGHT_LLM_REMOTE_CACHE", bad)
        with pytest.raises(ConfigError, match="LIGHT_LLM_REMOTE_CACHE"):
            ChunkCache()


def test_readers_at_the_same_time_download_a_chunk_once(local: Shard, server: FileServer) -> None:
    """The lock is one of the file, so threads with caches of their own stand for the ranks of a machine."""
    found: list[bool] = []

    def read(start: int) -> None:
        found.append(ids_at(open_shard(server.url + URL), start) == ids_at(local, start))

    threads = [threading.Thread(target=read, args=(start * 5000,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert found == [True] * 8 and len(server.ranges(URL)) == 1


def test_a_dead_process_leaves_no_room_taken(local: Shard, server: FileServer) -> None:
    """Its half-written chunk is not locked, and goes first."""
    remote = open_shard(server.url + URL)
    stale = remote.cache.path(remote.key, 3).with_name(".000003.bin.partial")
    stale.parent.mkdir(parents=True)
    stale.write_bytes(b"half")
    os.truncate(stale, remote.cache.max_bytes)
    os.utime(stale, (1, 1))
    assert ids_at(remote, 0) == ids_at(local, 0) and not stale.exists()


def test_chunks_are_downloaded_before_they_are_needed(local: Shard, server: FileServer) -> None:
    """Those of the next windows, two at a time, and only of the windows that are asked for."""
    remote = open_shard(server.url + URL)
    ahead = ReadAhead(lambda counter: [(remote, counter * 1000, counter * 1000 + 1001)])
    while missing_of(remote) - {4}:
        ahead.advance(0, lambda batch: [(8 * batch + row) % 4000 for row in (0, 2, 4, 6)])
        assert len(ahead.ahead) <= CHUNKS_AHEAD
        threading.Event().wait(0.01)
    assert len(server.ranges(URL)) == 4
    assert ids_at(remote, 1_500_000) == ids_at(local, 1_500_000) and len(server.ranges(URL)) == 4


def missing_of(shard: RemoteShard) -> set[int]:
    return set(shard.missing_chunks(0, len(shard)))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("s3://bucket/train.bin", "s3fs: pip install s3fs"),
        ("gs://bucket/train.bin", "gcsfs: pip install gcsfs"),
        ("nowhere://bucket/train.bin", "no protocol 'nowhere'"),
        ("memory://nothing/here.bin", "there is no such file"),
        ("https://me:secret@127.0.0.1:9/train.bin?key=hidden", "https://127.0.0.1:9/train.json cannot be read"),
    ],
)
def test_what_is_missing_is_named(url: str, words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "s3fs", None)
    monkeypatch.setitem(__import__("sys").modules, "gcsfs", None)
    with pytest.raises(DataError, match=words) as error:
        open_shard(url)
    assert "secret" not in str(error.value) and "hidden" not in str(error.value)


def test_a_file_system_that_never_answers(local: Shard, monkeypatch: pytest.MonkeyPatch) -> None:
    memory = fsspec.filesystem("memory")
    for path, data in files_at(local, "/slow").items():
        memory.pipe_file(path, data)
    remote = open_shard("memory://slow/train.bin")
    never = threading.Event()
    monkeypatch.setattr(type(memory), "cat_file", lambda *_, **__: never.wait(60))
    monkeypatch.setattr(remote_files, "ATTEMPT_SECONDS", 0.05)
    with pytest.raises(DataError, match=r"memory://slow/train.bin cannot be read: no answer in 0.05 s"):
        ids_at(remote, 0)
    never.set()


def test_a_bound_with_no_room_waits_for_readers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    cache = ChunkCache(8 * 100, 100)
    for number in range(8):
        with cache.open("k", number, 100, lambda: b"x" * 100):
            pass
    held = [lock_folder(cache.path("k", number), shared=True) for number in range(8)]
    waits: list[float] = []

    def release(seconds: float) -> None:
        waits.append(seconds)
        unlock(held[3])

    monkeypatch.setattr(chunk_cache.time, "sleep", release)
    with cache.open("k", 8, 100, lambda: b"y" * 100) as file:
        assert os.read(file, 200) == b"y" * 100
    assert len(waits) == 1 and ("k", 3) not in cache and cache.size() == 800
    for handle in held:
        unlock(handle)


def read_at_random(words: list[str]) -> int:
    """Compare reads of a shard at a URL with those of the local one, in an order of a process's own."""
    url, path, seed = words
    remote, local = open_shard(url), Shard(Path(path))
    for start in np.random.default_rng(int(seed)).integers(0, N - 3000, 200):
        assert ids_at(remote, int(start)) == ids_at(local, int(start))
        assert remote.cache.size() <= remote.cache.max_bytes
    return 0


@pytest.mark.slow
def test_processes_share_the_chunks_of_a_machine(local: Shard, server: FileServer, tmp_path: Path) -> None:
    """Four processes download each chunk once. Where only three fit, every read is right and the bound holds."""
    for room, most in ((ROOM, 5), (3, 4 * 200 * 2)):
        env = {"LIGHT_LLM_CACHE": str(tmp_path / f"cache {room}"), "OMP_NUM_THREADS": "1", "ROOM": str(room)}
        server.requests.clear()
        children = [
            Child([server.url + URL, str(local.path), str(seed)], function=read_at_random, env=env) for seed in range(4)
        ]
        assert [child.wait() for child in children] == [0] * 4, [child.output for child in children]
        assert 5 <= len(server.ranges(URL)) <= most
