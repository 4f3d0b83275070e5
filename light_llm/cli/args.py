"""Read the command line into frozen dataclasses, by tyro, and record which flags were given."""

import math
import os
import shlex
import shutil
import textwrap
import typing
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, TypeVar

import tyro

from ..config import ALIASES, EPOCHS, FLAGS, PARTS, SETTINGS, explain_alias, metavar_of, settings_of, types_of
from ..errors import ConfigError, as_flags, did_you_mean

Flags = TypeVar("Flags")

# Flags of earlier versions, with what to use instead.
REMOVED_FLAGS = {
    "--control": "press Ctrl-C where the run was started (it saves, then stops), or send it SIGUSR1 to save only; "
    "continue a stopped run with --resume"
}
# Names that people type for a flag that is no setting of a run; of several, the first that a command has is meant.
# The other names of settings are in config/aliases.py.
OTHER_FLAGS = {
    "preset": "arch architecture model model-name model-size size",
    "checkpoint": "checkpoint-path ckpt ckpt-path load model model-path run",
    "config": "config-file recipe",
    "out": "dir log-dir logdir out-dir outdir output output-dir output-path run-dir run-name save-dir",
    "output": "out out-file output-file",
    "resume": "continue resume-from resume-from-checkpoint",
    "overwrite": "overwrite-output-dir",
    "quiet": "silent",
    "prompt": "input start text",
    "max_new_tokens": "length max-length max-tokens n-tokens new-tokens num-tokens tokens",
    "temperature": "temp",
    "repetition_penalty": "rep-pen repeat-penalty",
    "num_samples": "n num-return-sequences samples",
    "stop": "stop-sequences stop-string stop-strings",
}

Words = tyro.conf.Positional[tuple[str, ...]]


@dataclass(frozen=True)
class PositionalArgs:
    """Marks the field that takes the arguments without a flag: `light-llm compare A B`.

    The field is annotated `Annotated[Words, words_arg(...), PositionalArgs(...)]`.
    """

    noun: str  # for error messages: "run folder"
    example: str  # a correct command line
    min_count: int = 0
    max_count: int | None = None


@dataclass(frozen=True)
class SeveralValues:
    """Marks a repeatable flag that also takes several values at once: `--text a.txt b.txt`."""


def words_arg(metavar: str, help: str, hint: str = "") -> Any:
    """Return the help of the positional arguments. `hint` is shown in place of a default."""
    return tyro.conf.arg(metavar=metavar, help=help, help_behavior_hint=hint)


CHECKPOINT_ARG = words_arg("[CHECKPOINT]", "run folder, step folder, .pt", "(default: checkpoints)")


def parse(
    kind: type[Flags],
    argv: Sequence[str],
    *,
    prog: str,
    about: str,
    no_effect: Collection[str] = (),
    steps_per_pass: Callable[[list[str]], int | None] = lambda argv: None,
) -> tuple[Flags, set[str]]:
    """Read the flags of a command.

    Args:
        no_effect: flags that are not in the help, and are refused because they have no effect on this command.
        steps_per_pass: for the message that refuses `--epochs`: given the other arguments, returns the optimizer steps
            of one pass over the text, or None.

    Returns:
        The values, with defaults, and the names of the flags that were given.

    Raises:
        ConfigError: an unknown flag, with the nearest known one; a flag without effect; too few or too many positional
            arguments.
        SystemExit: for --help (0), or for a value of the wrong type, which tyro has reported (2).
    """
    words, given = _normalize(kind, argv, steps_per_pass)
    # A switch has no second flag `--no-...`, which would make --help twice as long.
    config = (tyro.conf.FlagCreatePairsOff, tyro.conf.ConsolidateSubcommandArgs)
    if words == ["--help"]:
        kind = _for_help(kind, no_effect)
        # tyro does not wrap a description, and a terminal would break its words.
        width = shutil.get_terminal_size().columns
        print(*(textwrap.fill(line, width) for line in about.split("\n")), "", sep="\n")
    for name in sorted(given.intersection(no_effect)):
        raise ConfigError(f"{flag_of(name)} has no effect on {prog.split()[-1]}; leave it out")
    return tyro.cli(kind, prog=prog, description="", args=words, config=config), given


def parse_mode(
    kind: type[Flags], argv: Sequence[str], *, command: str, about: str, no_effect: Mapping[str, Collection[str]]
) -> tuple[str, Flags, set[str]]:
    """Read a command whose first argument is a mode, as `generate demo`. Returns the mode and what `parse` returns.

    Args:
        no_effect: for each mode the flags that have no effect in it.

    Raises:
        ConfigError: an unknown mode, a flag without effect, or as `parse`.
    """
    modes = list(no_effect)
    if not argv or argv[0].startswith("-"):
        if not {"-h", "--help"} & set(argv):
            listed = f"{', '.join(modes[:-1])} or {modes[-1]}"
            raise ConfigError(f"{command} needs to know what to do: {listed}, as in: light-llm {command} {modes[0]}")
        prog = f"light-llm {command} {{{','.join(modes)}}}"
        parse(kind, ["--help"], prog=prog, about=about)
    mode, rest = argv[0], argv[1:]
    if mode not in modes:
        raise ConfigError(f"{command} cannot do {mode!r}{did_you_mean(mode, modes)} It can do {', '.join(modes)}")
    prog = f"light-llm {command} {mode}"
    return mode, *parse(kind, rest, prog=prog, about=about, no_effect=no_effect[mode])


