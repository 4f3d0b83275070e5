"""A loader of the caller's own, with its tokenizer and a held-out loader: the model can be judged and generate."""

import math
from pathlib import Path

import pytest

from light_llm.checkpoint import load_model, read_model
from light_llm.data.tokenizers import ByteTokenizer
from light_llm.errors import ConfigError
from light_llm.evaluate import evaluate_batches
from light_llm.generate import TextGenerator
from light_llm.report import read_run_log
from light_llm.train import Trainer
from tests.support.tools import SMALL, Foreign, byte_loader, byte_model, rows_of

HOW = SMALL | {"max_steps": 4, "eval_interval": 2, "skip_doctor": True, "quiet": False}


def test_with_a_tokenizer_and_a_held_out_loader_the_model_is_judged_and_generates(
    poem: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    loader = byte_loader(poem)
    held_out = [loader.batch(k) for k in (90, 91)]
    held_out[1][1][:, :4] = -100
    own = Foreign(loader)
    result = Trainer(byte_model(), own, out="run", tokenizer=ByteTokenizer(), val_loader=held_out, **HOW).train()
    rows = rows_of("run", "eval")
    assert [(row["step"], row["split"]) for row in rows] == [(2, "held_out"), (4, "held_out")]
    assert result.best_loss == rows[-1]["loss"] and rows[-1]["tokens"] == 2 * 4 * 16 - 16
    assert rows[-1]["bits_per_byte"] == pytest.approx(rows[-1]["loss"] / math.log(2))  # a byte is a token here
    found = evaluate_batches(load_model("run").model, held_out, None)
    assert found.loss == pytest.approx(rows[-1]["loss"]) and math.isnan(found.bits_per_byte)
    assert TextGenerator("run", device="cpu").generate("a", 2, seed=1)
    assert read_run_log("run").steps.bits_per_byte[0] is not None
    said = " ".join(capsys.readouterr().out.split())
    assert "the lowest held-out loss, checkpoints contain its tokenizer" in said and "generate demo" in said


def test_without_a_tokenizer_the_advice_is_what_can_be_done(poem: Path, capsys: pytest.CaptureFixture[str]) -> None:
    loader = Foreign(byte_loader(poem))
    Trainer(byte_model(), loader, out="run", val_loader=[byte_loader(poem).batch(9)], **HOW).train()
    said = " ".join(capsys.readouterr().out.split())
    assert "light_llm.load('run') gives the model" in said and "Trainer(..., tokenizer=...)" in said
    assert "generate demo" not in said and "perplexity" in said and "bits/byte" not in said
    assert read_model("run").tokenizer is None and rows_of("run", "eval")[-1]["bits_per_byte"] is None


def test_companions_that_cannot_be_used(poem: Path) -> None:
    loader = byte_loader(poem)
    for how, said in (
        ({"loader": loader, "tokenizer": ByteTokenizer()}, "has its own tokenizer"),
        ({"loader": [], "tokenizer": "gpt2"}, "'gpt2' is not a tokenizer object"),
        ({"loader": [], "val_loader": iter([])}, "must be iterable again"),
    ):
        with pytest.raises(ConfigError, match=said):
            Trainer(byte_model(), **how)
    with pytest.raises(ConfigError, match="gives no targets"):
        Trainer(byte_model(), Foreign(loader), out="run", val_loader=[], **HOW).train()
