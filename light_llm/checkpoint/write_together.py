"""Write several files of tensors at once, one on each rank, while the tensors are gathered in turn."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from queue import Queue
from threading import Thread
from typing import BinaryIO

from torch import Tensor

from ..atomic_io import Files
from .tensors import TensorWriter, as_bytes, header_of


def write_together(folder: Path, writers: Mapping[str, TensorWriter], own: str | None, disk: Files) -> str:
    """Write the file of this rank, and gather the tensors of all.

    All ranks take part in each gather, so the tensors of the files come in turn: while a rank writes one, the others
    get theirs. A rank holds at most three tensors: one that is written, one that waits for that, and the last gathered.

    Args:
        writers: of all files that are written at the same time, in the order of the ranks.
        own: the file of this rank; None if there are fewer files than ranks.

    Returns:
        The SHA-256 of the file of this rank; empty without one.

    Raises:
        OSError: this rank's file cannot be written; all tensors have been gathered.
    """
    background = _Background(folder / own, writers[own].tensors, disk) if own else None
    try:
        while waiting := {name: writer for name, writer in writers.items() if writer.waiting}:
            for name, writer in waiting.items():
                tensor = writer.next()
                if background and name == own:
                    background.put(tensor.detach().cpu())
                del tensor
    finally:
        sha256 = background.finish() if background else ""
    return sha256


class _Background:
    """Writes tensors in a thread. They are put in file order."""

    def __init__(self, path: Path, tensors: Mapping[str, Tensor], disk: Files) -> None:
        self.path, self.tensors, self.disk = path, tensors, disk
        self.sha256 = ""
        self.error: BaseException | None = None
        self.queue = Queue[Tensor | None](maxsize=1)
        self.put = self.queue.put  # waits until the tensor before is being written
        self.waiting = self._waiting()  # a second loop over it takes what the first has left
        self.thread = Thread(target=self._run, daemon=True)
        self.thread.start()

    def finish(self) -> str:
        """Wait for the thread. Returns the SHA-256 of the file; raises the error of its write."""
        self.queue.put(None)
        self.thread.join()
        if self.error is not None:
            raise self.error
        return self.sha256

    def _waiting(self) -> Iterator[Tensor]:
        while (tensor := self.queue.get()) is not None:
            yield tensor

    def _run(self) -> None:
        try:
            self.sha256 = self.disk.write(self.path, self._write)
        except BaseException as error:
            self.error = error
            # The gathers continue, and `put` must not wait for a write that has failed.
            for _ in self.waiting:
                pass

    def _write(self, file: BinaryIO) -> None:
        file.write(header_of(self.tensors))
        for tensor in self.waiting:
            file.write(as_bytes(tensor))