def with_run_settings(
    kind: type[Flags], names: Collection[str] = tuple(FLAGS), defaults: Mapping[str, Any] | None = None
) -> type[Flags]:
    """Return a subclass of a flags dataclass with a field for each setting of a run that has a flag.

    Args:
        names: the flags to add.
        defaults: defaults of this command that differ from those of the settings.
    """
    derived = []
    for name, paths in FLAGS.items():
        if name in names:
            config = PARTS[paths[0].partition(".")[0]]
            value = (defaults or {}).get(name, getattr(config(), name))
            shown_help = ", ".join(SETTINGS[path].flag_help for path in paths)
            derived.append(_flag_field(config, name, value, shown_help))
    return make_dataclass(kind.__name__, derived, bases=(kind,), frozen=True)


def with_settings(kind: type[Flags], values: Any) -> type[Flags]:
    """Return a subclass of a flags dataclass with a field for each setting of a config. Defaults are its `values`."""
    config: Any = type(values)
    settings = settings_of(config).items()
    derived = [_flag_field(config, name, getattr(values, name), setting.flag_help) for name, setting in settings]
    return make_dataclass(kind.__name__, derived, bases=(kind,), frozen=True)


def given_settings(flags: Any, given: Collection[str]) -> dict[str, Any]:
    """Return the settings of a run whose flags were given, as keywords of `Run.with_settings`."""
    settings: dict[str, Any] = {}
    for name, paths in FLAGS.items():
        if name in given:
            value = getattr(flags, name)
            for path in paths:
                part, _, key = path.partition(".")
                # The command line has no None: 0 and "" stand for it.
                is_none = NoneType in types_of(PARTS[part])[key] and not value
                settings[f"{part}__{key}"] = None if is_none else value
    return settings


def given_flags(flags: Any, given: Collection[str], names: Collection[str]) -> str:
    """Return those of the named flags that were given, for a command line to copy: ` --held-out 0.2`."""
    return "".join(f" {flag_of(name)} {shlex.quote(str(getattr(flags, name)))}" for name in names if name in given)


def flag_of(name: str) -> str:
    """Return the flag of a field: `--max-steps` of `max_steps`."""
    return f"--{name.replace('_', '-')}"


def _flag_field(config: type, name: str, default: Any, shown_help: str) -> tuple[str, Any, Any]:
    """Return name, annotation and default of a setting's flag, as `make_dataclass` takes them."""
    kind: Any = next(kind for kind in types_of(config)[name] if kind is not NoneType)
    annotation = Annotated[kind, tyro.conf.arg(metavar=metavar_of(config, name), help=shown_help)]
    return name, annotation, field(default=kind() if default is None else default)


def _normalize(
    kind: Any, argv: Sequence[str], steps_per_pass: Callable[[list[str]], int | None]
) -> tuple[list[str], set[str]]:
    """Return argv for tyro and the names of the flags in it.

    `--flag value` becomes `--flag=value`, so that a value may begin with a dash (`--prompt -hi`), and positional
    arguments, which may stand anywhere, go to the end.
    """
    hints = typing.get_type_hints(kind)
    positional_field, positional_args = _positional(kind)
    defaults = {f.name: f.default for f in fields(kind)}
    takes_value = {f.name: hints[f.name] is not bool for f in fields(kind) if f.name != positional_field}
    takes_several = _marked_several(kind)
    words: list[str] = []
    positional: list[str] = []
    given: set[str] = set()
    rest = list(argv)
    while rest:
        word = rest.pop(0)
        # Help is shown even after a mistake: the user may be looking for the right flag.
        if word in ("-h", "--help"):
            return ["--help"], given
        if positional_args and not word.startswith("-"):
            positional.append(word)
            continue
        flag, equals, value = word.partition("=")
        name = flag.removeprefix("--").replace("-", "_")
        if not flag.startswith("--") or name not in takes_value:
            if name in EPOCHS:
                value, rest = (value, rest) if equals or not rest else (rest[0], rest[1:])
                steps = steps_per_pass([*argv[: argv.index(word)], *rest])
                raise ConfigError(
                    f"there is no flag {flag}: {as_flags(explain_alias(name, value, steps_per_pass=steps) or '')}"
                )
            raise ConfigError(_unknown_flag(word, name, takes_value))
        given.add(name)
        if takes_value[name] and not equals:
            if not rest:
                raise ConfigError(f"{flag} needs a value, as in {flag} VALUE")
            word = f"{flag}={rest.pop(0)}"
        if name in takes_several:
            # A dash alone is standard input.
            while rest and (rest[0] == "-" or not rest[0].startswith("-")):
                words.append(word)
                word = f"{flag}={rest.pop(0)}"
        value = word.partition("=")[2]
        _check_number(flag, value, hints[name])
        if takes_value[name] and not value and defaults[name]:
            raise ConfigError(f"{flag} is empty; give it a value, or leave it out for {defaults[name]}")
        words.append(word)
    if positional_args and not positional_args.min_count <= len(positional) <= (positional_args.max_count or math.inf):
        raise _wrong_count(positional, positional_args)
    return words + positional, given


