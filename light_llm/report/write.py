"""`report.html` in the run folder: whole or as it was, also while the run goes on."""

from pathlib import Path

from ..atomic_io import Files, atomic_write
from .page import page_of
from .view import View, read_view

NAME = "report.html"


def write_report(folder: str | Path, files: Files | None = None, *, view: View | None = None) -> Path:
    """Read a run folder and write its page. Returns where it is.

    Args:
        view: the run, if it has been read already.

    Raises:
        ConfigError, CheckpointError: there is no run that can be read.
        OSError: it cannot be written; an older page is as it was.
    """
    content = page_of([view or read_view(folder)]).encode()
    path = Path(folder) / NAME
    atomic_write(path, content, files)
    return path
