"""Names that other programs use for our settings."""

import pytest

from light_llm.config import ALIASES, EPOCHS, SETTINGS, TrainConfig, explain_alias
from light_llm.errors import ConfigError


def test_every_alias_names_a_setting_and_is_none_itself() -> None:
    assert set(ALIASES.values()) <= set(SETTINGS)
    assert not {path.split(".")[1] for path in SETTINGS} & {*ALIASES, *EPOCHS}


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("learning_rate", "here it is lr=..."),
        ("block_size", "here it is max_length=..., a setting of the data"),
        ("n_layers", "here it is n_layer=..., a setting of the model"),
        ("n_layer", "give it to the model: ModelConfig(..., n_layer=...)"),
        ("max_length", "give it to the dataset: prepare_dataset(..., max_length=...)"),
        ("epochs", "steps; set max_steps=..."),
        ("max_step", "did you mean max_steps?"),
        ("banana", "'banana'."),
    ],
)
def test_an_unknown_training_setting_is_refused_with_the_right_name(name: str, said: str) -> None:
    with pytest.raises(ConfigError) as error:
        TrainConfig().with_changes({name: 2})
    assert str(error.value).endswith(said), error.value


def test_epochs_are_given_in_steps() -> None:
    assert explain_alias("--epochs", "2.5", steps_per_pass=40) == (
        "a run is measured in steps. One pass over this text is 40 steps, so 2.5 passes are {--max-steps 100}"
    )
    assert str(explain_alias("epochs", "many", steps_per_pass=40)).endswith("40 steps; set {--max-steps}")
