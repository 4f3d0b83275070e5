"""Files with a pinned SHA-256: find them on this machine, or download them atomically, with retries.

`RetryPolicy` decides how often and after which delay; `http.py` decides which errors (such as HTTP 503) are retried.
"""

import errno
import hashlib
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from ..atomic_io import atomic_path
from ..errors import DataError
from ..runtime import cache_dir, offline_dir
from .http import NoConnection, PermanentError, RetryableError, request
from .text_stream import LogFn, ProgressFn, no_log

READ_BYTES = 1 << 16  # per read; a read that breaks off in the middle is lost


class Unavailable(DataError):
    """A file that is not on this machine and was not downloaded, with why: "" if no download was tried."""

    def __init__(self, message: str, reason: str = "", *, no_network: bool = False) -> None:
        super().__init__(message)
        self.reason, self.no_network = reason, no_network


@dataclass(frozen=True)
class PinnedFile:
    """A file on the web with a known hash and size."""

    name: str  # its path below the offline folder and the cache
    url: str
    sha256: str
    size: int  # bytes
    # What a user can do without the file.
    instead: str = "name a text file of your own with {--data my.txt}, or the built-in stories with {--data tales}"


@dataclass(frozen=True)
class RetryPolicy:
    """Number of attempts, timeout, and delays between attempts with exponential backoff. All times in seconds."""

    attempts: int = 3
    timeout: float = 20.0  # without a byte
    first_delay: float = 1.0  # before the second attempt; doubled before each further one
    max_delay: float = 30.0  # even if the server asks for more

    def delay(self, failures: int, retry_after: float | None) -> float:
        """Return the seconds to wait after some failed attempts: what the server asked for, or our own backoff.

        >>> policy = RetryPolicy()
        >>> [policy.delay(1, None), policy.delay(3, None), policy.delay(1, 7.0), policy.delay(1, 9e9)]
        [1.0, 4.0, 7.0, 30.0]
        """
        seconds = self.first_delay * 2 ** (failures - 1) if retry_after is None else max(0.0, retry_after)
        return min(self.max_delay, seconds)


def ensure_file(
    file: PinnedFile,
    *,
    offline: bool = False,
    extra_paths: Sequence[Path] = (),
    progress: ProgressFn | None = None,
    retry: RetryPolicy = RetryPolicy(),
    log: LogFn = no_log,
) -> Path:
    """Return the path of a file with the pinned hash, downloading it to the cache if necessary.

    The search order is LIGHT_LLM_OFFLINE_DIR (read-only), the cache, `extra_paths`, the network. A file of that name
    with other bytes is skipped, and named in a log message or, if nothing else is found, in the error.

    Raises:
        Unavailable: the file is not on this machine, and may not or cannot be downloaded.
        DataError: the cache cannot be written.
    """
    folder, damaged = offline_dir(), list[tuple[Path, str]]()
    candidates = [folder / file.name] if folder else []
    for path in [*candidates, cache_dir() / file.name, *extra_paths]:
        if path.is_file():
            if problem := _mismatch(path, file):
                damaged.append((path, f"{path} is damaged: {problem}"))
                continue
            break
    else:
        skipped = f" ({', '.join(message for _, message in damaged)})" if damaged else ""
        if offline:
            raise Unavailable(
                f"{file.name} is not on this machine{skipped}, and this command downloads nothing; {_remedy(file)}"
            )
        try:
            path = download_file(file, cache_dir() / file.name, retry=retry, progress=progress)
        except Unavailable as error:
            problem, semicolon, remedy = error.message.partition("; ")
            message = f"{problem}{skipped}{semicolon}{remedy}"
            raise Unavailable(message, error.reason, no_network=error.no_network) from None
    # Report damaged files also when the file was found: they would be skipped at every start.
    for damaged_path, message in damaged:
        log(f"{message}; " + ("it was downloaded again" if damaged_path == path else f"{path} is used instead"))
    return path


