"""Advice in the notices of a run: nothing that is set already, and nothing that does not exist."""

from pathlib import Path

from light_llm.config import ModelConfig, TrainConfig
from light_llm.errors import as_flags
from light_llm.train.messages import loss_is_rising, smaller_preset, summary
from light_llm.train.step import Result


def advice(model: ModelConfig, patience: int = 0) -> str:
    return as_flags(" ".join(loss_is_rising(3.0, 20, 3.5, TrainConfig(patience=patience), model)))


def test_the_notice_of_overfitting_recommends_what_is_not_set_and_exists() -> None:
    assert "What helps: a longer text, --dropout 0.1 or --preset nano." in advice(ModelConfig.micro())
    assert "What helps: a longer text or --dropout 0.2 (now 0.1)." in advice(ModelConfig.nano(dropout=0.1))
    assert "What helps: a longer text." in advice(ModelConfig.nano(dropout=0.3))
    assert "--patience 2" in advice(ModelConfig.nano()) and "--patience" not in advice(ModelConfig.nano(), patience=1)
    assert smaller_preset(ModelConfig.preset("llama-small")) == "llama-micro"


def test_an_interrupted_run_is_continued_by_what_can_read_its_text() -> None:
    """The command line cannot read a loader that a program made."""
    result = Result("interrupted", 3, None, None, Path("mine"), 1.0, 10.0, 0)
    for own_loader, advice in (
        (False, "light-llm train --resume --out mine"),
        (True, "Trainer(..., out='mine', resume=True)"),
    ):
        lines = summary(result, TrainConfig(), [], own_loader=own_loader)
        assert f"saved    continue with: {advice}" in lines
