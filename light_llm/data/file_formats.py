"""Recognize files that are not text by their first bytes: archives, documents, images, databases, models."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

START_BYTES = 4096  # of a file, enough to recognize it
GZIP = b"\x1f\x8b"
# The first page of a Parquet file follows its mark, and begins with this byte. "PAR1" alone could begin a text.
PARQUET = b"PAR1\x15"

_SAVE = "save it as plain text (UTF-8) and name that file"
_UNPACK = "unpack it, and name the folder of its texts"
_NO_TEXT = "name a text file"


@dataclass(frozen=True)
class FileFormat:
    """A format of files that are no plain text."""

    name: str  # with its article: "a PDF document"
    advice: str  # how to get the text, as an imperative


# First bytes. Where they are letters only, they have to be unlikely as the beginning of a text.
_BEGINNINGS = {
    b"%PDF-": FileFormat("a PDF document", f"{_SAVE}, for example with pdftotext"),
    b"\xd0\xcf\x11\xe0": FileFormat("an old Word, Excel or Office document", _SAVE),
    b"{\\rtf": FileFormat("an RTF document", _SAVE),
    b"\x89PNG\r\n": FileFormat("a PNG image", _NO_TEXT),
    b"\xff\xd8\xff": FileFormat("a JPEG image", _NO_TEXT),
    b"SQLite format 3\0": FileFormat(
        "an SQLite database", "export its text, for example with: sqlite3 -csv -header FILE 'select ...' > text.csv"
    ),
    b"7z\xbc\xaf\x27\x1c": FileFormat("a 7z archive", _UNPACK),
    b"\xfd7zXZ\0": FileFormat("an xz file", "unpack it first: xz -dk FILE"),
    b"\x28\xb5\x2f\xfd": FileFormat("a Zstandard file", "unpack it first: zstd -d FILE"),
    GZIP: FileFormat("a gzip file inside a gzip file", "unpack it first: gunzip FILE"),
    PARQUET: FileFormat("a Parquet file", "name it with the ending .parquet"),
    b"ARROW1\0\0": FileFormat("an Arrow file", "write it as Parquet, as Dataset.to_parquet does"),
    b"\xff\xff\xff\xff": FileFormat("an Arrow file", "write it as Parquet, as Dataset.to_parquet does"),
    b"\x89HDF\r\n": FileFormat("an HDF5 file", _NO_TEXT),
    b"\x93NUMPY": FileFormat("a NumPy array", "name the text that it was made from"),
    b"\x7fELF": FileFormat("a program", _NO_TEXT),
    **{
        b"GGUF" + bytes([version, 0, 0, 0]): FileFormat("a model in a GGUF file", "name the text to train on")
        for version in (1, 2, 3)
    },
}
# The protocol from 2 to 5, then the opcode of a frame, a number, a container, a name or a text.
_PICKLE_START = re.compile(rb"\x80[\x02-\x05][\x95\x8aK}\])(cX]")
_PICKLE = FileFormat("a pickle, such as a model of PyTorch", "name the text to train on")
_SAFETENSORS = FileFormat("a model in a safetensors file", "name the text to train on")
# What stands in the first entries of a zip archive.
_ZIP_ENTRIES = {
    b"mimetypeapplication/epub+zip": FileFormat("an EPUB e-book (a zip archive)", f"{_SAVE}, for example with pandoc"),
    b"application/vnd.oasis.opendocument": FileFormat("a LibreOffice document (a zip archive)", _SAVE),
    b"word/": FileFormat("a Word document (a zip archive)", _SAVE),
    b"xl/": FileFormat("an Excel workbook (a zip archive)", "save it as CSV and name that file"),
    b"ppt/": FileFormat("a PowerPoint document (a zip archive)", _SAVE),
    b"[Content_Types].xml": FileFormat("a Word, Excel or PowerPoint document (a zip archive)", _SAVE),
    b"data.pkl": FileFormat("a model of PyTorch (a zip archive)", "name the text to train on"),
    b".npy": FileFormat("NumPy arrays (a zip archive)", "name the text that they were made from"),
}
_ZIP = FileFormat("a zip archive", f"{_UNPACK}: unzip FILE -d texts")
_TAR = FileFormat("a tar archive", f"{_UNPACK}: tar xf FILE")
_BZIP2 = FileFormat("a bzip2 file", "unpack it first: bunzip2 -k FILE")


def format_of(start: bytes) -> FileFormat | None:
    """Return the format of a file with these first bytes (`START_BYTES` of them); None: it may be a text.

    >>> format_of(b"%PDF-1.7").name, format_of(b"PAR1 is a mark")
    ('a PDF document', None)
    """
    return next(_formats(start), None)


def _formats(start: bytes) -> Iterator[FileFormat]:
    yield from (found for mark, found in _BEGINNINGS.items() if start.startswith(mark))
    if start.startswith(b"PK\x03\x04"):
        yield from (found for mark, found in _ZIP_ENTRIES.items() if mark in start)
        yield _ZIP
    # A digit for the block size, then pi.
    if start[:3] == b"BZh" and start[4:10] == b"1AY&SY":
        yield _BZIP2
    if start[257:262] == b"ustar":
        yield _TAR
    if _PICKLE_START.match(start):
        yield _PICKLE
    # The size of a JSON header in eight bytes, then that header.
    if start[8:10] == b'{"' and start[4:8] == bytes(4):
        yield _SAFETENSORS
