"""A model under lm-evaluation-harness: what it answers is what its logits say, and what our own evaluation says."""

import json
import math
import re
import shlex
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from light_llm.checkpoint import Files, LoadedModel, load_model, write_model_file
from light_llm.cli import main
from light_llm.data import Tokenizer, prepare_dataset
from light_llm.data.bpe import train_bpe
from light_llm.data.tokenizers import ByteTokenizer, CharTokenizer, byte_lengths, decode
from light_llm.errors import CheckpointError, ConfigError, DataError
from light_llm.evaluate import Evaluation, evaluate_loss
from light_llm.lm_eval import (
    EvalJob,
    LightLLMForEval,
    parse_generation_kwargs,
    result_rows,
    run_tasks,
    split_windows,
    summarize_results,
)
from light_llm.lm_eval.generation import StopMatcher, max_prompt_tokens
from light_llm.lm_eval.loglikelihood import score_windows
from light_llm.lm_eval.results import to_json
from light_llm.lm_eval.tasks import find_tasks, nearest
from light_llm.lm_eval.windows import Window, batch_by_length
from light_llm.train.checkpointer import model_meta
from tests.conftest import CHECKOUT
from tests.support.export_tools import HF, a_tokenizer, tiny_loaded
from tests.support.tools import model_path, run_child, tiny_model

TEXT = "A fox went up the hill,\nnaïve and 東.\n"  # 42 bytes
QUESTIONS = [
    ("the cat", ["sat", "flew away"], 0),
    ("", ["a", "b"], 1),
    ("a much longer question than it can see, which is cut", ["no", "yes"], 1),
]


