"""A setting is declared once; flags, checks, the rules of a resumed run and the page on them follow."""

import math
from dataclasses import dataclass, fields
from typing import Any

import pytest

from light_llm.cli.train import TrainFlags, parse_train
from light_llm.config import FLAGS, PARTS, SETTINGS, Run, check_settings, setting
from light_llm.errors import ConfigError
from light_llm.report import repro_command
from tests.conftest import CHECKOUT

RULES = {"fixed": "may not change", "by_hash": "may move; its contents may not change", "free": "may change"}


def test_every_field_of_a_run_is_declared() -> None:
    assert list(SETTINGS) == [f"{part}.{f.name}" for part, kind in PARTS.items() for f in fields(kind)]


def test_the_page_lists_what_a_resumed_run_may_change() -> None:
    page = (CHECKOUT / "docs" / "reliability.md").read_text(encoding="utf-8")
    for rule, words in RULES.items():
        names = ", ".join(f"`{name}`" for name, declared in SETTINGS.items() if declared.resume == rule)
        assert f"| {words} | {names} |" in page, rule


@dataclass(frozen=True)
class Example:
    size: int = setting(4, "a whole number", low=1, high=8)
    share: float = setting(0.5, "a number", above=0.0, below=1.0)
    kind: str = setting("a", "a choice", choices=("a", "b"))
    on: bool = setting(False, "true or false")
    limit: int | None = setting(None, "a whole number or nothing", low=1)

    def __post_init__(self) -> None:
        check_settings(self)


def test_bounds_choices_and_types_are_checked() -> None:
    Example(size=8, share=0.1, kind="b", on=True, limit=1)
    refused: dict[str, list[Any]] = {"size": [0, 9, 1.5, True, None], "share": [0.0, 1, math.nan], "limit": [0, "x"]}
    for name, values in (refused | {"kind": ["c"], "on": [1]}).items():
        for value in values:
            with pytest.raises(ConfigError, match=name):
                Example(**{name: value})


OTHER_VALUES = {
    "data": "x.txt",
    "tokenizer": "byte",
    "val_data": "y.txt",
    "text_field": "t",
    "separator": "---",
    "suffixes": ".py",
    "init_from": "m.pt",
    "device": "cpu",
    "dropout": 0.25,
    "batch_size": 4,
}


def other_value(path: str) -> Any:
    """Return a valid value of a setting that is not its default."""
    part, _, name = path.partition(".")
    default = getattr(getattr(Run(), part), name)
    if choices := SETTINGS[path].choices:
        return next(choice for choice in choices if choice != default)
    return OTHER_VALUES.get(name) or (default / 2 if isinstance(default, float) else 2)


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_sets_its_settings_and_is_in_the_command_that_repeats_the_run(name: str) -> None:
    value = other_value(FLAGS[name][0])
    _, given, settings = parse_train(TrainFlags, [f"--{name.replace('_', '-')}={value}"], prog="", about="")
    assert given == {name}
    assert settings == {path.replace(".", "__"): value for path in FLAGS[name]}
    run = Run().with_settings(**settings)
    words = repro_command(run).split()[2:]
    assert Run().with_settings(**parse_train(TrainFlags, words, prog="", about="")[2]) == run
