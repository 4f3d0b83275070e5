"""The built-in corpus: its probabilities are exact, each text has one derivation, no model can beat the limit."""

import hashlib
import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from fractions import Fraction
from itertools import islice

import pytest

from light_llm.data.tales import Story, stories, story
from light_llm.data.tales.generator import generate_story
from light_llm.data.tales.grammar import Grammar, WordClass, built_in_grammar
from tests.support.tales_parser import Parser, Reading

N = 1000
SEPARATOR = "\n\n"  # between stories here; never inside one


@pytest.fixture(scope="module")
def told() -> list[Story]:
    return list(islice(stories(20), N))


@pytest.fixture(scope="module")
def parser() -> Parser:
    return Parser(built_in_grammar())


@pytest.fixture(scope="module")
def readings(told: list[Story], parser: Parser) -> list[list[Reading]]:
    return [parser.readings(each.text) for each in told]


# ---- the small grammar: everything there is


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


def every_telling(grammar: Grammar) -> Iterator[tuple[Story, Fraction]]:
    """The story of each row of draws there can be, with that row's probability."""
    script: list[tuple[int, int]] = []  # (number drawn, of how many)
    while True:
        used = 0

        def draw(total: int) -> int:
            nonlocal used
            if used == len(script):
                script.append((0, total))
            assert script[used][1] == total
            used += 1
            return script[used - 1][0]

        each = generate_story(grammar, draw)
        yield each, Fraction(1, math.prod(total for _, total in script))
        while script and script[-1][0] == script[-1][1] - 1:
            script.pop()
        if not script:
            return
        script[-1] = (script[-1][0] + 1, script[-1][1])


def test_all_texts_of_a_small_grammar_share_out_one() -> None:
    """How often draws lead to a text is what the story and the parser say it is, and it comes about in one way."""
    drawn: dict[str, Fraction] = defaultdict(Fraction)
    stated: dict[str, set[float]] = defaultdict(set)
    for each, probability in every_telling(SMALL):
        drawn[each.text] += probability
        stated[each.text].add(round(each.bits, 12))
    assert sum(drawn.values()) == 1 and len(drawn) > 100
    parser, total = Parser(SMALL), Fraction(0)
    for text, probability in drawn.items():
        (reading,) = parser.readings(text)
        assert reading.probability == probability, text
        assert stated[text] == {round(-math.log2(probability), 12)}, text
        total += reading.probability
    assert total == 1


def test_the_parser_counts_every_derivation() -> None:
    """It would see an ambiguous grammar: here "x y" comes about in two ways."""
    twice = Grammar(words={}, phrases={}, plots={"p": "x[| y]\n?50 y", "q": "x y"})
    readings = Parser(twice).readings("x y")
    assert sorted(r.plot for r in readings) == ["p", "p", "q"]
    assert sum(r.probability for r in readings) == Fraction(1, 2) * (2 * Fraction(1, 4) + 1)
    assert {len(Parser(twice).readings(t)) for t in ("x", "x y y")} == {1}
    both = Grammar(words={}, phrases={}, plots={"p": "x[|1: y][| y]"})
    assert [r.probability for r in Parser(both).readings("x y")] == [Fraction(1, 4)] * 2


# ---- the big grammar


def test_the_text_alone_gives_its_probability(told: list[Story], readings: list[list[Reading]]) -> None:
    for each, found in zip(told, readings, strict=True):
        assert len(found) == 1, each.text
        assert found[0].plot == each.plot
        assert -math.log2(found[0].probability) == pytest.approx(each.bits, rel=0, abs=1e-9)


@pytest.mark.slow
def test_thousands_of_texts_give_their_probability(parser: Parser) -> None:
    for each in islice(stories(21), 5000):
        (reading,) = parser.readings(each.text)
        assert -math.log2(reading.probability) == pytest.approx(each.bits, rel=0, abs=1e-9)


SWAPS = {"she": "he", "he": "she", "his": "her", "her": "his", "him": "her", "a": "an", "an": "a", "girl": "boy"}


def test_what_is_not_of_the_grammar_is_refused(told: list[Story], parser: Parser) -> None:
    refused = Counter[str]()
    for each in told[:60]:
        for word in re.finditer(r"\w+", each.text):
            if other := SWAPS.get(word[0]):
                changed = each.text[: word.start()] + other + each.text[word.end() :]
                assert parser.readings(changed) == [], changed
                refused[word[0]] += 1
        for changed in (each.text[:-1], each.text + " ", " " + each.text, each.text.replace("\n", " \n"), "", "x"):
            assert parser.readings(changed) == [] or changed == each.text
    assert len(refused) == len(SWAPS) and refused.total() > 400