@pytest.fixture(scope="module", autouse=True)
def nowhere_to_go(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test reaches the network, and what the libraries keep is kept in a folder of ours."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("HF_DATASETS_OFFLINE", "1")
        patch.setenv("HF_HOME", str(tmp_path_factory.mktemp("hf")))

        def refused(*where: Any) -> None:
            raise AssertionError(f"the network was asked for: {where}")

        patch.setattr(socket, "getaddrinfo", refused)
        patch.setattr(socket.socket, "connect", refused)
        yield


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> LoadedModel:
    """A model over bytes that sees 16 tokens and never saw a separator."""
    return load_model(model_path(tmp_path_factory.mktemp("model")))


@pytest.fixture(scope="module")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of tasks: questions with choices, two texts, a text of one's own to write."""
    folder = tmp_path_factory.mktemp("tasks")
    questions = [{"q": q, "c": c, "a": a} for q, c, a in QUESTIONS]
    task(
        folder, "choice", questions, "doc_to_text: '{{q}}'", "doc_to_choice: '{{c}}'", "doc_to_target: a", metric="acc"
    )
    texts = [{"text": TEXT * 3}, {"text": "x"}]
    task(folder, "rolling", texts, "doc_to_text: ''", "doc_to_target: '{{text}}'", metric="bits_per_byte")
    kwargs = "generation_kwargs: {until: ['\\n\\n'], max_gen_toks: 6}"
    prompts = [{"q": "abc", "a": "?"}, {"q": "x", "a": "?"}]
    task(folder, "writing", prompts, "doc_to_text: '{{q}}'", "doc_to_target: '{{a}}'", kwargs, metric="exact_match")
    return folder


KINDS = {"choice": "multiple_choice", "rolling": "loglikelihood_rolling", "writing": "generate_until"}


def task(folder: Path, name: str, rows: list[dict[str, Any]], *lines: str, metric: str, kind: str = "") -> None:
    """Write a task and its documents."""
    (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    data = {"data_files": {"test": str(folder / f"{name}.jsonl")}, "cache_dir": str(folder / "cache")}
    head = [f"task: our_{name}", "dataset_path: json", f"dataset_kwargs: {json.dumps(data)}", "test_split: test"]
    head += [f"output_type: {kind or KINDS[name]}", f"metric_list: [{{metric: {metric}}}]"]
    (folder / f"{name}.yaml").write_text("\n".join([*head, *lines]))


def by_hand(loaded: LoadedModel, read: list[int], n: int) -> tuple[float, bool]:
    """log P of the last n of some ids after those before them, and whether each is the likeliest: from the logits."""
    logits = loaded.model(torch.tensor([read[:-1]]))[0, -n:].detach().double()
    targets = torch.tensor(read[-n:])
    chosen = logits.log_softmax(-1)[torch.arange(n), targets]
    return float(chosen.sum()), bool((logits.argmax(-1) == targets).all())


def held_out(answers: LightLLMForEval, text: str, loaded: LoadedModel) -> Evaluation:
    """Our own evaluation of a text after the start token."""
    ids = np.array([answers.start, *answers.tokenizer.encode(text)])
    lengths = np.array(byte_lengths(answers.tokenizer))
    return evaluate_loss(loaded.model, Plain(ids), lengths, context=answers.context)


class Plain:
    """Ids in memory, as `evaluate_loss` reads them."""

    def __init__(self, ids: np.ndarray) -> None:
        self.ids = ids

    def __len__(self) -> int:
        return len(self.ids)

    def read(self, start: int, stop: int) -> np.ndarray:
        return self.ids[start:stop]


# ---- windows


@given(st.integers(1, 60), st.integers(0, 60), st.integers(1, 20), st.booleans())
def test_each_target_is_in_one_window_that_fits(before: int, n: int, T: int, full: bool) -> None:
    windows = split_windows(range(before + n), n, T, fill_last=full)
    guessed = [i for w in windows for i in w.ids[len(w.ids) - w.scored :]]
    assert guessed == list(range(before, before + n))
    for window in windows:
        assert 1 <= window.scored < len(window.ids) <= T + 1
        assert list(window.ids) == list(range(window.ids[0], window.ids[-1] + 1))
    if len(windows) == 1:  # what fits sees all that there is room for
        assert len(windows[0].ids) == min(T, before + n - 1) + 1


@given(st.integers(1, 60), st.integers(1, 20))
def test_full_windows_are_the_harness_s_own(n: int, T: int) -> None:
    from lm_eval.utils import get_rolling_token_windows

    text = list(range(1, n + 1))
    theirs = [(list(read), list(guessed)) for read, guessed in get_rolling_token_windows(text, 0, T, 1)]
    ours = [(list(w.ids[:-1]), list(w.ids[-w.scored :])) for w in split_windows([0, *text], n, T, fill_last=True)]
    assert ours == theirs


@given(st.lists(st.integers(1, 9), max_size=12), st.integers(1, 5))
def test_batches_hold_everything_once_and_the_longest_first(lengths: list[int], size: int) -> None:
    batches = list(batch_by_length(lengths, size))
    flat = [i for batch in batches for i in batch]
    assert sorted(flat) == list(range(len(lengths))) and all(len(batch) <= size for batch in batches)
    assert [lengths[i] for i in flat] == sorted(lengths, reverse=True)


# ---- likelihoods


@pytest.mark.parametrize("batch_size", [1, 3, 99])
@pytest.mark.parametrize("changes", [{}, {"positions": "rope", "norm": "rmsnorm", "mlp": "swiglu", "logit_cap": 20.0}])
def test_scores_are_those_of_the_logits(batch_size: int, changes: dict[str, Any]) -> None:
    model = tiny_model(scale=4, **changes)
    draw = torch.Generator().manual_seed(3)
    windows = []
    for n in (2, 9, 5, 20, 2, 33):
        ids = torch.randint(model.config.vocab_size, (n,), generator=draw).tolist()
        ids[-1] = int(model(torch.tensor([ids[:-1]]))[0, -1].argmax())  # the last guess is right
        windows.append(Window(tuple(ids), 1 if n < 6 else n // 2))
    done: list[int] = []
    found = score_windows(model, windows, batch_size=batch_size, progress=done.append)
    for window, one in zip(windows, found, strict=True):
        logits = model(torch.tensor([window.ids[:-1]]))[0, -window.scored :].detach().double()
        targets = torch.tensor(window.ids[-window.scored :])
        assert one.nats == pytest.approx(float(-logits.log_softmax(-1).gather(1, targets[:, None]).sum()), rel=1e-5)
        assert one.greedy is bool((logits.argmax(-1) == targets).all())
    assert {one.greedy for one in found} == {True, False} and sum(done) == len(windows)


def test_ids_beyond_the_tokenizer_are_never_the_likeliest() -> None:
    model = tiny_model(scale=4)
    best = int(model(torch.tensor([[1, 2]]))[0, -1].argmax())
    assert 0 < best
    cut = int(model(torch.tensor([[1, 2]]))[0, -1, :best].argmax())
    windows = [Window((1, 2, best), 1), Window((1, 2, cut), 1)]
    assert [one.greedy for one in score_windows(model, windows, batch_size=2)] == [True, False]
    assert [one.greedy for one in score_windows(model, windows, batch_size=2, n_ids=best)] == [False, True]


def test_likelihoods_are_those_of_the_logits(loaded: LoadedModel) -> None:
    answers = LightLLMForEval(loaded)
    start = answers.start
    assert (answers.context, start) == (16, ord("\n"))  # it never saw a separator
    pairs = {
        ("the cat", " sat"): ([*b"the cat sat"], 4),
        ("the cat ", "sat"): ([*b"the cat sat"], 4),  # the space begins the word
        ("", "abc"): ([start, *b"abc"], 3),
        ("", "\nabc"): ([start, *b"\nabc"], 4),  # a start token that is a letter is not the text's own
        (" ", "abc"): ([start, *b" abc"], 4),
        ("a question that is too long to see", " yes"): ([*b" long to see yes"], 4),  # 16 read, the last 4 guessed
    }
    pairs["a question that is too long to see", " yes"] = ([*b"a question that is too long to see yes"][-17:], 4)
    found = answers.loglikelihood(list(pairs))
    for (pair, (ids, n)), (log_p, greedy) in zip(pairs.items(), found, strict=True):
        expected = by_hand(loaded, ids, n)
        assert (log_p, greedy) == (pytest.approx(expected[0], rel=1e-5), expected[1]), pair
    assert answers.truncated == 1
    assert answers.loglikelihood([("abc", "")]) == [(0.0, True)]  # nothing is certain


def test_what_is_written_greedily_is_greedy(loaded: LoadedModel) -> None:
    answers = LightLLMForEval(loaded)
    (text,) = answers.generate_until([("abc", {"max_gen_toks": 5})])
    other = text[:-1] + ("a" if text[-1] != "a" else "b")
    assert text and text.isascii()
    (right, wrong) = answers.loglikelihood([("abc", text), ("abc", other)])
    assert (right[1], wrong[1]) == (True, False) and right[0] > wrong[0]


def test_a_continuation_longer_than_the_context_is_scored_in_windows(loaded: LoadedModel) -> None:
    answers = LightLLMForEval(loaded)
    ids = answers.tokenizer.encode("b" + TEXT)
    parts = [by_hand(loaded, ids[i : i + 17], len(ids[i : i + 17]) - 1)[0] for i in range(0, len(ids) - 1, 16)]
    assert len(parts) == 3
    assert answers.loglikelihood([("aab", TEXT)])[0][0] == pytest.approx(math.fsum(parts), rel=1e-5)


def test_a_pair_that_melts_into_one_token_still_has_something_to_score(tmp_path: Path) -> None:
    tokenizer = train_bpe(["xy xy xy xy xy xy"], 258)
    assert len(tokenizer.encode("xy")) == 1
    answers = LightLLMForEval(load_model(model_path(tmp_path, tokenizer)))
    assert answers.encode_pair("x", "y") == (tokenizer.encode("x"), tokenizer.encode("y"))
    assert answers.encode_pair("xy ", "xy") == (tokenizer.encode("xy"), tokenizer.encode("xy xy")[1:])


@pytest.mark.parametrize(
    ("tokenizer", "documents", "start", "name"),
    [
        (ByteTokenizer(), 1, 10, r"the token '\n'"),
        (ByteTokenizer(), 2, 256, "the separator of documents"),
        (CharTokenizer("abc"), 1, 0, "the token 'a'"),
    ],
)
def test_what_stands_before_a_text(tokenizer: Tokenizer, documents: int, start: int, name: str, tmp_path: Path) -> None:
    loaded = load_model(model_path(tmp_path, tokenizer, documents))
    answers = LightLLMForEval(loaded)
    assert (answers.start, answers.start_name) == (start, name)
    expected = by_hand(loaded, [start, *tokenizer.encode("abc")], 3)[0]
    assert answers.loglikelihood_rolling(["abc"]) == [pytest.approx(expected, rel=1e-5)]


# ---- bits per byte: the harness's and ours


@pytest.mark.parametrize("n", [1, 15, 16, 17, 32, 40, 84])
def test_a_text_has_our_own_bits_per_byte(n: int, loaded: LoadedModel) -> None:
    answers = LightLLMForEval(loaded)
    text = (TEXT * 3).encode()[:n].decode(errors="ignore")
    ours = held_out(answers, text, loaded)
    (log_p,) = answers.loglikelihood_rolling([text])
    assert ours.bytes == len(text.encode())
    assert -log_p / math.log(2) / len(text.encode()) == pytest.approx(ours.bits_per_byte, rel=1e-7)


def test_a_full_last_window_sees_more(loaded: LoadedModel) -> None:
    """And it is the only difference: a text that windows divide has the same number."""
    cold, full = LightLLMForEval(loaded), LightLLMForEval(loaded, last_window="full")
    whole, more = "x" * 32, TEXT[:30]
    assert cold.loglikelihood_rolling([whole]) == full.loglikelihood_rolling([whole])
    ids = [cold.start, *cold.tokenizer.encode(more)]
    n = len(ids) - 1
    first = by_hand(loaded, ids[:17], 16)[0]
    assert cold.loglikelihood_rolling([more]) == [pytest.approx(first + by_hand(loaded, ids[16:], n - 16)[0], rel=1e-6)]
    assert full.loglikelihood_rolling([more]) == [
        pytest.approx(first + by_hand(loaded, ids[-17:], n - 16)[0], rel=1e-6)
    ]
    assert abs(cold.loglikelihood_rolling([more])[0] - full.loglikelihood_rolling([more])[0]) > 0.01


# ---- texts that are written


@pytest.mark.parametrize(
    ("kwargs", "until", "most", "temperature"),
    [
        ({}, (), 256, 0),
        ({"until": "\n"}, ("\n",), 256, 0),
        ({"until": ["a", ""], "max_gen_toks": 3}, ("a",), 3, 0),
        ({"max_new_tokens": 4, "num_beams": 1, "temperature": None}, (), 4, 0),
        ({"max_gen_toks": 5, "max_new_tokens": 4}, (), 5, 0),
        ({"do_sample": False, "temperature": 0.7}, (), 256, 0),
        ({"temperature": 0.7}, (), 256, 0.7),
        ({"do_sample": True}, (), 256, 1),
        ({"do_sample": True, "temperature": 0.5, "top_k": 3, "top_p": 0.9}, (), 256, 0.5),
    ],
)
def test_wishes_of_a_task(kwargs: dict[str, Any], until: tuple[str, ...], most: int, temperature: float) -> None:
    wanted = parse_generation_kwargs(kwargs)
    assert (wanted.until, wanted.max_tokens, wanted.sampling.temperature) == (until, most, temperature)
    assert wanted.sampling.top_k == kwargs.get("top_k", 0) and wanted.sampling.top_p == kwargs.get("top_p", 1)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"num_beams": 10}, r"the task wants 'num_beams'=10, which this model cannot do; take it out"),
        ({"until": 3}, r"the task's until=3 cannot be used; it must be a text, or a list of them"),
        ({"max_gen_toks": 0}, r"the task's max_gen_toks=0 cannot be used; it must be at least 1"),
        ({"do_sample": True, "top_p": 2.0}, r"top_p=2.0 cannot be used"),
    ],
)
def test_wishes_that_cannot_be_fulfilled(kwargs: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_generation_kwargs(kwargs)


def test_a_text_ends_before_the_first_of_its_ends() -> None:
    def written(text: str, *until: str) -> tuple[str, int]:
        ending = StopMatcher(ByteTokenizer(), until)
        read = 0
        for byte in text.encode():
            if not ending.ended:
                ending.push(byte)
                read += 1
        return ending.close(), read

    assert written("one two three", "three", "two") == ("one ", 7)
    assert written("aab", "ab") == ("a", 3)
    assert written("naïve", "ï") == ("na", 4)
    assert written("naïve", "x") == ("naïve", 6)
    assert written("abab", "abab", "b") == ("a", 2)
    tokenizer = train_bpe(["xy xy xy xy xy xy"], 258)
    (both,) = tokenizer.encode("xy")
    ending = StopMatcher(tokenizer, ("y", "x"))  # both in one token
    ending.push(both)
    assert ending.close() == ""
    half = StopMatcher(ByteTokenizer(), ())
    for byte in "aï".encode()[:2]:
        half.push(byte)
    half.push(None)
    half.push(98)  # what comes after the end is not the text's
    assert half.close() == "a\ufffd"


def plain_greedy(loaded: LoadedModel, ids: list[int], n: int) -> list[int]:
    """The n likeliest tokens, one by one, by whole passes."""
    ids = list(ids)
    for _ in range(n):
        ids.append(int(loaded.model(torch.tensor([ids]))[0, -1, : loaded.file.tokenizer.vocab_size].argmax()))
    return ids[-n:]


@pytest.mark.parametrize("batch_size", [1, 8])
def test_texts_are_the_greedy_ones_of_the_end_of_the_prompt(batch_size: int, tmp_path: Path) -> None:
    loaded = tiny_loaded(tmp_path)  # its blocks weigh, so that a text depends on all that stands before it
    answers = LightLLMForEval(loaded, batch_size=batch_size)
    assert (answers.context, answers.start) == (24, 256)
    prompts = ["abc", "", "a prompt of more than the eighteen bytes there are"]
    requests = [(prompt, {"max_gen_toks": 6, "until": []}) for prompt in prompts] + [("abc", {"max_gen_toks": 2})]
    encoded = [answers.tokenizer.encode(prompt)[-18:] or [256] for prompt in prompts]
    expected = [decode(answers.tokenizer, plain_greedy(loaded, ids, 6)) for ids in encoded]
    assert plain_greedy(loaded, encoded[2][1:], 6) != plain_greedy(loaded, encoded[2], 6)
    assert plain_greedy(loaded, [10], 6) != plain_greedy(loaded, [256], 6) != plain_greedy(loaded, [0], 6)
    expected.append(decode(answers.tokenizer, plain_greedy(loaded, encoded[0], 2)))
    assert answers.generate_until(requests) == expected and answers.truncated == 1
    end = expected[0][2:4]
    assert answers.generate_until([("abc", {"max_gen_toks": 6, "until": [end]})]) == [expected[0].partition(end)[0]]


def test_a_text_longer_than_the_context_goes_on(loaded: LoadedModel) -> None:
    answers = LightLLMForEval(loaded)
    assert max_prompt_tokens(16, 40) == 8
    (text,) = answers.generate_until([("twelve bytes", {"max_gen_toks": 40})])
    assert len(answers.tokenizer.encode(text)) >= 40 and answers.truncated == 1


def test_drawn_texts_repeat_with_the_seed_and_differ_with_the_place(loaded: LoadedModel) -> None:
    requests = [("abc", {"max_gen_toks": 8, "do_sample": True, "temperature": 2.0})] * 3
    first, again = (LightLLMForEval(loaded, batch_size=n).generate_until(requests) for n in (1, 3))
    assert first == again and len(set(first)) == 3
    assert LightLLMForEval(loaded, seed=99).generate_until(requests) != first


# ---- through the harness


@pytest.fixture(scope="module")
def ran(loaded: LoadedModel, tasks: Path) -> tuple[dict[str, Any], list[str], list[tuple[str, int, int]]]:
    """The three tasks, run once: results, warnings, and what the progress said."""
    said: list[tuple[str, int, int]] = []
    answers = LightLLMForEval(loaded, progress=lambda *words: said.append(words))
    results, warnings = run_tasks(answers, EvalJob(("our_choice", "our_rolling", "our_writing"), tasks, offline=True))
    return results, warnings, said


def test_choices_are_made_by_hand(ran: Any, loaded: LoadedModel) -> None:
    right = 0
    for question, choices, answer in QUESTIONS:
        start = [] if question else [10]
        ids = [[*start, *question.encode(), *f" {choice}".encode()] for choice in choices]
        log_ps = [by_hand(loaded, row[-17:], len(choice) + 1)[0] for row, choice in zip(ids, choices, strict=True)]
        right += int(np.argmax(log_ps)) == answer
    found = ran[0]["results"]["our_choice"]
    assert found["acc,none"] == pytest.approx(right / 3) and 0 < right < 3


def test_the_harness_says_our_bits_per_byte(ran: Any, loaded: LoadedModel) -> None:
    answers = LightLLMForEval(loaded)
    evaluations = [held_out(answers, text, loaded) for text in (TEXT * 3, "x")]
    bits, size = (math.fsum(e.bits_per_byte * e.bytes for e in evaluations), sum(e.bytes for e in evaluations))
    assert size == len((TEXT * 3 + "x").encode())
    assert ran[0]["results"]["our_rolling"]["bits_per_byte,none"] == pytest.approx(bits / size, abs=1e-6)


def test_a_text_is_compared_as_it_was_written(ran: Any, loaded: LoadedModel, tmp_path: Path) -> None:
    assert ran[0]["results"]["our_writing"]["exact_match,none"] == 0
    answer = decode(ByteTokenizer(), plain_greedy(loaded, [*b"abc"], 6))
    rows = [{"q": "abc", "a": answer}, {"q": "x", "a": "?"}]
    lines = ("doc_to_text: '{{q}}'", "doc_to_target: '{{a}}'", "generation_kwargs: {until: [], max_gen_toks: 6}")
    task(tmp_path, "writing", rows, *lines, metric="exact_match")
    results, _ = run_tasks(LightLLMForEval(loaded), EvalJob(("our_writing",), tmp_path))
    assert results["results"]["our_writing"]["exact_match,none"] == 0.5


def test_rows_and_progress(ran: Any) -> None:
    results, warnings, said = ran
    rows = result_rows(results)
    assert [(row.task, row.metric, row.better, row.documents, row.shots) for row in rows] == [
        ("our_choice", "acc", "higher", 3, 0),
        ("our_rolling", "bits_per_byte", "lower", 2, 0),
        ("our_writing", "exact_match", "higher", 2, 0),
    ]
    assert rows[0].stderr and rows[1].stderr is None and warnings == []
    assert {what: (done, total) for what, done, total in said} == {
        "continuations": (6, 6),
        "windows": (9, 9),  # 126 bytes in windows of 16, and one
        "texts": (2, 2),
    }
    assert json.loads(json.dumps(summarize_results(results)))["n-samples"]["our_choice"]["effective"] == 3


def test_few_shots_and_a_limit(loaded: LoadedModel, tasks: Path) -> None:
    results, _ = run_tasks(LightLLMForEval(loaded), EvalJob(("our_choice",), tasks, limit=2, num_fewshot=1))
    (row,) = result_rows(results)
    assert (row.documents, row.shots) == (2, 1)


def test_a_task_is_also_a_path_and_a_pattern(loaded: LoadedModel, tasks: Path) -> None:
    by_path, _ = run_tasks(LightLLMForEval(loaded), EvalJob((str(tasks / "rolling.yaml"),)))
    assert list(by_path["results"]) == ["our_rolling"]


def test_nothing_of_the_harness_is_heard(loaded: LoadedModel, tasks: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run_tasks(LightLLMForEval(loaded), EvalJob(("our_writing",), tasks))
    assert capfd.readouterr() == ("", "")


def test_what_is_no_number_is_none_in_a_file() -> None:
    found = to_json({"a": np.float64(0.5), "b": math.inf, "c": (1, None, "x"), "d": Path("p"), "e": True})
    assert found == {"a": 0.5, "b": None, "c": [1, None, "x"], "d": "p", "e": True}
    groups = {"g": {"acc,none": 0.5, "acc_stderr,none": "N/A", "alias": "g"}}
    results = {"results": {"t": {"f1,strict": math.nan}, "g": groups["g"]}, "groups": groups}
    assert [(row.task, row.metric, row.stderr) for row in result_rows(results)] == [
        ("t", "f1 (strict)", None),
        ("g", "acc", None),
    ]


# ---- what goes wrong


def test_failures_of_a_task_are_data_errors_and_ours_are_not(
    loaded: LoadedModel, tasks: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ("doc_to_text: ''", "doc_to_target: '{{1 / n}}'")
    for rows, what in (([{"n": 0}], "our_rolling cannot be loaded"), ([{"n": 1}, {"n": 0}], "cannot be run")):
        task(tmp_path, "rolling", rows, *lines, metric="bits_per_byte")
        with pytest.raises(DataError, match=f"{what}: ZeroDivisionError: division by zero"):
            run_tasks(LightLLMForEval(loaded), EvalJob(("our_rolling",), tmp_path))
    task(tmp_path, "gone", [{"q": 1}], "doc_to_text: '{{q}}'", metric="acc", kind="multiple_choice")
    (tmp_path / "gone.jsonl").unlink()
    with pytest.raises(DataError, match=r"our_gone cannot be loaded: FileNotFoundError: .*; look into its YAML file"):
        run_tasks(LightLLMForEval(loaded), EvalJob(("our_gone",), tmp_path))
    letters = LightLLMForEval(load_model(model_path(tmp_path, CharTokenizer("abc"))))
    with pytest.raises(DataError, match=r"character 't' .* is not in the alphabet"):
        run_tasks(letters, EvalJob(("our_choice",), tasks))
    broken = LightLLMForEval(loaded)
    monkeypatch.setattr(broken, "context", "sixteen")
    with pytest.raises(TypeError):
        run_tasks(broken, EvalJob(("our_choice",), tasks))


def test_offline_nothing_is_downloaded(loaded: LoadedModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import datasets
    import huggingface_hub

    task(tmp_path, "rolling", [], "doc_to_text: ''", "doc_to_target: '{{text}}'", metric="bits_per_byte")
    there = tmp_path / "rolling.yaml"
    lines = [line for line in there.read_text().splitlines() if not line.startswith("dataset_kwargs")]
    there.write_text("\n".join(lines).replace("dataset_path: json", "dataset_path: nobody/nothing"))
    for module in (datasets.config, huggingface_hub.constants):  # as on a machine that is online
        monkeypatch.setattr(module, "HF_HUB_OFFLINE", False)
    with pytest.raises(DataError, match=r"our_rolling cannot be loaded: .*nobody/nothing.*; without --offline"):
        run_tasks(LightLLMForEval(loaded), EvalJob(("our_rolling",), tmp_path, offline=True))
    assert not datasets.config.HF_HUB_OFFLINE and not huggingface_hub.constants.HF_HUB_OFFLINE


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"batch_size": 0}, ConfigError, r"batch_size=0 cannot be used"),
        ({"seed": -1}, ConfigError, r"seed=-1 cannot be used"),
        ({"last_window": "warm"}, ConfigError, r"last_window='warm' .* cold, full"),
    ],
)
def test_how_a_model_cannot_be_asked(
    changes: dict[str, Any], error: type[Exception], message: str, loaded: LoadedModel
) -> None:
    with pytest.raises(error, match=message):
        LightLLMForEval(loaded, **changes)


