"""Inspect a file of `torch.save` before torch loads it: an uncompressed zip with a pickle of plain values and tensors.

`torch.load(weights_only=True)` runs no code, but it builds whatever the pickle describes: a value shared a million
times, data compressed a thousandfold, a tensor of ten gigabytes. This module reads the pickle's instructions without
executing them, so nothing is built from a hostile file.
"""

import io
import os
import pickletools
import re
import struct
import sys
import zipfile
from typing import BinaryIO, NamedTuple

MAX_READ = 8 << 20  # bytes of the zip's directory, and of the pickle: a hundred times those of our models
MAX_INSTRUCTIONS = 1 << 19  # of the pickle: enough for a vocabulary of 250,000 tokens
_OPCODES = (
    "PROTO STOP MARK NONE NEWTRUE NEWFALSE BININT BININT1 BININT2 LONG1 BINFLOAT BINUNICODE BINPUT LONG_BINPUT BINGET "
    "LONG_BINGET EMPTY_LIST APPEND APPENDS EMPTY_DICT SETITEM SETITEMS EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 GLOBAL "
    "REDUCE BINPERSID"
)
ALLOWED_OPCODES = frozenset(_OPCODES.split())
ALLOWED_GLOBALS = frozenset(
    # torch.save stores a tensor's empty list of hooks as an OrderedDict.
    ["torch._utils _rebuild_tensor_v2", "collections OrderedDict"]
    + [f"torch {kind}Storage" for kind in ("Float", "Half", "BFloat16", "Double", "Byte")]
)
_RECORD = re.compile(r"([\w -]+)/((?:\.data/)?[.\w]+|data/\d+)", re.ASCII)


class UnsafeModelFile(ValueError):
    """The file is intact but contains something that we refuse to load."""


class Record(NamedTuple):
    """The place of a tensor in the file."""

    start: int
    size: int  # bytes


def inspect_archive(opened: BinaryIO) -> list[Record]:
    """Check a file of `torch.save` without building anything.

    Returns:
        The records of its tensors, in the order in which the pickle has the tensors: `torch.save` numbers them so.

    Raises:
        UnsafeModelFile: it holds more than plain values and tensors, or more of them than a model has.
        ValueError: it is damaged, truncated, or no file of `torch.save`.
    """
    try:
        with BoundedReader(opened.fileno(), closefd=False) as file, zipfile.ZipFile(file) as archive:
            records = archive.infolist()
            names = _check_records(records, os.fstat(opened.fileno()).st_size)
            _check_pickle(archive.read(records[names.index("data.pkl")]))
            if "byteorder" in names and archive.read(records[names.index("byteorder")]) != sys.byteorder.encode():
                raise UnsafeModelFile("its numbers are in another byte order")
            storages = {int(name[5:]): r for r, name in zip(records, names, strict=True) if name.startswith("data/")}
            if len(storages) != sum(name.startswith("data/") for name in names):
                raise UnsafeModelFile("its records are not those of a model")
            return [Record(_start(r, file), r.file_size) for _, r in sorted(storages.items())]
    except (zipfile.BadZipFile, OSError, RuntimeError, EOFError) as error:
        # One flipped byte in a zip directory gives any of these: no zip, an impossible offset, "encrypted", "newer".
        raise ValueError(str(error)) from None


class BoundedReader(io.FileIO):
    """A file that refuses large reads: zipfile reads as much as the file's own directory claims to have."""

    def read(self, size: int | None = -1) -> bytes:
        if size is not None and size > MAX_READ:
            raise UnsafeModelFile(f"a part of it is {size:,} bytes")
        return super().read(-1 if size is None else size) or b""


def _check_records(records: list[zipfile.ZipInfo], size: int) -> list[str]:
    """Return the names of the records below their common folder. Raises UnsafeModelFile."""
    # A compressed record could expand to any size.
    if any(r.compress_type != zipfile.ZIP_STORED for r in records) or sum(r.file_size for r in records) > size:
        raise UnsafeModelFile("its records are compressed or too large")
    matches = [_RECORD.fullmatch(r.orig_filename) for r in records]
    # torch finds records without regard to case, so DATA.PKL beside data.pkl could be loaded in its place.
    names = [match[2].lower() for match in matches if match]
    folders = {match[1] for match in matches if match}
    if len(names) != len(records) or len(folders) != 1 or len({*names}) != len(names) or "data.pkl" not in names:
        raise UnsafeModelFile("its records are not those of a model")
    return names


def _start(record: zipfile.ZipInfo, file: BinaryIO) -> int:
    """Return where the bytes of a record begin: after its own header, which has 30 bytes and two texts."""
    file.seek(record.header_offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != b"PK\3\4":
        raise zipfile.BadZipFile("a record has no header")
    return record.header_offset + 30 + sum(struct.unpack("<HH", header[26:]))


def _check_pickle(data: bytes) -> None:
    """Refuse anything but plain values and tensors, each used once, so that the result is no larger than the file.

    Raises:
        UnsafeModelFile: another instruction, or a second reference to a value other than a short string.
    """
    memo: dict[object, tuple[str, int]] = {}  # the instruction that made each memoized value, and its length
    last, repeated = ("", 0), 0
    for count, (instruction, argument, _) in enumerate(pickletools.genops(data)):
        name = instruction.name
        if name not in ALLOWED_OPCODES or (name == "GLOBAL" and argument not in ALLOWED_GLOBALS):
            raise UnsafeModelFile(f"its pickle has {name} {str(argument or '')[:80]}".rstrip())
        if name in ("BINPUT", "LONG_BINPUT"):
            memo[argument] = last
        elif name in ("BINGET", "LONG_BINGET"):
            kind, length = memo.get(argument, ("", 0))
            repeated += length
            if kind not in ("GLOBAL", "BINUNICODE"):
                raise UnsafeModelFile("its pickle refers to a value twice")
        if count == MAX_INSTRUCTIONS or repeated > MAX_READ:
            raise UnsafeModelFile("its pickle is too long")
        last = name, len(argument) if isinstance(argument, str) else 0
