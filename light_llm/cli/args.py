"""Flags, and words without a flag, from a frozen dataclass, by tyro; and the set of those a user really gave."""

import os
import typing
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, TypeVar

import tyro

from ..errors import ConfigError, did_you_mean

Flags = TypeVar("Flags")

# Flags of earlier versions, with what to use instead.
REMOVED_FLAGS = {
    "--control": "press Ctrl-C where the run was started (it saves, then stops), or send it SIGUSR1 to save only; "
    "continue a stopped run with --resume",
}


@dataclass(frozen=True)
class Words:
    """Marks the field, a tuple of text, that takes the words without a flag: `light-llm compare A B`.

    The field is annotated `Annotated[Positional[tuple[str, ...]], arg(...), Words(...)]`.
    """

    what: str  # one of them, in an error: "run folder"
    example: str  # a command line that is right
    least: int = 0
    most: int | None = None


def parse(kind: type[Flags], argv: Sequence[str], *, prog: str, about: str) -> tuple[Flags, set[str]]:
    """Read the flags of a verb.

    Returns:
        The values, defaults filled in, and the names of the flags that were given.

    Raises:
        ConfigError: a flag that does not exist, with the nearest one that does; too few or too many words.
        SystemExit: help was asked for (0), or a value is not of its flag's type (2, said by tyro).
    """
    words, given = _joined(kind, argv)
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.ConsolidateSubcommandArgs)
    values = tyro.cli(kind, prog=prog, description=about, args=words, config=config)
    return values, given


def parse_mode(
    kind: type[Flags], argv: Sequence[str], *, verb: str, about: str, no_use: Mapping[str, Collection[str]]
) -> tuple[str, Flags, set[str]]:
    """Read a verb whose first word says what to do: the word, and what `parse` returns.

    Args:
        no_use: for each word the flags that have no effect on it.

    Raises:
        ConfigError: no such word, or a flag without effect; and what `parse` raises.
    """
    modes = list(no_use)
    prog = f"light-llm {verb} {{{','.join(modes)}}}"
    if not argv or argv[0].startswith("-"):
        if not any(word in ("-h", "--help") for word in argv):
            listed = f"{', '.join(modes[:-1])} or {modes[-1]}"
            raise ConfigError(f"{verb} needs to know what to do: {listed}, as in: {verb} {modes[0]}")
        argv = [modes[0], "--help"]
    mode, rest = argv[0], argv[1:]
    if mode not in modes:
        raise ConfigError(f"{verb} cannot do {mode!r}{did_you_mean(mode, modes)} It can do {', '.join(modes)}")
    flags, given = parse(kind, rest, prog=prog, about=about)
    for name in sorted(given.intersection(no_use[mode])):
        raise ConfigError(f"--{name.replace('_', '-')} has no effect on {mode}; leave it out")
    return mode, flags, given


def _joined(kind: Any, argv: Sequence[str]) -> tuple[list[str], set[str]]:
    """`--flag value` as one word `--flag=value`, so that a value may begin with a dash (`--prompt -hi`)."""
    hints = typing.get_type_hints(kind)
    bare_field, bare_words = _bare(kind)
    takes_value = {f.name: hints[f.name] is not bool for f in fields(kind) if f.name != bare_field}
    words: list[str] = []
    bare: list[str] = []
    given: set[str] = set()
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word in ("-h", "--help"):
            return [word], given
        if bare_words and not word.startswith("-"):
            bare.append(word)
            continue
        spelled, equals, _ = word.partition("=")
        name = spelled.removeprefix("--").replace("-", "_")
        if not spelled.startswith("--") or name not in takes_value:
            if spelled in REMOVED_FLAGS:
                raise ConfigError(f"{spelled} has been removed; {REMOVED_FLAGS[spelled]}")
            known = ["--help", *(f"--{n.replace('_', '-')}" for n in takes_value)]
            what = "flag" if word.startswith("-") else "argument"
            raise ConfigError(f"there is no {what} {spelled}{did_you_mean(spelled, known)} --help lists all flags")
        given.add(name)
        if takes_value[name] and not equals:
            if not rest:
                raise ConfigError(f"{spelled} needs a value, as in {spelled} VALUE")
            word = f"{spelled}={rest.pop(0)}"
        _check_number(spelled, word.partition("=")[2], hints[name])
        words.append(word)
    if bare_words:
        _check_count(bare, bare_words)
    return words + bare, given


def _bare(kind: Any) -> tuple[str, Words | None]:
    """The field for the words without a flag, and what it wants."""
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        for mark in getattr(hint, "__metadata__", ()):
            if isinstance(mark, Words):
                return name, mark
    return "", None


def _check_count(bare: list[str], wanted: Words) -> None:
    """Raise ConfigError unless there are as many words as the verb takes."""
    if wanted.least <= len(bare) and (wanted.most is None or len(bare) <= wanted.most):
        return
    few = len(bare) < wanted.least
    count = wanted.least if few or wanted.most is None else wanted.most
    limit = "" if wanted.least == wanted.most else "at least " if few else "at most "
    given = f"{len(bare)} given: {' '.join(bare)}" if bare else "none given"
    raise ConfigError(
        f"expected {limit}{count} {wanted.what}{'s' if count != 1 else ''}, {given}; write {wanted.example}"
    )


def _check_number(flag: str, text: str, hint: Any) -> None:
    wanted = {int: "a whole number", float: "a number"}.get(hint)
    try:
        if wanted:
            hint(text)
    except ValueError:
        raise ConfigError(f"{flag} {text} cannot be read; expected {wanted}") from None


def file_to_write(flag: str, name: str, other: str = "") -> Path | None:
    """The file that a flag names, found fit before anything is run; None where it names none. Raises ConfigError.

    Args:
        other: what else the flag can take, for the message.
    """
    if not name:
        return None
    path = Path(name)
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else "is in a folder that does not exist"
        raise ConfigError(f"{flag} {name} {what}; name a file in a folder that is there{other}")
    if path.exists():
        raise ConfigError(f"{flag} {name} is there already and would be lost; name another file, or remove it")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{flag} {name} is in a folder that may not be written; name a file elsewhere")
    return path
