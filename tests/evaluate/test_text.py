"""The loss of any text: windows with a stride, documents on their own, several texts together."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from tokenizers import Tokenizer

from light_llm.checkpoint import LoadedModel
from light_llm.data.bpe import train_bpe
from light_llm.data.hf_tokenizer import HuggingFaceTokenizer
from light_llm.data.shards import TokensInMemory
from light_llm.data.tokenizers import ByteTokenizer, CharTokenizer, byte_lengths
from light_llm.errors import ConfigError, DataError, LightLLMError
from light_llm.evaluate import TextEvaluation, evaluate_loss, evaluate_text, use_bfloat16_weights
from light_llm.evaluate.windows import stride_windows
from light_llm.interop.import_model import read_folder
from light_llm.model import LightLLM
from tests.support import published
from tests.support.tokenizer_kinds import tokenizer_kind
from tests.support.tools import tiny_model

BYTES = ByteTokenizer()
TEXT = "A fox went up the hill, and down it went. Zwölf Boxkämpfer jagen Viktor quer über den Sylter Deich. 東京\n"
LENGTHS = np.array(byte_lengths(BYTES))
PUBLISHED = [("gpt2", "gpt2"), ("tinyllama", "llama2"), ("qwen3", "qwen2"), ("mistral", "mistral"), ("gemma3", "gemma")]
LLAMA: dict[str, Any] = {
    "positions": "rope",
    "norm": "rmsnorm",
    "mlp": "swiglu",
    "bias": False,
    "qk_norm": True,
    "tied_head": False,
}


@pytest.fixture(scope="module")
def model() -> LightLLM:
    return tiny_model(vocab_size=257, n_positions=32, scale=4)


def nats_by_hand(model: LightLLM, ids: list[int], context: int, stride: int) -> list[float]:
    """-log P of each token but the first, with one forward pass for each, over exactly the tokens that it may see."""
    nats = []
    for t in range(1, len(ids)):
        if stride == context:
            start = (t - 1) // context * context
        else:  # the first window, of those that begin at multiples of the stride, that holds token t
            start = max(0, math.ceil((t - context + 1) / stride)) * stride
            assert t < context or t - start >= context - stride
        logits = model(torch.tensor([ids[start:t]]))[0, -1].double()
        nats.append(-logits.log_softmax(-1)[ids[t]].item())
    return nats


@pytest.mark.parametrize(("context", "stride"), [(32, 32), (32, 31), (32, 8), (32, 1), (9, 4), (1, 1), (2, 1)])
def test_the_loss_is_that_of_each_token_by_hand(model: LightLLM, context: int, stride: int) -> None:
    Path("a.txt").write_text(TEXT)
    result = evaluate_text(model, "a.txt", tokenizer=BYTES, context=context, stride=stride)
    ids = BYTES.encode(TEXT)
    nats = nats_by_hand(model, ids, context, stride)
    assert result.loss == pytest.approx(sum(nats) / len(nats), rel=1e-5)
    assert result.bits_per_byte == pytest.approx(sum(nats) / len(nats) / math.log(2), rel=1e-5)
    assert (result.tokens, result.bytes, result.text_tokens, result.text_bytes) == (len(ids) - 1,) * 2 + (len(ids),) * 2
    assert (result.name, result.context, result.stride, result.documents) == ("a.txt", context, stride, 1)


@pytest.mark.parametrize("n", [2, 3, 8, 9, 10, 16, 17, 18, 40])
def test_every_token_but_the_first_is_scored_once(n: int) -> None:
    for context in (1, 2, 8, 9, 50):
        for stride in range(1, context + 1):
            windows = list(stride_windows(n, context, stride))
            scored = [t for start, stop, count in windows for t in range(stop - count, stop)]
            assert scored == list(range(1, n)), (context, stride)
            inputs = [stop - start - 1 for start, stop, _ in windows]
            assert max(inputs) <= context and all(count <= max(stride, context) for _, _, count in windows)


def test_without_a_stride_it_is_the_held_out_loss(model: LightLLM) -> None:
    Path("a.txt").write_text(TEXT)
    result = evaluate_text(model, "a.txt", tokenizer=BYTES, context=16)
    expected = evaluate_loss(model, TokensInMemory(BYTES.encode(TEXT)), LENGTHS, context=16)
    for name in ("loss", "stderr", "bits_per_byte"):
        assert getattr(result, name) == pytest.approx(getattr(expected, name), rel=1e-6)
    assert (result.tokens, result.bytes, result.windows) == (expected.tokens, expected.bytes, expected.windows)


# --- beside transformers ---


def loop_of_the_guide(model: Any, ids: torch.Tensor, max_length: int, stride: int) -> float:
    """The mean nats as in Hugging Face's guide to the perplexity of models of fixed length, weighted by targets."""
    total, count, end_before = 0.0, 0, 0
    for begin in range(0, len(ids), stride):
        end = min(begin + max_length, len(ids))
        labels = ids[begin:end].clone()
        labels[: -(end - end_before)] = -100
        with torch.no_grad():
            loss = model(ids[None, begin:end], labels=labels[None]).loss.item()
        n = int((labels[1:] != -100).sum())  # transformers shifts the labels by one
        total, count, end_before = total + loss * n, count + n, end
        if end == len(ids):
            break
    return total / count


