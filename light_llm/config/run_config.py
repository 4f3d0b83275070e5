"""The settings of a run as one frozen value. It is written to the run folder before the first step."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any

from ..errors import ConfigError, did_you_mean
from .data import DataConfig
from .model import ModelConfig
from .settings import Setting, settings_of
from .train import TrainConfig
from .validation import from_dict, parse_as, wrong_type

PARTS: dict[str, type] = {"model": ModelConfig, "data": DataConfig, "train": TrainConfig}
# Every setting of a run by its dotted name, as in "train.lr".
SETTINGS: dict[str, Setting] = {
    f"{part}.{name}": declared for part, kind in PARTS.items() for name, declared in settings_of(kind).items()
}
# The settings that each flag of `train` sets, in the order of --help: --seed sets data.seed and train.seed.
FLAGS: dict[str, list[str]] = {}
for _part in ("data", "train", "model"):
    for _name, _declared in settings_of(PARTS[_part]).items():
        if _declared.flag:
            FLAGS.setdefault(_name, []).append(f"{_part}.{_name}")


@dataclass(frozen=True, kw_only=True)
class Run:
    """The settings of a run: the model's shape, the data and the training."""

    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    train: TrainConfig = field(default_factory=TrainConfig)

    def __post_init__(self) -> None:
        for part, kind in PARTS.items():
            value = getattr(self, part)
            if isinstance(value, Mapping):
                object.__setattr__(self, part, from_dict(kind, value, what=part))
            elif not isinstance(value, kind):
                raise wrong_type(part, value, f"a {kind.__name__}, or a dict of its settings")

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Return plain values, ready for JSON."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, Any]]) -> "Run":
        """Return the run of a `to_dict`. Missing settings keep their defaults. Raises ConfigError."""
        for part in values:
            if part not in PARTS:
                raise ConfigError(
                    f"there is no part [{part}] of a run{did_you_mean(part, PARTS)} The parts are {', '.join(PARTS)}"
                )
        return cls(**{part: from_dict(PARTS[part], values.get(part, {}), what=part) for part in PARTS})

    def with_settings(self, **settings: Any) -> "Run":
        """Return a run with some settings changed, named as `train__lr=...`: part, two underscores, field."""
        changed: dict[str, dict[str, Any]] = {part: {} for part in PARTS}
        for name, value in settings.items():
            part, _, key = name.partition("__")
            changed[part][key] = value
        return Run(**{part: replace(getattr(self, part), **changed[part]) for part in PARTS})


def parse_settings(assignments: Iterable[str]) -> dict[str, Any]:
    """Return the values of `--set path=value` as keywords of `Run.with_settings`. Raises ConfigError.

    >>> parse_settings(["train.lr=3e-4", "model.n_layer=2"])
    {'train__lr': 0.0003, 'model__n_layer': 2}
    """
    settings: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        part, dot, key = path.strip().partition(".")
        if not equals or not dot:
            raise ConfigError(f"--set {assignment} cannot be read; write {_complete(path.strip(), text)}")
        if part not in PARTS:
            near = did_you_mean(part, PARTS)
            raise ConfigError(f"--set {assignment}: there is no part {part!r}{near} The parts are {', '.join(PARTS)}")
        # Only the first = separates: a value such as a path may have others.
        settings[f"{part}__{key}"] = parse_as(PARTS[part], key, text.strip(), what=part)
    return settings


def _complete(name: str, text: str) -> str:
    """Return how a setting that was named without its part, or without a value, is written."""
    # Imported here, because the aliases are about the settings declared above.
    from .aliases import ALIASES

    key = name.lower().replace("-", "_")
    path = next((path for path in SETTINGS if key in (path, path.partition(".")[2])), ALIASES.get(key))
    return f"--set {path}={text or 'VALUE'}" if path else "--set PART.NAME=VALUE, as in train.beta2=0.99"


def differences(old: Run, new: Run) -> list[tuple[str, Any, Any]]:
    """Return each setting that differs: `part.name`, the old value, the new value."""
    old_values, new_values = old.to_dict(), new.to_dict()
    return [
        (f"{part}.{name}", value, new_values[part][name])
        for part, values in old_values.items()
        for name, value in values.items()
        if value != new_values[part][name]
    ]


def changes(old: Run, new: Run) -> list[str]:
    """Return each setting that differs, as `part.name: old -> new`."""
    return [f"{name}: {before} -> {after}" for name, before, after in differences(old, new)]
