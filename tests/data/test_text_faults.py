"""Any bytes as a text, any text as a prompt, any value as a setting: accepted, or refused with one of our errors."""

import gzip
import json
import math
from pathlib import Path
from time import process_time
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from light_llm.data import prepare_dataset
from light_llm.data.bpe import train_bpe
from light_llm.data.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer, decode, make_tokenizer
from light_llm.errors import ConfigError, DataError
from light_llm.generate import TextGenerator
from light_llm.generate.sampling import Sampling, apply_filters, sample, sample_batch
from tests.support.tools import model_path

TOKENIZERS = ("byte", "char", "bpe")
BPE = train_bpe(["she sells sea shells; user endoftext <|end|> " * 30], 300)
CONTROL = ("<|endoftext|>", "a<|endoftext|>b", "<|user|>", "<|im_start|>", "<|next-document|>\0", "</s>", "<pad>")
uses_tmp_path = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])

ODD = ["\ud800", "\udfff", *"\0\ufeff\ufffd\U0010ffff\u202e\r", "e\u0301", "\r\n", " " * 5, "", *CONTROL]
prompts = st.lists(st.one_of(st.sampled_from(ODD), st.text(max_size=6)), max_size=8).map("".join)
utf8 = st.text(min_size=1, max_size=300).map(lambda text: text.encode("utf-8", "replace"))
torn = st.lists(
    st.one_of(utf8, st.binary(max_size=30), st.sampled_from([b"\xef\xbb\xbf", b"\xff\xfe", b"\xed\xa0\x80", b"\0"]))
)
texts = st.one_of(utf8, st.binary(max_size=300), torn.map(b"".join))
numbers = st.one_of(
    st.sampled_from([math.nan, math.inf, -math.inf, 1e308, -1, 0, 1, 0.5, -0.0, 5e-324, True, "1", "", None, [], {}]),
    st.sampled_from([10**30, 10**400, -(10**400), 10**5000, 2**63, 2**63 - 1, 1j]),
    st.integers(),
    st.floats(),
)

# ---- texts


def encode_and_decode(path: Path, tokenizer: str, errors: str) -> tuple[str, Tokenizer]:
    """Make a dataset from a file, and decode its ids."""
    dataset, made = prepare_dataset(path, 1, tokenizer, errors=errors, held_out=0.5)
    halves = (part.read(0, len(part)).tolist() for part in (dataset.tokens, dataset.held_out))
    return b"".join(made.token_bytes(i) for half in halves for i in half).decode("utf-8"), made


@uses_tmp_path
@given(data=texts, tokenizer=st.sampled_from(TOKENIZERS), errors=st.sampled_from(["strict", "replace"]))
def test_any_bytes_are_a_text_or_refused(tmp_path: Path, data: bytes, tokenizer: str, errors: str) -> None:
    path = tmp_path / "any.txt"
    path.write_bytes(data)
    try:
        decoded, _ = encode_and_decode(path, tokenizer, errors)
    except DataError as error:
        assert "any.txt" in str(error)
        try:
            text = data.decode("utf-8")
        except UnicodeDecodeError as wrong:
            if errors == "strict" and "UTF-16" not in str(error):
                assert f"at offset {wrong.start:,}" in str(error)
            return
        # UTF-8 is refused only if it is too small or looks like UTF-16.
        assert len(text.encode()) < 40 or any(words in str(error) for words in ("UTF-16", "too little", "no text"))
        return
    assert decoded == data.decode("utf-8", errors).removeprefix("\ufeff")


lines = st.one_of(
    st.recursive(
        st.one_of(st.none(), st.booleans(), st.floats(), st.integers(), st.text(max_size=9)),
        lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)),
        max_leaves=6,
    ).map(lambda value: json.dumps(value).encode()),
    st.text(max_size=60).map(lambda text: json.dumps({"text": text}).encode()),
    st.binary(max_size=40),
)


@uses_tmp_path
@given(rows=st.lists(lines, max_size=6), errors=st.sampled_from(["strict", "replace"]), packed=st.booleans())
def test_any_lines_are_documents_or_refused(tmp_path: Path, rows: list[bytes], errors: str, packed: bool) -> None:
    path = tmp_path / ("any.jsonl.gz" if packed else "any.jsonl")
    path.write_bytes(gzip.compress(b"\n".join(rows)) if packed else b"\n".join(rows))
    try:
        encode_and_decode(path, "byte", errors)
    except DataError as error:
        assert "any.jsonl" in str(error)


@pytest.mark.parametrize("name", TOKENIZERS)
@pytest.mark.parametrize("character", ["^", "a", " ", "é", "\n"])
def test_a_million_of_one_character(tmp_path: Path, name: str, character: str) -> None:
    """As a text and as a prompt. A pattern that backtracks, or a merge that searches, would take quadratic time."""
    path = tmp_path / "one.txt"
    path.write_text(character * 1_000_000, encoding="utf-8", newline="")
    text, tokenizer = encode_and_decode(path, name, "strict")
    assert text == character * 1_000_000
    seconds = []
    for n in (100_000, 1_000_000):
        start = process_time()
        assert decode(tokenizer, tokenizer.encode(character * n)) == character * n
        seconds.append(process_time() - start)
    assert seconds[1] < 50 * seconds[0] + 0.1  # 10 times as long if linear, 100 times if quadratic


# ---- prompts


@pytest.fixture(scope="module")
def writers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, TextGenerator]:
    """A model for each kind of tokenizer, with a context of 16 tokens."""
    letters = "".join(sorted({*"abcdefghij \n.<>|_/", *"endoftextuserassistantnextdocumentpad-"}))
    kinds = {"byte": ByteTokenizer(), "char": CharTokenizer(letters), "bpe": BPE}
    return {
        name: TextGenerator(model_path(tmp_path_factory.mktemp(name), tokenizer, documents=2), device="cpu")
        for name, tokenizer in kinds.items()
    }


