"""The server of the live page: on 127.0.0.1 only, in a thread of its own."""

import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .run_watcher import RunWatcher

if TYPE_CHECKING:
    from uvicorn import Server

LOCALHOST = "127.0.0.1"  # never another address: the page is not meant for a network
FIRST_PORT = 8517
MAX_PORTS = 20  # ports tried in turn
# Share of a core for reading a run: beside the training that writes it, and in a process of its own.
SHARE_WHILE_TRAINING, SHARE_ALONE = 0.02, 0.25
JOIN_SECONDS = 2.0


@contextmanager
def serve_while_training(folder: Path, *, port: int = 0, warn: Callable[[str], object] = print) -> Iterator[str]:
    """Serve a run from the process that trains it. Yields the address of the page.

    If the port is taken, the next free one is used. If none can be opened, `warn` is called and the address is empty:
    a missing page must not stop a training. The block is left at once, even if a browser holds a connection.
    """
    try:
        listener = open_port(port, try_next=True)
    except OSError as error:
        warn(f"there is no live page: no port of {LOCALHOST} can be opened ({error.strerror or error})")
        yield ""
        return
    with serve([folder], listener, share=SHARE_WHILE_TRAINING, warn=warn) as (address, _):
        yield address


@contextmanager
def serve(
    roots: Sequence[Path], listener: socket.socket, *, share: float = SHARE_ALONE, warn: Callable[[str], object] = print
) -> Iterator[tuple[str, threading.Thread]]:
    """Serve the runs in and directly below some folders, which need not exist yet. Yields address and thread.

    Args:
        share: limit on the share of one core spent on reading runs again.
        warn: called with a line, free of control characters, for each request that failed.
    """
    from uvicorn import Config, Server

    from .app import create_app

    config = Config(
        create_app(RunWatcher(roots, share=share), warn=warn),
        loop="asyncio",
        http="h11",
        ws="none",
        lifespan="off",
        log_config=None,  # uvicorn would reconfigure the logging of the whole program
        log_level="critical",
        access_log=False,
        server_header=False,
        date_header=False,
        limit_concurrency=64,
        timeout_graceful_shutdown=1,
    )
    server = Server(config)
    thread = threading.Thread(target=_run, args=(server, listener, warn), name="live page", daemon=True)
    thread.start()
    try:
        yield f"http://{LOCALHOST}:{listener.getsockname()[1]}/", thread
    finally:
        server.should_exit = True
        thread.join(JOIN_SECONDS)


def open_port(port: int = 0, *, try_next: bool = False) -> socket.socket:
    """Open a listening socket on 127.0.0.1; port 0 takes the first free one from 8517 on.

    Raises:
        ConfigError: `port` is taken or may not be opened; with `try_next`, the ports after it are tried instead.
        OSError: no port can be opened.
    """
    if not 0 <= port < 1 << 16:
        raise ConfigError(f"--port {port} is no port; name one from 1024 to 65535, or leave it out")
    first = port or FIRST_PORT
    for number in range(first, min(first + MAX_PORTS, 1 << 16)):
        try:
            return socket.create_server((LOCALHOST, number))
        except OSError as error:
            if port and not try_next:
                message = f"--port {port} cannot be opened ({error.strerror or error}); leave it out to take a free one"
                raise ConfigError(message) from None
    return socket.create_server((LOCALHOST, 0))


def _run(server: "Server", listener: socket.socket, warn: Callable[[str], object]) -> None:
    """Run the server in its thread; an error ends the page and nothing else."""
    try:
        server.run(sockets=[listener])
    except Exception as error:
        with suppress(Exception):
            warn(f"the live page has ended: {type(error).__name__}: {error}")
    finally:
        listener.close()