def test_the_end_remembers_the_beginning(told: list[Story], parser: Parser) -> None:
    """The last colour of a lost thing is the first one, and the list is bought as it was given."""
    colours = [word.forms["w"] for word in parser.words["colour"]]
    checked = 0
    for each in told:
        if each.plot == "lost and found":
            lost = re.search(rf"had an? \w+ ({'|'.join(colours)}) ([\w ]+?) from h", each.text)
            assert lost
            colour, thing = lost.groups()
            assert each.text.rsplit(f"{colour} {thing}", 1)[0].count(f"{colour} {thing}") >= 1
            other = colours[(colours.index(colour) + 1) % len(colours)]
            at = each.text.rindex(f"{colour} {thing}")
            assert parser.readings(each.text[:at] + other + each.text[at + len(colour) :]) == []
            checked += 1
        if each.plot == "shopping":
            wanted = re.search(r"and buy (.*?)\.", each.text)[1]  # type: ignore[index]
            assert f"bought {wanted}." in each.text
            checked += 1
    assert checked > N // 10


def chi_square(counts: Sequence[int], weights: Sequence[int]) -> tuple[float, int]:
    """The statistic and its degrees of freedom; ways that are expected less than five times are taken together."""
    n, total = sum(counts), sum(weights)
    expected = [n * w / total for w in weights]
    bins = [(c, e) for c, e in zip(counts, expected, strict=True) if e >= 5]
    rest = n - sum(c for c, _ in bins), n - sum(e for _, e in bins)
    if rest[1] >= 5:
        bins.append(rest)
    return sum((c - e) ** 2 / e for c, e in bins), len(bins) - 1


def test_choices_are_as_frequent_as_their_weights(readings: list[list[Reading]], parser: Parser) -> None:
    """Chi-square over every choice and class of words: the sum is near its degrees of freedom, and none stands out."""
    counts: dict[str, Counter[int]] = defaultdict(Counter)
    for (reading,) in readings:
        for name, chosen in reading.choices:
            counts[name][chosen] += 1
    plots = Counter(reading.plot for (reading,) in readings)
    tests = [chi_square([plots[p] for p in built_in_grammar().plots], [1] * len(built_in_grammar().plots))]
    for name, seen in counts.items():
        weights = parser.weights[name]
        tests.append(chi_square([seen[k] for k in range(len(weights))], weights))
    freedom = sum(df for _, df in tests)
    assert freedom > 500
    assert abs(sum(x for x, _ in tests) - freedom) < 4 * math.sqrt(2 * freedom)
    assert all(x < df + 5 * math.sqrt(2 * df) + 10 for x, df in tests)


def test_no_class_of_words_can_run_out(parser: Parser) -> None:
    for plot, items in parser.plots.items():
        for name, most in parser.most_picks(items).items():
            assert most < len(parser.words[name]), f"{plot} may take {most} words of {name}"


def test_no_word_stands_twice_in_its_class(parser: Parser) -> None:
    for name, words in parser.words.items():
        assert len({word.forms["w"] for word in words}) == len(words), name
        assert min(word.weight for word in words) * 1000 >= sum(word.weight for word in words), name


# ---- what it reads like


