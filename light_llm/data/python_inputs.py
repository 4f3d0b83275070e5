"""Accept what Python has for a text or a tokenizer: lists of documents, and tokenizers of other libraries."""

import json
import os
from collections.abc import Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

from ..atomic_io import write_by_digest
from ..config import as_plain, repr_short
from ..errors import ConfigError, DataError
from .download import cache_errors
from .piped_text import STDIN, documents_folder
from .sources import is_built_in
from .text_files import NO_FIELD
from .tokenizer_interface import Tokenizer
from .tokenizers import tokenizer_from_dict

MAX_NAME_LENGTH = 1000  # characters; a longer `data` is a text and no path
TAKEN = "the name of a source, the path of a text, or a list of documents"


def find_data(data: Any, text_field: str, *, argument: str = "data") -> tuple[str, int | None]:
    """Return `data` as a name or path; documents are saved in the cache first.

    Args:
        data: a name or path, or an iterable of texts, or of records with the text in `text_field`, such as a
            `datasets.Dataset`.
        argument: its name in messages.

    Returns:
        The name or path, and the number of documents that were saved, None if none were.

    Raises:
        DataError: anything else, or no documents.
    """
    name = as_plain(data)
    if isinstance(name, str):
        # A Path is a path, also if a built-in text has that name.
        is_name = is_built_in(name) or name == STDIN
        prefix = "./" if is_name and isinstance(data, os.PathLike) else ""
        return prefix + _check_name(name, argument), None
    if isinstance(data, (bytes, bytearray)):
        raise DataError(
            f"{argument} is bytes: {repr_short(data)}; write them to a file and give its path, or decode them"
        )
    if hasattr(data, "read"):
        path = getattr(data, "name", None)
        raise DataError(
            f"{argument} is an open file; give its path{f', {path!r}' if isinstance(path, str) else ''} instead"
        )
    # The rows of a table of pandas are not what iterating it gives.
    if hasattr(data, "columns") and hasattr(data, "iloc"):
        raise DataError(f"{argument} is a table; give the column that holds the texts, as in table[{text_field!r}]")
    if isinstance(data, (Mapping, set, frozenset)) or not isinstance(data, Iterable):
        raise DataError(
            f"{argument}={repr_short(data)} has the type {type(data).__name__} and cannot be used; give {TAKEN}"
        )
    return save_documents(data, text_field)


def _check_name(name: str, argument: str) -> str:
    """Return the name. Raises DataError if it is empty, or a text itself."""
    if not name.strip():
        raise DataError(f"{argument}={name!r} names nothing; give {TAKEN}")
    if "\n" in name or len(name) > MAX_NAME_LENGTH:
        raise DataError(
            f"{argument} is a text of {len(name):,} characters, {repr_short(name)}; write it to a file and give its "
            "path, or give a list of texts: prepare_dataset([text])"
        )
    return name


def save_documents(documents: Iterable[Any], text_field: str) -> tuple[str, int]:
    """Save documents as JSON Lines at `<cache>/texts/<sha256>.jsonl`; return that path and their number.

    A text is read more than once, and a resumed run must find it again.

    Raises:
        DataError: no documents, something that is neither a text nor a record with one, or paths of files.
    """
    if text_field == NO_FIELD:
        raise DataError(
            f"{{--text-field {NO_FIELD}}} reads a file as plain text, and a list of documents is none; leave it out"
        )
    items = iter(documents)
    first = next(items, None)
    if first is None:
        raise DataError(f"an empty {type(documents).__name__} has no documents; give {TAKEN}")
    if isinstance(first, os.PathLike) or (isinstance(first, str) and _is_file(first)):
        raise DataError(
            f"data is a list of paths: {repr_short(str(first))}, ...; put the files into a folder and give its path, "
            "or read them: [Path(p).read_text() for p in paths]"
        )
    count = 0

    def write(file: BinaryIO) -> None:
        nonlocal count
        for count, item in enumerate(chain([first], items), 1):
            file.write(json.dumps({text_field: _document(item, text_field, count)}).encode() + b"\n")

    folder = documents_folder()
    with cache_errors("the list of documents", folder):
        path = write_by_digest(folder, ".jsonl", write)
    return str(path), count


def _is_file(text: str) -> bool:
    try:
        return Path(text).is_file()
    except (OSError, ValueError):  # too long for a name, or with a zero byte
        return False


def _document(item: Any, text_field: str, number: int) -> str:
    text = item.get(text_field) if isinstance(item, Mapping) else item
    if isinstance(text, str):
        return text
    if isinstance(item, Mapping):
        found = ", ".join(map(str, item))
        raise DataError(
            f"document {number} has no text in field {text_field!r}; it has the fields {found}: "
            "name the one that holds the text with {--text-field}"
        )
    raise DataError(f"document {number} is {repr_short(item)} ({type(item).__name__}) and not a text (str)")


def own_tokenizer(tokenizer: Any) -> Tokenizer:
    """Return a tokenizer object as one of ours. Raises ConfigError for a name, and as `find_tokenizer` does."""
    found = find_tokenizer(tokenizer)
    if found is None or isinstance(found, str):
        raise ConfigError(
            f"tokenizer={repr_short(tokenizer)} is not a tokenizer object; give the one that prepare_dataset or "
            "light_llm.load returns"
        )
    return found


def find_tokenizer(tokenizer: Any) -> str | Tokenizer | None:
    """Return a tokenizer as a name or path, or as one of ours.

    Args:
        tokenizer: also accepted are a `tokenizers.Tokenizer`, a fast tokenizer of transformers, tiktoken's encoding of
            GPT-2, the dict of a `tokenizer.json` or of `to_dict`.

    Raises:
        ConfigError: anything else.
    """
    spec = as_plain(tokenizer)
    if spec is None or isinstance(spec, str):
        return spec
    if all(hasattr(tokenizer, name) for name in ("encode_batch", "token_bytes", "to_dict", "separator")):
        return tokenizer
    what = f"tokenizer={repr_short(tokenizer)}"
    if isinstance(tokenizer, Mapping):
        if "kind" in tokenizer:
            return tokenizer_from_dict(dict(tokenizer))
        return _from_json(json.dumps(tokenizer), "the dict given as tokenizer")
    backend = getattr(tokenizer, "backend_tokenizer", tokenizer)  # of a tokenizer of transformers
    if hasattr(backend, "to_str") and hasattr(backend, "get_vocab"):
        eos = getattr(tokenizer, "eos_token_id", None)
        where = f"the {type(tokenizer).__name__} given as tokenizer"
        return _from_json(backend.to_str(), where, ends=[eos] if type(eos) is int else [])
    if hasattr(tokenizer, "encode_ordinary") and getattr(tokenizer, "name", "") == "gpt2":
        return "gpt2"
    raise ConfigError(
        f"{what} cannot be used; tokenizer is gpt2, bpe, bpe:N, char, byte, the path of a tokenizer.json, "
        "or a tokenizer of light-llm or of the tokenizers library"
    )


def _from_json(text: str, where: str, ends: Sequence[int] = ()) -> Tokenizer:
    """Return the tokenizer of the text of a `tokenizer.json`. Raises ConfigError."""
    from .tokenizer_file import read_tokenizer_json  # here, because it imports the tokenizers library

    return read_tokenizer_json(text.encode(), where, ends=ends)
