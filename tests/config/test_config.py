"""Configs are frozen, checked when they are made, and read from flags and recipes without guessing."""

import json
from dataclasses import FrozenInstanceError
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from light_llm.config import (
    DataConfig,
    ModelConfig,
    Run,
    Sampling,
    TrainConfig,
    about_recipe,
    changes,
    get_model_size,
    load_recipe,
    parse_settings,
    recipe_names,
    recipe_text,
)
from light_llm.errors import ConfigError


def test_presets_take_changes_and_have_heads_of_64() -> None:
    for preset in (ModelConfig.nano(), ModelConfig.micro(), ModelConfig.small()):
        assert preset.head_size == 64
    assert ModelConfig.nano(n_layer=2, dropout=0.3).n_layer == 2
    assert ModelConfig() == ModelConfig.micro()


def test_a_config_cannot_be_edited() -> None:
    for config in (ModelConfig(), DataConfig(), TrainConfig(), Run()):
        with pytest.raises(FrozenInstanceError):
            config.anything = 1  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (ModelConfig, {"n_embd": 100}, "n_embd=100 .* n_head=6 .* n_embd=96 or n_embd=102"),
        (ModelConfig, {"n_embd": 4}, "n_embd=4 .* n_head=6 .* n_embd=6"),
        (ModelConfig, {"n_layer": 0}, "n_layer=0 .* a whole number at least 1"),
        (ModelConfig, {"dropout": 1.0}, "dropout=1.0 .* a number at least 0 and below 1"),
        (ModelConfig, {"activation": "gelu_tan"}, r"activation='gelu_tan' .* gelu_tanh\?"),
        (DataConfig, {"held_out": 0.0}, "held_out=0.0 "),
        (DataConfig, {"max_length": 0}, "max_length=0 "),
        (TrainConfig, {"max_steps": 1.5}, "max_steps=1.5 .* a whole number"),
        (TrainConfig, {"lr": float("nan")}, "lr=nan .* a finite number above 0"),
        (TrainConfig, {"micro_batch": 3}, "micro_batch=3 .* batch_size=8.* 1, 2, 4, 8"),
        (TrainConfig, {"optimizer": "adam"}, r"optimizer='adam' .* adamw\?.* adamw"),
        (TrainConfig, {"dtype": "bfloat"}, r"dtype='bfloat' .* bfloat16\?"),
        (TrainConfig, {"on_nonfinite": "x"}, "on_nonfinite='x' .* stop, skip"),
        (TrainConfig, {"save_minutes": -1.0}, "save_minutes=-1.0 .* a number at least 0"),
        (TrainConfig, {"lr_horizon": 0}, "lr_horizon=0 "),
    ],
)
def test_values_that_cannot_be(kind: type, values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        kind(**values)


def test_a_run_goes_through_json_unchanged() -> None:
    run = Run().with_settings(train__lr=3e-4, model__n_layer=2, data__data="x.txt", train__micro_batch=2)
    again = Run.from_dict(json.loads(json.dumps(run.to_dict())))
    assert again == run and again.train.lr == 3e-4
    assert changes(Run(), again) == [
        "model.n_layer: 6 -> 2",
        "data.data: shakespeare -> x.txt",
        "train.micro_batch: None -> 2",
        f"train.lr: {TrainConfig().lr} -> 0.0003",
    ]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"modle": {}}, r"no part \[modle\] of a run; did you mean model\?"),
        ({"train": {"max_step": 3}}, r"no train setting 'max_step'; did you mean max_steps\?"),
        ({"train": {"max_steps": "3"}}, "train.max_steps='3' has the wrong type; expected a whole number, found text"),
        ({"train": {"micro_batch": 1.5}}, "expected a whole number or nothing, found a decimal number"),
        ({"train": {"checkpointing": 1}}, "expected true or false, found a whole number"),
        ({"train": {"lr": True}}, "train.lr=True has the wrong type; expected a number, found true or false"),
        ({"train": {"lr": None}}, "train.lr=None has the wrong type; expected a number, found nothing"),
    ],
)
def test_plain_values_are_checked(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Run.from_dict(values)
    assert Run.from_dict({"train": {"lr": 1}}).train.lr == 1, "a whole number is a number"


@pytest.mark.parametrize(
    ("kind", "values", "expected"),
    [
        (TrainConfig, {"max_steps": np.int64(2), "lr": np.float32(0.5), "seed": torch.tensor(3)}, (2, 0.5, 3)),
        (TrainConfig, {"max_steps": np.uint8(7), "lr": Fraction(1, 4), "seed": np.array(3)}, (7, 0.25, 3)),
        (
            ModelConfig,
            {"n_layer": np.int32(4), "dropout": torch.tensor(0.25), "bias": np.bool_(False)},
            (4, 0.25, False),
        ),
        (
            DataConfig,
            {"data": Path("a.txt"), "max_length": np.int16(8), "held_out": np.float64(0.5)},
            ("a.txt", 8, 0.5),
        ),
        (Sampling, {"temperature": np.float16(0.5), "top_k": torch.tensor(4), "top_p": 1}, (0.5, 4, 1.0)),
    ],
)
def test_numbers_of_other_libraries_and_paths_become_pythons_own(
    kind: type, values: dict[str, Any], expected: tuple[Any, ...]
) -> None:
    made = kind(**values)
    found = tuple(getattr(made, name) for name in values)
    assert found == expected and [type(value) for value in found] == [type(value) for value in expected]


def test_a_number_of_another_library_is_checked_as_pythons_own() -> None:
    for bad in (np.float32(2.5), np.array([2]), torch.tensor(2.0), True, "2"):
        with pytest.raises(ConfigError, match="max_steps=.* cannot be used; it must be a whole number at least 1"):
            TrainConfig(max_steps=bad)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="lr=inf cannot be used; it must be a finite number above 0"):
        TrainConfig(lr=np.float32("inf"))
    with pytest.raises(ConfigError, match="data=5 has the wrong type; expected text, found a whole number"):
        DataConfig(data=5)  # type: ignore[arg-type]


