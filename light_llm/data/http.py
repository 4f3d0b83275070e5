"""One HTTP request, with every way it goes wrong in two classes: worth another try, or not."""

import email.utils
import http.client
import ipaddress
import re
import ssl
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from email.message import Message
from typing import IO, Any
from urllib.parse import urlsplit

PASSING_STATUS = (408, 425, 429, 500, 502, 503, 504)


class Broken(Exception):
    """What may go better in a moment."""

    def __init__(self, reason: str, retry_after: float | None = None, *, anew: bool = False) -> None:
        super().__init__(reason)
        self.anew = anew  # what is here by now does not fit what the server has
        self.retry_after = retry_after  # seconds, if the server said so


class Refused(Exception):
    """What another try does not change."""


@dataclass(frozen=True)
class Answer:
    """The body of a file, or of the rest of it."""

    body: http.client.HTTPResponse
    start: int  # place of the first byte in the file
    whole: int | None  # bytes of the whole file, if the server says so

    def read(self, n: int) -> bytes:
        """At most n bytes; none at the end. Raises Broken."""
        try:
            return self.body.read(n)
        except (OSError, http.client.HTTPException) as error:
            raise Broken(_reason(error)) from None


@contextmanager
def request(url: str, *, start: int, timeout: float) -> Iterator[Answer]:
    """Ask for a file from byte `start` on; the answer says where it begins, which may be at 0 all the same.

    Proxies of the environment are used, except for this machine itself. Redirections lead to http and https only.

    Raises:
        Broken: a status or a fault of the line that may pass.
        Refused: any other.
    """
    asked = urllib.request.Request(url, headers={"Range": f"bytes={start}-"} if start else {})
    try:
        body = _opener(url).open(asked, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            reason = f"{error.code} {error.reason}"
            if error.code == 416:  # there is nothing from there on: the file is shorter than what is here
                raise Broken(reason, anew=True) from None
            if error.code in PASSING_STATUS:
                raise Broken(reason, _seconds(error.headers.get("Retry-After"))) from None
            raise Refused(reason) from None
    except (OSError, http.client.HTTPException) as error:
        if _may_pass(error):
            raise Broken(_reason(error)) from None
        raise Refused(_reason(error)) from None
    with body:
        yield _answer(body, start)


def _answer(body: http.client.HTTPResponse, start: int) -> Answer:
    length = body.headers.get("Content-Length", "")
    if body.status != 206:
        return Answer(body, 0, int(length) if length.isdecimal() else None)
    found = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", body.headers.get("Content-Range", ""))
    if not found or int(found[1]) != start:
        raise Broken("it sent another part of the file than was asked for", anew=True)
    return Answer(body, start, None if found[2] == "*" else int(found[2]))


class _WebOnly(urllib.request.HTTPRedirectHandler):
    """Follows redirections to http and https; urllib would go to ftp too."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise urllib.error.HTTPError(req.full_url, code, f"redirection to {newurl} is not followed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _opener(url: str) -> urllib.request.OpenerDirector:
    """What speaks http and https and nothing else: the usual one reads local files too."""
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler({} if _is_this_machine(urlsplit(url).hostname or "") else None),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _WebOnly(),
    ):
        opener.add_handler(handler)
    return opener


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _may_pass(error: Any) -> bool:
    """A line that broke, not one that was never there: no name server or a closed port is said at once."""
    reason = getattr(error, "reason", error)
    broke = (TimeoutError, ConnectionResetError, ConnectionAbortedError, BrokenPipeError, http.client.HTTPException)
    return isinstance(reason, (*broke, ssl.SSLEOFError))


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    return str(reason) or type(reason).__name__


def _seconds(value: str | None) -> float | None:
    """Retry-After: seconds, or a date.

    >>> _seconds("120"), _seconds(None), _seconds("soon")
    (120.0, None, None)
    """
    if value is None:
        return None
    if value.strip().isdecimal():
        return float(value)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, OverflowError):
        return None
