"""Training with published tokenizers: what a shard holds, bits per byte of the text, and a checkpoint with its file."""

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch

from light_llm import LightLLM
from light_llm.checkpoint import load_model
from light_llm.config import ModelConfig
from light_llm.data import create_dataloader, prepare_dataset
from light_llm.data.hf_tokenizer import HuggingFaceTokenizer
from light_llm.data.loader import Batch
from light_llm.data.shards import Shard
from light_llm.data.tokenizers import byte_lengths
from light_llm.evaluate import evaluate_loss
from light_llm.train import Trainer
from tests.support.texts_in_scripts import SENTENCES, SONNET
from tests.support.tokenizer_kinds import tokenizer_kind
from tests.support.tools import SMALL

NAMES = ("qwen2", "llama2", "smollm", "bert", "llama3")
ODD = " ÉCOLE cafe\u0301\x00\x01 日本  ½ "


def tokenizer_of(name: str) -> HuggingFaceTokenizer:
    kind = tokenizer_kind(name)
    return HuggingFaceTokenizer(kind.data, separator=kind.eos, prefix=kind.prefix, suffix=kind.suffix)


@pytest.mark.parametrize("name", NAMES)
def test_bits_per_byte_count_the_bytes_of_the_text(name: str) -> None:
    """A uniform model has log2(V) bits a token: divided by the bytes of the held-out file, whatever was dropped."""
    held_out = SONNET[-300:] + ODD
    Path("train.txt").write_text(SONNET * 2)
    Path("held.txt").write_text(held_out)
    dataset, tokenizer = prepare_dataset("train.txt", 16, tokenizer_of(name), val_data="held.txt")
    model = LightLLM(ModelConfig(n_embd=32, n_layer=1, n_head=1, n_positions=16, vocab_size=tokenizer.vocab_size))
    with torch.no_grad():
        model.wte.weight.zero_()
    result = evaluate_loss(model, dataset)
    first = 0 if tokenizer.prefix else tokenizer.encode_aligned(held_out)[1][0]  # no target predicts the first id
    assert result.bytes == len(held_out.encode()) - first
    n = len(dataset.held_out) - 1
    assert result.bits_per_byte == pytest.approx(n * math.log2(tokenizer.vocab_size) / result.bytes, rel=1e-4)
    assert dataset.held_out.read(0, 1)[0] == (tokenizer.prefix or tokenizer.encode(held_out))[0]


@pytest.mark.parametrize("name", ["llama2", "llama3", "qwen2"])
def test_documents_are_divided_as_the_tokenizer_begins_them(name: str) -> None:
    documents = [*SENTENCES.values(), ODD]
    dataset, tokenizer = prepare_dataset(documents, 16, tokenizer_of(name), held_out=0.2)
    ids = np.concatenate([dataset.tokens.read(0, len(dataset.tokens)), dataset.held_out.read(0, len(dataset.held_out))])
    parts = [tokenizer.encode(text) for text in documents]
    expected = [i for part in parts for i in (*tokenizer.document_break, *part)]
    # Each split ends with a break of its own.
    text = ids.tolist()
    cut = len(dataset.tokens)
    n = len(tokenizer.document_break)
    assert text[:n] == tokenizer.document_break == text[-n:] == text[cut - n : cut]
    assert text[: cut - n] + text[cut:-n] == expected
    assert isinstance(dataset.held_out, Shard)
    counts = dataset.held_out.byte_counts
    if counts is not None:
        held_out = next(k for k in range(len(documents)) if sum(map(len, parts[:k])) + n * k >= cut - n)
        assert counts.read(0, len(counts)).sum() == sum(len(d.encode()) for d in documents[held_out:])


def test_the_bytes_of_a_batch_are_those_of_its_targets() -> None:
    dataset, tokenizer = prepare_dataset([SONNET, ODD * 5], 16, tokenizer_of("qwen2"), held_out=0.3)
    loader = create_dataloader(dataset, batch_size=2)
    batch = loader.batch(0)
    starts = [loader.order.start(row) for row in range(2)]
    assert dataset.tokens.byte_counts is not None
    n = sum(int(dataset.tokens.byte_counts.read(s + 1, s + 17).sum()) for s in starts)
    tokens, targets = batch
    assert loader.target_bytes(batch) == n and isinstance(batch, Batch) and torch.equal(tokens[:, 1:], targets[:, :-1])
    # NFC never makes a text longer, so that counting the bytes of ids would give too few, never too many.
    lengths = np.array(byte_lengths(tokenizer))
    assert lengths[dataset.tokens.read(0, len(dataset.tokens))].sum() <= dataset.tokens.byte_counts.read(0, 10**6).sum()


@pytest.mark.parametrize("name", ["llama2", "qwen2"])
def test_a_run_keeps_the_file_of_its_tokenizer(name: str) -> None:
    Path("text.txt").write_text(SONNET * 2)
    Path("tokenizer.json").write_bytes(tokenizer_kind(name).data)
    dataset, tokenizer = prepare_dataset("text.txt", 16, "tokenizer.json")
    model = LightLLM(ModelConfig(n_embd=32, n_layer=1, n_head=1, n_positions=16, vocab_size=tokenizer.vocab_size))
    Trainer(model, create_dataloader(dataset, batch_size=2), max_steps=2, out="run", skip_doctor=True, **SMALL).train()
    for path in ("run/best_model.pt", "run/step-000002"):
        loaded = load_model(path)
        assert isinstance(loaded.file.tokenizer, HuggingFaceTokenizer)
        assert loaded.file.tokenizer.data == tokenizer_kind(name).data == loaded.file.files["tokenizer.json"]
        assert loaded.file.tokenizer.prefix == tokenizer_kind(name).prefix
    rows = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert all(row["bits_per_byte"] > 0 for row in rows if row["kind"] in ("step", "eval"))
