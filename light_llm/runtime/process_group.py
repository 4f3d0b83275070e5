"""Messages between the ranks of a run, by `torch.distributed`: gloo for the CPU, NCCL for tensors on CUDA.

Values travel as JSON and tensors. Torch's own messages of objects are pickles, which run code.
"""

import json
import math
import os
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import FileStore, PrefixStore, ProcessGroup, Store, TCPStore  # type: ignore[attr-defined]

from .. import errors
from ..errors import ConfigError, LightLLMError, RankLost
from .world import TIMEOUT, Json, World, env_number, is_lost

T = TypeVar("T")
CONTROL_TIMEOUT = 12 * 3600.0  # seconds for messages around work of one rank, such as writing 80 GB
JOIN_TIMEOUT = 60.0  # seconds to reach the head; LIGHT_LLM_JOIN_TIMEOUT changes it
# Machines of a cluster can need minutes longer than others to load their programs.
START_TIMEOUT = 5  # times JOIN_TIMEOUT, for all processes to be there
ROLL_CALL = 2.0  # seconds in which the other ranks notice that one is gone


@dataclass(frozen=True)
class Peer:
    """A process of the run."""

    host: str
    pid: int
    first: int  # rank of the first process of its machine


@dataclass
class _Loss:
    reason: str
    reporter: int  # the rank that prints it