@pytest.mark.parametrize(("name", "kind"), PUBLISHED)
def test_the_loss_is_that_of_transformers(name: str, kind: str, tmp_path: Path) -> None:
    theirs = published.write_folder(tmp_path / name, name, dtype="float32", vocab_size=tokenizer_kind(kind).vocab_size)
    loaded = read_folder(tmp_path / name, tokenizer="none")
    tokenizer = of_kind(kind)
    Path("a.txt").write_text(TEXT * 4)
    ids = torch.tensor(Tokenizer.from_str(tokenizer_kind(kind).data.decode()).encode(TEXT * 4).ids)  # with BOS
    for context, stride in ((160, 64), (100, 99), (33, 7)):
        result = evaluate_text(loaded, "a.txt", tokenizer=tokenizer, context=context, stride=stride)
        assert result.loss == pytest.approx(loop_of_the_guide(theirs, ids, context, stride), rel=1e-5)
        assert result.tokens == len(ids) - 1
    # Windows side by side: as the guide's of one token more, which overlap by the token that is only a target.
    expected = loop_of_the_guide(theirs, ids, 65, 64)
    assert evaluate_text(loaded, "a.txt", tokenizer=tokenizer, context=64).loss == pytest.approx(expected, rel=1e-5)
    assert evaluate_text(loaded, "a.txt", tokenizer=tokenizer).context == published.CONTEXT


def of_kind(name: str) -> HuggingFaceTokenizer:
    kind = tokenizer_kind(name)
    return HuggingFaceTokenizer(kind.data, separator=kind.eos, prefix=kind.prefix, suffix=kind.suffix)


@pytest.mark.parametrize("kind", ["llama2", "qwen2", "t5", "bert"])
def test_bytes_are_those_of_the_text_whatever_is_normalised_away(kind: str) -> None:
    """BOS predicts the first token, EOS is predicted and has no bytes, and without BOS the first one is not counted."""
    text = "Ｆｕｌｌ  ＷＩＤＴＨ,   Cafe\u0301 ﬁnds\t\t½ \U0001f600!  "
    tokenizer = of_kind(kind)
    ids, n_bytes = tokenizer.encode_aligned(text)
    model = tiny_model(vocab_size=tokenizer.vocab_size)
    result = evaluate_text(model, [text], tokenizer=tokenizer)
    assert result.text_bytes == len(text.encode())
    assert result.bytes == len(text.encode()) - (0 if tokenizer.prefix else n_bytes[0])
    whole = [*tokenizer.prefix, *ids, *tokenizer.suffix]
    nats = nats_by_hand(model, whole, 32, 32)
    assert (result.text_tokens, result.tokens) == (len(whole), len(nats))
    assert result.bits_per_byte == pytest.approx(sum(nats) / math.log(2) / result.bytes, rel=1e-5)
    if kind == "bert":
        with pytest.raises(DataError, match="1 document encodes to no tokens"):
            evaluate_text(model, [" \n "], tokenizer=tokenizer)


# --- documents, and several texts ---


def test_records_are_evaluated_one_by_one(model: LightLLM) -> None:
    documents = [TEXT[:30], "x", "", TEXT[30:], "äö"]
    Path("a.jsonl").write_text("".join(json.dumps({"body": text}) + "\n" for text in documents))
    pyarrow.parquet.write_table(pyarrow.table({"body": documents}), "a.parquet")
    nats = [nats_by_hand(model, BYTES.encode(text), 32, 8) for text in documents]
    for data in ("a.jsonl", "a.parquet", documents):
        result = evaluate_text(model, data, tokenizer=BYTES, stride=8, text_field="body")
        assert result.loss == pytest.approx(sum(map(sum, nats)) / sum(map(len, nats)), rel=1e-5)
        assert (result.documents, result.tokens) == (3, sum(map(len, nats)))
        assert result.text_bytes == len("".join(documents).encode())
        assert result.notes == (f"{result.name}: 1 document of less than 2 tokens was left out",)
    assert result.name == "5 documents"


