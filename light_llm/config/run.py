"""The whole of a run as one frozen value: which model, on what, how. It is written before the first step."""

import tomllib
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.resources import files
from pathlib import Path
from typing import Any

from ..errors import ConfigError, did_you_mean
from .data import DataConfig
from .model import PRESETS, ModelConfig
from .train import TrainConfig
from .values import from_dict, parse_as

PARTS: dict[str, type] = {"model": ModelConfig, "data": DataConfig, "train": TrainConfig}


@dataclass(frozen=True, kw_only=True)
class Run:
    """A model's shape, its data and its training, together."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, Any]]) -> "Run":
        """The inverse of `to_dict`; settings that are missing keep their defaults. Raises ConfigError."""
        for part in values:
            if part not in PARTS:
                raise ConfigError(
                    f"there is no part [{part}] of a run{did_you_mean(part, PARTS)} The parts are {', '.join(PARTS)}"
                )
        return cls(**{part: from_dict(PARTS[part], values.get(part, {}), what=part) for part in PARTS})

    def with_settings(self, **settings: Any) -> "Run":
        """Another run with some settings changed, named as `train__lr=...`: part, two underscores, field."""
        changed: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
        for name, value in settings.items():
            part, _, key = name.partition("__")
            changed[part][key] = value
        return Run(**{part: replace(getattr(self, part), **changed[part]) for part in PARTS})


def parse_settings(assignments: Iterable[str]) -> dict[str, Any]:
    """Read `--set path=value` words into the keywords of `Run.with_settings`. Raises ConfigError.

    >>> parse_settings(["train.lr=3e-4", "model.n_layer=2"])
    {'train__lr': 0.0003, 'model__n_layer': 2}
    """
    settings: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        part, dot, key = path.strip().partition(".")
        if not equals or not dot:
            raise ConfigError(f"--set {assignment} cannot be read; write --set PART.NAME=VALUE, as in train.beta2=0.99")
        if part not in PARTS:
            near = did_you_mean(part, PARTS)
            raise ConfigError(f"--set {assignment}: there is no part {part!r}{near} The parts are {', '.join(PARTS)}")
        settings[f"{part}__{key}"] = parse_as(PARTS[part], key, text.strip(), what=part)
    return settings


def recipe_names() -> list[str]:
    """The recipes that come with the package."""
    return sorted(f.name.removesuffix(".toml") for f in _shelf().iterdir() if f.name.endswith(".toml"))


def load_recipe(name_or_path: str) -> dict[str, Any]:
    """Read a recipe (TOML with the tables [model], [data], [train]) into the keywords of `Run.with_settings`.

    A name is looked up in the package; anything with a `.toml` ending or a folder in it is a path.
    `model.preset` may name a preset that the other keys of [model] then change.

    Raises:
        ConfigError: no such recipe, a file that is not TOML, an unknown key, a value of the wrong type.
    """
    if name_or_path in recipe_names():
        text, where = (_shelf() / f"{name_or_path}.toml").read_text(encoding="utf-8"), f"recipe {name_or_path}"
    else:
        path = Path(name_or_path)
        if not path.is_file():
            raise ConfigError(
                f"there is no recipe or file {name_or_path!r}{did_you_mean(name_or_path, recipe_names())} "
                f"The recipes are {', '.join(recipe_names())}; anything else is the path of a TOML file"
            )
        text, where = path.read_text(encoding="utf-8-sig", errors="replace"), str(path)
    try:
        tables = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"{where} is not TOML: {error}") from None
    return _settings_of(tables, where)


def _settings_of(tables: Mapping[str, Any], where: str) -> dict[str, Any]:
    settings: dict[str, Any] = {}
    for part, table in tables.items():
        if part not in PARTS or not isinstance(table, Mapping):
            raise ConfigError(
                f"{where}: [{part}] is not a part of a run{did_you_mean(part, PARTS)} The parts are {', '.join(PARTS)}"
            )
        values = dict(table)
        try:
            if part == "model" and "preset" in values:
                preset = ModelConfig.preset(str(values.pop("preset")))
                values = {key: getattr(preset, key) for key in ("n_embd", "n_layer", "n_head")} | values
            from_dict(PARTS[part], values, what=part)
        except ConfigError as error:
            raise ConfigError(f"{where}: {error}") from None
        settings |= {f"{part}__{key}": value for key, value in values.items()}
    return settings


def changes(old: Run, new: Run) -> list[str]:
    """Each setting that differs, as `part.name: old -> new`."""
    return [
        f"{part}.{f.name}: {getattr(getattr(old, part), f.name)} -> {getattr(getattr(new, part), f.name)}"
        for part, kind in PARTS.items()
        for f in fields(kind)
        if getattr(getattr(old, part), f.name) != getattr(getattr(new, part), f.name)
    ]


def _shelf() -> Any:
    return files(__package__) / "recipes"


__all__ = ["PARTS", "PRESETS", "Run", "changes", "load_recipe", "parse_settings", "recipe_names"]