class ProcessGroupWorld(World):
    """Process of a run on several. Messages of a step use the default group, the others a gloo group of their own."""

    def __init__(self, world: World, store: Store, control: ProcessGroup, timeout: float = TIMEOUT) -> None:
        super().__init__(world.rank, world.size, world.local_rank, world.local_size)
        self.store, self.control, self.timeout = store, control, timeout
        self._turn = 0  # calls of once_per_machine
        self._loss: _Loss | None = None
        self._failed_first: bool | None = None  # set when this rank fails
        self._broken = False
        own = [socket.gethostname(), os.getpid(), self.rank - self.local_rank]
        self.peers: Sequence[Peer] = ()
        self.peers = [Peer(*values) for values in self.gather(own)]

    def sum(self, x: Tensor) -> Tensor:
        with self._message():
            dist.all_reduce(x)
        return x

    def broadcast(self, x: Tensor) -> Tensor:
        with self._message():
            dist.broadcast(x, 0)
        return x

    def agree(self, **flags: int) -> dict[str, int]:
        names = sorted(flags)
        values = torch.tensor([int(flags[name]) for name in names], dtype=torch.int64)
        with self._message():
            dist.all_reduce(values, dist.ReduceOp.MAX)
        return {name: int(value) for name, value in zip(names, values, strict=True)}

    def gather(self, value: Json) -> list[Json]:
        own = _encode(value)
        sizes = [torch.zeros(1, dtype=torch.int64) for _ in range(self.size)]
        with self._message():
            dist.all_gather(sizes, torch.tensor([len(own)]), group=self.control)
            longest = max(int(size) for size in sizes)
            parts = [torch.zeros(longest, dtype=torch.uint8) for _ in range(self.size)]
            padded = torch.nn.functional.pad(own, (0, longest - len(own)))
            dist.all_gather(parts, padded, group=self.control)
        return [_decode(part[: int(size)]) for part, size in zip(parts, sizes, strict=True)]

    def of_first(self, make: Callable[[], T]) -> T:
        result: Json = None
        failure: Exception | None = None
        if self.is_first:
            try:
                result = {"value": make()}
            except Exception as error:
                failure, result = error, {"error": _describe(error)}
        result = self._from_first(result)
        if "error" in result:
            raise failure or self._restore_error(result["error"], 0)
        value: T = result["value"]
        return value

    def _from_first(self, value: Json) -> Json:
        """Return the JSON value of rank 0 on all ranks."""
        data = _encode(value)
        size = torch.tensor([len(data)])
        with self._message():
            dist.broadcast(size, 0, group=self.control)
            data = data if self.is_first else torch.zeros(int(size), dtype=torch.uint8)
            dist.broadcast(data, 0, group=self.control)
        return _decode(data)

    def once_per_machine(self, work: Callable[[], None]) -> None:
        turn, self._turn = self._turn, self._turn + 1
        failure: Exception | None = None
        if self.local_rank == 0:
            result: Json = {}
            try:
                work()
            except Exception as error:
                failure, result = error, {"error": _describe(error)}
            with self._message():
                self.store.set(f"work {turn} of {self.rank}", json.dumps(result))
        # At the store and not in a collective: a signal can interrupt this wait.
        for rank in sorted({peer.first for peer in self.peers}):
            result = json.loads(self._wait_for(f"work {turn} of {rank}"))
            if "error" in result:
                raise failure if failure and rank == self.rank else self._restore_error(result["error"], rank)

    def _wait_for(self, key: str) -> bytes:
        pause = 0.01
        while True:
            with self._message():
                if self.store.check([key]):
                    return self.store.get(key)
                # A rank that failed before it got there would be waited for in vain.
                if self.store.check(["failure"]):
                    raise RankLost(self.reason_of_loss())
            time.sleep(pause)
            pause = min(2 * pause, 0.5)

    def barrier(self) -> None:
        with self._message():
            dist.barrier(group=self.control)

    def set_timeout(self, seconds: float) -> None:
        # The public name is newer than torch 2.10.
        set_timeout = getattr(dist, "set_timeout", None) or dist.distributed_c10d._set_pg_timeout
        set_timeout(timedelta(seconds=seconds), dist.group.WORLD)
        self.timeout = seconds

    @property
    def is_reporter(self) -> bool:
        return self.rank == (self._loss.reporter if self._loss else 0)

    @property
    def is_broken(self) -> bool:
        return self._loss is not None or self._broken

    def report_failure(self, error: BaseException) -> bool:
        # Most of our own errors are raised on all ranks together.
        self._broken = self._broken or not isinstance(error, LightLLMError)
        if self._failed_first is None:
            self._failed_first = True
            # The store is gone if the machine that has it is.
            with suppress(RuntimeError):
                self._failed_first = self.store.add("failures", 1) == 1
                if self._failed_first:
                    self.store.set("failure", json.dumps({"rank": self.rank, **_describe(error)}))
        return self._failed_first

    def reason_of_loss(self, error: BaseException | None = None) -> str:
        if self._loss is None:
            self._loss = self._find_loss(error)
        return self._loss.reason

    def _find_loss(self, error: BaseException | None) -> _Loss:
        """Read why another rank left, or find out which ranks are there."""
        failure, present = self._roll_call()
        if failure:
            # The rank that failed is still there: rank 0 prints its own error, or this one.
            return _Loss(f"{self._name(failure['rank'])} ended: {failure['message']}", reporter=0)
        silent = error is not None and "timed out" in str(error).lower()
        lost = [self._name(rank) for rank in range(self.size) if rank not in present]
        what = f"did not answer for {self.timeout:g} s" if silent else "is gone"
        return _Loss(f"{' and '.join(lost) or 'another process'} {what}", reporter=min(present))

    def _roll_call(self) -> tuple[Json, set[int]]:
        """Return the published failure, if any, and the ranks that are alive.

        A process of this machine is asked for at the system, one of another machine answers at the store.
        """
        failure, present = None, {self.rank}
        here = [rank for rank, peer in enumerate(self.peers) if peer.host == self.peers[self.rank].host]
        elsewhere = [rank for rank in range(self.size) if rank not in here]
        deadline = time.monotonic() + ROLL_CALL
        with suppress(RuntimeError):
            self.store.set(f"present {self.rank}", "")
            while failure is None and time.monotonic() < deadline:
                if self.store.check(["failure"]):
                    failure = json.loads(self.store.get("failure"))
                answered = {rank for rank in elsewhere if self.store.check([f"present {rank}"])}
                present = {self.rank, *answered, *(rank for rank in here if _is_running(self.peers[rank].pid))}
                if set(here) - present and len(answered) == len(elsewhere):
                    break
                time.sleep(0.05)
        return failure, present

    def _name(self, rank: int) -> str:
        return f"process {rank + 1} of {self.size} (rank {rank} on {self.peers[rank].host})"

    def _restore_error(self, description: Json, rank: int) -> Exception:
        """Return the error that another rank described: of its own type if a user can fix it, else RankLost."""
        kind = getattr(errors, description["type"], None)
        if isinstance(kind, type) and issubclass(kind, LightLLMError):
            return kind(description["message"])
        if "errno" in description:
            return OSError(description["errno"], description["strerror"], description["filename"])
        return RankLost(f"{self._name(rank)} ended: {description['message']}")

    @contextmanager
    def _message(self) -> Iterator[None]:
        """Raise RankLost in place of torch's error about a rank that is gone or silent."""
        try:
            yield
        except RuntimeError as error:
            if not is_lost(error):
                raise
            raise RankLost(self.reason_of_loss(error)) from error


def connect(world: World, device: str, timeout: float) -> ProcessGroupWorld:
    """Connect the ranks. Raises ConfigError if they cannot reach each other."""
    join_timeout = _join_timeout()
    store = _open_store(world, join_timeout)
    on_cuda = torch.device(device).type == "cuda"
    if on_cuda:
        torch.cuda.set_device(world.local_rank)
    # Counted first: gloo's own message about a missing process names an address.
    _wait_for_all(store, world, START_TIMEOUT * join_timeout)
    try:
        with silent_stdout():
            dist.init_process_group(
                "cpu:gloo,cuda:nccl" if on_cuda else "gloo",
                store=store,
                rank=world.rank,
                world_size=world.size,
                timeout=timedelta(seconds=timeout),
            )
            control = dist.new_group(backend="gloo", timeout=timedelta(seconds=CONTROL_TIMEOUT))
    except RuntimeError as error:
        if not is_lost(error):
            raise
        raise ConfigError(f"the {world.size} processes cannot connect to each other: {_first_line(error)}") from None
    assert isinstance(control, ProcessGroup)
    return ProcessGroupWorld(world, store, control, timeout)


