"""Files that are no UTF-8 text: what they are is named, with the way to a text, whatever they are called."""

import bz2
import gzip
import io
import lzma
import pickle
import sqlite3
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from safetensors.numpy import save

from light_llm.data.sources import find_source
from light_llm.errors import DataError

TEXT = "".join(f"{i} is a number\n" for i in range(2000))
PROSE = "“Yes,” she said – it’s late. "


def zipped(*names: str, first: str = "") -> bytes:
    """A zip archive. A `first` entry "mimetype" is stored as it is, as in e-books."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        if first:
            archive.writestr("mimetype", first, zipfile.ZIP_STORED)
        for name in names:
            archive.writestr(name, TEXT[:300])
    return file.getvalue()


def tarred() -> bytes:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w") as archive:
        archive.addfile(info := tarfile.TarInfo("a.txt"), io.BytesIO(bytes(info.size)))
    return file.getvalue()


def database() -> bytes:
    with sqlite3.connect("made.db") as connection:
        connection.execute("create table stories (text)")
    return Path("made.db").read_bytes()


def npz() -> bytes:
    file = io.BytesIO()
    np.savez(file, ids=np.arange(9))
    return file.getvalue()


def arrow(make: Callable[..., pa.ipc.RecordBatchStreamWriter]) -> bytes:
    table, sink = pa.table({"text": ["a"]}), pa.BufferOutputStream()
    with make(sink, table.schema) as writer:
        writer.write_table(table)
    return sink.getvalue().to_pybytes()


FILES: dict[str, tuple[Callable[[], bytes], str]] = {
    "zip": (lambda: zipped("a.txt"), "a zip archive; .*unzip my.txt -d texts"),
    "docx": (lambda: zipped("[Content_Types].xml", "_rels/.rels", "word/document.xml"), "a Word document"),
    "xlsx": (lambda: zipped("[Content_Types].xml", "xl/workbook.xml"), "an Excel workbook .*as CSV"),
    "epub": (lambda: zipped("OEBPS/a.xhtml", first="application/epub+zip"), "EPUB.* as plain text"),
    "odt": (lambda: zipped("a.xml", first="application/vnd.oasis.opendocument.text"), "a LibreOffice document"),
    "doc": (lambda: b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(500), "an old Word.* as plain text"),
    "rtf": (lambda: b"{\\rtf1\\ansi " + TEXT.encode(), "an RTF document"),
    "pdf": (lambda: b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n", "a PDF document.*pdftotext"),
    "png": (lambda: b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR", "a PNG image"),
    "jpeg": (lambda: b"\xff\xd8\xff\xe0\0\x10JFIF", "a JPEG image"),
    "sqlite": (database, "an SQLite database; .*sqlite3 -csv -header my.txt"),
    "bzip2": (lambda: bz2.compress(TEXT.encode()), "a bzip2 file; .*bunzip2 -k my.txt"),
    "xz": (lambda: lzma.compress(TEXT.encode()), "an xz file; .*xz -dk my.txt"),
    "zstd": (lambda: b"\x28\xb5\x2f\xfd\x24\x04", "a Zstandard file; .*zstd -d my.txt"),
    "7z": (lambda: b"7z\xbc\xaf\x27\x1c\0\4", "a 7z archive"),
    "tar": (tarred, "a tar archive; .*tar xf my.txt"),
    "tar.gz": (lambda: gzip.compress(tarred()), "a tar archive"),
    "gzip in gzip": (lambda: gzip.compress(gzip.compress(b"a")), "a gzip file inside a gzip file"),
    "gguf": (lambda: b"GGUF" + struct.pack("<IQQ", 3, 2, 5), "a model in a GGUF file"),
    "safetensors": (lambda: save({"w": np.zeros(4)}), "a model in a safetensors file"),
    "torch": (lambda: zipped("archive/data.pkl", "archive/data/0"), "a model of PyTorch"),
    "pickle": (lambda: pickle.dumps({"model": [1.0]}), "a pickle"),
    "npz": (npz, "NumPy arrays"),
    "arrow": (lambda: arrow(pa.ipc.new_file), "an Arrow file"),
    "arrow stream": (lambda: arrow(pa.ipc.new_stream), "an Arrow file; .*Dataset.to_parquet"),
    "zeros": (lambda: bytes(9000), "no text: its beginning is 4,096 zero bytes"),
    "a few zeros": (lambda: bytes(7), "no text: it is 7 zero bytes"),
    "binary data": (lambda: np.arange(70, 9000).astype("<i2").tobytes(), "byte 0x.. at offset .*binary data"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_of_other_formats_are_named(name: str) -> None:
    make, message = FILES[name]
    Path("my.txt").write_bytes(make())
    for errors in ("strict", *(["replace"] if name != "binary data" else [])):
        with pytest.raises(DataError, match=f"my.txt (is not plain text but|holds|is not UTF-8).*{message}"):
            find_source("my.txt", errors=errors)


def test_texts_that_begin_like_other_formats_are_read() -> None:
    for beginning in ("PAR1 is a mark", "BZh9 and more", "PK", "GGUF is a format", "%PD", "Rar!", "ARROW1", "{rtf"):
        Path("my.txt").write_text(beginning + " of a file.\n")
        assert "".join(filter(None, find_source("my.txt").read())) == beginning + " of a file.\n"


def test_gzip_is_read_under_any_name() -> None:
    plain = find_source(write("a.txt", TEXT.encode()))
    for name in ("b.txt", "c", "d.txt.gz"):
        assert find_source(write(name, gzip.compress(TEXT.encode()))).sha256 == plain.sha256


def write(name: str, data: bytes) -> str:
    Path(name).write_bytes(data)
    return name


@pytest.mark.parametrize(
    ("data", "advice"),
    [
        ((PROSE * 99).encode("windows-1252"), r"0x93 at offset 0 .*iconv -f WINDOWS-1252 .*errors='replace'"),
        ("déjà vu, naïve ".encode("latin-1") * 99, r"0xe9 at offset 1 .*iconv -f LATIN1 .*errors='replace'"),
        (("a " * 9 + "Жили-были дед да баба. ").encode("koi8-r") * 99, "above 0x7f.*KOI8-R.* iconv -f ENCODING"),
        ("从前有座山，山里有座庙。\n".encode("gbk") * 99, "above 0x7f, as in GBK"),
        ("從前有座山，山裡有座廟。\n".encode("big5") * 99, "above 0x7f, .*Big5"),
        ("むかしむかし、あるところに。\n".encode("shift-jis") * 99, "above 0x7f, .*Shift-JIS"),
        ("père, élève ".encode("mac-roman") * 9, "find out its encoding"),
        (("naïve “text” " * 9).encode() + b"caf\xe9 " + b"more" * 9, "before it is UTF-8, so correct it"),
    ],
    ids=["windows-1252", "latin1", "koi8-r", "gbk", "big5", "shift-jis", "mac-roman", "one byte"],
)
def test_the_advice_fits_the_encoding(data: bytes, advice: str) -> None:
    with pytest.raises(DataError, match=rf"my.txt is not UTF-8 text: byte .*{advice}") as error:
        find_source(write("my.txt", data))
    assert ("LATIN1" in str(error.value)) == ("LATIN1" in advice)
    write("lines.jsonl", b'{"text": "' + data.replace(b"\n", b"").replace(b'"', b"") + b'"}')
    with pytest.raises(DataError, match="lines.jsonl is not UTF-8 text: byte .* in line 1 "):
        find_source("lines.jsonl")


@pytest.mark.parametrize(
    ("encoding", "message"),
    [
        ("utf-16", "byte 0xff at offset 0 .*iconv -f UTF-16 "),
        ("utf-16-le", "byte-order mark.*iconv -f UTF-16LE "),
        ("utf-16-be", "byte-order mark.*iconv -f UTF-16BE "),
        ("utf-32", "byte 0xff at offset 0 .*iconv -f UTF-32 "),
        ("utf-32-le", "byte-order mark.*iconv -f UTF-32LE "),
        ("utf-32-be", "byte-order mark.*iconv -f UTF-32BE "),
    ],
)
@pytest.mark.parametrize("errors", ["strict", "replace"])
def test_wide_encodings_are_recognised(encoding: str, message: str, errors: str) -> None:
    texts = {"short.txt": "To be, or not to be", "quotes.txt": PROSE * 300, "wide.jsonl": '{"text": "To be"}\n'}
    if "32" in encoding:
        texts["zh.txt"] = "从前有座山，"
    for name, text in texts.items():
        with pytest.raises(DataError, match=f"{name} .*{message}"):
            find_source(write(name, text.encode(encoding)), errors=errors)
