"""The built-in corpus: its probabilities are exact, each text has one derivation, and no model can beat the limit."""

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice

import pytest

from light_llm.data.tales import Story, stories
from light_llm.data.tales import story as nth_story
from light_llm.data.tales.generator import generate_story
from light_llm.data.tales.grammar import Grammar, WordClass, built_in_grammar
from tests.support.tales_parser import Parser, Reading

N = 1000
SEPARATOR = "\n\n"  # between stories in these tests; never inside one
GRAMMAR = built_in_grammar()


@pytest.fixture(scope="module")
def sample() -> list[Story]:
    return list(islice(stories(20), N))


@pytest.fixture(scope="module")
def parser() -> Parser:
    return Parser(GRAMMAR)


@pytest.fixture(scope="module")
def readings(sample: list[Story], parser: Parser) -> list[Reading]:
    """The derivation of each story, which must be the only one."""
    derivations = [parser.readings(story.text) for story in sample]
    assert [len(of_text) for of_text in derivations] == [1] * N
    return [reading for (reading,) in derivations]


# ---- a small grammar, enumerated


CHILDREN = (
    WordClass("Ann, Eve", {"he": "she", "kind": "girl"}, scale=16),
    WordClass("Bob", {"he": "he", "kind": "boy"}, scale=24),
)
SMALL = Grammar(
    words={"child": CHILDREN, "thing": (WordClass("egg, ball, map", scale=16),)},
    phrases={"open": "2: Here is a {hero=child.kind}, {hero}.\n1: {hero=child} had [2:{own=thing.a}|nothing]."},
    plots={
        "find": "<open>\n?40 {hero.He} saw {found=thing.a}.\n--\n{hero.He} took {last=thing.a}[|3: and left].",
        "meet": "<open>\n?75 {friend=child}\n    came [|too].\nSo {hero} and [{other=child}|2:{last=thing.a}] met.",
    },
)


def enumerate_stories(grammar: Grammar) -> Iterator[tuple[Story, Fraction]]:
    """Yield the story of each possible sequence of draws, with the probability of the draws."""
    script: list[tuple[int, int]] = []  # (number drawn, total)
    while True:
        n_used = 0

        def draw(total: int) -> int:
            nonlocal n_used
            if n_used == len(script):
                script.append((0, total))
            assert script[n_used][1] == total
            n_used += 1
            return script[n_used - 1][0]

        story = generate_story(grammar, draw)
        yield story, Fraction(1, math.prod(total for _, total in script))
        while script and script[-1][0] == script[-1][1] - 1:
            script.pop()
        if not script:
            return
        script[-1] = (script[-1][0] + 1, script[-1][1])


def test_the_probabilities_of_a_small_grammar_are_exact() -> None:
    """The frequency of a text, its stated bits and the parser agree; each text has one derivation; the sum is 1."""
    drawn: dict[str, Fraction] = defaultdict(Fraction)
    stated: dict[str, set[float]] = defaultdict(set)
    for story, probability in enumerate_stories(SMALL):
        drawn[story.text] += probability
        stated[story.text].add(round(story.bits, 12))
    assert sum(drawn.values()) == 1 and len(drawn) > 100
    parser = Parser(SMALL)
    for text, probability in drawn.items():
        assert [reading.probability for reading in parser.readings(text)] == [probability], text
        assert stated[text] == {round(-math.log2(probability), 12)}, text


def test_the_parser_counts_every_derivation() -> None:
    """It would notice an ambiguous grammar: "x y" has several derivations in the first and the last one here."""
    twice = Parser(Grammar(words={}, phrases={}, plots={"p": "x[| y]\n?50 y", "q": "x y"}))
    readings = twice.readings("x y")
    assert sorted(reading.plot for reading in readings) == ["p", "p", "q"]
    assert sum(reading.probability for reading in readings) == Fraction(1, 2) * (2 * Fraction(1, 4) + 1)
    assert {len(twice.readings(text)) for text in ("x", "x y y")} == {1}
    both = Parser(Grammar(words={}, phrases={}, plots={"p": "x[|1: y][| y]"}))
    assert [reading.probability for reading in both.readings("x y")] == [Fraction(1, 4)] * 2


# ---- the built-in grammar


@pytest.mark.parametrize("n", [N, pytest.param(5000, marks=pytest.mark.slow)])
def test_the_text_alone_gives_its_probability(parser: Parser, readings: list[Reading], n: int) -> None:
    """The first stories have the derivations of the fixture, which are parsed already."""
    for i, story in enumerate(islice(stories(20), n)):
        (reading,) = readings[i : i + 1] or parser.readings(story.text)
        assert reading.plot == story.plot
        assert -math.log2(reading.probability) == pytest.approx(story.bits, rel=0, abs=1e-9)