@contextmanager
def silent_stdout() -> Iterator[None]:
    """Discard standard output while process groups are made: gloo in torch 2.10 prints a line there for each of them.

    It has no setting for that, and prints from C++, so the file descriptor itself is replaced.
    """
    try:
        stdout = os.dup(1)
    except OSError:  # it is closed
        yield
        return
    try:
        with open(os.devnull, "wb") as nothing:
            os.dup2(nothing.fileno(), 1)
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def disconnect() -> None:
    """Close the connections of `connect`."""
    if dist.is_initialized():
        with suppress(RuntimeError):
            dist.destroy_process_group()


def _join_timeout() -> float:
    value = os.environ.get("LIGHT_LLM_JOIN_TIMEOUT") or str(JOIN_TIMEOUT)
    with suppress(ValueError):
        if 0 < float(value) < math.inf:
            return float(value)
    raise ConfigError(f"LIGHT_LLM_JOIN_TIMEOUT={value} is not a number of seconds, such as {JOIN_TIMEOUT:g}")


def _open_store(world: World, timeout: float) -> Store:
    """Return the store of the run, a file or a port of the head, with the keys of this attempt."""
    # A restarted attempt must not find the addresses of the one before it (pytorch issue 135712).
    attempt = f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT') or 0}"
    if path := os.environ.get("LIGHT_LLM_STORE"):
        if not Path(path).parent.is_dir():
            # FileStore would try for minutes.
            raise ConfigError(f"LIGHT_LLM_STORE={path} cannot be opened; leave it to {{--processes N}}, or unset it")
        return PrefixStore(attempt, FileStore(path, world.size))
    host, port = os.environ.get("MASTER_ADDR"), env_number("MASTER_PORT")
    if not host:
        raise ConfigError("MASTER_ADDR, the name of rank 0's machine, is not set; start the processes with torchrun")
    if not 0 < port < 65536:
        raise ConfigError(f"MASTER_PORT={port} is not a port; it must be between 1 and 65535")
    # torchrun may hold the store itself.
    serves = world.is_first and os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True"
    try:
        if not serves:
            _wait_for_head(host, port, timeout)
        store = TCPStore(host, port, world.size, serves, timedelta(seconds=timeout), wait_for_workers=False)
    except (RuntimeError, OSError) as error:
        if serves:
            raise ConfigError(f"port {port} of {host} cannot be opened; choose another: {_first_line(error)}") from None
        raise ConfigError(
            f"rank {world.rank} on {socket.gethostname()} cannot reach {host}:{port} within {timeout:g} s; "
            "is that the name of rank 0's machine, and is the port open?"
        ) from None
    return PrefixStore(attempt, store)


def _wait_for_head(host: str, port: int, timeout: float) -> None:
    """Wait until a port can be reached. Raises OSError. TCPStore would fill the screen while it tries."""
    deadline = time.monotonic() + timeout
    while True:
        try:
            socket.create_connection((host, port), timeout=max(0.1, deadline - time.monotonic())).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
        time.sleep(0.1)


def _wait_for_all(store: Store, world: World, timeout: float) -> None:
    store.set(f"joined {world.rank}", "")
    deadline = time.monotonic() + timeout
    missing = list(range(world.size))
    while missing := [rank for rank in missing if not store.check([f"joined {rank}"])]:
        if time.monotonic() > deadline:
            names = ", ".join(map(str, missing[:8]))
            raise ConfigError(f"{len(missing)} of {world.size} processes did not start in {timeout:g} s: rank {names}")
        time.sleep(0.02)


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]


def _encode(value: Json) -> Tensor:
    """Return the canonical JSON of a value as bytes, (n,) uint8."""
    return torch.frombuffer(bytearray(json.dumps(value, sort_keys=True).encode()), dtype=torch.uint8)


def _decode(data: Tensor) -> Json:
    return json.loads(data.numpy().tobytes())


def _describe(error: BaseException) -> dict[str, Json]:
    """Return an error as JSON: its type and message, and the fields of an OSError."""
    kind, host = type(error).__name__, socket.gethostname()
    if isinstance(error, LightLLMError):
        return {"type": kind, "host": host, "message": error.message}
    if isinstance(error, OSError):
        filename = None if error.filename is None else os.fspath(error.filename)
        fields = {"errno": error.errno, "strerror": error.strerror or str(error), "filename": filename}
        return {"type": kind, "host": host, "message": str(error), **fields}
    return {"type": kind, "host": host, "message": f"{kind}: {error}" if str(error) else kind}


def _is_running(pid: int) -> bool:
    """Return whether a process of this machine exists and is neither stopped nor dead."""
    if sys.platform == "win32":
        return True  # os.kill would end it
    with suppress(OSError, IndexError):
        # On Linux, a dead child that its parent has not waited for is a zombie.
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "TtZX"
    try:
        os.kill(pid, 0)
    except OSError as error:
        return not isinstance(error, ProcessLookupError)
    return True
