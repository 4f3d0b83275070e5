"""The distance to a text whose probability is known: nothing for a reader who knows the grammar, never less."""

import math
from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from light_llm.cli import main
from light_llm.data import prepare_dataset
from light_llm.data.resolve import max_documents
from light_llm.data.shards import TokensInMemory
from light_llm.data.sources import find_source
from light_llm.data.tales import corpus, stories, story
from light_llm.data.tokenizers import ByteTokenizer, byte_lengths
from light_llm.errors import DataError
from light_llm.evaluate import evaluate_against_limits, evaluate_loss
from light_llm.observe.console import evaluation_line
from tests.data.test_tales import SMALL, enumerate_stories
from tests.support.tools import byte_model

END = ByteTokenizer.separator
LENGTHS = np.array(byte_lengths(ByteTokenizer()))


class Knows(nn.Module):
    """A model that knows every text of a grammar with its probability, and predicts each byte from those before it.

    `hidden_states` gives log-probabilities, (B, T, 257), and the head, the unit matrix, passes them on.
    """

    logit_cap, head_weight = 0.0, torch.eye(257)

    def __init__(self, texts: dict[str, float]) -> None:
        super().__init__()
        self.after: dict[bytes, defaultdict[int, float]] = defaultdict(lambda: defaultdict(float))
        for text, probability in texts.items():
            data = text.encode()
            for i, byte in enumerate([*data, END]):
                self.after[data[:i]][byte] += probability
        self.start = self.after[b""]

    def hidden_states(self, tokens: Tensor, **_: Any) -> Tensor:
        rows = []
        for row in tokens.tolist():
            read: bytes | None = None  # of the present text; None before its beginning has been seen
            for token in row:
                read = b"" if token == END else None if read is None else read + bytes([token])
                ways = self.after[read] if read is not None else dict.fromkeys(range(257), 1.0)
                total = math.fsum(ways.values())
                rows.append([math.log(ways[b] / total) if b in ways else -1e4 for b in range(257)])
        return torch.tensor(rows).view(*tokens.shape, 257)


@pytest.fixture(scope="module")
def small() -> dict[str, float]:
    """Every text of the small grammar with its probability."""
    texts: dict[str, float] = defaultdict(float)
    for told, probability in enumerate_stories(SMALL):
        texts[told.text] += float(probability)
    assert math.fsum(texts.values()) == pytest.approx(1)
    return texts


def held_out(n: int = 40) -> tuple[TokensInMemory, tuple[tuple[float, str], ...]]:
    told = [story(3, i, grammar=SMALL) for i in range(n)]
    ids = [i for each in told for i in [END, *each.text.encode()]] + [END]
    return TokensInMemory(ids), tuple((each.bits, each.plot) for each in told)


def test_who_knows_the_grammar_is_at_the_limit(small: dict[str, float]) -> None:
    tokens, limits = held_out()
    model: Any = Knows(small)
    evaluation, distance = evaluate_against_limits(model, tokens, LENGTHS, limits, END, context=len(tokens))
    assert distance.model == pytest.approx(distance.limit, abs=1e-5) and distance.in_cut is None
    assert dict(distance.by_kind) == pytest.approx({"find": 0, "meet": 0}, abs=1e-5)
    assert evaluation.bits_per_byte == pytest.approx(distance.model)


def test_a_window_s_edge_costs_only_the_stories_it_cuts(small: dict[str, float]) -> None:
    tokens, limits = held_out()
    model: Any = Knows(small)
    evaluation, distance = evaluate_against_limits(model, tokens, LENGTHS, limits, END, context=500)
    assert distance.in_whole == pytest.approx(0, abs=1e-5)
    assert distance.in_cut is not None and distance.in_cut > 0.05 and distance.distance > 0
    assert evaluation.bits_per_byte == pytest.approx(distance.model)  # every bit is some story's


def test_parts_of_the_distance_are_counts_by_hand() -> None:
    tokens, limits = held_out(12)
    model, context = byte_model(), 32
    nats = np.zeros(len(tokens))

    def keep(first: int, row: Any) -> None:
        nats[first : first + len(row)] = row

    evaluate_loss(model, tokens, LENGTHS, context=context, on_window=keep)
    _, distance = evaluate_against_limits(model, tokens, LENGTHS, limits, END, context=context)
    ids = tokens.read(0, len(tokens))
    ends = [i for i, token in enumerate(ids) if token == END]
    sums: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for a, b, (bits, plot) in zip(ends, ends[1:], limits, strict=False):
        paid = nats[a + 1 : b + 1].sum() / math.log(2) - bits
        for name in (plot, "all", "whole" if a // context == (b - 1) // context else "cut"):
            sums[name][0] += paid
            sums[name][1] += b - a - 1
    by_hand = {name: paid / size for name, (paid, size) in sums.items()}
    assert distance.distance == pytest.approx(by_hand["all"]) and dict(distance.by_kind) == pytest.approx(
        {kind: by_hand[kind] for kind in ("find", "meet") if kind in by_hand}
    )
    assert (distance.in_whole, distance.in_cut) == (by_hand.get("whole"), pytest.approx(by_hand["cut"]))
    assert list(distance.by_kind) == sorted(distance.by_kind, key=lambda kind: -kind[1])


# ---- tales as a source


@pytest.fixture(scope="module")
def one_megabyte() -> Any:
    return prepare_dataset("tales:1", max_length=64)


def test_the_corpus_is_its_stories(one_megabyte: Any) -> None:
    dataset, tokenizer = one_megabyte
    source = dataset.source
    told = [each for _, each in zip(range(source.documents), stories(corpus.SEED), strict=False)]
    text = "".join(piece if piece is not None else "\0" for piece in source.read())
    assert text == "\0".join(each.text for each in told)
    assert source.limits == tuple((each.bits, each.plot) for each in told)
    assert 1_000_000 <= source.path.stat().st_size < 1_003_000 and tokenizer.name == "bpe"
    n = len(dataset.limits)
    assert dataset.limits == source.limits[-n:] and 0.08 < n / source.documents < 0.12
    held = dataset.held_out.read(0, len(dataset.held_out))
    sizes = np.array(byte_lengths(tokenizer))[held]
    assert held[0] == held[-1] == tokenizer.separator and sizes.sum() == sum(len(t.text.encode()) for t in told[-n:])


def test_a_larger_corpus_begins_with_a_smaller_one(one_megabyte: Any) -> None:
    larger = find_source("tales:2")
    first = one_megabyte[0].source.path.read_bytes()
    assert larger.path.read_bytes()[: len(first)] == first and larger.title == "tales, the built-in corpus"


@pytest.mark.parametrize("name", ["tales:", "tales:0", "tales:x", "tales:1.5", "tales:99999"])
def test_a_size_that_cannot_be_read(name: str) -> None:
    with pytest.raises(DataError, match=f"{name} cannot be read; write megabytes after the colon, 1 to 10,000"):
        find_source(name)


def test_a_corpus_that_cannot_be_kept(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "file"))
    with pytest.raises(DataError, match="the built-in corpus cannot be cached at .* set LIGHT_LLM_CACHE"):
        find_source("tales:1")