SWAPS = {"she": "he", "he": "she", "his": "her", "her": "his", "him": "her", "a": "an", "an": "a", "girl": "boy"}


def test_changed_texts_are_not_in_the_grammar(sample: list[Story], parser: Parser) -> None:
    refused = Counter[str]()
    for text in (story.text for story in sample[:60]):
        for word in re.finditer(r"\w+", text):
            if other := SWAPS.get(word[0]):
                changed = text[: word.start()] + other + text[word.end() :]
                assert parser.readings(changed) == [], changed
                refused[word[0]] += 1
        for changed in (text[:-1], text + " ", " " + text, text.replace("\n", " \n"), "", "x"):
            assert parser.readings(changed) == [] or changed == text
    assert len(refused) == len(SWAPS) and refused.total() > 400


def test_the_end_remembers_the_beginning(sample: list[Story], parser: Parser) -> None:
    """The found thing has the colour of the lost one, and the shopping is what was ordered."""
    colours = [word.forms["w"] for word in parser.words["colour"]]
    checked = 0
    for text, plot in ((story.text, story.plot) for story in sample):
        if plot == "lost and found":
            lost = re.search(rf"had an? \w+ ({'|'.join(colours)}) ([\w ]+?) from h", text)
            assert lost
            thing = f"{lost[1]} {lost[2]}"
            at = text.rindex(thing)
            assert text.index(thing) < at
            other = colours[(colours.index(lost[1]) + 1) % len(colours)]
            assert parser.readings(text[:at] + other + text[at + len(lost[1]) :]) == []
            checked += 1
        if plot == "shopping":
            ordered = re.search(r"and buy (.*?)\.", text)
            assert ordered and f"bought {ordered[1]}." in text
            checked += 1
    assert checked > N // 10


def chi_square(counts: Sequence[int], weights: Sequence[int]) -> tuple[float, int]:
    """Return the statistic and its degrees of freedom; options expected less than five times are merged."""
    n, total = sum(counts), sum(weights)
    expected = [n * w / total for w in weights]
    bins = [(c, e) for c, e in zip(counts, expected, strict=True) if e >= 5]
    rest = n - sum(c for c, _ in bins), n - sum(e for _, e in bins)
    if rest[1] >= 5:
        bins.append(rest)
    return sum((c - e) ** 2 / e for c, e in bins), len(bins) - 1


def test_choices_are_as_frequent_as_their_weights(readings: list[Reading], parser: Parser) -> None:
    """Chi-square over every choice and word class: the sum is near its degrees of freedom, and none is an outlier."""
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for reading in readings:
        for name, option in reading.choices:
            counts[name][option] += 1
    plots = Counter(reading.plot for reading in readings)
    tests = [chi_square([plots[plot] for plot in GRAMMAR.plots], [1] * len(GRAMMAR.plots))]
    for name, count in counts.items():
        weights = parser.weights[name]
        tests.append(chi_square([count[k] for k in range(len(weights))], weights))
    freedom = sum(df for _, df in tests)
    assert freedom > 500
    assert abs(sum(x for x, _ in tests) - freedom) < 4 * math.sqrt(2 * freedom)
    assert all(x < df + 5 * math.sqrt(2 * df) + 10 for x, df in tests)


def test_word_classes(parser: Parser) -> None:
    """Each has more words than a plot can use, none twice and none too rare to learn."""
    for plot, items in parser.plots.items():
        for name, n_picks in parser.max_picks(items).items():
            assert n_picks < len(parser.words[name]), f"{plot} may use {n_picks} words of {name}"
    for name, words in parser.words.items():
        assert len({word.forms["w"] for word in words}) == len(words), name
        assert min(word.weight for word in words) * 1000 >= sum(word.weight for word in words), name


# ---- style


def test_stories_are_clean_text(sample: list[Story], parser: Parser) -> None:
    names = {word.forms["w"] for name in ("child", "pet", "time") for word in parser.words[name]}
    for text in (story.text for story in sample):
        assert text.isascii() and text == text.strip() and SEPARATOR not in text
        assert not re.search(r"  | \n|\n |[{}<>\[\]|]|\d| [.,!?]|[.,!?]{2}", text), text
        assert all(line[0].isupper() or line[0] == '"' for line in text.split("\n"))
        assert re.search(r'[.!?]"?$', text) and text.count('"') % 2 == 0
        assert not re.search(r"[.] \"?[a-z]", text), text  # sentences begin with capitals,
        assert names.issuperset(re.findall(r"[a-z,] ([A-Z]\w+)", text)), text  # and inside sentences only names do
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", text), text


FEMALE = {"mother", "grandmother", "aunt", "sister", "godmother"}
MALE = {"father", "grandfather", "uncle", "brother", "godfather"}


