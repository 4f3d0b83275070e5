"""Sampling rules against transformers, decoding against its uncached reference, and texts from a model file."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from light_llm.checkpoint import Files, model_meta, write_model_file
from light_llm.config import DEFAULT_SAMPLING, get_model_size
from light_llm.data.tokenizers import ByteTokenizer, CharTokenizer
from light_llm.errors import CheckpointError, ConfigError, DataError
from light_llm.generate import Sampling, TextGenerator, decode
from light_llm.generate.decode import window_start
from light_llm.generate.generator import choose_sampling
from light_llm.generate.sampling import (
    apply_filters,
    apply_min_p,
    apply_top_k,
    apply_top_p,
    inverse_cdf,
    penalise_repetition,
    sample,
)
from tests.support.tools import ALPHABET, model_path, some_tokens, tiny_model

# ---- sampling rules


def some_logits(seed: int, V: int = 50) -> torch.Tensor:
    return 3 * torch.randn(V, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("seed", range(5))
def test_rules_are_those_of_transformers(seed: int) -> None:
    from transformers.generation import logits_process as hf

    z, ids = some_logits(seed), torch.tensor([[3, 7, 7, 11]])
    penalty, min_p = hf.RepetitionPenaltyLogitsProcessor, hf.MinPLogitsWarper
    pairs: list[tuple[torch.Tensor, Any]] = [
        (apply_top_k(z, 7), hf.TopKLogitsWarper(7)),
        (apply_top_p(z, 0.8), hf.TopPLogitsWarper(0.8)),
        (apply_top_p(z, 0.05), hf.TopPLogitsWarper(0.05)),
        (apply_min_p(z, 0.1), min_p(0.1)),
        (penalise_repetition(z, [3, 7, 7, 11], 1.3), penalty(1.3)),
    ]
    for result, reference in pairs:
        torch.testing.assert_close(result, reference(ids, z[None])[0])
    sampling = Sampling(temperature=0.7, top_k=20, top_p=0.9, min_p=0.02, repetition_penalty=1.2)
    expected, first_rules = z[None], (penalty(1.2), hf.TemperatureLogitsWarper(0.7))
    for rule in (*first_rules, hf.TopKLogitsWarper(20), hf.TopPLogitsWarper(0.9), min_p(0.02)):
        expected = rule(ids, expected)
    result = apply_filters(z, [3, 7, 7, 11], sampling).softmax(-1)
    torch.testing.assert_close(result.float(), expected[0].softmax(-1))


@given(st.lists(st.floats(-30, 30), min_size=1, max_size=20), st.floats(0.001, 1.0), st.integers(1, 25))
def test_no_rule_ever_drops_the_likeliest(values: list[float], p: float, k: int) -> None:
    z = torch.tensor(values)
    for kept in (apply_top_k(z, k), apply_top_p(z, p), apply_min_p(z, p)):
        assert kept[z.argmax()] == z.max()
        unchanged = kept == z
        assert (unchanged | (kept == -math.inf)).all()  # a rule removes; it changes nothing else


@given(st.lists(st.floats(-8, 8), min_size=2, max_size=12, unique=True), st.floats(0.05, 0.99))
def test_a_nucleus_is_the_smallest_set_that_reaches_p(values: list[float], p: float) -> None:
    probabilities = torch.tensor(values, dtype=torch.float64).softmax(-1)
    kept = apply_top_p(probabilities.log(), p) > -math.inf
    mass = probabilities[kept].sum().item()
    assert mass >= p - 1e-9
    assert mass - probabilities[kept].min().item() < p + 1e-9


def kept_ids(logits: torch.Tensor) -> list[int]:
    return (logits > -math.inf).nonzero()[:, 0].tolist()


def test_a_boundary_that_is_hit_exactly() -> None:
    """Four equal tokens: their masses 0.25, 0.5, 0.75 are exact in binary, so p is reached and not passed."""
    equal = torch.zeros(4, dtype=torch.float64)
    assert [len(kept_ids(apply_top_p(equal, p))) for p in (0.25, 0.5, 0.75)] == [1, 2, 3]
    assert kept_ids(apply_top_p(equal, 0.5)) == [0, 1], "of equal tokens the first ones"
    # A token exactly p times as likely as the likeliest stays; one just below goes.
    at = torch.tensor([0.0, math.log(0.25), math.nextafter(math.log(0.25), -1e9)], dtype=torch.float64)
    assert kept_ids(apply_min_p(at, 0.25)) == [0, 1]
    rows = torch.stack([at, at + 3])  # each row has its own likeliest token
    assert [kept_ids(row) for row in apply_min_p(rows, 0.25)] == [[0, 1], [0, 1]]
    assert kept_ids(apply_top_k(torch.tensor([3.0, 1.0, 2.0, 1.0]), 3)) == [0, 1, 2, 3], "a tie with the third stays"


def test_draws_follow_the_probabilities() -> None:
    """20,000 draws of four tokens: chi-squared with 3 degrees of freedom stays under 16.3 (1 in 1,000).

    Tokens without mass before, between and after them are never drawn.
    """
    p = torch.tensor([0.0, 0.5, 0.25, 0.0, 0.2, 0.05, 0.0])
    generator = torch.Generator().manual_seed(0)
    counts = Counter(inverse_cdf(p.log(), generator) for _ in range(20_000))
    assert counts.keys() == {1, 2, 4, 5}
    assert sum((n - 20_000 * q) ** 2 / (20_000 * q) for i, n in counts.items() for q in [p[i].item()]) < 16.3


@pytest.mark.parametrize("temperature", [1e-300, 1e-9, 1e9])
def test_extreme_temperatures_are_harmless(temperature: float) -> None:
    z = torch.tensor([1.0, 5.0, 3.0])
    tokens = {sample(z, [], Sampling(temperature=temperature), torch.Generator().manual_seed(s)) for s in range(60)}
    assert tokens == ({1} if temperature < 1 else {0, 1, 2})


def test_temperature_zero_is_the_likeliest_and_asks_no_generator() -> None:
    generator = torch.Generator().manual_seed(0)
    before = generator.get_state()
    assert sample(some_logits(1), [], Sampling(temperature=0.0), generator) == int(some_logits(1).argmax())
    assert torch.equal(generator.get_state(), before)


OUT_OF_BOUNDS: dict[str, tuple[Any, ...]] = {
    "temperature": (-0.1, math.nan, math.inf, "hot", True),
    "top_k": (-1, 1.5),
    "top_p": (0.0, 1.1),
    "min_p": (2.0,),
    "repetition_penalty": (0.0,),
}


@pytest.mark.parametrize("name", OUT_OF_BOUNDS)
def test_a_setting_out_of_bounds_is_named(name: str) -> None:
    for value in OUT_OF_BOUNDS[name]:
        with pytest.raises(ConfigError, match=rf"^{name}=.* cannot be used"):
            Sampling(**{name: value})


# ---- decoding

PROMPTS = [[1, 2, 3], [4] * 15, list(range(5, 11)), list(range(16))]


def run(prompts: list[list[int]], seeds: list[int], **changes: Any) -> list[list[int | None]]:
    options: dict[str, Any] = {"sampling": Sampling(), "max_new_tokens": 50} | changes
    return list(decode(tiny_model(scale=6, n_positions=16), prompts, seeds=seeds, **options))


def test_a_row_does_not_know_its_neighbours() -> None:
    together = run(PROMPTS, [1, 2, 3, 4])
    for b, prompt in enumerate(PROMPTS):
        assert [row[b] for row in together] == [row[0] for row in run([prompt], [b + 1])]


def test_a_smaller_context_is_respected() -> None:
    """With a context of 4, a token further back cannot matter."""
    assert run([[1, 2, 3, 4]], [1], context=4) == run([[1, 2, 3, 4]], [1], context=4, use_cache=False)
    first, other = (run([[n, 2, 3, 9, 9]], [1], context=4, max_new_tokens=1) for n in (1, 7))
    assert first == other


@given(st.integers(1, 40), st.integers(1, 400))
def test_the_window_never_overflows_and_moves_by_halves(context: int, n: int) -> None:
    start = window_start(n, context)
    assert 1 <= n - start <= context
    assert start == 0 if n <= context else n - start > context // 2 - 1
    assert start % max(1, context - context // 2) == 0


def test_a_row_ends_at_the_separator_and_the_others_go_on() -> None:
    free = run(PROMPTS, [1, 2, 3, 4])
    end = free[5][0]
    assert end is not None
    ended = run(PROMPTS, [1, 2, 3, 4], end=end)
    for b in range(4):
        column = [row[b] for row in free]
        stop = column.index(end) if end in column else len(column)
        column_ended = [row[b] for row in ended]
        assert column_ended[:stop] == column[:stop] and set(column_ended[stop:]) <= {None}
    assert len(run([[1, 2, 3]], [1], end=end)) <= 6


def test_ids_the_tokenizer_lacks_are_never_chosen() -> None:
    assert all(token is not None and token < 5 for row in run(PROMPTS, [1, 2, 3, 4], n_ids=5) for token in row)


def test_decoding_leaves_the_global_generator_alone() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    model = tiny_model(scale=6)
    torch.set_rng_state(state)
    list(decode(model, [[1]], seeds=[3], sampling=Sampling(), max_new_tokens=5))
    assert torch.equal(torch.get_rng_state(), state)


# ---- texts


def test_a_text_begins_with_its_prompt_and_repeats_with_its_seed(writer: TextGenerator) -> None:
    text = writer.generate("abc", 30, seed=4)
    assert text.startswith("abc") and len(text) == 33
    assert text == writer.generate("abc", 30, seed=4) != writer.generate("abc", 30, seed=5)
    assert len(writer.generate("a" * 16, 40, seed=1)) == 56, "a prompt as long as the context"
    assert len({writer.generate("abc", 30) for _ in range(3)}) > 1  # without a seed, a new text each time


def test_alone_batched_and_streamed_are_the_same(writer: TextGenerator) -> None:
    for options in ({}, {"temperature": 1.5, "top_k": 0, "min_p": 0.01}, {"sampling": Sampling(top_p=0.9), "top_k": 5}):
        many = writer.generate_many(["abc", "a", ""], max_new_tokens=40, seed=7, **options)
        for i, prompt in enumerate(["abc", "a", ""]):
            assert "".join(writer.stream(prompt, 40, seed=7 + i, **options)) == many[i]
            assert writer.generate(prompt, 40, seed=7 + i, **options) == prompt + many[i]
    assert choose_sampling() == DEFAULT_SAMPLING == choose_sampling(Sampling(temperature=0.8), top_k=np.int64(40))


def test_a_stop_string_ends_the_text_before_it(writer: TextGenerator) -> None:
    free = writer.generate_many(["abc"], max_new_tokens=60, seed=3)[0]
    stop = free[20:23]
    expected = free[: free.index(stop)]
    assert writer.generate_many(["abc"], max_new_tokens=60, seed=3, stop=[stop])[0] == expected
    pieces = list(writer.stream("abc", max_new_tokens=60, seed=3, stop=[stop, "zzz"]))
    assert "".join(pieces) == expected and len(pieces) > 1
    almost = [free[-1] + "never"]  # what looks like a beginning comes out at the end
    assert writer.generate_many(["abc"], max_new_tokens=60, seed=3, stop=almost)[0] == free
    assert writer.generate_many(["abc"], max_new_tokens=60, seed=3, stop=stop)[0] == expected  # one string is one
    assert writer.generate_many([]) == []
    with pytest.raises(ConfigError, match="stop='' cannot be used"):
        writer.generate("a", stop=[""])


def test_a_character_is_never_shown_in_halves(tmp_path: Path) -> None:
    """A byte model writes whatever bytes it likes; what is streamed is always whole and adds up."""
    writer = TextGenerator(model_path(tmp_path), device="cpu")
    pieces = list(writer.stream("é", max_new_tokens=200, seed=1))
    for piece in pieces:
        piece.encode("utf-8")
    assert "".join(pieces) == writer.generate_many(["é"], max_new_tokens=200, seed=1)[0]


def test_an_empty_prompt_starts_a_text(tmp_path: Path) -> None:
    never, often = tmp_path / "never", tmp_path / "often"
    never.mkdir(), often.mkdir()
    assert TextGenerator(model_path(never), device="cpu").encode_prompt("") == [10]
    assert TextGenerator(model_path(often, documents=9), device="cpu").encode_prompt("") == [256]


def test_positions_beyond_the_trained_ones_are_not_used(tmp_path: Path) -> None:
    """Trained on windows of 16, with a table of 32: the window rolls at 16."""
    writer = TextGenerator(model_path(tmp_path, n_positions=32), device="cpu")
    assert writer.context == 16
    model = tiny_model(vocab_size=writer.model.config.vocab_size, n_positions=16)
    model.load_state_dict({k: v[:16] if k == "wpe.weight" else v for k, v in writer.model.state_dict().items()})
    rows = decode(model, [list(b"hello")], seeds=[2], sampling=Sampling(), max_new_tokens=40, n_ids=257)
    (text,) = writer.generate_many(["hello"], max_new_tokens=40, seed=2, sampling=Sampling())
    assert text == bytes(row[0] for row in rows if row[0] is not None).decode("utf-8", errors="replace")


@pytest.mark.parametrize(
    ("prompt", "options", "message"),
    [
        ("abcde" * 4, {}, "20 tokens .* 16.* 4"),
        ("a", {"max_new_tokens": 0}, "^max_new_tokens=0"),
        ("a", {"temperature": -1.0}, "^temperature=-1.0"),
        ("a", {"seed": -1}, "^seed=-1"),
        ("Z", {}, r"'Z' \(U\+005A\)"),
        (None, {}, "^prompt=None is not a text"),
        (["a", "b"], {}, r"^prompt=\['a', 'b'\] is not a text; for several prompts use generate_many"),
        (b"a", {}, "^prompt=b'a' is not a text"),
        ("a", {"temprature": 1.0}, "no argument 'temprature' of generation; did you mean temperature"),
        ("a", {"n": 1}, "no argument 'n' of generation. There are prompt, max_new_tokens, stop, seed, temperature"),
        ("a", {"sampling": {"top_k": 1}}, "^sampling={'top_k': 1} cannot be used"),
    ],
)
def test_an_unusable_request_is_named(writer: TextGenerator, prompt: Any, options: Any, message: str) -> None:
    with pytest.raises(DataError if prompt == "Z" else ConfigError, match=message):
        writer.generate(prompt, **options)
    with pytest.raises(DataError if prompt == "Z" else ConfigError, match=message):
        list(writer.stream(prompt, **options))
    with pytest.raises(DataError if prompt == "Z" else ConfigError, match=message):
        writer.generate_many([prompt], **options)


def test_numbers_of_numpy_in_a_request(writer: TextGenerator) -> None:
    options = {"max_new_tokens": np.int64(9), "seed": torch.tensor(3), "temperature": np.float32(0.5)}
    assert writer.generate("abc", **options) == writer.generate("abc", 9, seed=3, temperature=0.5)  # type: ignore[arg-type]


def test_a_model_without_a_tokenizer(tmp_path: Path) -> None:
    model = tiny_model()
    meta = model_meta(model, None, step=1, dtype="float32", evaluation=None)
    write_model_file(tmp_path / "m.pt", model.state_dict(), meta, Files())
    with pytest.raises(CheckpointError, match=r"m.pt has no tokenizer: .*TextGenerator\(path, tokenizer=tokenizer\)"):
        TextGenerator(tmp_path / "m.pt")
    with pytest.raises(ConfigError, match="the tokenizer has 257 ids and the model 61; give the one"):
        TextGenerator(tmp_path / "m.pt", tokenizer=ByteTokenizer())
    given = TextGenerator(tmp_path / "m.pt", tokenizer=CharTokenizer(ALPHABET), device="cpu")
    assert given.generate("abc", 5, seed=1).startswith("abc")


def test_a_model_in_memory_writes_and_can_be_trained_on(model: Path) -> None:
    from light_llm import load

    trained, tokenizer = load(model)
    trained.train()
    before = {name: weight.clone() for name, weight in trained.state_dict().items()}
    inside = TextGenerator(torch.compile(trained), tokenizer=tokenizer, context=16, device="cpu")  # type: ignore[arg-type]
    assert inside.generate("abc", 20, seed=4) == TextGenerator(model, device="cpu").generate("abc", 20, seed=4)
    assert trained.training and all(torch.equal(before[name], w) for name, w in trained.state_dict().items())
    trained(torch.tensor([[1, 2]])).sum().backward()  # the conversion for generation would have no gradients
    assert (
        repr(inside)
        == f"TextGenerator(model, {get_model_size(trained.config):,} parameters, {tokenizer!r}, float32 on cpu)"
    )
    for wrong, message in (
        ({}, "a model alone has no tokenizer"),
        ({"tokenizer": tokenizer, "context": 99}, "context=99"),
    ):
        with pytest.raises(ConfigError, match=message):
            TextGenerator(trained, **wrong)
    with pytest.raises(ConfigError, match="takes a path or a LightLLM, not 5"):
        TextGenerator(5)  # type: ignore[arg-type]


def test_greedy_is_transformers_greedy() -> None:
    """Thirty tokens by `transformers`' own generate, within one window."""
    from tests.test_model import hugging_face

    model = tiny_model(scale=6)
    prompt = some_tokens(1, 4)
    reference = hugging_face(model).generate(  # type: ignore[operator]
        prompt, max_new_tokens=25, do_sample=False, eos_token_id=None, pad_token_id=0
    )
    result = decode(model, prompt.tolist(), seeds=[0], sampling=Sampling(temperature=0.0), max_new_tokens=25)
    assert [row[0] for row in result] == reference[0, 4:].tolist()
