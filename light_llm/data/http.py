"""A single HTTP request, with its errors sorted into two classes: worth a retry, or permanent.

`download.py` does the retries.
"""

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

# Request Timeout, Too Early, Too Many Requests, and the server errors that usually pass.
RETRYABLE_STATUS = (408, 425, 429, 500, 502, 503, 504)


class RetryableError(Exception):
    """A transient error: another try may succeed.

    Args:
        retry_after: seconds to wait, if the server said so.
        restart: discard the bytes received so far: they do not fit the file on the server.
    """

    def __init__(self, reason: str, retry_after: float | None = None, *, restart: bool = False) -> None:
        super().__init__(reason)
        self.retry_after, self.restart = retry_after, restart


class PermanentError(Exception):
    """An error that another try would not change."""


class NoConnection(PermanentError):
    """No server was reached: no network, no such host, or a closed port."""


@dataclass(frozen=True)
class Response:
    """The body of a response: a file, or the rest of it."""

    body: http.client.HTTPResponse
    start: int  # offset of the first byte in the file
    file_size: int | None  # bytes of the complete file, if the server says so

    def read(self, n: int) -> bytes:
        """Read at most n bytes; none at the end. Raises RetryableError."""
        try:
            return self.body.read(n)
        except (OSError, http.client.HTTPException) as error:
            raise RetryableError(_reason(error)) from None


@contextmanager
def request(url: str, *, start: int, timeout: float, stop: int | None = None) -> Iterator[Response]:
    """Request the bytes of a file from `start` on, up to and without `stop`.

    The response says where it begins: a server may ignore both and send all.

    Proxies of the environment are used, except for this machine itself. Redirects lead to http and https only.

    Raises:
        RetryableError: a transient status (RETRYABLE_STATUS) or a broken connection.
        PermanentError: any other failure; NoConnection, if no server was reached.
    """
    is_part = start > 0 or stop is not None
    last = "" if stop is None else stop - 1
    http_request = urllib.request.Request(url, headers={"Range": f"bytes={start}-{last}"} if is_part else {})
    try:
        body = _build_opener(url).open(http_request, timeout=timeout)
    except urllib.error.HTTPError as error:
        with error:
            reason = f"{error.code} {error.reason}"
            if error.code == 416:  # range not satisfiable: the file is shorter than what was received so far
                raise RetryableError(reason, restart=True) from None
            if error.code in RETRYABLE_STATUS:
                raise RetryableError(reason, _parse_retry_after(error.headers.get("Retry-After"))) from None
            raise PermanentError(reason) from None
    except (OSError, http.client.HTTPException) as error:
        if _is_transient(error):
            raise RetryableError(_reason(error)) from None
        raise NoConnection(_reason(error)) from None
    with body:
        size = body.headers.get("Content-Length", "")
        if body.status == 206:
            # Appending a part that begins elsewhere would damage the file, so check where it begins.
            content_range = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", body.headers.get("Content-Range", ""))
            if not content_range or int(content_range[1]) != start:
                raise RetryableError("it sent another part of the file than requested", restart=True)
            size = content_range[2]
        yield Response(body, start if body.status == 206 else 0, int(size) if size.isdecimal() else None)


class _HttpRedirects(urllib.request.HTTPRedirectHandler):
    """Redirect handler that follows to http and https only; urllib would follow to ftp too."""

    def redirect_request(
        self, req: urllib.request.Request, fp: IO[bytes], code: int, msg: str, headers: Message, newurl: str
    ) -> urllib.request.Request | None:
        if urlsplit(newurl).scheme not in ("http", "https"):
            raise urllib.error.HTTPError(req.full_url, code, f"redirection to {newurl} is not followed", headers, fp)
        return super().redirect_request(req, fp, code, msg, headers, newurl)  # type: ignore[arg-type]


def _build_opener(url: str) -> urllib.request.OpenerDirector:
    """Return an opener for http and https only: the default one would also read local files."""
    # A proxy could not reach a server on this machine.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler({} if _is_this_machine(urlsplit(url).hostname or "") else None),
        urllib.request.HTTPHandler(),
        urllib.request.HTTPSHandler(),
        urllib.request.HTTPDefaultErrorHandler(),
        urllib.request.HTTPErrorProcessor(),
        urllib.request.UnknownHandler(),
        _HttpRedirects(),
    ):
        opener.add_handler(handler)
    return opener


def _is_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _is_transient(error: Any) -> bool:
    """Return whether a connection broke or timed out. A failure of DNS or a closed port is permanent."""
    reason = getattr(error, "reason", error)
    transient = (TimeoutError, ConnectionResetError, ConnectionAbortedError, BrokenPipeError, http.client.HTTPException)
    # A connection that is cut during the TLS handshake raises SSLEOFError.
    return isinstance(reason, (*transient, ssl.SSLEOFError))


def _reason(error: Exception) -> str:
    reason = getattr(error, "reason", None) or error
    # Without the number that OSError puts before its text.
    return getattr(reason, "strerror", None) or str(reason) or type(reason).__name__


def _parse_retry_after(value: str | None) -> float | None:
    """Parse a Retry-After header, in seconds or as a date; None if it is missing or unreadable.

    >>> _parse_retry_after("120"), _parse_retry_after(None), _parse_retry_after("soon")
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
