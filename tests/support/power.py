"""Simulate a power cut: the states of a disk that POSIX allows after a list of file operations.

The bytes of a file are safe after its fsync, the names in a folder after the folder's fsync. Anything unsynced may be
there, partly there or missing, independently of later operations.
"""

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from light_llm.atomic_io import Files, WriteFn


class Recorded(Files):
    """The real file system, with a list of the operations."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []

    def write(self, path: Path, write_fn: WriteFn) -> str:
        sha256 = super().write(path, write_fn)
        self.done.append(("write", path.absolute(), path.read_bytes()))
        return sha256

    def __getattribute__(self, name: str) -> Any:
        operation = super().__getattribute__(name)
        if name not in ("sync", "sync_folder", "make_folder", "rename", "remove"):
            return operation

        def record(*paths: Path) -> None:
            operation(*paths)
            self.done.append((name, *(path.absolute() for path in paths)))

        return record


@dataclass
class File:
    """The bytes of a file in the page cache, and on the disk."""

    data: bytes
    safe: bytes | None = None  # None: never synced


@dataclass
class Folder:
    """The names in a folder, the names on the disk, and the operations since its last sync."""

    names: dict[str, "File | Folder"] = field(default_factory=dict)
    safe: dict[str, "File | Folder"] = field(default_factory=dict)
    pending: list[tuple[Any, ...]] = field(default_factory=list)

    def do(self, *operation: Any) -> None:
        _apply(self.names, operation)
        self.pending.append(operation)


def _apply(names: dict[str, Any], operation: tuple[Any, ...]) -> None:
    kind, name, more = operation
    if kind == "link":
        names[name] = more
    elif kind == "unlink":
        names.pop(name, None)
    elif name in names:
        names[more] = names.pop(name)


class Disk:
    """The disk under `root` after recorded operations. Renames are within a folder, as all of ours are."""

    def __init__(self, root: Path, done: list[tuple[Any, ...]]) -> None:
        self.root, self.top = root.absolute(), Folder()
        for operation in done:
            self._do(*operation)

    def _folder(self, path: Path) -> Folder:
        node: Any = self.top
        for part in path.relative_to(self.root).parts:
            node = node.names[part]
        return node  # type: ignore[no-any-return]

    def _do(self, kind: str, path: Path, more: Any = None) -> None:
        if not path.is_relative_to(self.root):
            return
        if kind == "sync_folder":
            folder = self._folder(path)
            folder.safe, folder.pending = dict(folder.names), []
            return
        parent = self._folder(path.parent)
        if kind == "write":
            parent.do("link", path.name, File(more))
        elif kind == "sync":
            file = parent.names.get(path.name)
            # metrics.jsonl is appended to without `Files`, so it is unknown here.
            if isinstance(file, File):
                file.safe = file.data
        elif kind == "make_folder":
            parent.do("link", path.name, Folder())
        elif kind == "rename":
            parent.do("rename", path.name, more.name)
        elif kind == "remove":
            parent.do("unlink", path.name, None)

    def after_power_cut(self, target: Path, luck: random.Random, *, share: float) -> None:
        """Write a possible state after the cut into `target`.

        Args:
            share: probability that an unsynced operation reached the disk: 0 none, 1 all.
        """
        shutil.rmtree(target, ignore_errors=True)
        self._write(self.top, target, luck, share)

    def _write(self, folder: Folder, target: Path, luck: random.Random, share: float) -> None:
        target.mkdir()
        names = dict(folder.safe)
        for operation in folder.pending:
            if luck.random() < share:
                _apply(names, operation)
        for name, node in names.items():
            if isinstance(node, Folder):
                self._write(node, target / name, luck, share)
            elif node.safe is not None:
                (target / name).write_bytes(node.safe)
            else:  # of full length or shorter, down to empty
                (target / name).write_bytes(node.data[: int(len(node.data) * min(share, luck.random()))])
