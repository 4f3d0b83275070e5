"""Generation with published tokenizers: BOS before each prompt, spaces where they belong, and where a text ends."""

from functools import cache

import pytest
import torch

from light_llm.data.hf_tokenizer import HuggingFaceTokenizer
from light_llm.data.tokenizers import start_ids
from light_llm.generate import Sampling, TextGenerator, decode
from light_llm.generate.decode import StopStringStream
from light_llm.generate.repl import visible_tail
from tests.support.tokenizer_kinds import KINDS, tokenizer_kind
from tests.support.tools import tiny_model


@cache
def generator(name: str, extra: int = 7) -> TextGenerator:
    """Return one whose model has more ids than its tokenizer."""
    kind = tokenizer_kind(name)
    tokenizer = HuggingFaceTokenizer(kind.data, separator=kind.eos, prefix=kind.prefix, suffix=kind.suffix)
    model = tiny_model(scale=4, vocab_size=tokenizer.vocab_size + extra)
    return TextGenerator(model, tokenizer=tokenizer, device="cpu")


@pytest.mark.parametrize("name", KINDS)
def test_a_prompt_begins_as_the_model_s_texts_do(name: str) -> None:
    kind, writer = tokenizer_kind(name), generator(name)
    assert writer.encode_prompt("To be") == [*kind.prefix, *writer.tokenizer.encode("To be")]
    assert start_ids(writer.tokenizer, knows_separator=True) == list(kind.prefix or [kind.eos])


@pytest.mark.parametrize("name", KINDS)
def test_streams_batches_and_whole_texts_are_the_same(name: str) -> None:
    writer = generator(name)
    texts = [writer.generate(prompt, 12, seed=3) for prompt in ("To be", "")]
    for prompt, text in zip(("To be", ""), texts, strict=True):
        pieces = list(writer.stream(prompt, 12, seed=3))
        assert prompt + "".join(pieces) == text
        assert prompt + writer.generate_many([prompt], max_new_tokens=12, seed=3)[0] == text
    assert "\ufffd" not in "".join(texts) or name not in ("t5", "bert")


@pytest.mark.parametrize(
    ("name", "continued"), [("llama2", " thou"), ("t5", " thou"), ("bert", " thou"), ("gpt2", " thou")]
)
def test_the_space_after_a_prompt_is_kept(name: str, continued: str) -> None:
    """Decoded alone, the id of a word has no space before it."""
    tokenizer = generator(name).tokenizer
    (word,) = tokenizer.encode(" thou" if name == "gpt2" else "thou")
    stream = StopStringStream(tokenizer, ["\n"], after=[*tokenizer.prefix, *tokenizer.encode("art")])
    assert stream.push(word) + stream.close() == continued


def test_any_end_of_text_id_ends_a_text() -> None:
    model = tiny_model(vocab_size=300)
    greedy = Sampling(temperature=0.0)
    rows = [step[0] for step in decode(model, [[5]], sampling=greedy, seeds=[1], max_new_tokens=8)]
    first = rows.index(rows[3])
    steps = list(decode(model, [[5]], sampling=greedy, seeds=[1], max_new_tokens=8, end={999, rows[3] or 0}))
    assert len(steps) == first


def test_ids_that_the_tokenizer_lacks_are_not_sampled() -> None:
    """The model prefers one of its seven further ids by far."""
    writer = generator("llama2")
    tokenizer, model = writer.tokenizer, tiny_model(scale=4, vocab_size=writer.tokenizer.vocab_size + 7)
    with torch.no_grad():
        model.ln_f.bias[0] = 50  # type: ignore[operator]
        model.wte.weight[:, 0] = -1
        model.wte.weight[tokenizer.vocab_size :, 0] = 1
    text = TextGenerator(model, tokenizer=tokenizer, device="cpu").generate("To be", 8, seed=1)
    assert text.startswith("To be")


def test_the_tail_of_a_long_text_fits_with_its_prefix() -> None:
    writer = generator("llama2")
    tail = visible_tail(writer, "To be, or not to be, that is the question: " * 9)
    assert 0 < len(writer.encode_prompt(tail)) <= writer.context
