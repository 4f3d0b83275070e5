"""A disk that loses power: what of a program's file operations is there afterwards, in every way the rules allow.

The rules are POSIX's: the bytes of a file are safe after its fsync, the names in a folder after the folder's; what was
not synced may be there, partly there or not at all, whatever came later.
"""

import random
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from light_llm.atomic_io import Files, WriteFn


class Recorded(Files):
    """The real file system, and a list of what was done."""

    def __init__(self) -> None:
        self.done: list[tuple[Any, ...]] = []
        self.marks: list[tuple[int, int]] = []  # operations done when a step was known to be saved, and the step

    def write(self, path: Path, write_fn: WriteFn) -> str:
        sha256 = super().write(path, write_fn)
        self.done.append(("write", path.absolute(), path.read_bytes()))
        return sha256

    def sync(self, path: Path) -> None:
        super().sync(path)
        self.done.append(("sync", path.absolute()))

    def sync_folder(self, path: Path) -> None:
        super().sync_folder(path)
        self.done.append(("sync_folder", path.absolute()))

    def make_folder(self, path: Path) -> None:
        super().make_folder(path)
        self.done.append(("make_folder", path.absolute()))

    def rename(self, old: Path, new: Path) -> None:
        super().rename(old, new)
        self.done.append(("rename", old.absolute(), new.absolute()))

    def remove(self, path: Path) -> None:
        super().remove(path)
        self.done.append(("remove", path.absolute()))


@dataclass
class File:
    """Bytes as they are, and as they are on the disk."""

    data: bytes
    safe: bytes | None = None  # None: never synced


@dataclass
class Folder:
    """Names as they are, names that are on the disk, and what was done in between."""

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
    """The disk under `root` after some recorded operations. All renames are within a folder, as ours are."""

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
            if isinstance(file, File):  # the rows are appended by another way
                file.safe = file.data
        elif kind == "make_folder":
            parent.do("link", path.name, Folder())
        elif kind == "rename":
            parent.do("rename", path.name, more.name)
        elif kind == "remove":
            parent.do("unlink", path.name, None)

    def after_power_cut(self, target: Path, luck: random.Random, *, share: float) -> None:
        """Write what is left into `target`.

        Args:
            share: how much of what was not synced got to the disk all the same: 0 nothing, 1 all, else by luck.
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
            else:  # as long as it should be or shorter, down to nothing
                (target / name).write_bytes(node.data[: int(len(node.data) * min(share, luck.random()))])