def _for_help(kind: type[Flags], hidden: Collection[str]) -> type[Flags]:
    """Return a flags dataclass whose help leaves out some flags, and the defaults `False` and `''`."""
    derived: list[tuple[str, Any, Any]] = []
    suppress: Any = tyro.conf.Suppress
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        default = next(f.default for f in fields(typing.cast("Any", kind)) if f.name == name)
        if name in hidden:
            derived.append((name, suppress[typing.get_type_hints(kind)[name]], field(default=default)))
        elif default is False or default == "":
            marks = getattr(hint, "__metadata__", ())
            shown = [replace(m, help_behavior_hint="") if hasattr(m, "help_behavior_hint") else m for m in marks]
            hint = typing.get_type_hints(kind)[name]
            derived.append((name, Annotated[(hint, *shown)] if shown else hint, field(default=default)))
    return make_dataclass(kind.__name__, derived, bases=(kind,), frozen=True)


def _unknown_flag(word: str, name: str, known: Collection[str]) -> str:
    """Return the message for a flag that a command does not have, with the one that is meant where that is known."""
    flag, _, value = word.partition("=")
    if flag in REMOVED_FLAGS:
        return f"{flag} has been removed; {REMOVED_FLAGS[flag]}"
    start = f"there is no {'flag' if word.startswith('-') else 'argument'} {flag}"
    if flag.startswith("--"):
        ours = [o for o, others in OTHER_FLAGS.items() if o in known and name.replace("_", "-") in others.split()]
        paths = [path for path in SETTINGS if path.partition(".")[2] == name]  # of a setting without a flag
        alias = ALIASES.get(name, "")
        if ours:
            return f"{start}; use {flag_of(ours[0])}"
        if alias.partition(".")[2] in known or (alias and "set" in known):
            return f"{start}; {as_flags(explain_alias(name) or '')}"
        if paths and "set" in known:
            return f"{start}; use --set {paths[0]}={value or 'VALUE'}"
    return f"{start}{did_you_mean(flag, ['--help', *map(flag_of, known)])} --help lists all flags"


def _positional(kind: Any) -> tuple[str, PositionalArgs | None]:
    """Return the name of the field for positional arguments and its PositionalArgs."""
    for name, hint in typing.get_type_hints(kind, include_extras=True).items():
        for mark in getattr(hint, "__metadata__", ()):
            if isinstance(mark, PositionalArgs):
                return name, mark
    return "", None


def _marked_several(kind: Any) -> set[str]:
    """Return the names of the fields that are marked with SeveralValues."""
    hints = typing.get_type_hints(kind, include_extras=True).items()
    return {n for n, hint in hints if any(isinstance(m, SeveralValues) for m in getattr(hint, "__metadata__", ()))}


def _wrong_count(words: list[str], expected: PositionalArgs) -> ConfigError:
    """Return the error for too few or too many positional arguments."""
    low, high = expected.min_count, expected.max_count
    count, limit = (low, "at least ") if len(words) < low else (high, "at most ")
    given = f"{len(words)} given: {' '.join(words)}" if words else "none given"
    plural = "s" if count != 1 else ""
    return ConfigError(
        f"expected {'' if low == high else limit}{count} {expected.noun}{plural}, {given}; write {expected.example}"
    )


def _check_number(flag: str, text: str, hint: Any) -> None:
    # Checked here and not by tyro, which reports it in a box and does not raise a ConfigError.
    expected = {int: "a whole number", float: "a number"}.get(hint)
    try:
        if expected:
            hint(text)
    except ValueError:
        raise ConfigError(f"{flag} {text} cannot be read; expected {expected}") from None


def file_to_write(flag: str, name: str) -> Path | None:
    """Return the path of a flag that names an output file, or None if it is empty.

    Raises:
        ConfigError: a folder, an existing file, or a folder that is missing or read-only. Checked before the work
            starts, so that no result is lost at its end.
    """
    if not name:
        return None
    from ..runtime import expand_path

    path = expand_path(name)
    if path.is_dir() or not path.parent.is_dir():
        what = "is a folder" if path.is_dir() else "is in a folder that does not exist"
        raise ConfigError(f"{flag} {name} {what}; name a file in an existing folder")
    if path.exists():
        raise ConfigError(f"{flag} {name} already exists and would be lost; name another file, or remove it")
    if not os.access(path.parent, os.W_OK):
        raise ConfigError(f"{flag} {name} is in a folder that is not writable; name a file elsewhere")
    return path
