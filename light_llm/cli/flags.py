"""Flags from a frozen dataclass, by tyro; and the set of those a user really gave."""

import typing
from collections.abc import Sequence
from dataclasses import fields
from typing import Any, TypeVar

import tyro

from ..errors import ConfigError, did_you_mean

Flags = TypeVar("Flags")


def parse(kind: type[Flags], argv: Sequence[str], *, prog: str, about: str) -> tuple[Flags, set[str]]:
    """Read the flags of a verb.

    Returns:
        The values, defaults filled in, and the names of the flags that were given.

    Raises:
        ConfigError: a flag that does not exist, with the nearest one that does.
        SystemExit: help was asked for (0), or a value is not of its flag's type (2, said by tyro).
    """
    words, given = _joined(kind, argv)
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.ConsolidateSubcommandArgs)
    values = tyro.cli(kind, prog=prog, description=about, args=words, config=config)
    return values, given


def _joined(kind: Any, argv: Sequence[str]) -> tuple[list[str], set[str]]:
    """`--flag value` as one word `--flag=value`, so that a value may begin with a dash (`--prompt -hi`)."""
    hints = typing.get_type_hints(kind)
    takes_value = {f.name: hints[f.name] is not bool for f in fields(kind)}
    words: list[str] = []
    given: set[str] = set()
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        if word in ("-h", "--help"):
            return [word], given
        spelled, equals, _ = word.partition("=")
        name = spelled.removeprefix("--").replace("-", "_")
        if not spelled.startswith("--") or name not in takes_value:
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
    return words, given


def _check_number(flag: str, text: str, hint: Any) -> None:
    wanted = {int: "a whole number", float: "a number"}.get(hint)
    try:
        if wanted:
            hint(text)
    except ValueError:
        raise ConfigError(f"{flag} {text} cannot be read; expected {wanted}") from None
