"""Read parts of files at URLs: http and https by our own client, s3, gs and every other protocol through fsspec.

fsspec is imported only for those, and the package that a protocol needs (such as s3fs) is named if it is missing.
Credentials are those that the protocol's own package finds; they are never printed.
"""

import threading
import time
from collections.abc import Callable

from ..errors import DataError
from .download import RetryPolicy
from .http import PermanentError, RetryableError, request

READ_BYTES = 1 << 17  # of a response at a time
ATTEMPT_SECONDS = 60.0  # of one attempt; bytes of an http response that came by then are kept
# Waits of 1, 2 and 4 seconds: together with prefetching, a server may be away for a moment.
RETRY = RetryPolicy(attempts=4)
# Errors of fsspec's file systems that another attempt would not change.
_PERMANENT = (FileNotFoundError, PermissionError, IsADirectoryError, NotImplementedError, ImportError)


def is_url(name: str) -> bool:
    """Return whether a name is a URL: it has a protocol, as in `s3://bucket/corpus.json`."""
    scheme, separator, _ = name.partition("://")
    return bool(separator) and scheme.replace("+", "").replace("-", "").isalnum()


def sibling_url(url: str, name: str) -> str:
    """Return the URL of a file whose path is relative to the folder of another; a query, such as a key, stays.

    >>> sibling_url("https://host/a/corpus.json?key=1", "web/train.bin")
    'https://host/a/web/train.bin?key=1'
    >>> sibling_url("local:///a/corpus.json", "b.bin")
    'local:///a/b.bin'
    """
    address, mark, query = url.partition("?")
    return f"{address.rpartition('/')[0]}/{name}{mark}{query}"


def printable_url(url: str) -> str:
    """Return a URL without user, password and query, which may be credentials.

    >>> printable_url("https://me:secret@host/a.bin?X-Amz-Signature=1")
    'https://host/a.bin'
    """
    scheme, mark, rest = url.partition("?")[0].partition("://")
    authority, slash, path = rest.partition("/")
    return f"{scheme}{mark}{authority.rpartition('@')[2]}{slash}{path}"


def read_range(
    url: str,
    start: int,
    stop: int,
    *,
    check: Callable[[bytes], str] = lambda data: "",
    retry: RetryPolicy | None = None,
) -> bytes:
    """Return the bytes start ... stop - 1 of the file at a URL.

    A failed attempt, too few bytes and bytes that `check` refuses are tried again after a wait.

    Args:
        check: describes what is wrong with the bytes; "" if nothing is.

    Raises:
        DataError: with the URL, the reason and the number of attempts.
    """
    received = bytearray()

    def attempt(timeout: float) -> bytes:
        _read_rest(url, start, stop, received, timeout)
        if len(received) < stop - start:
            raise RetryableError(f"it sent {len(received):,} bytes of {stop - start:,}")
        if problem := check(bytes(received)):
            # What came in the first attempts may be what is wrong.
            received.clear()
            raise RetryableError(problem)
        return bytes(received)

    return _with_retries(f"bytes {start:,} to {stop - 1:,} of {printable_url(url)}", attempt, retry)


def read_small(url: str, limit: int, *, retry: RetryPolicy | None = None) -> bytes:
    """Return a whole file of at most `limit` bytes. Raises DataError, as `read_range` does."""

    def attempt(timeout: float) -> bytes:
        data = _read_all(url, limit + 1, timeout)
        if len(data) > limit:
            raise PermanentError(f"it is longer than {limit:,} bytes")
        return data

    return _with_retries(printable_url(url), attempt, retry)


def _with_retries(what: str, attempt: Callable[[float], bytes], retry: RetryPolicy | None) -> bytes:
    """Return what `attempt` returns, called with a timeout in seconds; after a RetryableError, wait and try again."""
    retry, failures = retry or RETRY, 0
    while True:
        try:
            return attempt(retry.timeout)
        except PermanentError as error:
            raise DataError(f"{what} cannot be read: {error}") from None
        except RetryableError as error:
            failures += 1
            if failures >= retry.attempts:
                raise DataError(
                    f"{what} cannot be read: {error} (tried {failures} times); when that is repaired, {{--resume}} "
                    "continues the run"
                ) from None
            time.sleep(retry.delay(failures, error.retry_after))


def _is_http(url: str) -> bool:
    return url.partition("://")[0].lower() in ("http", "https")


def _read_rest(url: str, start: int, stop: int, received: bytearray, timeout: float) -> None:
    """Append the bytes of start ... stop - 1 that were not received yet, or some of them."""
    if not _is_http(url):
        received[:] = _read_by_fsspec(url, start, stop)
        return
    first, deadline = start + len(received), time.monotonic() + ATTEMPT_SECONDS
    with request(url, start=first, stop=stop, timeout=timeout) as response:
        if response.start != first:
            raise PermanentError("the server does not send parts of a file (HTTP ranges); serve it by another one")
        while (missing := stop - start - len(received)) and (block := response.read(min(READ_BYTES, missing))):
            received += block
            if missing > len(block) and time.monotonic() > deadline:
                raise RetryableError(f"it sent {len(received):,} bytes of {stop - start:,} in {ATTEMPT_SECONDS:g} s")


def _read_all(url: str, limit: int, timeout: float) -> bytes:
    if not _is_http(url):
        return _read_by_fsspec(url, 0, limit)
    data = bytearray()
    with request(url, start=0, timeout=timeout) as response:
        while len(data) < limit and (block := response.read(min(READ_BYTES, limit - len(data)))):
            data += block
        if response.file_size is not None and len(data) < min(response.file_size, limit):
            raise RetryableError(f"it sent {len(data):,} bytes of {response.file_size:,}")
    return bytes(data)


def _read_by_fsspec(url: str, start: int, stop: int) -> bytes:
    """Read by the file system of a URL's protocol, in a thread that is left behind if it takes too long."""
    import fsspec

    result: list[bytes | Exception] = []

    def read() -> None:
        try:
            files, path = fsspec.core.url_to_fs(url)
            result.append(bytes(files.cat_file(path, start=start, end=stop)))
        except Exception as error:  # each protocol has its own errors; they are sorted below
            result.append(error)

    # A daemon, so that a file system that never answers does not keep the process alive.
    thread = threading.Thread(target=read, daemon=True, name=f"reading {printable_url(url)}")
    thread.start()
    thread.join(ATTEMPT_SECONDS)
    if not result:
        raise RetryableError(f"no answer in {ATTEMPT_SECONDS:g} s")
    if isinstance(value := result[0], bytes):
        return value
    if isinstance(value, ImportError):
        raise PermanentError(_missing_package(url, value))
    if isinstance(value, ValueError) and "rotocol" in str(value):
        raise PermanentError(f"fsspec knows no protocol {url.partition('://')[0]!r}")
    reason = (isinstance(value, OSError) and value.strerror) or str(value) or type(value).__name__
    if isinstance(value, FileNotFoundError):
        reason = "there is no such file"
    raise (PermanentError if isinstance(value, _PERMANENT) else RetryableError)(reason)


def _missing_package(url: str, error: ImportError) -> str:
    """Return the reason with the package that the protocol of a URL needs, and the command that installs it."""
    from fsspec.registry import known_implementations

    protocol = url.partition("://")[0]
    cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
    package = known_implementations.get(protocol, {}).get("class", "").partition(".")[0]
    if package in ("", "fsspec"):
        package = (cause.name or "").partition(".")[0] or protocol
    return f"the protocol {protocol} needs the package {package}: pip install {package}"