def test_a_model_without_a_tokenizer_reads_nothing(loaded: LoadedModel) -> None:
    from dataclasses import replace

    with pytest.raises(CheckpointError, match=r"has no tokenizer, so it cannot read the text of a task"):
        LightLLMForEval(replace(loaded, file=replace(loaded.file, tokenizer=None)))


def test_the_nearest_names_are_few_and_good() -> None:
    names = [f"mmlu_{i}" for i in range(3000)] + ["lambada_openai", "our_text"]
    assert nearest("lambda_openai", names)[0] == "lambada_openai" and len(nearest("x", names)) == 200


@pytest.mark.slow
def test_the_harness_s_own_tasks_are_known(tasks: Path) -> None:
    with pytest.raises(ConfigError, match=r"there is no task 'lambda_openai'; did you mean lambada_openai\?"):
        find_tasks(["lambda_openai"], tasks)
    (tasks / "group.yaml").write_text("group: ours\ntask: [our_choice, our_rolling]\n")
    manager, names = find_tasks(["ours", "our_[cr]*", "lambada_openai"], tasks)
    assert names == ["ours", "our_choice", "our_rolling", "lambada_openai"] and len(manager.all_tasks) > 1000


# ---- the command line


def test_a_table_and_a_file(
    loaded: LoadedModel, tasks: Path, ran: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["eval", str(loaded.file.path), "--include", str(tasks), "--offline", "--output", "found.json"]
    assert main([*words, "--tasks", "our_choice,our_rolling", "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()[1:]  # the first is a path
    assert all(len(line) <= 80 for line in lines)
    found = json.loads(Path("found.json").read_text())
    bits = ran[0]["results"]["our_rolling"]["bits_per_byte,none"]
    assert re.search(rf"our_rolling +bits_per_byte +{bits:.4g} ", out)
    assert found["results"]["our_rolling"]["bits_per_byte,none"] == pytest.approx(bits, rel=1e-6)
    assert (found["context"], found["last_window"], found["cut"], found["limit"]) == (16, "cold", 2, 0)
    assert "2 requests were longer than the context" in out and "after the token '\\n'" in out
    assert main([*words, "--tasks", "our_choice"]) == 2
    assert "--output found.json is there already and would be lost" in capsys.readouterr().err


WRONG = [
    (["--tasks", ","], r"no task was named"),
    (["--tasks", "a", "--include", "nodir"], r"there is no folder nodir with tasks"),
    (["--tasks", "no.yaml"], r"there is no file no.yaml; a task is a name, or the path"),
    (["--tasks", "a", "--data", "x"], r"--data is of the held-out text and has no effect on --tasks"),
    (["--tasks", "a", "--checkpoint", "x"], r"two checkpoints are named, best_model.pt and x; leave one out"),
    (["--tasks", "a", "--limit", "-1"], r"limit=-1 cannot be used"),
    (["--tasks", "a", "--num-fewshot", "-2"], r"num_fewshot=-2 cannot be used"),
    (["--tasks", "a", "--output", "."], r"--output . is a folder"),
    (["--tasks", "a", "--output", "x/y"], r"--output x.y is in a folder that does not exist"),
    (["--tasks", "a", "--tempreature", "1"], r"there is no flag --tempreature"),
    (["--limit", "3"], r"--limit is of tasks; add --tasks NAME, or leave it out"),
    (["--last-window=full"], r"--last-window is of tasks; add --tasks NAME"),
    (["--task", "a"], r"there is no flag --task; did you mean --tasks\? --help lists all flags"),
    (["--temperature", "1"], r"--temperature has no effect on eval"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_what_a_user_gets_wrong(
    words: list[str], message: str, loaded: LoadedModel, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("best_model.pt").write_bytes(loaded.file.path.read_bytes())
    assert main(["eval", "best_model.pt", *words]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_missing_package_is_named(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    assert main(["eval", str(loaded.file.path), "--tasks", "a"]) == 2
    assert 'pip install "light-llm[eval]"' in capsys.readouterr().err
    with pytest.raises(ConfigError, match=r"light-llm\[eval\]"):
        run_tasks(LightLLMForEval(loaded), EvalJob(("a",)))


def test_without_tasks_it_is_the_held_out_text(capsys: pytest.CaptureFixture[str]) -> None:
    said = []
    Path("text.txt").write_text(TEXT * 40)
    dataset, tokenizer = prepare_dataset("text.txt", max_length=16, tokenizer="byte")
    model = tiny_model(vocab_size=tokenizer.vocab_size)
    meta = model_meta(model, None, step=1, dtype="float32", evaluation=None)
    meta |= {"tokenizer": tokenizer.to_dict(), "data": dataset.record()}
    write_model_file(Path("a.pt"), model.state_dict(), meta, Files())
    for words in (["eval", "a.pt"], ["eval", "--checkpoint", "a.pt"], ["generate", "eval", "--checkpoint", "a.pt"]):
        assert main(words) == 0
        said.append(capsys.readouterr().out)
    assert len(set(said)) == 1 and "bits/byte" in said[0]


def test_help_shows_both_uses_and_loads_nothing_heavy() -> None:
    child = run_child([sys.executable, "-X", "importtime", "-m", "light_llm", "eval", "--help"])
    imported = {line.rpartition("|")[2].strip() for line in child.stderr.splitlines()}
    assert child.returncode == 0 and not imported & {"torch", "numpy", "lm_eval", "datasets"}
    assert "Without --tasks: " in child.stdout and "With --tasks: " in child.stdout
    assert all(len(line) <= 80 for line in child.stdout.splitlines())


def test_the_page_s_own_tasks_and_commands_run(
    loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", "cache")
    page = (CHECKOUT / "docs" / "eval.md").read_text(encoding="utf-8")
    Path("my-tasks").mkdir()
    for block in re.findall(r"```yaml\n(.*?)```", page, re.S):
        name = block.splitlines()[0].removeprefix("task: ")
        Path("my-tasks", f"{name}.yaml").write_text(block)
        Path("my-tasks", f"{name}.jsonl").write_text(json.dumps({"text": TEXT, "before": "a", "after": "b"}))
    (lines,) = re.findall(r"```json\n(.*?)```", page, re.S)
    Path("my-tasks/first_word.jsonl").write_text(lines)
    Path("checkpoints").mkdir()
    Path("checkpoints/best_model.pt").write_bytes(loaded.file.path.read_bytes())
    (commands,) = re.findall(r"```bash\n(.*?)```", page, re.S)
    with_tasks = [line for line in commands.splitlines() if "--tasks" in line]
    assert len(with_tasks) == 2 and len(list(Path("my-tasks").iterdir())) == 6
    with_tasks.append("light-llm eval --tasks go_on --include my-tasks")
    for line in with_tasks:
        assert main(shlex.split(line, comments=True)[1:]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in ("first_word", "our_text", "go_on")) and Path("text.json").is_file()


def test_rows_of_padding_are_never_the_likeliest(tmp_path: Path) -> None:
    """A table may have more rows than its tokenizer has ids."""
    padded = tiny_loaded(tmp_path, vocab_size=320)
    with torch.no_grad():
        padded.model.wte.weight[257:] = 40 * padded.model.wte.weight[:63]
    answers = LightLLMForEval(padded, dtype="float32")
    first = {}
    for prompt in map(chr, range(33, 127)):
        logits = padded.model(torch.tensor([[ord(prompt)]]))[0, -1]
        assert logits.argmax() >= 257
        first[prompt] = int(logits[:257].argmax())
    prompt = next(prompt for prompt, i in first.items() if i < 128)  # a letter of one byte
    assert answers.generate_until([(prompt, {"max_gen_toks": 1})]) == [chr(first[prompt])]
    assert answers.loglikelihood([(prompt, chr(first[prompt]))])[0][1] is True


# ---- beside the harness's own model class


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama", "qwen3"])
@pytest.mark.parametrize("kind", ["bpe", "byte"])
def test_the_harness_s_own_model_class_says_the_same_of_the_export(family: str, kind: str, tmp_path: Path) -> None:
    reason = "NOT RUN: lm_eval's own class needs accelerate; pip install 'lm-eval[hf]'"
    pytest.importorskip("accelerate", reason=reason)
    import transformers
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    ours = tiny_loaded(tmp_path, family, a_tokenizer(kind))
    (tmp_path / "hf").mkdir()
    HF.write(ours, tmp_path / "hf")
    model = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "hf", dtype=torch.float32)
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    theirs = HFLM(pretrained=model, tokenizer=tokenizer, max_length=24, batch_size=3, device="cpu")
    answers = LightLLMForEval(ours, dtype="float32", last_window="full", batch_size=3)

    def asked(request: str, arguments: list[Any]) -> Any:
        return getattr(theirs, request)([Instance(request, {}, args, i) for i, args in enumerate(arguments)])

    pairs = [("The cat", " sat on"), ("The cat ", "sat"), ("", " hello"), ("x", "\n"), ("to be " * 9, " naïve 東京")]
    pairs.append(("The cat", answers.generate_until([("The cat", {"max_gen_toks": 3})])[0]))
    texts = ["To be, or not to be.\n" * 4, "a", "  naïve\n\n", "x y z w " * 30]
    kwargs: list[dict[str, Any]] = [{"until": ["e"], "max_gen_toks": 10}, {"until": "\n\n", "max_gen_toks": 12}]
    requests = [(prompt, one) for prompt in ("The cat", "to be or not to be, that is it", "x") for one in kwargs]
    expected = asked("loglikelihood", pairs)
    found = answers.loglikelihood(pairs)
    assert [log_p for log_p, _ in found] == pytest.approx([log_p for log_p, _ in expected], rel=1e-5)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert answers.loglikelihood_rolling(texts) == pytest.approx(
        asked("loglikelihood_rolling", [(text,) for text in texts]), rel=1e-5
    )
    assert answers.generate_until(requests) == asked("generate_until", [(c, dict(one)) for c, one in requests])
