"""Training on a corpus: resumed to the bit, and refused on another one."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from light_llm.checkpoint import RunFolder, read_meta
from light_llm.cli.main import main
from light_llm.data import create_dataloader, prepare_dataset
from light_llm.errors import ConfigError
from light_llm.train import Trainer
from tests.support.corpora import make_corpus
from tests.support.tools import NANO_RUN, SMALL, byte_model, same


def train(corpus: Path, out: str, *, weights: str | None = None, order: int | None = None, **changes: Any) -> None:
    dataset, _ = prepare_dataset(corpus, max_length=16, weights=weights, order=order)
    Trainer(byte_model(0.2), create_dataloader(dataset, 4, seed=1), out=out, **(SMALL | changes)).train()


def test_a_run_on_a_corpus_resumes_to_the_bit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the third pass over one source and the first over the other; then other data is refused."""
    corpus = make_corpus(tmp_path / "corpus", {"wiki": 0.05, "code": 0.95}, shards=1, n=600, held_out=100)
    train(corpus, "whole", max_steps=24)
    with monkeypatch.context() as context:
        context.setenv("LIGHT_LLM_STOP_AFTER", "13")
        train(corpus, "two", max_steps=24)
    train(corpus, "two", max_steps=24, resume=True)
    assert same("whole", "two")
    moved = tmp_path / "elsewhere"
    shutil.copytree(corpus, moved)
    train(moved, "two", max_steps=26, resume=True)
    kept = read_meta(Path("whole", "best_model.pt"))["data"]
    assert kept["order"] == 2 and [source["weight"] for source in kept["sources"]] == [0.05, 0.95]
    other = make_corpus(tmp_path / "other", {"wiki": 0.05, "code": 0.95}, shards=1, n=610, held_out=100)
    for kwargs, words in (
        ({"corpus": other}, "text, SHA-256"),
        ({"corpus": corpus, "weights": "wiki=1,code=1"}, "data.weights: wiki=0.05,code=0.95 -> wiki=1,code=1"),
        ({"corpus": corpus, "order": 1}, "data.order: 2 -> 1"),
    ):
        with pytest.raises(ConfigError, match=re.escape(words)):
            train(**kwargs, out="two", max_steps=30, resume=True)


def test_the_command_line_trains_on_a_corpus(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    corpus = make_corpus(tmp_path / "corpus")
    words = [word for word in NANO_RUN if word not in ("--tokenizer", "byte")]
    weights = "code=0.25,wiki=0.75"
    steps = ["--max-steps", "400", "--out", "run", "--skip-doctor", "--set", f"data.weights={weights}"]
    with monkeypatch.context() as context:
        context.setenv("LIGHT_LLM_STOP_AFTER", "2")
        assert main(["train", "--data", str(corpus), *words, *steps]) == 130
    out = capsys.readouterr().out
    # About 600 and 200 sequences, from 187 windows each.
    assert "wiki 0.75 (3.3 passes), code 0.25 (1.0 passes)" in out and "note" not in out.partition("mixture")[2]
    with monkeypatch.context() as context:
        context.setenv("LIGHT_LLM_STOP_AFTER", "1")
        steps[1], steps[3] = "600", "many"
        assert main(["train", "--data", str(corpus / "corpus.json"), *words, *steps]) == 130
    assert re.search(r"note +the run reads wiki 4\.\d times", capsys.readouterr().out)
    assert main(["train", "--resume", "--out", "run", "--max-steps", "3", "--skip-doctor"]) == 0
    assert RunFolder("run").latest_step().name == "step-000003"
    capsys.readouterr()
    assert main(["generate", "eval", "--checkpoint", "run"]) == 0
    out = capsys.readouterr().out
    losses = [float(re.search(rf"^{name} +(?:loss )?([\d.]+)", out, re.M)[1]) for name in ("loss", "wiki", "code")]  # type: ignore[index]
    # The windows are cut elsewhere, so the loss of all is not quite a mean of the others.
    assert min(losses[1:]) - 0.05 <= losses[0] <= max(losses[1:]) + 0.05
