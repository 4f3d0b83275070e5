"""The live page as an ASGI application: four addresses to read, one to ask at, and what keeps other pages out."""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING

from .control import Desk, asked
from .page import Live, page_of
from .watched import Watched, tag_of

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

LARGEST_WISH = 1024  # bytes of a request's body
KEY = "x-light-llm-key"
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


def application(watched: Watched, desk: Desk | None = None, *, say: Callable[[str], object] = print) -> ASGIApp:
    """What answers.

    `/` is the page, `/data.json` the runs as they are, `/plotly.js` what draws them, `/health` says that it answers.
    With a desk, `POST /control` takes `{"run": 0, "do": "stop"|"save"}`, with the desk's key in `X-Light-LLM-Key`.

    Args:
        say: told of wishes and of what failed.
    """
    from starlette.responses import HTMLResponse, JSONResponse, PlainTextResponse
    from starlette.routing import Route, Router

    async def index(request: Request) -> Response:
        nonce = secrets.token_urlsafe(16)
        key = desk.key if desk and desk.knows(request.query_params.get("key")) else ""
        state = watched.state().body.decode()
        text = page_of(watched.views(), live=Live(key=key, nonce=nonce), state=state)
        policy = {"content-security-policy": POLICY.format(nonce=nonce)}
        return HTMLResponse(text, headers=policy)

    async def data(request: Request) -> Response:
        state = watched.state()
        return _unless_known(request, state.body, state.tag, "application/json")

    async def plotly(request: Request) -> Response:
        return _unless_known(request, *_plotly(), "text/javascript", cache="max-age=3600")

    async def health(request: Request) -> Response:
        return JSONResponse({"runs": len(watched.folders)})

    async def control(request: Request) -> Response:
        if desk is None:
            return PlainTextResponse("not found", 404)
        status, sentence = await _hand_in(request, desk, watched)
        if status != 403:
            _tell(say, f"asked from the live page: {sentence}")
        return JSONResponse({"said": sentence}, status)

    read = {"/": index, "/data.json": data, "/plotly.js": plotly, "/health": health}
    routes = [Route(path, what, methods=["GET"]) for path, what in read.items()]
    return _guarded(Router([*routes, Route("/control", control, methods=["POST"])], redirect_slashes=False), say)


def _unless_known(request: Request, body: bytes, tag: str, kind: str, cache: str = "no-cache") -> Response:
    """The body, or nothing but its tag to one who has it: `no-cache` asks each time, and is mostly told 304."""
    from starlette.responses import Response

    headers = {"etag": tag, "cache-control": cache}
    if request.headers.get("if-none-match") == tag:
        return Response(status_code=304, headers=headers)
    return Response(body, media_type=kind, headers=headers)


async def _hand_in(request: Request, desk: Desk, watched: Watched) -> tuple[int, str]:
    """A wish, once it is sure that the page itself sent it: the HTTP status, and a sentence."""
    sent, own = request.headers, f"http://{request.headers['host']}"
    if sent.get("origin", own) != own or sent.get("sec-fetch-site", "same-origin") != "same-origin":
        return 403, "another page may not ask"
    if not desk.knows(sent.get(KEY)):
        return 403, "the key of this page is not valid (the program was started again); open its new address"
    if sent.get("content-type", "").partition(";")[0].strip() != "application/json":
        return 415, "this is no JSON"
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > LARGEST_WISH:
            return 413, f"a wish has at most {LARGEST_WISH} bytes"
    return asked(desk.control, watched.folders, body)


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
