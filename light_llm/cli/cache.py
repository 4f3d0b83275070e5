"""`light-llm cache`: list what is cached and how large it is, and delete it by kind."""

import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from rich.table import Column, Table
from rich.text import Text
from tyro.conf import arg

from ..errors import ConfigError, did_you_mean
from ..text_format import format_bytes
from .args import PositionalArgs, Words, parse, words_arg
from .cache_info import KINDS, CacheEntry, cache_entries, delete, locked_cache, other_bytes
from .output import new_table, number_column, print_rich
from .runs import local_date

EXAMPLE = "light-llm cache clear ids"
_POSITIONAL = PositionalArgs("word", EXAMPLE)
REPLACEABLE = tuple(kind for kind, facts in KINDS.items() if facts.replaceable)


@dataclass(frozen=True)
class CacheFlags:
    """The flags of `cache`."""

    words: Annotated[
        Words,
        words_arg("[clear [KIND ...]]", f"delete these kinds: {', '.join(KINDS)}", "(default: list them)"),
        _POSITIONAL,
    ] = ()
    yes: Annotated[bool, arg(help="delete without asking")] = False
    json: Annotated[bool, arg(help="print one JSON object")] = False


def command(argv: Sequence[str]) -> int:
    """List the cache, or delete kinds of files from it. Returns 0, and 2 if a file could not be deleted."""
    about = (
        "List what light-llm has cached, where, and how large it is. With clear, delete it: what is needed again is "
        "made or downloaded again. Without a KIND, clear keeps "
        f"{_and(k for k in KINDS if k not in REPLACEABLE)}, which cannot be made again. Files in use, and files of "
        "other programs, are never deleted."
    )
    flags, given = parse(CacheFlags, argv, prog="light-llm cache", about=about)
    if not flags.words:
        if "yes" in given:
            raise ConfigError(f"--yes belongs to clear, as in {EXAMPLE} --yes")
        _list(as_json=flags.json)
        return 0
    verb, *kinds = flags.words
    if verb != "clear":
        raise ConfigError(f"cache cannot do {verb!r}{did_you_mean(verb, ['clear'])} It lists, or clears: {EXAMPLE}")
    for kind in kinds:
        if kind not in KINDS:
            raise ConfigError(
                f"nothing in the cache is called {kind!r}{did_you_mean(kind, KINDS)} The kinds are {', '.join(KINDS)}"
            )
    return _clear(tuple(dict.fromkeys(kinds)) or REPLACEABLE, yes=flags.yes, as_json=flags.json)


def _list(*, as_json: bool) -> None:
    """Print the kinds with their sizes."""
    from ..runtime import cache_dir

    folder, entries = cache_dir(), cache_entries()
    others = other_bytes(entries)
    total = others + sum(entry.bytes for entry in entries)
    if as_json:
        kinds = {kind: _facts(kind, entries) for kind in KINDS}
        print(json.dumps({"folder": str(folder), "bytes": total, "kinds": kinds, "other_bytes": others}, indent=1))
        return
    print_rich(Text.assemble("The cache is ", (str(folder), "bold"), f": {format_bytes(total)}."))
    if not total:
        return
    print_rich("", _table(entries, others), "", Text(f"Delete a kind: {EXAMPLE}"))


def _table(entries: Sequence[CacheEntry], others: int) -> Table:
    numbers = (number_column("files"), number_column("size"))
    table = new_table("kind", *numbers, Column("last used", no_wrap=True), "what it is")
    for kind, facts in KINDS.items():
        found = [entry for entry in entries if entry.kind == kind]
        used = max((entry.used for entry in found), default=None)
        table.add_row(
            Text(kind, style="bold"),
            f"{sum(entry.files for entry in found):,}",
            format_bytes(sum(entry.bytes for entry in found)),
            "-" if used is None else local_date(datetime.fromtimestamp(used).astimezone()),
            facts.about,
        )
    if others:
        table.add_row("other", "", format_bytes(others), "", "not written by light-llm, and never deleted by it")
    return table


def _facts(kind: str, entries: Sequence[CacheEntry]) -> dict[str, Any]:
    found = [entry for entry in entries if entry.kind == kind]
    used = max((entry.used for entry in found), default=None)
    return {
        "about": KINDS[kind].about,
        "files": sum(entry.files for entry in found),
        "bytes": sum(entry.bytes for entry in found),
        "last_used": None if used is None else datetime.fromtimestamp(used).astimezone().isoformat(timespec="seconds"),
        "paths": [str(entry.path) for entry in found],
    }


def _clear(kinds: Sequence[str], *, yes: bool, as_json: bool) -> int:
    """Delete the files of some kinds, after a question on a terminal."""
    entries = [entry for entry in cache_entries() if entry.kind in kinds]
    if entries and not yes:
        _ask(entries)
    deleted, in_use, failed = list[CacheEntry](), list[CacheEntry](), dict[str, str]()
    with locked_cache():
        for entry in entries:
            try:
                (deleted if delete(entry) else in_use).append(entry)
            except OSError as error:
                failed[str(entry.path)] = error.strerror or str(error)
    if as_json:
        result = {
            "deleted": [str(entry.path) for entry in deleted],
            "bytes": sum(entry.bytes for entry in deleted),
            "in_use": [str(entry.path) for entry in in_use],
            "failed": failed,
        }
        print(json.dumps(result, indent=1))
        return 2 if failed else 0
    if not entries:
        print(f"The cache has no {_or(kinds)}.")
    if deleted:
        print(f"Deleted {_summary(deleted)}.")
    if in_use:
        print(f"Not deleted, because a process uses it: {_summary(in_use)}.")
    for path, problem in failed.items():
        print(f"Not deleted: {path}: {problem}")
    return 2 if failed else 0


def _ask(entries: Sequence[CacheEntry]) -> None:
    """Ask on a terminal. Raises ConfigError for another answer than yes, and without a terminal."""
    if not (sys.stdin and sys.stdin.isatty() and sys.stdout.isatty()):
        raise ConfigError(
            f"cache clear would delete {_summary(entries)}; add --yes, because without a terminal it cannot ask"
        )
    try:
        answer = input(f"Delete {_summary(entries)}? [y/N] ")
    except EOFError:
        answer = ""
    if answer.strip().lower() not in ("y", "yes"):
        raise ConfigError("nothing was deleted")


def _summary(entries: Sequence[CacheEntry]) -> str:
    """Return "texts, ids (12.3 MB)"."""
    kinds = dict.fromkeys(entry.kind for entry in entries)
    return f"{_and(kinds)} ({format_bytes(sum(entry.bytes for entry in entries))})"


def _and(words: Any) -> str:
    *first, last = words
    return f"{', '.join(first)} and {last}" if first else str(last)


def _or(words: Any) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}" if first else str(last)
