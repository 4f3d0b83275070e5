"""Ranks, and the messages between them."""

import os
import re
import signal
import socket
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from light_llm import __version__
from light_llm.errors import CheckpointError, ConfigError, LightLLMError, RankLost
from light_llm.runtime import World, compare_ranks, in_world, is_lost, join_world, leave_world
from light_llm.runtime.fingerprint import digest_of_files, program_values
from light_llm.runtime.process_group import silent_stdout
from light_llm.train.arguments import find_world
from tests.support.ranks import RecordingWorld, run_ranks


def outcome(call: Callable[[], object]) -> list[object]:
    """Return the result of a call, or its error as a list of texts."""
    try:
        return ["returned", call()]
    except (LightLLMError, OSError, ValueError) as error:
        return [type(error).__name__, str(error), getattr(error, "filename", None)]


def fail(error: Exception) -> None:
    raise error


def messages(world: World) -> dict[str, object]:
    """Send one of each message. Returns what this rank got."""
    rank = world.rank
    made: list[int] = []
    floats = world.sum(torch.full((3,), 2.0**-rank))
    bits = world.broadcast(torch.full((2,), rank, dtype=torch.int64))
    result: dict[str, object] = {
        "rank": [world.rank, world.size, world.local_rank, world.local_size, world.is_first],
        "sum": floats.tolist(),
        "broadcast": bits.tolist(),
        "agree": world.agree(stop=rank, save=1 - rank, never=0, signal=15),
        "gather": world.gather({"rank": rank, "text": "é" * (rank * 1000), "nan": 0.1 + rank}),
        "of_first": world.of_first(lambda: {"rank": rank, "n": [1.5, None]}),
        "config error": outcome(lambda: world.of_first(lambda: fail(ConfigError("use {--out x}")))),
        "checkpoint error": outcome(lambda: world.of_first(lambda: fail(CheckpointError("damaged")))),
        "os error": outcome(lambda: world.of_first(lambda: fail(FileNotFoundError(2, "No such file", "there.txt")))),
        "bug": outcome(lambda: world.of_first(lambda: fail(ValueError("a bug")))),
        "machine error": outcome(lambda: world.once_per_machine(lambda: fail(ConfigError("no room")))),
        "alone": [world.alone().size, world.alone().is_first],
        "same": join_world() is world,
        "equal": outcome(lambda: compare_ranks(world, {"lr": 0.1, "text": "abc"})),
        "unequal": outcome(lambda: compare_ranks(world, {"lr": 0.1, "text": f"abc{rank}"})),
    }
    world.once_per_machine(lambda: made.append(rank))
    world.set_timeout(5)
    world.barrier()
    return result | {"made": made}


def lose(world: World, how: str) -> dict[str, object]:
    """Lose rank 1 in the middle of a sum, after some other messages."""
    world.set_timeout(2)
    world.barrier()
    assert not world.is_broken
    if world.rank == 1:
        if how == "failed":
            world.report_failure(CheckpointError("block 3 of shard.bin is damaged"))
        if how == "silent":
            os.kill(os.getpid(), signal.SIGSTOP)
        os.kill(os.getpid(), signal.SIGKILL)
    started = time.monotonic()
    try:
        if how == "failed":
            world.once_per_machine(lambda: time.sleep(0.1))
            world.gather(1)
        world.sum(torch.ones(2))
    except RankLost as error:
        return {
            "error": str(error),
            "lost": is_lost(error),
            "reporter": world.is_reporter,
            "broken": world.is_broken,
            "seconds": time.monotonic() - started,
        }
    return {}


# One start of two ranks in the quick suite: a failure that is published is the most common loss.
@pytest.mark.parametrize(
    ("how", "words"),
    [
        ("failed", r"rank 1 on .*block 3 of shard.bin is damaged"),
        pytest.param("killed", r"rank 1 on \S+\) is gone", marks=pytest.mark.slow),
        pytest.param("silent", r"rank 1 on \S+\) did not answer for 2 s", marks=pytest.mark.slow),
    ],
)
def test_a_lost_rank_is_named(how: str, words: str) -> None:
    first, second = run_ranks(2, lose, how, may_die=[1])
    assert re.search(words, first["error"]) and first["lost"] and first["reporter"] and second is None
    assert first["broken"]
    assert first["seconds"] < 20


def test_two_ranks_exchange_messages() -> None:
    first, second = run_ranks(2, messages)
    own = {"rank", "made", "bug"}
    assert {key: first[key] for key in first.keys() - own} == {key: second[key] for key in second.keys() - own}
    assert first["rank"] == [0, 2, 0, 2, True] and second["rank"] == [1, 2, 1, 2, False]
    assert first["sum"] == [1.5] * 3 and first["broadcast"] == [0, 0]
    assert first["agree"] == {"stop": 1, "save": 1, "never": 0, "signal": 15}
    assert [value["rank"] for value in first["gather"]] == [0, 1] and first["gather"][1]["text"] == "é" * 1000
    assert first["of_first"] == {"rank": 0, "n": [1.5, None]}
    assert first["config error"][:2] == ["ConfigError", "use out='x'"]
    assert first["checkpoint error"][:2] == ["CheckpointError", "damaged"]
    assert first["os error"][0] == "FileNotFoundError" and first["os error"][2] == "there.txt"
    assert first["bug"][:2] == ["ValueError", "a bug"]
    assert second["bug"][0] == "RankLost" and re.search(r"rank 0 on .*ValueError: a bug", second["bug"][1])
    assert first["equal"][:2] == ["returned", None]
    assert first["unequal"][0] == "ConfigError"
    assert re.search(r"rank 1 on \S+ has another text than rank 0 on \S+ abc1 and not abc0", first["unequal"][1])
    assert first["machine error"][:2] == ["ConfigError", "no room"]
    assert first["alone"] == [1, True] and first["same"] and first["made"] == [0] and second["made"] == []


