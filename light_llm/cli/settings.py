"""`light-llm settings`: list the settings of a run, from their declarations, or those that match a word."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from rich.table import Column, Table
from rich.text import Text

from ..config import ALIASES, FLAGS, PARTS, SETTINGS, default_of, explain_alias, values_of
from ..errors import ConfigError, as_flags, did_you_mean
from .args import PositionalArgs, Words, flag_of, parse, words_arg
from .output import new_table, print_rich

TITLES = {"model": "the shape of the model", "data": "the text and how it is cut", "train": "the training"}
_POSITIONAL = PositionalArgs("word", "light-llm settings lr")


@dataclass(frozen=True)
class SettingsFlags:
    """The flags of `settings`."""

    words: Annotated[
        Words, words_arg("[WORD ...]", "show the settings with this in their name or meaning"), _POSITIONAL
    ] = ()


def command(argv: Sequence[str]) -> int:
    """Print all settings, or those that match the words."""
    about = (
        "List the settings of a run with their defaults and meanings. Some have a flag. All can be set with "
        "--set PART.NAME=VALUE, or with NAME = VALUE below [PART] in a recipe."
    )
    flags, _ = parse(SettingsFlags, argv, prog="light-llm settings", about=about)
    shown = [path for word in flags.words or [""] for path in matching(word)]
    for part, title in TITLES.items():
        paths = [path for path in SETTINGS if path.startswith(f"{part}.") and path in shown]
        if paths:
            print_rich(Text.assemble((f"[{part}]", "bold"), f"  {title}: --set {part}.NAME=VALUE"), _table(paths), "")
    return 0


def matching(word: str) -> list[str]:
    """Return the settings whose name has a word in it, or else whose meaning has it. Raises ConfigError for none."""
    key = word.strip("-").lower().replace("-", "_")
    in_name = [path for path in SETTINGS if key in path]
    if not in_name and key in ALIASES:
        return [ALIASES[key]]
    in_help = [path for path, declared in SETTINGS.items() if word.lower() in declared.help.lower()]
    if not in_name and not in_help:
        known = {part for path in SETTINGS for part in (path.partition(".")[2], *re.split("[._]", path))}
        hint = f"; {as_flags(alias)}." if (alias := explain_alias(key)) else did_you_mean(key, sorted(known))
        raise ConfigError(f"no setting matches {word!r}{hint} `light-llm settings` lists all")
    return in_name or in_help


def _table(paths: Sequence[str]) -> Table:
    """Return a table of settings: name, flag, default, and meaning with the allowed values."""
    table = new_table(
        Column("name", no_wrap=True), Column("flag", no_wrap=True), Column("default", no_wrap=True), "meaning"
    )
    for path in paths:
        part, _, name = path.partition(".")
        kind, declared = PARTS[part], SETTINGS[path]
        values = values_of(kind, name)
        meaning = f"{declared.help} ({values})" if values else declared.help
        table.add_row(name, flag_of(name) if name in FLAGS else "", default_of(kind, name), meaning)
    return table
