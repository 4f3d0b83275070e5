"""The processes of a run: ranks, and the messages between them. One process sends none and opens no socket.

A run on W processes is W times the same program. `World` says which of them this one is (its rank), and has the
messages they exchange; all ranks must send the same messages in the same order. With one process each message is the
identity, so the code of a run has no second path.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from torch import Tensor

from ..errors import ConfigError, RankLost

Json: TypeAlias = Any  # null, a bool, number or text, or a list or dict of them
T = TypeVar("T")
TIMEOUT = 120.0  # seconds that a rank waits for the others in a step, by default (train.timeout)
# Messages of gloo and of the store about a process that left or is silent.
_LOST = re.compile(
    r"closed by peer|reset by peer|timed out|Broken pipe|pair closure|Socket closed|Connection refused", re.IGNORECASE
)


@dataclass(frozen=True)
class World:
    """Process of a run, by itself: its messages are the identity. `ProcessGroupWorld` is one of several.

    `rank` is the number of this process in 0 ... size - 1, `local_rank` that among the processes of its machine.
    Two kinds of messages: those of a step wait `train.timeout` for the other ranks, those around the work of one rank
    (`gather`, `of_first`, `once_per_machine`, `barrier`) for hours. Each raises RankLost if another rank has ended.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def is_first(self) -> bool:
        """Return True for rank 0, which alone writes, prints and decides."""
        return self.rank == 0

    def sum(self, x: Tensor) -> Tensor:
        """Add up a tensor over the ranks, in place. Returns it."""
        return x

    def broadcast(self, x: Tensor) -> Tensor:
        """Overwrite a tensor with that of rank 0. Returns it."""
        return x

    def agree(self, **flags: int) -> dict[str, int]:
        """Return the largest value of each flag over the ranks, in one message."""
        return {name: int(value) for name, value in flags.items()}

    def gather(self, value: Json) -> list[Json]:
        """Return the values of all ranks, in the order of the ranks, on each of them."""
        return [value]

    def of_first(self, make: Callable[[], T]) -> T:
        """Return a JSON value that rank 0 makes while the others wait.

        A LightLLMError or OSError of rank 0 is raised on all ranks, with its type and message.
        """
        return make()

    def once_per_machine(self, work: Callable[[], None]) -> None:
        """Work on the first rank of each machine while the others wait; its error reaches all."""
        work()

    def barrier(self) -> None:
        """Wait until all ranks are here."""

    def set_timeout(self, seconds: float) -> None:
        """Change how long the messages of a step wait for the other ranks."""

    def alone(self) -> World:
        """Return the world of this process by itself, for its work after the others are gone."""
        return World()

    @property
    def is_reporter(self) -> bool:
        """Return True for the rank that prints the errors of a run: 0, or the lowest one left."""
        return True

    @property
    def is_broken(self) -> bool:
        """Return True after an error that may have left the ranks at different places of the program."""
        return False

    def report_failure(self, error: BaseException) -> bool:
        """Publish why this rank is about to leave. Returns True for the first rank that fails."""
        return True

    def reason_of_loss(self, error: BaseException | None = None) -> str:
        """Return which rank is gone or silent, and why if it said so.

        Args:
            error: of the message that failed; it tells a silent rank from one that is gone.
        """
        return ""


_joined: World | None = None


def in_world() -> bool:
    """Return True if this process was started as one of several, by torchrun, a scheduler or `--processes`."""
    return bool(os.environ.get("RANK")) and bool(os.environ.get("WORLD_SIZE"))


def join_world(device: str = "cpu", timeout: float = TIMEOUT) -> World:
    """Connect to the other processes of a run, and return the world of this one: the same at each call.

    The environment says how, as for `torch.distributed`: RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE, MASTER_ADDR
    and MASTER_PORT. LIGHT_LLM_STORE replaces the last two by a file, for processes of one machine.

    Args:
        device: "cuda" adds NCCL.
        timeout: seconds that a message of a step waits for the other ranks.

    Raises:
        ConfigError: a variable is missing or not a number, the other processes cannot be reached, or one of them runs
            another version of the program.
    """
    global _joined
    if not in_world():
        return World()
    if _joined is None:
        local = env_number("LOCAL_RANK", 0), env_number("LOCAL_WORLD_SIZE", 1)
        world = World(env_number("RANK"), env_number("WORLD_SIZE"), *local)
        if not (world.rank < world.size and world.local_rank < world.local_size <= world.size):
            raise ConfigError(
                f"RANK={world.rank}, WORLD_SIZE={world.size}, LOCAL_RANK={world.local_rank} and LOCAL_WORLD_SIZE="
                f"{world.local_size} do not fit together; start the processes with torchrun or {{--processes N}}"
            )
        if world.size == 1:
            _joined = world
        else:
            from .fingerprint import compare_ranks, program_values
            from .process_group import connect

            _joined = connect(world, device, timeout)
            compare_ranks(_joined, program_values(device))
    return _joined


def joined_world() -> World | None:
    """Return the world that this process has joined; None before."""
    return _joined


def leave_world(world: World) -> None:
    """Close the connections to the other ranks. Without this, gloo may abort the process at its end."""
    global _joined
    _joined = None
    if world.size > 1:
        from .process_group import disconnect

        disconnect()


def is_lost(error: BaseException) -> bool:
    """Return True if an error says that another rank is gone or silent."""
    if isinstance(error, RankLost):
        return True
    # DistNetworkError, DistBackendError (of NCCL) and DistStoreError, or a RuntimeError of gloo.
    is_message = isinstance(error, RuntimeError) and _LOST.search(str(error)) is not None
    return is_message or type(error).__name__ in ("DistNetworkError", "DistBackendError", "DistStoreError")


def env_number(name: str, default: int | None = None) -> int:
    """Return a variable of the environment as a whole number. Raises ConfigError."""
    value = os.environ.get(name) or ("" if default is None else str(default))
    if not value.isdecimal():
        raise ConfigError(f"{name}={value!r} is not a number; start the processes with torchrun or {{--processes N}}")
    return int(value)