@pytest.mark.parametrize("damage", ["gone", "cut", "changed"])
def test_a_damaged_corpus_is_made_again(one_megabyte: Any, damage: str) -> None:
    facts = one_megabyte[0].source.path.with_suffix(".tsv")
    good = facts.read_text()
    if damage == "gone":
        facts.unlink()
    else:
        facts.write_text(good[:-9] if damage == "cut" else good.replace("1", "2", 1))
    assert find_source("tales:1").limits == one_megabyte[0].source.limits and facts.read_text() == good


def test_own_held_out_text_has_no_limits(one_megabyte: Any, poem: Path) -> None:
    dataset, _ = prepare_dataset("tales:1", 64, one_megabyte[1], val_data=poem)
    assert dataset.limits == () and max_documents(dataset.source) > 1 and dataset.record()["val_data"] == str(poem)


# ---- nothing at hand


@pytest.mark.slow  # a run of the default model; test_offline.py has a small one
def test_without_files_or_network_tales_is_used(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No network, no file: one plain line says it, the evaluation knows the limit, and so does `eval` afterwards."""
    monkeypatch.setenv("LIGHT_LLM_OFFLINE_DIR", str(tmp_path / "nothing"))
    monkeypatch.setattr(corpus, "DEFAULT_MEGABYTES", 1)
    small = ["--max-length", "64", "--batch-size", "2", "--dtype", "float32", "--max-steps", "2", "--offline"]
    shape = ["--set", "model.n_layer=1", "--set", "model.n_embd=24", "--set", "model.n_head=3"]
    assert main(["train", *small, *shape, "--set", "train.sample_interval=0"]) == 0
    out = capsys.readouterr().out
    line = "note     Shakespeare has not been downloaded yet: using the built-in stories ('tales') instead\n"
    assert out.count(line) == 1 and " above the limit  perplexity" in out
    assert main(["eval"]) == 0
    out = capsys.readouterr().out
    limit, distance = (float(out.split(f"\n{name} ")[1].split()[0]) for name in ("limit", "distance"))
    bits = float(out.split("bits/byte ")[1].split()[0])
    assert bits == pytest.approx(limit + distance, abs=2e-4) and distance > 1
    assert "in stories cut by a window's edge" in out and "\nhardest     " in out and "\neasiest     " in out
    assert main(["generate", "demo", "--seed", "1", "--max-new-tokens", "5"]) == 0
    headings = [line for line in capsys.readouterr().out.splitlines() if line.startswith("---")]
    assert headings == ["--- (no prompt)", "--- 'Once upon a time'", "--- 'Lily was'", "--- 'Tom lived in'"]
    assert main(["train", *small, *shape, "--data", "shakespeare", "--out", "other"]) == 2  # asked for by name
    assert "shakespeare.txt is not on this machine, and this command downloads nothing" in capsys.readouterr().err


def test_the_line_of_an_evaluation_says_the_distance() -> None:
    row = {"step": 1, "loss": 1.0, "stderr": None, "bits_per_byte": 0.5, "perplexity": 2.7, "best": True}
    assert evaluation_line(row | {"distance": 0.1234}, 2).endswith(
        "0.500 bits/byte, 0.123 above the limit  perplexity 2.7  best"
    )
    assert "limit" not in evaluation_line(row, 2)


def test_gpt2_s_vocabulary_is_stood_in_for(poem: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIGHT_LLM_OFFLINE_DIR", str(tmp_path / "nothing"))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "nothing"))
    dataset, tokenizer = prepare_dataset(poem, 16, offline=True)
    assert tokenizer.name == "bpe" and dataset.config.tokenizer == "bpe"
    assert dataset.notes == (
        "GPT-2's vocabulary has not been downloaded yet: using one trained on this text (bpe) instead",
    )
    with pytest.raises(DataError, match="gpt2/vocab.bpe is not on this machine.* or use tokenizer='bpe'"):
        prepare_dataset(poem, 16, "gpt2", offline=True)
    assert SimpleNamespace(**dataset.record()).tokenizer == "bpe"
