"""Files of the Hugging Face hub at a pinned revision: find them on this machine, or download them.

`huggingface_hub` downloads them and decides which failures to retry (version 2.4: the statuses 408 and 429).
"""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import DataError
from ..runtime import cache_dir, offline_dir
from .download import Unavailable, sha256_of
from .text_stream import ProgressFn

ETAG_TIMEOUT = 10.0  # seconds for the metadata of a file


@dataclass(frozen=True)
class HubFile:
    """A file of a data set on the hub, pinned by a revision: the id of a git commit."""

    repo: str
    revision: str
    name: str  # its path in the repository
    folder: str  # searched below LIGHT_LLM_OFFLINE_DIR and the cache


def ensure_hub_file(
    file: HubFile, *, offline: bool = False, progress: ProgressFn | None = None, endpoint: str | None = None
) -> Path:
    """Return the path of a file of the hub, downloading it to the cache if necessary.

    The search order is LIGHT_LLM_OFFLINE_DIR (read-only), the cache, the hub. A file that the user put into one of the
    first two is used without a check: only its revision is pinned, so no hash to compare it with is known.

    Raises:
        Unavailable: the file is not on this machine, and may not or cannot be downloaded.
        DataError: its hash is not the one that the hub announced.
    """
    for folder in (offline_dir(), cache_dir()):
        if folder and (path := folder / file.folder / file.name).is_file():
            return path
    # Look into the library's cache first: with a complete file there, no request is sent.
    try:
        return Path(_hub_download(file, None, endpoint, local_files_only=True))
    except Exception as error:
        if not is_hub_error(error):
            raise
    if offline:
        raise Unavailable(
            f"{file.name} of {file.repo} is not on this machine, and this command downloads nothing; {_remedy(file)}"
        )
    try:
        path = Path(_hub_download(file, progress, endpoint, local_files_only=False))
    except Exception as error:
        if not is_hub_error(error):
            raise
        raise Unavailable(
            f"{file.name} could not be downloaded from {file.repo} at revision {file.revision} ({reason_of(error)}); "
            f"{_remedy(file)}",
            reason_of(error),
        ) from None
    check_download(file.repo, file.name, path, _remedy(file))
    return path


def _hub_download(file: HubFile, progress: ProgressFn | None, endpoint: str | None, *, local_files_only: bool) -> str:
    from huggingface_hub import hf_hub_download

    with quiet_library():
        return hf_hub_download(
            file.repo,
            file.name,
            repo_type="dataset",
            revision=file.revision,
            cache_dir=cache_dir() / "hub",
            endpoint=endpoint,
            token=False,  # the files are public, so send no credentials
            library_name="light-llm",
            library_version=__version__,
            etag_timeout=ETAG_TIMEOUT,
            local_files_only=local_files_only,
            tqdm_class=progress_bar_class(progress),
        )


@contextmanager
def quiet_library() -> Iterator[None]:
    """Disable the library's telemetry and warnings inside the block."""
    # The environment variable for telemetry is read when the library is first imported, which may be long ago.
    from huggingface_hub import constants
    from huggingface_hub.utils import logging

    telemetry, verbosity = constants.HF_HUB_DISABLE_TELEMETRY, logging.get_verbosity()
    constants.HF_HUB_DISABLE_TELEMETRY = True
    logging.set_verbosity_error()
    try:
        yield
    finally:
        constants.HF_HUB_DISABLE_TELEMETRY = telemetry
        logging.set_verbosity(verbosity)


def progress_bar_class(progress: ProgressFn | None) -> Any:
    """Return a replacement for the tqdm class, which draws nothing and calls `progress`."""

    # The methods that huggingface_hub calls; its versions differ in the arguments.
    class Bar:
        def __init__(self, *args: Any, total: int | None = None, initial: int = 0, **kwargs: Any) -> None:
            self.total, self.n = total, initial

        def __enter__(self) -> "Bar":
            return self

        def update(self, n: float | None = 1) -> None:
            self.n += int(n or 0)
            if progress:
                progress(self.n, max(self.n, self.total or 0))

        def close(self, *args: object) -> None:
            return None

        __exit__ = refresh = close

    return Bar


def check_download(repo: str, name: str, path: Path, remedy: str) -> None:
    """Compare a download with its SHA-256. The library names the blob of a large file by the hash the hub announced.

    Raises DataError, after deleting the file.
    """
    blob = path.resolve()
    if re.fullmatch("[0-9a-f]{64}", blob.name) and (sha256 := sha256_of(blob)) != blob.name:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise DataError(
            f"{repo} sent a {name} that differs from the announced file: SHA-256 {sha256} instead of "
            f"{blob.name}; it was deleted; try again, or {remedy}"
        )


def is_hub_error(error: Exception) -> bool:
    """Return whether an error is about the network, the hub or the disk, and not a bug."""
    from huggingface_hub.errors import EntryNotFoundError

    # The library raises errors of its own, OSError, and those of its HTTP library, which changed between versions.
    # Without a network some versions raise the RuntimeError of a connection that they closed themselves.
    if isinstance(error, (OSError, EntryNotFoundError, RuntimeError)):
        return True
    return type(error).__module__.split(".")[0] in ("httpx", "httpx2", "httpcore", "requests", "huggingface_hub")


def reason_of(error: Exception) -> str:
    """Return the first line of the root cause: the library wraps it in advice on its own settings."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _remedy(file: HubFile) -> str:
    folder = offline_dir() or cache_dir()
    return (
        f"put the file (revision {file.revision} of {file.repo}) at {folder / file.folder / file.name}, "
        f"or name a text file of your own with {{--data my.txt}}, or the built-in stories with {{--data tales}}"
    )
