"""A command as one rank of several: an error is printed once, and the connections are closed at the end."""

import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from io import StringIO
from typing import TYPE_CHECKING

from ..errors import LightLLMError, RankLost
from .processes import follow_launcher, local_rank_of_environment, rank_of_environment

if TYPE_CHECKING:
    from ..runtime import World


@contextmanager
def quiet_parsing() -> Iterator[None]:
    """Keep the help and the mistakes of the command line from being printed by each rank."""
    if not local_rank_of_environment() or rank_of_environment() is None:
        yield
        return
    with redirect_stdout(StringIO()), redirect_stderr(StringIO()):
        yield


@contextmanager
def one_report() -> Iterator[None]:
    """Let one rank print the error that ends a run, and close the connections. The others leave with its exit code.

    Before the ranks are connected, it is printed on each machine once.
    """
    if rank_of_environment() is None:
        yield
        return
    if rank_of_environment():
        warnings.simplefilter("ignore")
    try:
        follow_launcher()
        yield
    except BaseException as error:
        if isinstance(error, SystemExit):
            raise
        lost = _lost(error)
        if not _prints(lost or error):
            raise SystemExit(_exit_code(lost or error)) from None
        if lost:
            raise lost from None
        raise
    finally:
        if world := _joined():
            from ..runtime import leave_world

            leave_world(world)


def join(device: str) -> "World":
    """Connect this process to the other ranks of its run, if it has any. Raises ConfigError and DeviceError."""
    from ..runtime import World, choose_device, in_world, join_world

    return join_world(choose_device(device).value) if in_world() else World()


def _joined() -> "World | None":
    """Return the world of this process, without loading torch for it."""
    if "light_llm.runtime" not in sys.modules:
        return None
    from ..runtime import joined_world

    return joined_world()


def _lost(error: BaseException) -> RankLost | None:
    """Return which rank is gone, if an error says that one is."""
    world = _joined()
    if world is None or isinstance(error, RankLost):
        return None
    from ..runtime import is_lost

    return RankLost(world.reason_of_loss(error)) if is_lost(error) else None


def _prints(error: BaseException) -> bool:
    world = _joined()
    if world is None:
        return local_rank_of_environment() == 0
    is_first_failure = not isinstance(error, RankLost) and world.report_failure(error)
    # A bug is printed with its traceback where it is, since the other ranks know its message only.
    is_bug = not isinstance(error, (LightLLMError, OSError, KeyboardInterrupt))
    return is_first_failure if is_bug else world.is_reporter


def _exit_code(error: BaseException) -> int:
    if isinstance(error, KeyboardInterrupt):
        return 128 + getattr(error, "number", 2)
    return 2 if isinstance(error, (LightLLMError, OSError, ModuleNotFoundError)) else 1
