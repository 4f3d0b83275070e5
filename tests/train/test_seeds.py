"""The seed of a run from Python: of the weights, of dropout and of the order, whatever ran before in the process."""

from pathlib import Path
from typing import Any

import pytest
import torch

from light_llm.config import DEFAULT_SEED, ModelConfig, TrainConfig
from light_llm.data import TokenDataset, create_dataloader, prepare_dataset
from light_llm.errors import ConfigError
from light_llm.model import LightLLM
from light_llm.train import Trainer
from tests.support.tools import SMALL, Foreign

CONFIG = ModelConfig(vocab_size=257, n_positions=16, n_embd=24, n_layer=1, n_head=3, dropout=0.1)
HOW: dict[str, Any] = SMALL | {"max_steps": 3, "eval_interval": 3, "skip_doctor": True, "probe_interval": 0}


@pytest.fixture
def dataset(poem: Path) -> TokenDataset:
    return prepare_dataset(poem, 16, "byte")[0]


def loss(dataset: TokenDataset, seed: int, lr: float) -> float | None:
    return (
        Trainer(CONFIG, dataset, out=f"{seed}-{lr}", seed=seed, **(HOW | {"lr": lr, "overwrite": True}))
        .train()
        .best_loss
    )


def test_a_loop_over_seeds_and_rates_gives_the_same_numbers_in_any_order(dataset: TokenDataset) -> None:
    grid = [(seed, lr) for seed in (1, 2) for lr in (1e-2, 3e-3)]
    first = {point: loss(dataset, *point) for point in grid}
    torch.rand(7)  # what other code draws in between changes nothing
    assert {point: loss(dataset, *point) for point in reversed(grid)} == first
    assert len(set(first.values())) == len(grid)


def test_a_config_and_a_ready_model_with_the_same_seed_are_the_same_run(dataset: TokenDataset) -> None:
    found = loss(dataset, 5, 1e-2)
    model, loader = LightLLM(CONFIG, seed=5), create_dataloader(dataset, HOW.get("batch_size", 8), seed=5)
    for seed in ({"seed": 5}, {}):  # without one, the run has the seed of the model
        trainer = Trainer(model, loader, out="ready", **(HOW | seed | {"overwrite": True}))
        assert trainer.run.train.seed == trainer.run.data.seed == 5
        assert trainer.train().best_loss == found
        model = LightLLM(CONFIG, seed=5)


def test_the_global_generator_is_left_alone(dataset: TokenDataset) -> None:
    before = torch.get_rng_state()
    weights = LightLLM(CONFIG).wte.weight
    Trainer(CONFIG, dataset, out="run", **HOW).train()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(DEFAULT_SEED)
    assert torch.equal(LightLLM(CONFIG, seed=None).wte.weight, weights), "the weights of the command line until now"
    assert not torch.equal(LightLLM(CONFIG, seed=2).wte.weight, weights)


def test_a_seed_that_the_model_or_the_loader_do_not_have_is_refused(dataset: TokenDataset) -> None:
    loader = create_dataloader(dataset, 4)
    model = LightLLM(CONFIG)
    for trainer in ({"seed": 2}, {"config": TrainConfig(seed=2)}):
        with pytest.raises(ConfigError, match=r"seed=2, .*model .*seed=1337; .*LightLLM\(config, seed=2\)"):
            Trainer(model, loader, **trainer)
    with pytest.raises(ConfigError, match=r"seed=2, .*loader .*seed=1337; .*create_dataloader\(dataset, 4, seed=2\)"):
        Trainer(LightLLM(CONFIG, seed=2), loader, seed=2)
    # Weights without a seed of their own, such as loaded ones: the seed is that of dropout.
    assert Trainer(LightLLM(CONFIG, seed=None), Foreign(loader), out="run", seed=2, **HOW).config.seed == 2