def test_a_long_document_is_encoded_in_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    """In bounded memory, with the ids and bytes of the whole."""
    Path("a.txt").write_text(TEXT * 3)
    tokenizer = train_bpe([TEXT], 290)
    model = tiny_model(vocab_size=290, scale=4)
    whole = evaluate_text(model, "a.txt", tokenizer=tokenizer)
    lengths: list[int] = []
    encode = type(tokenizer).encode_aligned

    def encode_aligned(self: Any, text: str) -> Any:
        lengths.append(len(text))
        return encode(self, text)

    monkeypatch.setattr(type(tokenizer), "encode_aligned", encode_aligned)
    monkeypatch.setattr("light_llm.data.text_stream.MAX_CHUNK_CHARS", 40)
    parts = evaluate_text(model, "a.txt", tokenizer=tokenizer)
    assert len(lengths) > 1 and replace(parts, texts=()) == replace(whole, texts=())


def test_texts_are_measured_alone_and_together(model: LightLLM) -> None:
    Path("books").mkdir()
    Path("books/a.txt").write_text(TEXT)
    Path("books/b.txt").write_text(TEXT[::-1] * 3)
    Path("books/empty.txt").write_text("")
    Path("one.txt").write_text("1")
    calls: list[tuple[int, int]] = []
    result = evaluate_text(model, "books", "one.txt", tokenizer=BYTES, progress=lambda *args: calls.append(args))
    assert [text.name for text in result.texts] == [str(Path("books", name)) for name in ("a.txt", "b.txt")]
    assert result.notes == ("one.txt encodes to 1 token, and the first token of a text has no prediction",)
    for text in result.texts:
        alone = evaluate_text(model, text.name, tokenizer=BYTES)
        assert (text.loss, text.stderr) == pytest.approx((alone.loss, alone.stderr)) and alone.texts[
            0
        ].loss == alone.loss
    a, b = result.texts
    assert result.tokens == a.tokens + b.tokens and result.bytes == a.bytes + b.bytes and result.name == "together"
    assert result.loss == pytest.approx((a.loss * a.tokens + b.loss * b.tokens) / result.tokens)
    bits = a.bits_per_byte * a.bytes + b.bits_per_byte * b.bytes
    assert result.bits_per_byte == pytest.approx(bits / result.bytes)
    total = sum(Path("books", name).stat().st_size for name in ("a.txt", "b.txt")) + 1
    assert result.text_bytes == total
    assert calls[-1] == (total, total) and calls == sorted(calls)


def test_documents_and_files_are_those_of_training(model: LightLLM) -> None:
    Path("a.py").write_text("one\n---\nand two\n---\n3 4")
    Path("b.txt").write_text(TEXT)
    result = evaluate_text(model, ".", tokenizer=BYTES, separator="---", suffixes="py")
    assert (result.name, result.documents) == ("a.py", 3) and result.text_bytes == len("oneand two3 4")


def test_the_standard_error_is_over_documents_where_there_are_many(model: LightLLM) -> None:
    rng = np.random.default_rng(1)
    tokenizer = CharTokenizer("abcdé東")
    documents = ["".join(rng.choice(list("abcdé東"), n)) for n in rng.integers(5, 14, 30)]
    ids = [tokenizer.encode(text) for text in documents]
    sums = [sum(nats_by_hand(model, row, 4, 4)) for row in ids]
    for n, unit in ((29, "windows"), (30, "documents")):
        result = evaluate_text(model, documents[:n], tokenizer=tokenizer, context=4)
        assert (result.stderr_over, result.documents) == (unit, n) and result.windows > n
    # The textbook standard error of a ratio of sums.
    tokens = np.array([len(row) - 1 for row in ids])
    n_bytes = np.array([len(text[1:].encode()) for text in documents])
    for sizes, error, unit_nats in ((tokens, result.stderr, 1.0), (n_bytes, result.bits_per_byte_stderr, math.log(2))):
        spread = np.std(np.array(sums) - sum(sums) / sizes.sum() * sizes, ddof=1)
        assert error == pytest.approx(spread * math.sqrt(30) / sizes.sum() / unit_nats, rel=1e-4)


