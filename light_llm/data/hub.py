"""Files of the Hugging Face hub at a pinned revision: found on this machine, or downloaded through huggingface_hub."""

import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import __version__
from ..errors import DataError
from ..runtime import cache_dir, offline_dir
from .fetch import sha256_of
from .pieces import Progress

ETAG_TIMEOUT = 10.0  # seconds for the answer about a file


@dataclass(frozen=True)
class HubFile:
    """A file of a data set on the hub, pinned by the revision: the id of a git commit."""

    repo: str
    revision: str
    name: str  # its path in the repository
    folder: str  # below which it is looked for in LIGHT_LLM_OFFLINE_DIR and the cache


def find_or_fetch_from_hub(
    file: HubFile, *, offline: bool = False, progress: Progress | None = None, endpoint: str | None = None
) -> Path:
    """The path of a file of the hub.

    Looked for in LIGHT_LLM_OFFLINE_DIR (read-only), the cache, and then on the hub. A file that someone put into one
    of the first two is taken as it is: the hub pins a revision, and no hash of it is known here.

    Raises:
        DataError: it is nowhere and may not or cannot be downloaded, or what came is not what the hub announced.
    """
    for folder in (offline_dir(), cache_dir()):
        if folder and (path := folder / file.folder / file.name).is_file():
            return path
    try:
        return Path(_hub(file, None, endpoint, local_files_only=True))
    except Exception as error:
        if not _is_of_the_hub(error):
            raise
    if offline:
        raise DataError(
            f"{file.name} of {file.repo} is not on this machine and --offline forbids to download it; {_way_out(file)}"
        )
    try:
        path = Path(_hub(file, progress, endpoint, local_files_only=False))
    except Exception as error:
        if not _is_of_the_hub(error):
            raise
        raise DataError(
            f"{file.name} could not be downloaded from {file.repo} at revision {file.revision} ({_reason(error)}); "
            f"{_way_out(file)}"
        ) from None
    _check(file, path)
    return path


def _hub(file: HubFile, progress: Progress | None, endpoint: str | None, *, local_files_only: bool) -> str:
    from huggingface_hub import hf_hub_download

    with _quiet():
        return hf_hub_download(
            file.repo,
            file.name,
            repo_type="dataset",
            revision=file.revision,
            cache_dir=cache_dir() / "hub",
            endpoint=endpoint,
            token=False,  # these files are public: no one's credentials go anywhere
            library_name="light-llm",
            library_version=__version__,
            etag_timeout=ETAG_TIMEOUT,
            local_files_only=local_files_only,
            tqdm_class=_bar(progress),
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """No telemetry and no warnings of the library's own while it works for us; its settings are as before after that.

    The setting is an environment variable that the library reads when it is first imported, which may be long ago.
    """
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


def _bar(progress: Progress | None) -> Any:
    """What the library takes for a class of progress bars: it draws nothing and calls `progress`."""

    class Bar:
        def __init__(self, *args: Any, total: int | None = None, initial: int = 0, **kwargs: Any) -> None:
            self.total, self.n = total, initial

        def __enter__(self) -> "Bar":
            return self

        def __exit__(self, *args: object) -> None:
            return None

        def update(self, n: float | None = 1) -> None:
            self.n += int(n or 0)
            if progress:
                progress(self.n, max(self.n, self.total or 0))

        def close(self) -> None:
            return None

        def refresh(self) -> None:
            return None

    return Bar


def _check(file: HubFile, path: Path) -> None:
    """Large files are kept under their SHA-256, which the hub announced: what was downloaded must have it."""
    blob = path.resolve()
    if re.fullmatch("[0-9a-f]{64}", blob.name) and sha256_of(blob) != blob.name:
        found = sha256_of(blob)
        path.unlink()
        blob.unlink(missing_ok=True)
        raise DataError(
            f"{file.repo} sent other bytes for {file.name} than it announced: SHA-256 {found} instead of {blob.name}; "
            f"nothing was kept; try again, or {_way_out(file)}"
        )


def _is_of_the_hub(error: Exception) -> bool:
    """Whether it is about the network, the hub or the disk, and not a fault in a program.

    The library raises errors of its own, of its HTTP library (which changed between versions) and OSError; some of its
    versions, without a network, the RuntimeError of a connection that it has closed itself.
    """
    from huggingface_hub.errors import EntryNotFoundError

    expected = isinstance(error, (OSError, EntryNotFoundError, RuntimeError))
    return expected or type(error).__module__.split(".")[0] in (
        "httpx",
        "httpx2",
        "httpcore",
        "requests",
        "huggingface_hub",
    )


def _reason(error: Exception) -> str:
    """The first line of the first cause: the library wraps what happened in advice on its own settings."""
    while error.__cause__ is not None and isinstance(error.__cause__, Exception):
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _way_out(file: HubFile) -> str:
    folder = offline_dir() or cache_dir()
    return (
        f"put the file (revision {file.revision} of {file.repo}) at {folder / file.folder / file.name}, "
        f"or name a text file of your own, as in --data my.txt"
    )
