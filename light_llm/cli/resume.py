"""Compare a command with --resume with the one that started its run.

People and job schedulers resume a run by repeating its command. So each setting is compared with what was asked for at
the start, and not with what this became: `--tokenizer bpe:300` became `bpe`, `--data -` the path of a copy, and
`--budget 5min` a preset and a number of steps. What was asked for is in run.json.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from ..config import load_recipe, parse_settings, preset_settings
from ..errors import ConfigError
from .args import given_settings

if TYPE_CHECKING:
    from ..train.saved_run import SavedRun
    from .train import TrainFlags

_CHOOSERS = ("budget", "fit")  # flags that choose settings of a new run


@dataclass(frozen=True)
class Request:
    """The flags and settings that a command asks for, and what run.json records of them."""

    flags: TrainFlags
    settings: dict[str, Any]
    asked: dict[str, Any]


def request_of(flags: TrainFlags, given: set[str], settings: dict[str, Any]) -> Request:
    """Return what the command of a new run asks for."""
    asked: dict[str, Any] = {name: getattr(flags, name) for name in _CHOOSERS}
    return Request(flags, settings, asked | {"settings": settings, "background": _background(flags, given)})


def _background(flags: TrainFlags, given: set[str]) -> dict[str, Any]:
    """Return the settings of the recipe and the preset, which flags and --set override."""
    background = load_recipe(flags.config) if flags.config else {}
    preset = preset_settings(flags.preset) if "preset" in given else {}
    return background | {f"model__{name}": value for name, value in preset.items()}


def compare_with_start(flags: TrainFlags, given: set[str], settings: dict[str, Any], saved: SavedRun) -> Request:
    """Return what a command with --resume asks for beyond what its run was started with.

    A run that has no checkpoint yet starts again, with everything that was asked for then and now.

    Raises:
        ConfigError: --budget or --init-from differ from the start of the run.
    """
    then: dict[str, Any] = saved.asked.get("settings", {})
    asked = saved.asked | {"settings": then | settings}
    from ..data.piped_text import STDIN

    if saved.step is None:
        return _restart(flags, settings, saved, asked)
    if flags.budget and flags.budget != saved.asked.get("budget"):
        raise ConfigError("--budget chooses the model, and a resumed run has one already; leave it out")
    explicit = given_settings(flags, given) | parse_settings(flags.set)
    # Not of standard input: it may hold another text now, which is compared when it has been read.
    if settings.get("data__data") == STDIN:
        then = {name: value for name, value in then.items() if name != "data__data"}
    # A recipe or preset can be repeated without the flags that overrode it.
    known = [then, saved.asked.get("background", {})]
    changed = {
        name: value
        for name, value in settings.items()
        if not any(name in values and values[name] == value for values in known[: 1 if name in explicit else 2])
    }
    init_from = changed.pop("train__init_from", None)
    if init_from and not _is_same_path(init_from, saved.run.train.init_from):
        raise ConfigError(
            "--resume and --init-from cannot be combined: a run continues from its own checkpoint; leave one out"
        )
    return Request(replace(flags, budget=""), changed, asked)


def _is_same_path(given: str, known: str | None) -> bool:
    from ..runtime import expand_path

    return known is not None and expand_path(given).resolve() == expand_path(known).resolve()


def _restart(flags: TrainFlags, settings: dict[str, Any], saved: SavedRun, asked: dict[str, Any]) -> Request:
    """Return the request of a run that starts again at step 0."""
    from ..data.piped_text import STDIN, stdin_or_saved

    if "settings" in saved.asked:
        # The default source may have been replaced by the built-in corpus.
        settings = {"data__data": saved.run.data.data} | asked["settings"]
        if settings["data__data"] == STDIN:
            settings |= {"data__data": stdin_or_saved(saved.run.data.data)}
        chosen = {name: getattr(flags, name) or saved.asked.get(name, getattr(flags, name)) for name in _CHOOSERS}
        return Request(replace(flags, **chosen), settings, asked | chosen)
    # Started from Python: its settings are known, and the vocabulary follows from the tokenizer.
    parts = saved.run.to_dict().items()
    everything = {f"{part}__{name}": value for part, values in parts for name, value in values.items()}
    del everything["model__vocab_size"]
    return Request(flags, everything | settings, {"settings": everything | settings})
