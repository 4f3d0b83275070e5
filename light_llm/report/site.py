"""The live page as a read-only ASGI application, with the checks that keep other web pages out."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

from .page import Live, page_of
from .watched import Watched, tag_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

# By name, so that no page elsewhere whose own name was made to mean this machine reads anything. Any port will do: the
# end of a tunnel has another one.
THIS_MACHINE = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d{1,5})?", re.IGNORECASE)

# Plotly sets styles on what it draws. Nothing else is loaded from anywhere, and no script but the page's own runs.
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


def application(watched: Watched, *, say: Callable[[str], object] = print) -> ASGIApp:
    """Build the application: `/` the page, `/data.json` the runs, `/plotly.js` the library, `/health` a liveness check.

    Args:
        say: called with a line for each request that failed.
    """
    from starlette.responses import HTMLResponse, JSONResponse
    from starlette.routing import Route, Router

    async def index(request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        state = watched.state().body.decode()
        text = page_of(watched.views(), live=Live(nonce=nonce), state=state)
        policy = {"content-security-policy": POLICY.format(nonce=nonce)}
        return HTMLResponse(text, headers=policy)

    async def data(request: Request) -> Response:
        state = watched.state()
        return _unless_known(request, state.body, state.tag, "application/json")

    async def plotly(request: Request) -> Response:
        return _unless_known(request, *_plotly(), "text/javascript", cache="max-age=3600")

    async def health(request: Request) -> Response:
        return JSONResponse({"runs": len(watched.folders)})

    endpoints = {"/": index, "/data.json": data, "/plotly.js": plotly, "/health": health}
    routes = [Route(path, endpoint, methods=["GET"]) for path, endpoint in endpoints.items()]
    return _guarded(Router(routes, redirect_slashes=False), say)


def _unless_known(request: Request, body: bytes, tag: str, kind: str, cache: str = "no-cache") -> Response:
    """The body, or nothing but its tag to one who has it: `no-cache` asks each time, and is mostly told 304."""
    from starlette.responses import Response

    headers = {"etag": tag, "cache-control": cache}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=kind, headers=headers)


def _guarded(app: ASGIApp, say: Callable[[str], object]) -> ASGIApp:
    """Refuse what is not addressed to this machine by name; give each answer the strict headers; survive any error."""
    from starlette.datastructures import Headers, MutableHeaders
    from starlette.responses import PlainTextResponse

    async def guard(scope: Scope, receive: Receive, send: Send) -> None:
        begun = False

        async def send_strictly(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun, headers = True, MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        if scope["type"] != "http":
            return
        if not THIS_MACHINE.fullmatch(Headers(scope=scope).get("host", "")):
            refusal = PlainTextResponse("this page is read at 127.0.0.1 or localhost", 421)
            return await refusal(scope, receive, send_strictly)
        try:
            await app(scope, receive, send_strictly)
        except Exception as error:  # of the run's files, or of the page: the next request may go well
            _tell(say, f"the live page could not answer {scope['path']}: {type(error).__name__}: {error}")
            if not begun:
                await PlainTextResponse("this went wrong; see the terminal", 500)(scope, receive, send_strictly)

    return guard


@cache
def _plotly() -> tuple[bytes, str]:
    """Plotly's own JavaScript, from the installed package, and its tag."""
    from plotly.offline import get_plotlyjs

    body: bytes = get_plotlyjs().encode()
    return body, tag_of(body)


def _tell(say: Callable[[str], object], line: str) -> None:
    with suppress(OSError):  # the terminal may be gone
        say(_plain(line))


def _plain(text: str) -> str:
    """A line for a terminal: characters that could move its cursor are spelled out.

    >>> _plain("a" + chr(27) + "[2J b" + chr(10))
    'a\\\\x1b[2J b\\\\n'
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