def test_the_fingerprint_of_the_program_sees_each_file(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1")
    (tmp_path / "b.py").write_text("")
    before = digest_of_files(tmp_path)
    assert digest_of_files(tmp_path) == before
    (tmp_path / "b.py").write_text("y = 1")
    changed = digest_of_files(tmp_path)
    (tmp_path / "b.py").rename(tmp_path / "c.py")
    assert len({before, changed, digest_of_files(tmp_path)}) == 3
    values = program_values("cuda:3")
    assert (
        values["kind of device"] == "cuda" and __version__ in values.values() and torch.__version__ in values.values()
    )


def test_one_process_sends_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> None:
        raise AssertionError("one process opens no socket")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.delenv("RANK", raising=False)
    world = join_world()
    assert (world, in_world()) == (World(), False)
    x = torch.ones(2)
    assert world.sum(x) is x and world.broadcast(x) is x and x.tolist() == [1, 1]
    assert world.agree(stop=3) == {"stop": 3} and world.gather("a") == ["a"] and world.of_first(lambda: 5) == 5
    monkeypatch.setenv("RANK", "0")
    assert not in_world(), "a variable that another program uses as well"
    monkeypatch.setenv("WORLD_SIZE", "1")
    world = join_world()
    assert (world, in_world()) == (World(), True)
    leave_world(world)


@pytest.mark.parametrize(
    ("env", "words"),
    [
        ({"WORLD_SIZE": "two"}, "WORLD_SIZE='two'"),
        ({"RANK": "2"}, "RANK=2, WORLD_SIZE=2"),
        ({"LOCAL_RANK": "1"}, "LOCAL_RANK=1 and LOCAL_WORLD_SIZE=1"),
        ({"MASTER_PORT": ""}, "MASTER_PORT=''"),
        ({"MASTER_ADDR": ""}, "MASTER_ADDR"),
        ({"MASTER_PORT": "65536"}, "MASTER_PORT=65536"),
        ({"LIGHT_LLM_STORE": "no/store"}, "LIGHT_LLM_STORE=no/store"),
        ({"LIGHT_LLM_JOIN_TIMEOUT": "soon"}, "LIGHT_LLM_JOIN_TIMEOUT=soon"),
        ({}, "cannot reach 127.0.0.1:9 within 0.5 s"),
        ({"RANK": "0", "MASTER_PORT": "{used}"}, "port {used} of 127.0.0.1"),
        (
            {"RANK": "0", "LIGHT_LLM_STORE": "store", "LIGHT_LLM_JOIN_TIMEOUT": "0.1"},
            "1 of 2 processes did not start in 0.5 s: rank 1",
        ),
    ],
)
def test_processes_that_cannot_meet(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], env: dict[str, str], words: str
) -> None:
    default = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    with socket.create_server(("127.0.0.1", 0)) as server:
        used = str(server.getsockname()[1])
        for name, value in {**default, "LIGHT_LLM_JOIN_TIMEOUT": "0.5", **env}.items():
            monkeypatch.setenv(name, value.format(used=used))
        with pytest.raises(ConfigError) as error:
            join_world()
    assert words.format(used=used) in str(error.value)
    assert capfd.readouterr() == ("", ""), "torch prints its own errors, with the stack"


def test_the_recorder_compares_sequences_of_messages() -> None:
    def program(world: RecordingWorld, *, faulty: bool = False) -> list[object]:
        results: list[object] = [
            world.sum(torch.ones(2)).tolist(),
            world.agree(stop=0),
            world.of_first(lambda: world.rank),
        ]
        if faulty:
            world.gather(1)
        world.barrier()
        return results

    first = RecordingWorld(0, 3, others={0: {"stop": 1}})
    assert program(first) == [[3.0, 3.0], {"stop": 1}, 0]
    other = RecordingWorld(2, 3, replay=first)
    assert program(other) == [[3.0, 3.0], {"stop": 1}, 0] and other.messages == first.messages
    other.check_end()
    with pytest.raises(AssertionError, match="gather"):
        program(RecordingWorld(1, 3, replay=first), faulty=True)
    with pytest.raises(AssertionError, match="barrier"):
        RecordingWorld(1, 3, replay=first).check_end()


def test_what_gloo_prints_is_discarded(capfd: pytest.CaptureFixture[str]) -> None:
    """Gloo in torch 2.10 prints to the file descriptor, whatever `sys.stdout` is."""
    os.write(1, b"before ")
    with pytest.raises(RuntimeError), silent_stdout():
        os.write(1, b"[Gloo] Rank 0 is connected ")
        raise RuntimeError
    os.write(1, b"after")
    assert capfd.readouterr() == ("before after", "")


def test_a_process_whose_run_failed_on_one_rank_starts_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its messages would meet those of the run before."""

    class Broken(World):
        @property
        def is_broken(self) -> bool:
            return True

    monkeypatch.setattr("light_llm.train.arguments.joined_world", lambda: Broken(1, 2))
    with pytest.raises(ConfigError, match="start all processes again"):
        find_world(None, {})
