"""Loss, perplexity and bits per byte against a slow reference."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from light_llm.data import prepare_dataset
from light_llm.data.shards import TokensInMemory
from light_llm.data.tokenizers import CharTokenizer, byte_lengths
from light_llm.errors import ConfigError, DataError
from light_llm.evaluate import evaluate_loss, summarise
from tests.support.tools import byte_model, some_tokens, tiny_model

LENGTHS = np.arange(61) % 4  # bytes of each of 61 made-up tokens


def reference_loss(ids: list[int], context: int) -> tuple[float, int]:
    """Return the nats of the n - 1 targets, computed one at a time from their window alone, and their bytes."""
    model, total, n_bytes = tiny_model(scale=5), 0.0, 0
    for t in range(1, len(ids)):
        start = (t - 1) // context * context
        logits = model(torch.tensor([ids[start:t]]))[0, -1].double()
        total -= logits.log_softmax(-1)[ids[t]].item()
        n_bytes += int(LENGTHS[ids[t]])
    return total, n_bytes


@pytest.mark.parametrize("n", [2, 9, 16, 17, 18, 40])  # one target; short; just under, at and over whole windows
@pytest.mark.parametrize("batch_size", [1, 3])
def test_loss_and_bits_are_the_reference(n: int, batch_size: int) -> None:
    ids = some_tokens(1, n)[0].tolist()
    result = evaluate_loss(tiny_model(scale=5), TokensInMemory(ids), LENGTHS, context=8, batch_size=batch_size)
    total, n_bytes = reference_loss(ids, 8)
    assert (result.tokens, result.bytes, result.windows, result.context) == (n - 1, n_bytes, -(-(n - 1) // 8), 8)
    assert result.loss == pytest.approx(total / (n - 1), rel=1e-5)
    assert result.perplexity == pytest.approx(math.exp(total / (n - 1)), rel=1e-4)
    if n_bytes:
        assert result.bits_per_byte == pytest.approx(total / math.log(2) / n_bytes, rel=1e-5)


def test_bits_per_byte_does_not_depend_on_the_tokenizer(poem: Path) -> None:
    """A model that gives every byte one chance in 256 needs 8 bits a byte, however its tokens are cut."""
    text = "é日a" * 5
    tokenizer = CharTokenizer("aé日")
    ids = tokenizer.encode(text)
    lengths = np.array(byte_lengths(tokenizer))
    nats = [math.log(256) * int(lengths[i]) for i in ids[1:]]
    result = summarise([math.fsum(nats)], [len(nats)], int(lengths[ids[1:]].sum()), 99)
    assert result.bits_per_byte == pytest.approx(8.0) and result.bytes == len(text.encode()) - 2
    assert result.stderr is None


def test_the_standard_error_is_that_of_the_windows() -> None:
    """Equal windows: the textbook standard error of their means. And it covers the truth as often as it should."""
    means = [1.0, 2.0, 4.0]
    result = summarise([10 * m for m in means], [10] * 3, 30, 10)
    assert (result.loss, result.stderr) == pytest.approx((7 / 3, np.std(means, ddof=1) / math.sqrt(3)))
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(400):
        counts = [10] * 30 + [4]
        sums = [float(rng.gamma(4, c * 0.5)) for c in counts]  # mean 2 nats a token
        e = summarise(sums, counts, 1, 10)
        assert e.stderr is not None
        hits += abs(e.loss - 2) < 1.96 * e.stderr
    assert 0.88 < hits / 400 < 0.99


def test_evaluating_changes_nothing(poem: Path) -> None:
    """The mode, the weights and the random numbers are as before; twice gives the same."""
    dataset, tokenizer = prepare_dataset(str(poem), 16, "byte")
    model = tiny_model(vocab_size=257, dropout=0.5).train()
    lengths, state = np.array(byte_lengths(tokenizer)), torch.get_rng_state()
    calls: list[tuple[int, int]] = []
    first = evaluate_loss(model, dataset.held_out, lengths, context=16, progress=lambda *args: calls.append(args))
    assert first == evaluate_loss(model, dataset.held_out, lengths, context=16, batch_size=7)
    assert first == evaluate_loss(model, dataset), "a dataset has its byte lengths and its context"
    assert model.training and torch.equal(torch.get_rng_state(), state)
    assert calls[-1] == (first.windows, first.windows)


@pytest.mark.parametrize(
    ("model", "data", "message"),
    [
        (torch.nn.Linear(2, 2), TokensInMemory([1, 2]), "takes a LightLLM, not a Linear"),
        (tiny_model(), [1, 2], "takes a dataset or its tokens, not a list; make one of a text with prepare_dataset"),
        (tiny_model(), TokensInMemory([1, 2]), "needs byte_lengths and context as well"),
    ],
)
def test_what_cannot_be_evaluated(model: Any, data: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        evaluate_loss(model, data)


def test_a_tokenizer_that_is_not_the_models(poem: Path) -> None:
    with pytest.raises(ConfigError, match="the tokenizer has 257 ids and the model 61; evaluate on a dataset with"):
        evaluate_loss(tiny_model(), prepare_dataset(poem, 16, "byte")[0])


def test_one_token_is_not_enough() -> None:
    with pytest.raises(DataError, match="needs at least 2 tokens, this text has 1"):
        evaluate_loss(tiny_model(), TokensInMemory([3]), LENGTHS, context=8)


def test_a_hopeless_model_has_an_infinite_perplexity() -> None:
    assert summarise([8000.0], [10], 10, 8).perplexity == math.inf


@pytest.mark.parametrize(
    ("options", "message"),
    [({"batch_size": 0}, "batch_size=0"), ({"batch_size": 2.5}, "batch_size=2.5"), ({"dtype": "fp8"}, "dtype='fp8'")],
)
def test_options_that_cannot_be_used(poem: Path, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=f"^{message}"):
        evaluate_loss(byte_model(), prepare_dataset(str(poem), 16, "byte")[0], **options)
