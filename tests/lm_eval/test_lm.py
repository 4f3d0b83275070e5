"""Answers to the harness's requests are those of the model's logits, and of our own evaluation."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from light_llm.checkpoint import LoadedModel, load_model
from light_llm.config import Sampling, settings_of
from light_llm.data import Tokenizer
from light_llm.data.bpe import train_bpe
from light_llm.data.shards import TokensInMemory
from light_llm.data.tokenizers import ByteTokenizer, CharTokenizer, byte_lengths, decode
from light_llm.errors import CheckpointError, ConfigError
from light_llm.evaluate import Evaluation, evaluate_loss
from light_llm.evaluate.windows import Window
from light_llm.generate.decode import StopStringStream
from light_llm.lm_eval import LightLLMForEval
from light_llm.lm_eval.lm import max_prompt_tokens, parse_generation_kwargs
from light_llm.lm_eval.loglikelihood import batch_by_length, score_windows, split_windows
from tests.lm_eval.conftest import TEXT, greedy_by_logits, score_by_logits
from tests.support.export_tools import HF, a_tokenizer, tiny_loaded
from tests.support.tools import model_path, tiny_model

# --- windows ---


@given(st.integers(1, 60), st.integers(0, 60), st.integers(1, 20), st.booleans())
def test_each_target_is_in_one_window_that_fits(before: int, n: int, T: int, fill_last: bool) -> None:
    windows = split_windows(range(before + n), n, T, fill_last=fill_last)
    targets = [i for w in windows for i in w.ids[len(w.ids) - w.scored :]]
    assert targets == list(range(before, before + n))
    for window in windows:
        assert 1 <= window.scored < len(window.ids) <= T + 1
        assert list(window.ids) == list(range(window.ids[0], window.ids[-1] + 1))
    if len(windows) == 1:  # one window has all the context that fits
        assert len(windows[0].ids) == min(T, before + n - 1) + 1


@given(st.integers(1, 60), st.integers(1, 20))
def test_filled_windows_are_the_harness_s_own(n: int, T: int) -> None:
    from lm_eval.utils import get_rolling_token_windows

    text = list(range(1, n + 1))
    theirs = [(list(read), list(targets)) for read, targets in get_rolling_token_windows(text, 0, T, 1)]
    windows = split_windows([0, *text], n, T, fill_last=True)
    assert [(list(w.ids[:-1]), list(w.ids[-w.scored :])) for w in windows] == theirs


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 5))
def test_batches_have_everything_once_and_the_longest_first(lengths: list[int], size: int) -> None:
    batches = list(batch_by_length(lengths, size))
    flat = [i for batch in batches for i in batch]
    assert sorted(flat) == list(range(len(lengths))) and all(len(batch) <= size for batch in batches)
    assert [lengths[i] for i in flat] == sorted(lengths, reverse=True)


# --- likelihoods ---


@pytest.mark.parametrize("batch_size", [1, 3, 99])
@pytest.mark.parametrize("changes", [{}, {"positions": "rope", "norm": "rmsnorm", "mlp": "swiglu", "logit_cap": 20.0}])
def test_scores_are_those_of_the_logits(batch_size: int, changes: dict[str, Any]) -> None:
    model = tiny_model(scale=4, **changes)
    generator = torch.Generator().manual_seed(3)
    windows = []
    for n in (2, 9, 5, 20, 2, 33):
        ids = torch.randint(model.config.vocab_size, (n,), generator=generator).tolist()
        ids[-1] = int(model(torch.tensor([ids[:-1]]))[0, -1].argmax())  # the last target is the greedy one
        windows.append(Window(tuple(ids), 1 if n < 6 else n // 2))
    done: list[int] = []
    scores = score_windows(model, windows, batch_size=batch_size, progress=done.append)
    for window, score in zip(windows, scores, strict=True):
        logits = model(torch.tensor([window.ids[:-1]]))[0, -window.scored :].detach().double()
        targets = torch.tensor(window.ids[-window.scored :])
        assert score.nats == pytest.approx(float(-logits.log_softmax(-1).gather(1, targets[:, None]).sum()), rel=1e-5)
        assert score.greedy is bool((logits.argmax(-1) == targets).all())
    assert {score.greedy for score in scores} == {True, False} and done[-1] == len(windows)


def test_loglikelihoods_are_those_of_the_logits(loaded: LoadedModel) -> None:
    lm = LightLLMForEval(loaded)
    start = lm.start
    assert (lm.context, start) == (16, ord("\n"))  # it never saw a separator
    pairs = {
        ("the cat", " sat"): ([*b"the cat sat"], 4),
        ("the cat ", "sat"): ([*b"the cat sat"], 4),  # the space begins the word
        ("", "abc"): ([start, *b"abc"], 3),
        ("", "\nabc"): ([start, *b"\nabc"], 4),  # the start token is not part of the text
        (" ", "abc"): ([start, *b" abc"], 4),
        # 17 ids: 16 are read, the last 4 are targets
        ("a question that is too long to see", " yes"): ([*b"a question that is too long to see yes"][-17:], 4),
    }
    for (pair, (ids, n)), (log_p, greedy) in zip(pairs.items(), lm.loglikelihood(list(pairs)), strict=True):
        expected = score_by_logits(loaded, ids, n)
        assert (log_p, greedy) == (pytest.approx(expected[0], rel=1e-5), expected[1]), pair
    assert lm.truncated == 1
    assert lm.loglikelihood([("abc", "")]) == [(0.0, True)]


def test_a_continuation_longer_than_the_context_is_scored_in_windows(loaded: LoadedModel) -> None:
    lm = LightLLMForEval(loaded)
    ids = lm.tokenizer.encode("b" + TEXT)
    windows = [ids[i : i + 17] for i in range(0, len(ids) - 1, 16)]
    assert len(windows) == 3
    expected = math.fsum(score_by_logits(loaded, window, len(window) - 1)[0] for window in windows)
    assert lm.loglikelihood([("aab", TEXT)])[0][0] == pytest.approx(expected, rel=1e-5)


def test_a_pair_that_merges_into_one_token_still_has_a_target(tmp_path: Path) -> None:
    tokenizer = train_bpe(["xy xy xy xy xy xy"], 258)
    assert len(tokenizer.encode("xy")) == 1
    lm = LightLLMForEval(load_model(model_path(tmp_path, tokenizer)))
    assert lm.encode_pair("x", "y") == (tokenizer.encode("x"), tokenizer.encode("y"))
    assert lm.encode_pair("xy ", "xy") == (tokenizer.encode("xy"), tokenizer.encode("xy xy")[1:])


@pytest.mark.parametrize(
    ("tokenizer", "documents", "start", "name"),
    [
        (ByteTokenizer(), 1, 10, r"the token '\n'"),
        (ByteTokenizer(), 2, 256, "the separator of documents"),
        (CharTokenizer("abc"), 1, 0, "the token 'a'"),
    ],
)
def test_the_start_token(tokenizer: Tokenizer, documents: int, start: int, name: str, tmp_path: Path) -> None:
    loaded = load_model(model_path(tmp_path, tokenizer, documents))
    lm = LightLLMForEval(loaded)
    assert (lm.start, lm.start_name) == (start, name)
    expected = score_by_logits(loaded, [start, *tokenizer.encode("abc")], 3)[0]
    assert lm.loglikelihood_rolling(["abc"]) == [pytest.approx(expected, rel=1e-5)]


def held_out(lm: LightLLMForEval, text: str) -> Evaluation:
    """Return our own evaluation of a text after the start token."""
    ids = TokensInMemory([lm.start, *lm.tokenizer.encode(text)])
    return evaluate_loss(lm.model, ids, np.array(byte_lengths(lm.tokenizer)), context=lm.context)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 32, 40, 84])
def test_a_text_has_our_own_bits_per_byte(n: int, loaded: LoadedModel) -> None:
    lm = LightLLMForEval(loaded)
    text = (TEXT * 3).encode()[:n].decode(errors="ignore")
    ours = held_out(lm, text)
    (log_p,) = lm.loglikelihood_rolling([text])
    assert ours.bytes == len(text.encode())
    assert -log_p / math.log(2) / len(text.encode()) == pytest.approx(ours.bits_per_byte, rel=1e-7)


def test_a_filled_last_window_sees_more(loaded: LoadedModel) -> None:
    """And it is the only difference: a text of whole windows has the same score."""
    cold, full = LightLLMForEval(loaded), LightLLMForEval(loaded, last_window="full")
    assert cold.loglikelihood_rolling(["x" * 32]) == full.loglikelihood_rolling(["x" * 32])
    text = TEXT[:30]
    ids = [cold.start, *cold.tokenizer.encode(text)]
    n = len(ids) - 1
    first = score_by_logits(loaded, ids[:17], 16)[0]
    (cold_p,), (full_p,) = cold.loglikelihood_rolling([text]), full.loglikelihood_rolling([text])
    assert cold_p == pytest.approx(first + score_by_logits(loaded, ids[16:], n - 16)[0], rel=1e-6)
    assert full_p == pytest.approx(first + score_by_logits(loaded, ids[-17:], n - 16)[0], rel=1e-6)
    assert abs(cold_p - full_p) > 0.01


# --- generated texts ---


@pytest.mark.parametrize(
    ("kwargs", "until", "max_tokens", "temperature"),
    [
        ({}, (), 256, 0),
        ({"until": "\n"}, ("\n",), 256, 0),
        ({"until": ["a", ""], "max_gen_toks": 3}, ("a",), 3, 0),
        ({"max_new_tokens": 4, "num_beams": 1, "temperature": None}, (), 4, 0),
        ({"max_gen_toks": 5, "max_new_tokens": 4}, (), 5, 0),
        ({"do_sample": False, "temperature": 0.7}, (), 256, 0),
        ({"temperature": 0.7}, (), 256, 0.7),
        ({"do_sample": True}, (), 256, 1),
    ],
)
def test_generation_kwargs(kwargs: dict[str, Any], until: tuple[str, ...], max_tokens: int, temperature: float) -> None:
    request = parse_generation_kwargs(kwargs)
    assert (request.until, request.max_tokens) == (until, max_tokens)
    assert request.sampling == Sampling(temperature=temperature)


@pytest.mark.parametrize("name", settings_of(Sampling))
def test_every_sampling_setting_can_be_in_a_task(name: str) -> None:
    """A new one needs no code here."""
    value = {int: 3, float: 0.5}[type(getattr(Sampling(), name))]
    request = parse_generation_kwargs({"do_sample": True, name: value})
    assert request.sampling == replace(Sampling(), **{name: value})


@pytest.mark.parametrize(
    ("kwargs", "named"),
    [
        ({"num_beams": 10}, "'num_beams'=10"),
        ({"until": 3}, "until=3"),
        ({"max_gen_toks": 0}, "max_gen_toks=0"),
        ({"do_sample": True, "top_p": 2.0}, "top_p=2.0"),
    ],
)
def test_generation_kwargs_that_are_refused(kwargs: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        parse_generation_kwargs(kwargs)


@pytest.mark.parametrize(
    ("text", "until", "expected"),
    [
        ("one two three", ("three", "two"), ("one ", 7)),
        ("aab", ("ab",), ("a", 3)),
        ("naïve", ("ï",), ("na", 4)),
        ("naïve", ("x",), ("naïve", 6)),
        ("abab", ("abab", "b"), ("a", 2)),
    ],
)
def test_a_text_ends_before_the_first_stop_string(text: str, until: tuple[str, ...], expected: tuple[str, int]) -> None:
    stream, pieces = StopStringStream(ByteTokenizer(), until), list[str]()
    for byte in text.encode():
        if not stream.stopped:
            pieces.append(stream.push(byte))
    assert ("".join(pieces) + stream.close(), len(pieces)) == expected


def test_stop_strings_in_one_token_and_half_characters() -> None:
    tokenizer = train_bpe(["xy xy xy xy xy xy"], 258)
    stream = StopStringStream(tokenizer, ("y", "x"))
    assert stream.push(*tokenizer.encode("xy")) + stream.close() == ""
    half = StopStringStream(ByteTokenizer(), ())
    assert "".join(map(half.push, (*"aï".encode()[:2], None))) + half.close() == "a\ufffd"


@pytest.mark.parametrize("batch_size", [1, 8])
def test_texts_are_greedy_after_the_end_of_the_prompt(batch_size: int, tmp_path: Path) -> None:
    loaded = tiny_loaded(tmp_path)  # its blocks have weight, so a text depends on every token before it
    lm = LightLLMForEval(loaded, batch_size=batch_size)
    assert (lm.context, lm.start) == (24, 256)
    prompts = ["abc", "", "a prompt of more than the eighteen bytes there are"]
    requests = [(prompt, {"max_gen_toks": 6, "until": []}) for prompt in prompts] + [("abc", {"max_gen_toks": 2})]
    encoded = [lm.tokenizer.encode(prompt)[-18:] or [256] for prompt in prompts]
    expected = [decode(lm.tokenizer, greedy_by_logits(loaded, ids, 6)) for ids in encoded]
    assert greedy_by_logits(loaded, encoded[2][1:], 6) != greedy_by_logits(loaded, encoded[2], 6)
    starts = [greedy_by_logits(loaded, [start], 6) for start in (10, 256, 0)]
    assert starts[0] != starts[1] != starts[2]
    expected.append(decode(lm.tokenizer, greedy_by_logits(loaded, encoded[0], 2)))
    assert lm.generate_until(requests) == expected and lm.truncated == 1
    stop = expected[0][2:4]
    assert lm.generate_until([("abc", {"max_gen_toks": 6, "until": [stop]})]) == [expected[0].partition(stop)[0]]


def test_a_text_may_be_longer_than_the_context(loaded: LoadedModel) -> None:
    lm = LightLLMForEval(loaded)
    assert max_prompt_tokens(16, 40) == 8
    (text,) = lm.generate_until([("twelve bytes", {"max_gen_toks": 40})])
    assert len(lm.tokenizer.encode(text)) >= 40 and lm.truncated == 1


def test_sampled_texts_depend_on_seed_and_index_alone(loaded: LoadedModel) -> None:
    requests = [("abc", {"max_gen_toks": 8, "do_sample": True, "temperature": 2.0})] * 3
    first, again = (LightLLMForEval(loaded, batch_size=n).generate_until(requests) for n in (1, 3))
    assert first == again and len(set(first)) == 3
    assert LightLLMForEval(loaded, seed=99).generate_until(requests) != first


def test_rows_of_padding_are_never_generated(tmp_path: Path) -> None:
    padded = tiny_loaded(tmp_path, vocab_size=320)
    with torch.no_grad():
        padded.model.wte.weight[257:] = 40 * padded.model.wte.weight[:63]
    lm = LightLLMForEval(padded, dtype="float32")
    best = {}
    for prompt in map(chr, range(33, 127)):
        logits = padded.model(torch.tensor([[ord(prompt)]]))[0, -1]
        assert logits.argmax() >= 257
        best[prompt] = int(logits[:257].argmax())
    prompt = next(prompt for prompt, i in best.items() if i < 128)  # a letter of one byte
    assert lm.generate_until([(prompt, {"max_gen_toks": 1})]) == [chr(best[prompt])]
    assert lm.loglikelihood([(prompt, chr(best[prompt]))])[0][1] is True


@pytest.mark.parametrize("changes", [{"batch_size": 0}, {"seed": -1}, {"last_window": "warm"}])
def test_settings_out_of_range_are_refused(changes: dict[str, Any], loaded: LoadedModel) -> None:
    with pytest.raises(ConfigError, match=next(iter(changes))):
        LightLLMForEval(loaded, **changes)


def test_a_model_without_a_tokenizer_is_refused(loaded: LoadedModel) -> None:
    with pytest.raises(CheckpointError, match="has no tokenizer"):
        LightLLMForEval(replace(loaded, file=replace(loaded.file, tokenizer=None)))


# --- beside the harness's own model class ---


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("kind", ["bpe", "byte"])
def test_the_harness_s_own_class_gives_the_same_answers_on_the_export(family: str, kind: str, tmp_path: Path) -> None:
    reason = "NOT RUN: lm_eval's own class needs accelerate; pip install 'lm-eval[hf]'"
    pytest.importorskip("accelerate", reason=reason)
    import transformers
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    loaded = tiny_loaded(tmp_path, family, a_tokenizer(kind))
    (tmp_path / "hf").mkdir()
    HF.write(loaded, tmp_path / "hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, max_length=24, batch_size=3, device="cpu")
    ours = LightLLMForEval(loaded, dtype="float32", last_window="full", batch_size=3)

    def expected(request: str, arguments: list[Any]) -> Any:
        return getattr(theirs, request)([Instance(request, {}, args, i) for i, args in enumerate(arguments)])

    pairs = [("The cat", " sat on"), ("The cat ", "sat"), ("", " hello"), ("x", "\n"), ("to be " * 9, " naïve 東京")]
    pairs.append(("The cat", ours.generate_until([("The cat", {"max_gen_toks": 3})])[0]))
    texts = ["To be, or not to be.\n" * 4, "a", "  naïve\n\n", "x y z w " * 30]
    kwargs: list[dict[str, Any]] = [{"until": ["e"], "max_gen_toks": 10}, {"until": "\n\n", "max_gen_toks": 12}]
    requests = [(prompt, one) for prompt in ("The cat", "to be or not to be, that is it", "x") for one in kwargs]
    log_ps, greedy = zip(*expected("loglikelihood", pairs), strict=True)
    answers = ours.loglikelihood(pairs)
    assert [log_p for log_p, _ in answers] == pytest.approx(list(log_ps), rel=1e-5)
    assert [is_greedy for _, is_greedy in answers] == list(greedy)
    rolling = expected("loglikelihood_rolling", [(text,) for text in texts])
    assert ours.loglikelihood_rolling(texts) == pytest.approx(rolling, rel=1e-5)
    assert ours.generate_until(requests) == expected("generate_until", [(c, dict(one)) for c, one in requests])
