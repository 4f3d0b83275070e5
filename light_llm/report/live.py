"""The live page's server: 127.0.0.1 and nothing else, in a thread, so that a training goes on beside it undisturbed."""

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .watched import Watched

if TYPE_CHECKING:
    from uvicorn import Server

HERE = "127.0.0.1"  # never another address: what is served is not meant for a network
PORT = 8517  # the first that is tried
NEXT_PORTS = 20
BESIDE_TRAINING = 0.02  # share of a core that reading the run may take from the training that writes it
ALONE = 0.25
PATIENCE = 2.0  # seconds for the server's thread to end


@dataclass(frozen=True)
class Serving:
    """A server that has begun."""

    address: str  # for a browser
    thread: threading.Thread

    @property
    def is_alive(self) -> bool:
        """Whether it still answers."""
        return self.thread.is_alive()


@contextmanager
def watching(folder: Path, *, port: int = 0, warn: Callable[[str], object] = print) -> Iterator[str]:
    """Serve a run from the process that trains it, inside the block; yields the page's address.

    A port that is taken gives way to the next free one. Where nothing can be served, that is said through `warn`, the
    address is empty, and the block runs all the same. It is left at once, whatever the server still does.
    """
    try:
        listener = open_port(port, or_next=True)
    except OSError as error:
        warn(f"there is no live page: no port of {HERE} can be opened ({error.strerror or error})")
        yield ""
        return
    with serving([folder], listener, share=BESIDE_TRAINING, warn=warn) as served:
        yield served.address


@contextmanager
def serving(
    roots: Sequence[Path],
    listener: socket.socket,
    *,
    share: float = ALONE,
    warn: Callable[[str], object] = print,
) -> Iterator[Serving]:
    """Serve the runs in and directly below some folders, which may be still to come.

    Args:
        share: of one core, at most, for reading runs again while they go on.
        warn: called with a line, free of control characters, for each request that failed.
    """
    from uvicorn import Config, Server

    from .site import application

    app = application(Watched(roots, share=share), say=warn)
    config = Config(
        app,
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,  # the logging of the program around it is left as it is
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        limit_concurrency=64,
        timeout_graceful_shutdown=1,
    )
    server = Server(config)
    thread = threading.Thread(target=_serve, args=(server, listener, warn), name="live page", daemon=True)
    thread.start()
    number = listener.getsockname()[1]
    try:
        yield Serving(f"http://{HERE}:{number}/", thread)
    finally:
        server.should_exit = True
        thread.join(PATIENCE)


def open_port(port: int = 0, *, or_next: bool = False) -> socket.socket:
    """A socket of 127.0.0.1 that listens; for port 0 the first free one from 8517 on.

    Raises:
        ConfigError: `port` is taken, or may not be opened; not with `or_next`, which tries those after it.
        OSError: no port can be opened.
    """
    if not 0 <= port < 1 << 16:
        raise ConfigError(f"--port {port} is no port; name one from 1024 to 65535, or leave it out")
    first = port or PORT
    for number in range(first, min(first + NEXT_PORTS, 1 << 16)):
        try:
            return socket.create_server((HERE, number))
        except OSError as error:
            if port and not or_next:
                why = error.strerror or error
                raise ConfigError(
                    f"--port {port} cannot be opened ({why}); without --port a free one is found"
                ) from None
    return socket.create_server((HERE, 0))


def _serve(server: "Server", listener: socket.socket, warn: Callable[[str], object]) -> None:
    """The thread. What ends it early ends nothing else."""
    try:
        server.run(sockets=[listener])
    except Exception as error:
        with suppress(Exception):
            warn(f"the live page has ended: {type(error).__name__}: {error}")
    finally:
        listener.close()