def test_pronouns_agree_with_their_words(sample: list[Story], parser: Parser) -> None:
    """In the word lists, and in the text: a story of a girl alone contains no he or his."""
    she, he = {"she", "her", "herself", "girl"}, {"he", "his", "him", "himself", "boy"}
    persons = parser.words["child"] + parser.words["relative"]
    for word in persons:
        pronouns = [word.forms[name] for name in ("he", "his", "him", "self")]
        assert pronouns in (["she", "her", "her", "herself"], ["he", "his", "him", "himself"])
    relatives = {word.forms["w"].split()[-1]: word.forms["he"] for word in parser.words["relative"]}
    assert relatives == dict.fromkeys(FEMALE, "she") | dict.fromkeys(MALE, "he")
    assert all((word.forms["kind"] == "girl") == (word.forms["he"] == "she") for word in parser.words["child"])
    alone = 0
    for story in sample:
        words = set(re.findall(r"[\w-]+", story.text))
        genders = {word.forms["he"] for word in persons if word.forms["w"].split()[-1] in words}
        if len(genders) == 1:
            assert not words & (he if genders == {"she"} else she), story.text
            alone += 1
    assert alone > 100


def test_the_size_is_as_the_docstring_states(sample: list[Story], parser: Parser) -> None:
    bits, lengths = sum(story.bits for story in sample), sorted(len(story.text.split()) for story in sample)
    assert bits / sum(len(story.text + SEPARATOR) for story in sample) == pytest.approx(0.27, abs=0.005)
    assert bits / N == pytest.approx(205, abs=5) and sum(lengths) / N == pytest.approx(144, abs=3)
    assert 40 <= lengths[N // 40] and lengths[-N // 40] <= 200 and 80 < lengths[N // 2] < 160
    assert (len(parser.plots), len(parser.words)) == (13, 39)
    forms = (word.forms["w"].lower() for words in parser.words.values() for word in words)
    assert len({part for form in forms for part in re.findall(r"[a-z]+", form)}) > 500


# ---- reproducibility


def test_a_story_is_a_pure_function_of_seed_and_number() -> None:
    """The same on every machine: the hash is of 200 stories."""
    assert list(islice(stories(5), 4)) == [nth_story(5, i) for i in range(4)]
    assert nth_story(5, 10**12).text != nth_story(6, 10**12).text
    assert len({nth_story(seed, i).text for seed in range(5) for i in range(20)}) == 100
    digest = hashlib.sha256("\n\n".join(story.text for story in islice(stories(1), 200)).encode()).hexdigest()
    assert digest == "08aa9f378135a6d3ed53af471ca3c9e1f92db5043657874d05ac2671da43f42a"


# ---- the limit


def n_gram_bits(train: Sequence[str], test: Sequence[str], max_order: int) -> list[float]:
    """Return -log2 Q(test) for interpolated n-grams of the orders 1 to max_order (Witten and Bell, 1991).

    P(w | h) = (c(h w) + t(h) P(w | h without its first)) / (c(h) + t(h)), with t(h) different symbols seen after h.
    Below the unigrams a symbol is spelled, with 256 letters and an end.
    """
    after: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for i, symbol in enumerate(train):
        for k in range(min(max_order, i + 1)):
            after[tuple(train[i - k : i])][symbol] += 1
    n = {context: seen.total() for context, seen in after.items()}
    bits = [0.0] * max_order
    for i, symbol in enumerate(test):
        p = 256.0 ** -(len(symbol) + 1)
        for k in range(max_order):
            context = tuple(test[i - k : i]) if k <= i else None
            if context in after:
                seen = after[context]
                p = (seen[symbol] + len(seen) * p) / (n[context] + len(seen))
            bits[k] -= math.log2(p)
    return bits


def test_no_n_gram_beats_the_limit(sample: list[Story]) -> None:
    """KL(P || Q) >= 0, for orders 1 to 5 over words and over characters, on stories that were not trained on."""
    train, test = ("".join(story.text + SEPARATOR for story in part) for part in (sample[:200], sample[-30:]))
    limit = sum(story.bits for story in sample[-30:]) / len(test)
    for tokenize in (list, re.compile(r" ?\w+|\s|[^\w\s]").findall):
        rates = [bits / len(test) for bits in n_gram_bits(tokenize(train), tokenize(test), 5)]
        assert limit < min(rates) < 6 * limit, rates
        assert min(rates) < rates[0]  # the longer n-grams have learned something


def test_the_true_weights_are_the_best(readings: list[Reading], parser: Parser) -> None:
    """Gibbs' inequality: with uniform weights the stories would cost more bits."""
    true = uniform = 0.0
    for reading in readings:
        for name, option in reading.choices:
            weights = parser.weights[name]
            true -= math.log2(weights[option] / sum(weights))
            uniform += math.log2(len(weights))
    assert true < 0.99 * uniform
