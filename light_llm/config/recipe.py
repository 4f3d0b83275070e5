"""Recipes: TOML files of settings. The recipes of the package are in `recipes/`, with the results to expect."""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import ConfigError, did_you_mean
from .model import preset_settings
from .run_config import PARTS
from .settings import settings_of
from .validation import from_dict, wrong_type

_ABOUT = "about"  # the only table without settings


@dataclass(frozen=True, kw_only=True)
class About:
    """The table [about] of a recipe, which is optional."""

    title: str = ""  # one line
    expect: str = ""  # its time and results


def recipe_names() -> list[str]:
    """Return the names of the recipes of the package."""
    return sorted(f.name.removesuffix(".toml") for f in _folder().iterdir() if f.name.endswith(".toml"))


def recipe_text(name: str) -> str:
    """Return the file of a recipe of the package. Raises ConfigError for an unknown name."""
    names = recipe_names()
    if name not in names:
        raise ConfigError(f"there is no recipe {name!r}{did_you_mean(name, names)} The recipes are {', '.join(names)}")
    return str((_folder() / f"{name}.toml").read_text(encoding="utf-8"))


def about_recipe(name_or_path: str) -> About:
    """Return the [about] table of a recipe. Raises ConfigError as `load_recipe` does."""
    tables, where = _read(name_or_path)
    _settings(tables, where)
    return About(**tables.get(_ABOUT, {}))


def load_recipe(name_or_path: str) -> dict[str, Any]:
    """Return a recipe (TOML with the tables [model], [data], [train]) as keywords of `Run.with_settings`.

    A name means a recipe of the package; anything else is the path of a file. `model.preset` may name a preset, which
    the other keys of [model] change. The table [about] is checked and sets nothing.

    Raises:
        ConfigError: no such recipe, a file that is not TOML, an unknown table or key, a value of the wrong type.
    """
    return _settings(*_read(name_or_path))


def _read(name_or_path: str) -> tuple[dict[str, Any], str]:
    """Return the tables of a recipe, and its name in messages."""
    names = recipe_names()
    if name_or_path in names:
        if Path(name_or_path).is_file():
            raise ConfigError(
                f"there is a recipe and a file here with the name {name_or_path}; for the file, use "
                f"{{--config ./{name_or_path}}}; for the recipe, rename the file"
            )
        text, where = recipe_text(name_or_path), f"recipe {name_or_path}"
    else:
        path = Path(name_or_path)
        if not path.is_file():
            raise ConfigError(
                f"there is no recipe or file {name_or_path!r}{did_you_mean(name_or_path, names)} "
                f"The recipes are {', '.join(names)}; anything else is the path of a TOML file"
            )
        # Editors on Windows write a byte-order mark. Bytes that are not UTF-8 are reported as TOML that cannot be read.
        text, where = path.read_text(encoding="utf-8-sig", errors="replace"), str(path)
    try:
        return tomllib.loads(text), where
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not TOML: {error}") from None


def _settings(tables: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Return the checked settings of all tables as keywords of `Run.with_settings`."""
    settings: dict[str, Any] = {}
    for part, table in tables.items():
        try:
            _check_table(part, table)
            if part == "model" and "preset" in table:
                preset = table["preset"]
                if not isinstance(preset, str):
                    raise wrong_type("model.preset", preset, "text")
                table = preset_settings(preset) | {key: value for key, value in table.items() if key != "preset"}
            from_dict(About if part == _ABOUT else PARTS[part], table, what=part)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error.message}") from None
        if part != _ABOUT:
            settings |= {f"{part}__{key}": value for key, value in table.items()}
    return settings


def _check_table(part: str, table: Any) -> None:
    """Raise ConfigError unless a recipe can have this table."""
    known = [*PARTS, _ABOUT]
    if isinstance(table, Mapping):
        if part not in known:
            near = did_you_mean(part, known)
            raise ConfigError(f"there is no table [{part}] in a recipe{near} The tables are {', '.join(known)}")
    elif part in known:
        raise wrong_type(part, table, f"a table, [{part}]")
    else:
        tables = [name for name, kind in PARTS.items() if part in settings_of(kind)]
        where = " or ".join(f"[{name}]" for name in tables or PARTS)
        raise ConfigError(f"{part}={table!r} is outside any table; put it below {where}")


def _folder() -> Any:
    """Return the folder of the package's recipes."""
    return files(__package__) / "recipes"