def test_the_parts_of_a_run_may_be_dicts() -> None:
    run = Run(model={"n_embd": 64, "n_head": 2})  # type: ignore[arg-type]
    assert run == Run(model=ModelConfig(n_embd=64, n_head=2))
    with pytest.raises(ConfigError, match=r"no model setting 'n_emb'; did you mean n_embd\?"):
        Run(model={"n_emb": 64})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="train=ModelConfig.* has the wrong type; expected a TrainConfig"):
        Run(train=ModelConfig())  # type: ignore[arg-type]


def test_a_model_config_prints_its_sizes_and_what_is_not_the_default() -> None:
    config = ModelConfig(n_layer=2, dropout=0.5, tied_head=False)
    sizes = "vocab_size=50257, n_positions=1024, n_embd=384, n_layer=2, n_head=6"
    assert repr(config) == f"ModelConfig({sizes}, dropout=0.5, tied_head=False)"
    assert eval(repr(ModelConfig.preset("llama-nano"))) == ModelConfig.preset("llama-nano")


def test_settings_by_word() -> None:
    words = ["train.lr=3e-4", "model.n_layer=2", "train.checkpointing=True", "train.micro_batch=none", "data.data=a=b"]
    assert parse_settings(words) == {
        "train__lr": 3e-4,
        "model__n_layer": 2,
        "train__checkpointing": True,
        "train__micro_batch": None,
        "data__data": "a=b",
    }


