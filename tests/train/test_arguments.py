"""What a Trainer is given: wrapped, changed and frozen models, and arguments of the wrong kind."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from light_llm.config import ModelConfig
from light_llm.data import DataLoader
from light_llm.errors import ConfigError
from light_llm.generate import TextGenerator
from light_llm.model import LightLLM
from light_llm.train import Trainer
from tests.support.tools import SMALL, byte_loader, byte_model

HOW: dict[str, Any] = SMALL | {"max_steps": 2, "out": "run", "skip_doctor": True, "probe_interval": 0}


class LoRALinear(nn.Module):
    """As adapters wrap a layer."""

    def __init__(self, base: nn.Linear) -> None:
        super().__init__()
        self.base, self.a = base, nn.Linear(base.in_features, 2)


@pytest.fixture
def loader(poem: Path) -> DataLoader:
    return byte_loader(poem)


def test_a_compiled_model_is_trained_and_can_be_loaded(loader: DataLoader, capsys: pytest.CaptureFixture[str]) -> None:
    model = byte_model()
    compiled: Any = torch.compile(model, backend="eager")
    for wrapped in (compiled, nn.DataParallel(model)):
        trainer = Trainer(wrapped, loader, **(HOW | {"overwrite": True, "quiet": False}))
        assert trainer.model is model and trainer.train().status == "done"
        assert f"the model inside {type(wrapped).__name__} is trained" in capsys.readouterr().out
    assert Trainer(compiled, loader, resume=True, **(HOW | {"max_steps": 3})).train().step == 3
    assert TextGenerator("run", device="cpu").generate("a", 2, seed=1)


def test_a_model_that_is_not_its_config_is_refused_before_a_step(loader: DataLoader) -> None:
    resized, adapted, extended = byte_model(), byte_model(), byte_model()
    attention: Any = adapted.h[0].attn
    resized.wte = nn.Embedding(300, 24)
    attention.c_attn = LoRALinear(attention.c_attn)
    extended.extra = nn.Linear(2, 2)
    for model, said in (
        (resized, r"wte.weight is \(300, 24\), not \(257, 24\)"),
        (adapted, r"h.0.attn.c_attn.weight is absent, not \(72, 24\).* and 3 more.*merge adapters"),
        (extended, r"extra.weight is \(2, 2\), not absent"),
    ):
        with pytest.raises(ConfigError, match=said):
            Trainer(model, loader, **HOW)
    assert not Path("run").exists()


def test_a_frozen_model_is_refused_and_one_frozen_in_part_is_trained(loader: DataLoader) -> None:
    with pytest.raises(ConfigError, match="frozen"):
        Trainer(byte_model().requires_grad_(False), loader, **HOW)
    model = byte_model().requires_grad_(False)
    model.ln_f.requires_grad_(True)
    assert Trainer(model, loader, **HOW).train().status == "done"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((nn.Linear(2, 2), []), r"this is a Linear; make one with LightLLM\(config\)"),
        (([], byte_model()), r"wrong order: Trainer\(model, loader\)"),
        ((byte_model(), [], ModelConfig()), r"third argument .* LightLLM\(config\)"),
        ((byte_model(), [], {"max_steps": 2}), r"max_steps': 2} is not a TrainConfig.*by name"),
        ((byte_model(), 8), r"8 is not a loader"),
        ((byte_model(), "a.txt"), r"prepare_dataset\('a.txt'\)"),
    ],
)
def test_arguments_of_the_wrong_kind(arguments: tuple[Any, ...], said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        Trainer(*arguments)


def test_passes_are_named_in_steps_of_this_text(loader: DataLoader) -> None:
    with pytest.raises(ConfigError, match=f"so 2 passes are max_steps={2 * len(loader)}"):
        Trainer(byte_model(), loader, epochs=2)
    with pytest.raises(ConfigError, match="'learning_rate': here it is lr=..."):
        Trainer(byte_model(), loader, learning_rate=1)
    with pytest.raises(ConfigError, match="LightLLM takes a ModelConfig, not 'nano'"):
        LightLLM("nano")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"out": ""}, "out='' is not the path of a run folder"),
        ({"out": 5}, "out=5 is not the path of a run folder"),
        ({"guards": lambda step: "go"}, "guards=<function .* give a list of functions"),
        ({"sinks": [5]}, r"sinks=\[5\] cannot be used"),
        ({"n_embd": 64}, "give it to the model: ModelConfig"),
    ],
)
def test_options_of_the_wrong_kind(loader: DataLoader, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Trainer(byte_model(), loader, **(HOW | options))


def test_companions_of_the_wrong_kind(loader: DataLoader) -> None:
    for companions, message in (
        ({"tokenizer": "byte"}, "tokenizer='byte' is not a tokenizer object"),
        ({"val_loader": loader.dataset}, "val_loader is a dataset; give batches of it"),
    ):
        with pytest.raises(ConfigError, match=message):
            Trainer(byte_model(), list(loader), **HOW, **companions)  # type: ignore[arg-type]
    trainer = Trainer(byte_model(), loader, **HOW)
    assert repr(trainer).endswith(" parameters, 2 steps, out=run)")
    with pytest.raises(ConfigError, match="not a function"):
        trainer.every(1, 5)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="the run has not started"):
        trainer.say("too early")
