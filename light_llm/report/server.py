"""The live page: a read-only ASGI application that keeps other web pages out, served on 127.0.0.1 by a thread."""

from __future__ import annotations

import errno
import os
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import ConfigError
from .page import plotly_source, render_live_page
from .run_watcher import RunWatcher, etag

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send
    from uvicorn import Server

LOCALHOST = "127.0.0.1"  # never another address: the page is not meant for a network
FIRST_PORT = 8517
MAX_PORTS = 20  # ports tried in turn
PORT_ERRORS = {
    errno.EADDRINUSE: "is used by another program",
    errno.EACCES: "may not be opened by this user",
}
# Share of a core for reading a run: beside the training that writes it, and in a process of its own.
SHARE_WHILE_TRAINING, SHARE_ALONE = 0.02, 0.25
JOIN_SECONDS = 2.0

# A web page elsewhere can make its own host name resolve to 127.0.0.1 (DNS rebinding), so requests must name this
# machine. Any port is accepted, because the other end of an SSH tunnel has another one.
LOCAL_HOST = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)

# Plotly needs inline styles. Nothing is loaded from elsewhere, and only the page's own scripts run.
POLICY = (
    "default-src 'none'; script-src 'self' 'nonce-{nonce}'; style-src 'unsafe-inline'; img-src data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": "default-src 'none'; frame-ancestors 'none'",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


@contextmanager
def serve_while_training(folder: Path, *, warn: Callable[[str], object] = print) -> Iterator[str]:
    """Serve a run from the process that trains it. Yields the address of the page.

    If no port can be opened, `warn` is called and the address is empty: a missing page must not stop a training. The
    block is left at once, even if a browser holds a connection.
    """
    try:
        listener = open_port()
    except OSError as error:
        warn(f"there is no live page: no port of {LOCALHOST} can be opened ({os.strerror(error.errno or 0)})")
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


def open_port(port: int = 0) -> socket.socket:
    """Open a listening socket on 127.0.0.1; port 0 takes the first free one from 8517 on.

    Raises:
        ConfigError: `port` is taken or may not be opened.
        OSError: no port can be opened.
    """
    if not 0 <= port < 1 << 16:
        raise ConfigError(f"{{--port {port}}} is not a port; use one from 1024 to 65535, or leave it out")
    for number in [port] if port else range(FIRST_PORT, FIRST_PORT + MAX_PORTS):
        try:
            return socket.create_server((LOCALHOST, number))
        except OSError as error:
            if port:
                # Python adds the address to `strerror`.
                reason = PORT_ERRORS.get(error.errno or 0, f"cannot be opened: {os.strerror(error.errno or 0)}")
                raise ConfigError(f"port {port} {reason}. Leave out {{--port}} to take a free one") from None
    return socket.create_server((LOCALHOST, 0))


def _run(server: Server, listener: socket.socket, warn: Callable[[str], object]) -> None:
    """Run the server in its thread; an error ends the page and nothing else."""
    try:
        server.run(sockets=[listener])
    except Exception as error:
        with suppress(Exception):
            warn(f"the live page has ended: {type(error).__name__}: {error}")
    finally:
        listener.close()


def create_app(watcher: RunWatcher, *, warn: Callable[[str], object] = print) -> ASGIApp:
    """Build the application: `/` the page, `/data.json` the runs, `/plotly.js` the library, `/health` a liveness check.

    Args:
        warn: called with a line for each request that failed.
    """
    from starlette.responses import HTMLResponse, JSONResponse
    from starlette.routing import Route, Router

    async def index(request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        page = render_live_page(watcher.state()[0].decode(), nonce, watcher.roots)
        return HTMLResponse(page, headers={"content-security-policy": POLICY.format(nonce=nonce)})

    async def data(request: Request) -> Response:
        return _cached_response(request, *watcher.state(), "application/json", "no-cache")

    async def plotly(request: Request) -> Response:
        return _cached_response(request, *_plotly(), "text/javascript", "max-age=3600")

    async def health(request: Request) -> Response:
        return JSONResponse({"runs": len(watcher)})

    endpoints = {"/": index, "/data.json": data, "/plotly.js": plotly, "/health": health}
    routes = [Route(path, endpoint, methods=["GET"]) for path, endpoint in endpoints.items()]
    return _guarded(Router(routes, redirect_slashes=False), warn)


def _cached_response(request: Request, body: bytes, tag: str, media_type: str, cache_control: str) -> Response:
    """Return the body, or 304 if the client's ETag matches."""
    from starlette.responses import Response

    headers = {"etag": tag, "cache-control": cache_control}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=media_type, headers=headers)


def _guarded(app: ASGIApp, warn: Callable[[str], object]) -> ASGIApp:
    """Wrap an application: refuse foreign host names, add the strict headers, answer 500 after any error."""
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.responses import PlainTextResponse

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        has_started = False

        async def send_strictly(message: Message) -> None:
            nonlocal has_started
            if message["type"] == "http.response.start":
                has_started, headers = True, MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if scope["type"] != "http":
            return
        if not LOCAL_HOST.fullmatch(Headers(scope=scope).get("host", "")):
            refusal = PlainTextResponse("open this page at 127.0.0.1 or localhost", 421)
            return await refusal(scope, receive, send_strictly)
        try:
            await app(scope, receive, send_strictly)
        except Exception as error:
            # The next request may succeed: the run's files may have been half-written.
            line = f"the live page could not answer {scope['path']}: {type(error).__name__}: {error}"
            with suppress(OSError):  # the terminal may be closed
                warn(escape_control(line))
            if not has_started:
                await PlainTextResponse("an error occurred; the terminal shows it", 500)(scope, receive, send_strictly)

    return guard


@cache
def _plotly() -> tuple[bytes, str]:
    """Return plotly's JavaScript and its ETag."""
    body = plotly_source().encode()
    return body, etag(body)


def escape_control(text: str) -> str:
    """Escape characters that could move a terminal's cursor.

    >>> escape_control("a" + chr(27) + "[2J b" + chr(10))
    'a\\\\x1b[2J b\\\\n'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