@pytest.mark.parametrize(
    ("word", "message"),
    [
        ("lr=3", r"--set lr=3 cannot be read; write --set train.lr=3"),
        ("train.lr", "--set train.lr cannot be read"),
        ("trian.lr=3", r"no part 'trian'; did you mean train\?"),
        ("train.lrr=3", r"no train setting 'lrr'; did you mean lr\?"),
        ("train.max_steps=many", "train.max_steps=many has the wrong type; expected a whole number"),
        ("train.checkpointing=maybe", "expected true or false"),
        ("train.beta2=", "train.beta2= has no value; write a number after the equals sign"),
    ],
)
def test_settings_that_cannot_be_read(word: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_settings([word])


def test_every_recipe_in_the_package_can_be_used() -> None:
    assert "shakespeare-micro" in recipe_names()
    for name in recipe_names():
        Run().with_settings(**load_recipe(name))
    assert Run().with_settings(**load_recipe("shakespeare-micro")) == Run()  # as its comment says


def test_a_recipe_from_a_file() -> None:
    Path("mine.toml").write_text('[model]\npreset = "nano"\nn_layer = 2\n[train]\nlr = 1e-3\n')
    run = Run().with_settings(**load_recipe("mine.toml"))
    assert (run.model.n_embd, run.model.n_layer, run.train.lr) == (192, 2, 1e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[train\n", "mine.toml is not TOML: "),
        ("[trian]\nlr = 1", r"mine.toml: .*\[trian\].* train\?.* model, data,"),
        ("[abuot]", r"mine.toml: .*\[abuot\].* about\?"),
        ("lr = 1", r"mine.toml: lr=1 .*\[train\]"),
        ("seed = 1", r"mine.toml: seed=1 .*\[data\] or \[train\]"),
        ("x = 1", r"mine.toml: x=1 .*\[model\] or \[data\] or \[train\]"),
        ("train = 3", r"mine.toml: train=3 .*\[train\].* whole number"),
        ("[[about]]", r"mine.toml: about=\[\{\}\] .*\[about\].* list"),
        ("[about]\ntitel = 'x'", r"mine.toml: .*'titel'.* title\?"),
        ("[about]\nexpect = 5", "mine.toml: about.expect=5 .* text.* whole number"),
        ("[train]\nlrr = 1", r"mine.toml: .*'lrr'.* lr\?"),
        ('[train]\nlr = "fast"', "mine.toml: train.lr='fast' .* number.* text"),
        ("[train]\nlr = [1]", r"mine.toml: train.lr=\[1\] .* number.* list"),
        ("[train.lr]\nx = 1", "mine.toml: train.lr=.* number.* table"),
        ("[train]\nlr = 2026-01-01", "mine.toml: train.lr=.* number.* date or time"),
        ("[train]\nmax_steps = 1.0", "mine.toml: train.max_steps=1.0 .* whole number.* decimal number"),
        ("[model]\npreset = 3", "mine.toml: model.preset=3 .* text.* whole number"),
        ("[train]\nlr = -1.0", "mine.toml: lr=-1.0 "),
        ('[model]\npreset = "huge"', "mine.toml: .*'huge'"),
    ],
)
def test_recipes_that_cannot_be_used(text: str, message: str) -> None:
    Path("mine.toml").write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_recipe("mine.toml")


def test_every_recipe_in_the_package_says_what_to_expect() -> None:
    """The description is in the file of the recipe and sets nothing."""
    for name in recipe_names():
        about = about_recipe(name)
        assert 0 < len(f"{name}  {about.title}") <= 80 and "\n" not in about.title
        assert about.title in recipe_text(name) and about.expect and "\n" not in about.expect
        assert not any(key.startswith("about") for key in load_recipe(name))
    described = get_model_size(Run().with_settings(**load_recipe("shakespeare-micro")).model)
    assert f"{described:,} parameters" in about_recipe("shakespeare-micro").expect
    # 65 letters and a separator; trained vocabularies
    for name, ids in {"char": 66, "3min": 1024, "modern": 1024, "best": 1024}.items():
        name = f"shakespeare-{name}"
        settings = load_recipe(name)
        fitted = {"model__vocab_size": ids, "model__n_positions": settings["data__max_length"]}
        size = get_model_size(Run().with_settings(**settings | fitted).model)
        assert f"{size:,} parameters" in about_recipe(name).expect


@pytest.mark.parametrize(
    ("text", "settings", "title"),
    [('[about]\ntitle = "mine"\n[train]\nlr = 0.5\n', {"train__lr": 0.5}, "mine"), ("", {}, "")],
)
def test_a_recipe_of_a_user_may_describe_itself(text: str, settings: dict[str, Any], title: str) -> None:
    Path("mine.toml").write_text(text)
    assert load_recipe("mine.toml") == settings
    assert (about_recipe("mine.toml").title, about_recipe("mine.toml").expect) == (title, "")


def test_a_file_with_the_name_of_a_recipe_is_not_passed_over() -> None:
    Path("my-text").write_text("[train]\nlr = 0.5\n")
    with pytest.raises(ConfigError, match=r"a recipe and a file here .*config='./my-text'; .* rename the file"):
        load_recipe("my-text")
    assert load_recipe("./my-text") == {"train__lr": 0.5}


def test_the_template_has_no_setting_without_a_word_on_it() -> None:
    lines = recipe_text("my-text").splitlines()
    settings = [line for line in lines if "=" in line and not line.startswith("#")]
    assert all("# " in line for line in settings if not line.startswith(("title", "expect")))
    assert max(map(len, lines)) <= 120