def test_a_loaded_model_brings_its_tokenizer_and_its_window(model: LightLLM, tmp_path: Path) -> None:
    from light_llm.checkpoint import load_model
    from tests.support.tools import model_path

    loaded: LoadedModel = load_model(model_path(tmp_path, CharTokenizer("abc é")))
    Path("a.txt").write_text("abc é" * 9)
    result: TextEvaluation = evaluate_text(loaded, Path("a.txt"))
    assert (result.context, result.text_bytes, result.bytes) == (16, 54, 53)
    Path("z.txt").write_text("abcz")
    with pytest.raises(DataError, match=r"z\.txt: character 'z'"):
        evaluate_text(loaded, "z.txt")


def test_bfloat16_is_close_and_the_weights_are_unchanged(model: LightLLM) -> None:
    Path("a.txt").write_text(TEXT)
    exact = evaluate_text(model, "a.txt", tokenizer=BYTES).loss
    rounded = evaluate_text(model, "a.txt", tokenizer=BYTES, dtype="bfloat16").loss
    assert rounded != exact and rounded == pytest.approx(exact, rel=0.02)
    assert evaluate_text(model, "a.txt", tokenizer=BYTES).loss == exact


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_weights_in_bfloat16_take_half_the_memory(family: str) -> None:
    Path("a.txt").write_text(TEXT)
    model = tiny_model(vocab_size=257, scale=4, **(LLAMA if family == "llama" else {}))
    products = evaluate_text(model, "a.txt", tokenizer=BYTES, dtype="bfloat16").loss
    n_bytes = sum(p.nbytes for p in model.parameters())
    use_bfloat16_weights(model)
    weights = evaluate_text(model, "a.txt", tokenizer=BYTES, dtype="bfloat16").loss
    assert sum(p.nbytes for p in model.parameters()) < 0.55 * n_bytes
    assert weights != products and weights == pytest.approx(products, rel=2e-3)


@pytest.mark.parametrize(
    ("options", "messages"),
    [
        ({"context": 33}, ("context=33", "32")),
        ({"context": 0}, ("context=0",)),
        ({"context": 8, "stride": 9}, ("stride=9", "context=8")),
        ({"stride": 0}, ("stride=0",)),
        ({"dtype": "int8"}, ("dtype='int8'", "bfloat16")),
        ({"tokenizer": None}, ("tokenizer",)),
        ({"tokenizer": CharTokenizer("".join(map(chr, range(300))))}, ("301", "257")),
    ],
)
def test_arguments_that_cannot_be_used(model: LightLLM, options: dict[str, Any], messages: tuple[str, ...]) -> None:
    Path("a.txt").write_text(TEXT)
    with pytest.raises(ConfigError) as error:
        evaluate_text(model, "a.txt", **{"tokenizer": BYTES, **options})
    assert all(message in str(error.value) for message in messages)


@pytest.mark.parametrize(
    ("texts", "messages"),
    [
        ((), ("needs a text",)),
        (("a.txt", "no.txt"), ("no.txt",)),
        (("a.txt", "empty.txt"), ("empty.txt",)),
        (("one.txt",), ("one.txt", "1 token")),
        (("one.txt", ["a", "b"]), ("one.txt encodes to 1 token", "2 documents")),
        ((b"abc",), ("bytes",)),
    ],
)
def test_texts_that_cannot_be_evaluated(model: LightLLM, texts: tuple[Any, ...], messages: tuple[str, ...]) -> None:
    for name, text in {"a": TEXT, "empty": "", "one": "1"}.items():
        Path(f"{name}.txt").write_text(text)
    with pytest.raises(LightLLMError) as error:
        evaluate_text(model, *texts, tokenizer=BYTES)
    assert all(message in str(error.value) for message in messages)


def test_a_wrapped_model_is_named(model: LightLLM) -> None:
    wrapped: Any = torch.nn.DataParallel(model)
    with pytest.raises(ConfigError, match=r"DataParallel .*model\.module"):
        evaluate_text(wrapped, "a.txt", tokenizer=BYTES)
    with pytest.raises(ConfigError, match=r"DataParallel .*model\.module"):
        evaluate_loss(wrapped, TokensInMemory([1, 2]))


def test_byte_lengths_that_are_too_few_are_named(model: LightLLM) -> None:
    with pytest.raises(ConfigError, match="byte_lengths has 100 entries and the text has token id 101"):
        evaluate_loss(model, TokensInMemory([1, 2, 101]), LENGTHS[:100], context=8)
    with pytest.raises(ConfigError, match="byte_lengths"):
        evaluate_loss(model, TokensInMemory([1, 2]), np.ones((2, 2), dtype=int), context=8)
