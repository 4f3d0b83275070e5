"""What a file may hold before torch is given it: a plain zip, and in it a pickle of plain values and tensors.

`torch.load(weights_only=True)` runs no code, but it builds what it is told to: what is shared a million times, packed a
thousandfold or said to be ten gigabytes. Here the pickle is only read, instruction by instruction; nothing is built.
"""

import io
import os
import pickletools
import re
import zipfile
from typing import BinaryIO

MOST_READ = 8 << 20  # bytes of the zip's directory, and of the pickle: a hundred times what a model of ours has
MOST_INSTRUCTIONS = 1 << 19  # of the pickle: a vocabulary of 250,000 pieces
PLAIN = (
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE BINPUT LONG_BINPUT BINGET "
    "LONG_BINGET EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 GLOBAL "
    "REDUCE BINPERSID"
)
TENSORS = frozenset(
    ["torch._utils _rebuild_tensor_v2", "collections OrderedDict"]  # the latter is a tensor's empty list of hooks
    + [f"torch {kind}Storage" for kind in ("Float", "Half", "BFloat16", "Double")]
)
_RECORD = re.compile(r"([\w -]+)/((?:\.data/)?[.\w]+|data/\d+)", re.ASCII)


class UnsafeModelFile(ValueError):
    """A sound file that holds what a model file of ours does not."""


def inspect_archive(opened: BinaryIO) -> list[int]:
    """Look at a file of `torch.save` without building anything: the bytes of each of its storages, sorted.

    Raises:
        NotPlain: more than plain values and tensors, or more of it than a model has.
        ValueError: damaged, cut, or no such file at all.
    """
    try:
        with BoundedReader(opened.fileno(), closefd=False) as file, zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            names = _check_records(records, os.fstat(opened.fileno()).st_size)
            _check_pickle(archive.read(records[names.index("data.pkl")]))
            return sorted(r.file_size for r, name in zip(records, names, strict=True) if name.startswith("data/"))
    except (zipfile.BadZipFile, OSError, RuntimeError, EOFError) as error:
        # What one flipped byte makes of a zip directory: no zip, an impossible offset, "encrypted", "a newer version".
        raise ValueError(str(error)) from None


class BoundedReader(io.FileIO):
    """A file that refuses to be read in large parts: a directory says itself how large it is."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > MOST_READ:
            raise UnsafeModelFile(f"a part of it is {size:,} bytes")
        return super().read(-1 if size is None else size) or b""


def _check_records(records: list[zipfile.ZipInfo], size: int) -> list[str]:
    """The names of the records below their common folder. Raises NotPlain."""
    if any(r.compress_type != zipfile.ZIP_STORED for r in records) or sum(r.file_size for r in records) > size:
        raise UnsafeModelFile("its records are packed")  # and could be unpacked to any size
    found = [_RECORD.fullmatch(r.orig_filename) for r in records]
    names = [match[2].lower() for match in found if match]
    folders = {match[1] for match in found if match}
    if len(names) != len(records) or len(folders) != 1 or len({*names}) != len(names) or "data.pkl" not in names:
        raise UnsafeModelFile("its records are not a model's")
    return names


def _check_pickle(data: bytes) -> None:
    """Refuse anything but plain values and tensors, each there once, so that what is built is as small as the file.

    Raises:
        NotPlain: it holds something else, or refers to a value twice that is no short text.
    """
    allowed = frozenset(PLAIN.split())
    memo: dict[object, tuple[str, int]] = {}  # what was put there, and its length
    last, repeated = ("", 0), 0
    for count, (instruction, argument, _) in enumerate(pickletools.genops(data)):
        name = instruction.name
        if name not in allowed or (name == "GLOBAL" and argument not in TENSORS):
            raise UnsafeModelFile(f"its pickle has {name} {str(argument or '')[:80]}".rstrip())
        if name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = last
        elif name in ("BINGET", "LONG_BINGET"):
            kind, length = memo.get(argument, ("", 0))
            repeated += length
            if kind not in ("GLOBAL", "BINUNICODE"):
                raise UnsafeModelFile("its pickle refers to a value twice")
        if count == MOST_INSTRUCTIONS or repeated > MOST_READ:
            raise UnsafeModelFile("its pickle is too long")
        last = name, len(argument) if isinstance(argument, str) else 0