def _mismatch(path: Path, file: PinnedFile) -> str:
    """Describe how a file differs from the pinned one; empty if it does not."""
    try:
        size = path.stat().st_size
        # Comparing the size first avoids hashing a file that cannot match.
        sha256 = sha256_of(path) if size == file.size else ""
    except OSError as error:
        return error.strerror or str(error)
    if size != file.size:
        return f"it has {size:,} bytes instead of {file.size:,}"
    return "" if sha256 == file.sha256 else f"SHA-256 {sha256[:12]}... instead of {file.sha256[:12]}..."


def download_file(
    file: PinnedFile, target: Path, *, retry: RetryPolicy = RetryPolicy(), progress: ProgressFn | None = None
) -> Path:
    """Download to a temporary file, check size and hash, rename: `target` is the complete file or does not exist.

    Transient failures (`http.RETRYABLE_STATUS`, a cut connection, a timeout, a short response) are retried; an
    interrupted download resumes where it broke off, if the server supports that.

    Raises:
        Unavailable: no connection, no complete response within the attempts, or other bytes than the pinned ones.
        DataError: the target cannot be written.
    """
    with cache_errors(file.name, target), atomic_path(target) as partial, open(partial, "w+b") as out:
        _download_with_retries(file, out, retry, progress)
    return target


@contextmanager
def cache_errors(content: str, path: Path) -> Iterator[None]:
    """Raise a DataError with the remedies for an OSError inside the block, which writes some content to the cache."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        remedy = "make room there, or set LIGHT_LLM_CACHE to" if full else "set LIGHT_LLM_CACHE to"
        raise DataError(
            f"{content} cannot be cached at {path}: {error.strerror or error}; {remedy} a folder that can be written to"
        ) from None


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _download_with_retries(file: PinnedFile, out: BinaryIO, retry: RetryPolicy, progress: ProgressFn | None) -> None:
    """Fill `out` with the file. Raises Unavailable if that fails, OSError if `out` cannot be written."""
    problem = reason = ""
    retry_after = None
    for failures in range(retry.attempts):
        if failures:
            time.sleep(retry.delay(failures, retry_after))
        try:
            start = _download_rest(file, out, retry.timeout, progress)
        except RetryableError as error:
            reason = str(error)
            problem = f"{file.name} could not be downloaded from {file.url} ({error})"
            retry_after = error.retry_after
            if error.restart:
                out.truncate(0)
            continue
        except PermanentError as error:
            message = f"{file.name} could not be downloaded from {file.url} ({error}); {_remedy(file)}"
            raise Unavailable(message, str(error), no_network=isinstance(error, NoConnection)) from None
        out.seek(0)
        sha256 = hashlib.file_digest(out, "sha256").hexdigest()  # type: ignore[arg-type]
        if sha256 == file.sha256:
            return
        reason = "it is not the expected file"
        problem = f"{file.url} sent another file than the expected one: SHA-256 {sha256}; it was deleted"
        if not start:
            raise Unavailable(f"{problem}; {_remedy(file)}", reason)
        # The file may have changed on the server between two attempts, so try once more from the beginning.
        out.truncate(0)
    raise Unavailable(f"{problem}, {retry.attempts} tries; try again later, or {_remedy(file)}", reason)


def _download_rest(file: PinnedFile, out: BinaryIO, timeout: float, progress: ProgressFn | None) -> int:
    """Request what `out` lacks, append it, and return the offset at which the response began.

    Raises:
        RetryableError, PermanentError: the bytes received so far stay in `out`.
    """
    with request(file.url, start=out.seek(0, os.SEEK_END), timeout=timeout) as response:
        # A server without support for ranges sends the file from the beginning: overwrite what is there.
        received = out.seek(response.start)
        out.truncate()
        if response.file_size is not None and response.file_size > file.size:
            raise PermanentError(f"it is {response.file_size:,} bytes long, not {file.size:,}")
        while received < file.size and (block := response.read(min(READ_BYTES, file.size - received))):
            out.write(block)
            received += len(block)
            if progress:
                progress(received, file.size)
    if received < file.size:
        raise RetryableError(f"it sent {received:,} bytes of {file.size:,}")
    return response.start


def _remedy(file: PinnedFile) -> str:
    folder = offline_dir() or cache_dir()
    return f"put the file (SHA-256 {file.sha256}) at {folder / file.name}, or {file.instead}"