@given(prompt=prompts, name=st.sampled_from(TOKENIZERS), seed=st.integers(0, 9))
def test_any_text_is_a_prompt_or_refused(writers: dict[str, TextGenerator], prompt: str, name: str, seed: int) -> None:
    writer = writers[name]
    try:
        text = writer.generate(prompt, max_new_tokens=3, seed=seed)
    except DataError as error:
        assert name == "char" and any(c not in writer.tokenizer.to_dict()["alphabet"] for c in prompt), error
    except ConfigError as error:
        n = len(writer.tokenizer.encode(prompt))
        assert n > 16 and f"{n:,} tokens" in str(error) and " 16" in str(error)
    else:
        assert text.startswith(prompt) and text == writer.generate(prompt, max_new_tokens=3, seed=seed)


@given(text=prompts)
def test_no_text_becomes_a_control_id(writers: dict[str, TextGenerator], text: str) -> None:
    for name in TOKENIZERS:
        tokenizer = writers[name].tokenizer
        for given_text in (text, *CONTROL):
            try:
                ids = tokenizer.encode(given_text)
            except DataError:
                assert name == "char"
                continue
            assert tokenizer.separator not in ids
            has_surrogate = any("\ud800" <= c <= "\udfff" for c in given_text)
            expected = given_text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            assert decode(tokenizer, ids) == expected or (name == "byte" and has_surrogate)


def test_gpt2_reads_its_separator_as_text(offline_files: Path) -> None:
    tokenizer = make_tokenizer("gpt2", offline=True)
    for text in (*CONTROL, *(character * 300_000 for character in "^a ")):
        ids = tokenizer.encode(text)
        assert tokenizer.separator not in ids and decode(tokenizer, ids) == text


@pytest.mark.parametrize("name", TOKENIZERS)
def test_prompts_about_as_long_as_the_context(writers: dict[str, TextGenerator], name: str) -> None:
    writer = writers[name]
    one = "a" if name != "bpe" else "~"  # merges with nothing
    for n in (15, 16):
        assert len(writer.generate(one * n, max_new_tokens=20, seed=1)) > n  # beyond the context, too
    for n in (17, 48):
        with pytest.raises(ConfigError, match=f"{n} tokens .* 16"):
            writer.generate(one * n, max_new_tokens=1)


@pytest.mark.parametrize("empty", ["", " ", "   \n "])
def test_an_empty_prompt(writers: dict[str, TextGenerator], empty: str) -> None:
    for writer in writers.values():
        assert writer.generate(empty, max_new_tokens=4, seed=2).startswith(empty)
    assert writers["byte"].generate_many([], max_new_tokens=4) == []
    assert len(writers["byte"].generate_many(["", "a"], max_new_tokens=4)) == 2


# ---- settings


@given(
    name=st.sampled_from(["temperature", "top_k", "top_p", "min_p", "repetition_penalty", "max_new_tokens", "seed"]),
    value=numbers,
)
def test_any_value_is_a_setting_or_refused(writers: dict[str, TextGenerator], name: str, value: Any) -> None:
    if name == "max_new_tokens" and type(value) is int and value > 1000:
        return  # so many tokens would be generated
    try:
        text = writers["byte"].generate("a", **{"max_new_tokens": 2, "seed": 1, name: value})
    except ConfigError as error:
        assert f"{name}=" in str(error) and len(str(error)) < 300
    else:
        assert text.startswith("a")


@given(stop=st.one_of(numbers, st.lists(st.one_of(numbers, st.text(max_size=3)), max_size=3)))
def test_any_stop_is_one_or_refused(writers: dict[str, TextGenerator], stop: Any) -> None:
    try:
        writers["byte"].generate("a", max_new_tokens=2, stop=stop, seed=1)
    except ConfigError as error:
        assert "stop" in str(error)


logits = st.lists(st.sampled_from([-math.inf, math.inf, math.nan, 0.0, 1.0, -3.0, 3e38, -3e38]), min_size=1, max_size=9)
samplings = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 5e-324, 1e-30, 1.0, 1e308]),
    top_k=st.sampled_from([0, 1, 3, 10**30]),
    top_p=st.sampled_from([5e-324, 0.5, 1.0]),
    min_p=st.sampled_from([0.0, 5e-324, 0.5, 1.0]),
    repetition_penalty=st.sampled_from([5e-324, 0.5, 1.0, 1e308]),
)


@given(row=logits, sampling=samplings, seen=st.lists(st.integers(0, 0), max_size=2))
def test_any_logits_give_a_token(row: list[float], sampling: Sampling, seen: list[int]) -> None:
    """Also if the model is broken and its logits are NaN or infinite."""
    z = torch.tensor(row)
    token = sample(z, seen, sampling, torch.Generator().manual_seed(1))
    [batch_token] = sample_batch(z[None], [seen], sampling, [torch.Generator().manual_seed(1)])
    assert 0 <= token < len(row) and 0 <= batch_token < len(row)
    if not np.isnan(row).any() and max(row) < math.inf and sampling.repetition_penalty == 1.0:
        assert token == batch_token


def test_the_most_likely_token_is_used_if_all_are_masked() -> None:
    masked = torch.full((5,), -math.inf)
    for sampling in (Sampling(), Sampling(top_k=2), Sampling(temperature=0.0), Sampling(top_p=0.5, min_p=0.1)):
        generators = [torch.Generator().manual_seed(3) for _ in range(2)]
        assert sample(masked, [], sampling, generators[0]) == int(apply_filters(masked, [], sampling).argmax())
        assert sample_batch(masked[None], [[]], sampling, generators[1:]) == [0]