def test_stories_are_of_a_readable_length(told: list[Story]) -> None:
    lengths = sorted(len(each.text.split()) for each in told)
    assert 40 <= lengths[N // 40] and lengths[-N // 40] <= 200
    assert 80 < lengths[N // 2] < 160


def test_stories_are_clean_text(told: list[Story], parser: Parser) -> None:
    names = {word.forms["w"] for name in ("child", "pet", "time") for word in parser.words[name]}
    for each in told:
        assert each.text.isascii() and each.text == each.text.strip() and SEPARATOR not in each.text
        assert not re.search(r"  | \n|\n |[{}<>\[\]|]|\d| [.,!?]|[.,!?]{2}", each.text), each.text
        assert all(line[0].isupper() or line[0] == '"' for line in each.text.split("\n"))
        assert re.search(r'[.!?]"?$', each.text) and each.text.count('"') % 2 == 0
        assert not re.search(r"[.] \"?[a-z]", each.text), each.text  # sentences begin with capitals,
        for inside in re.findall(r"[a-z,] ([A-Z]\w+)", each.text):  # and what has one within is a name
            assert inside in names, each.text
        assert not re.search(r"\b[Aa] [aeiou]|\b[Aa]n [^aeiou]", each.text), each.text


FEMALE = {"mother", "grandmother", "aunt", "sister", "godmother"}
MALE = {"father", "grandfather", "uncle", "brother", "godfather"}


def test_pronouns_agree_with_their_words(told: list[Story], parser: Parser) -> None:
    """By tables of the test's own, and in the text: of a girl alone in a story, nothing says he or his."""
    she, he = {"she", "her", "herself", "girl"}, {"he", "his", "him", "himself", "boy"}
    persons = parser.words["child"] + parser.words["relative"]
    for word in persons:
        found = [word.forms[name] for name in ("he", "his", "him", "self")]
        assert found in (["she", "her", "her", "herself"], ["he", "his", "him", "himself"])
    assert {w.forms["w"].split()[-1]: w.forms["he"] for w in parser.words["relative"]} == dict.fromkeys(
        FEMALE, "she"
    ) | dict.fromkeys(MALE, "he")
    assert all((w.forms["kind"] == "girl") == (w.forms["he"] == "she") for w in parser.words["child"])
    alone = 0
    for each in told:
        words = set(re.findall(r"[\w-]+", each.text))
        genders = {word.forms["he"] for word in persons if word.forms["w"].split()[-1] in words}
        if len(genders) == 1:
            assert not words & (he if genders == {"she"} else she), each.text
            alone += 1
    assert alone > 100


def test_the_size_is_what_the_docstring_says(told: list[Story], parser: Parser) -> None:
    n_bytes = sum(len(each.text + SEPARATOR) for each in told)
    assert sum(each.bits for each in told) / n_bytes == pytest.approx(0.27, abs=0.005)
    assert sum(each.bits for each in told) / N == pytest.approx(205, abs=5)
    assert sum(len(each.text.split()) for each in told) / N == pytest.approx(144, abs=3)
    assert (len(parser.plots), len(parser.words)) == (13, 39)


def test_there_are_enough_words_and_plots(parser: Parser) -> None:
    content = {
        part for words in parser.words.values() for w in words for part in re.findall(r"[a-z]+", w.forms["w"].lower())
    }
    assert len(content) > 500 and len(built_in_grammar().plots) >= 8


# ---- the same everywhere


def test_a_story_is_a_pure_function_of_seed_and_number() -> None:
    assert list(islice(stories(5), 4)) == [story(5, i) for i in range(4)]
    assert story(5, 10**12).text != story(6, 10**12).text
    assert len({story(seed, i).text for seed in range(5) for i in range(20)}) == 100


def test_the_text_is_the_same_on_every_machine() -> None:
    text = "\n\n".join(each.text for each in islice(stories(1), 200))
    assert hashlib.sha256(text.encode()).hexdigest() == PINNED


# ---- the limit


def n_gram_bits(train: Sequence[str], test: Sequence[str], most: int) -> list[float]:
    """-log2 Q(test) for interpolated n-grams of the orders 1 to most (Witten and Bell, 1991).

    P(w | h) = (c(h w) + t(h) P(w | h without its first)) / (c(h) + t(h)), with t(h) different symbols seen after h.
    Below the unigrams a symbol is spelled, with 256 letters and an end.
    """
    after: dict[tuple[str, ...], Counter[str]] = defaultdict(Counter)
    for i, symbol in enumerate(train):
        for k in range(min(most, i + 1)):
            after[tuple(train[i - k : i])][symbol] += 1
    n = {context: seen.total() for context, seen in after.items()}
    bits = [0.0] * most
    for i, symbol in enumerate(test):
        p = 256.0 ** -(len(symbol) + 1)
        for k in range(most):
            context = tuple(test[i - k : i]) if k <= i else None
            if context in after:
                seen = after[context]
                p = (seen[symbol] + len(seen) * p) / (n[context] + len(seen))
            bits[k] -= math.log2(p)
    return bits


def test_no_n_gram_beats_the_limit(told: list[Story]) -> None:
    """KL(P || Q) >= 0: of orders 1 to 5, over words and over letters, on stories that were not trained on."""
    first, last = told[:200], told[-30:]
    train, test = ("".join(each.text + SEPARATOR for each in part) for part in (first, last))
    limit = sum(each.bits for each in last) / len(test)
    for cut in (list, re.compile(r" ?\w+|\s|[^\w\s]").findall):
        found = [bits / len(test) for bits in n_gram_bits(cut(train), cut(test), 5)]
        assert limit < min(found) < 6 * limit, found
        assert min(found) < found[0]  # the models have learned something


def test_the_true_weights_are_the_best(readings: list[list[Reading]], parser: Parser) -> None:
    """Gibbs' inequality: told with flat weights instead, the stories would cost more bits."""
    true = flat = 0.0
    for (reading,) in readings:
        for name, chosen in reading.choices:
            weights = parser.weights[name]
            true -= math.log2(weights[chosen] / sum(weights))
            flat += math.log2(len(weights))
    assert true < 0.99 * flat


PINNED = "08aa9f378135a6d3ed53af471ca3c9e1f92db5043657874d05ac2671da43f42a"
