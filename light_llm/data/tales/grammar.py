"""The grammar of the stories: templates with slots and choices, parsed into a tree.

    {hero=child}     a word of the class "child" that this story has not used yet, stored in the slot hero
    {hero=child.a}   the same, in its form "a"; words.toml defines the forms of a class
    {hero.his}       a form of the word in the slot hero; {hero} is the word itself
    [3:big|small]    one of these, big with probability 3/4 (a missing weight is 1)
    <open>           one line of the phrase of that name, each with its weight in front ("3: ...")

A plot is a list of lines, one sentence or more each. "?60 ..." is included with probability 60/100, "--" begins a new
paragraph, and a line that begins with spaces continues the line above it.
"""

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cache, cached_property
from importlib.resources import files
from itertools import accumulate

_TOKEN = re.compile(r"\{(\w+)(?:=(\w+))?(?:\.(\w+))?\}|<(\w+)>|([\[|\]])|([^{}<>\[|\]]+)")
_WEIGHT = re.compile(r"(\d+):")


@dataclass(frozen=True)
class WordClass:
    """Interchangeable words. `forms` adds to the forms w (the word) and a (the word with "a" or "an").

    >>> beach = WordClass("beach/at, hill/on", {"at": "{1} the {0}"}).weighted_words()[0]
    >>> beach.forms["w"], beach.forms["a"], beach.forms["A"], beach.forms["at"]
    ('beach', 'a beach', 'A beach', 'at the beach')
    """

    words: str  # separated by commas, the most frequent first; a slash separates a word from a part for its forms
    forms: Mapping[str, str] = field(default_factory=dict)  # templates: {0} is the word, {1} its part
    part: str = ""  # of words without a slash
    scale: int = 1000  # a word's weight is scale // (rank + 8)

    def weighted_words(self) -> "list[Word]":
        """Return the words with weights that fall as in Zipf's law, but slowly enough that a model can learn each."""
        words = []
        for rank, entry in enumerate(" ".join(self.words.split()).split(", ")):
            word, _, part = entry.partition("/")
            article = "an" if word[0].lower() in "aeiou" else "a"
            patterns = {"w": "{0}", "a": article + " {0}", **self.forms}
            forms = {name: pattern.format(word, part or self.part.format(word)) for name, pattern in patterns.items()}
            capitalized = {name.capitalize(): form[0].upper() + form[1:] for name, form in forms.items()}
            words.append(Word(self.scale // (rank + 8), forms | capitalized))
        return words


@dataclass(frozen=True)
class Word:
    """A word with its weight, and its forms by name; a capitalised name gives the capitalised form."""

    weight: int
    forms: Mapping[str, str]


@dataclass(frozen=True)
class SlotForm:
    """A node of the tree: a form of the word in a slot."""

    slot: str
    form: str


@dataclass(frozen=True)
class NewWord:
    """A node of the tree: store an unused word of a class in a slot, and insert one of its forms."""

    slot: str
    word_class: str
    form: str


@dataclass(frozen=True)
class Choice:
    """A node of the tree: one of several options. ends[i] is the sum of the weights up to and including option i."""

    ends: tuple[int, ...]
    options: tuple["Nodes", ...]


Nodes = tuple["str | SlotForm | NewWord | Choice", ...]


@dataclass(frozen=True)
class WordTable:
    """The words of a class. ends[i] is the sum of the weights up to and including word i."""

    words: tuple[Word, ...]
    ends: tuple[int, ...]


@dataclass(frozen=True)
class Grammar:
    """Words, phrases and plots as written in the TOML files. All plots are equally likely; no phrase is recursive."""

    words: Mapping[str, tuple[WordClass, ...]]
    phrases: Mapping[str, str]
    plots: Mapping[str, str]

    @cached_property
    def trees(self) -> Mapping[str, Nodes]:
        """The parsed plots by name."""
        return {name: self._parse_plot(text) for name, text in self.plots.items()}

    @cached_property
    def tables(self) -> Mapping[str, WordTable]:
        """The words of each class with their cumulative weights."""
        tables = {}
        for name, groups in self.words.items():
            words = tuple(word for group in groups for word in group.weighted_words())
            tables[name] = WordTable(words, tuple(accumulate(word.weight for word in words)))
        return tables

    def _parse_plot(self, text: str) -> Nodes:
        nodes: list[str | SlotForm | NewWord | Choice] = []
        for line in _logical_lines(text):
            if line == "--":
                nodes.append("\n")
            elif line.startswith("?"):
                percent, _, rest = line[1:].partition(" ")
                # The smallest integers for the share: the draws, and so the texts, depend on the total.
                weight, total = Fraction(int(percent), 100).as_integer_ratio()
                nodes.append(Choice((weight, total), ((*self._parse(rest), " "), ())))
            else:
                nodes += [*self._parse(line), " "]
        return tuple(nodes)

    def _parse(self, text: str) -> Nodes:
        return self._parse_options(_TOKEN.finditer(text), closing="")[0]

    def _parse_options(self, tokens: Iterator[re.Match[str]], closing: str) -> list[Nodes]:
        """Parse up to the token `closing`: one sequence, or several separated by bars."""
        options: list[list[str | SlotForm | NewWord | Choice]] = [[]]
        for token in tokens:
            slot, word_class, form, phrase, mark, literal = token.groups()
            if slot:
                form = form or "w"
                options[-1].append(NewWord(slot, word_class, form) if word_class else SlotForm(slot, form))
            elif phrase:
                lines = _logical_lines(self.phrases[phrase])
                options[-1].append(_weighted_choice([self._parse(line.replace(": ", ":", 1)) for line in lines]))
            elif mark == "[":
                options[-1].append(_weighted_choice(self._parse_options(tokens, closing="]")))
            elif mark == "|":
                options.append([])
            elif mark == closing:
                break
            else:
                options[-1].append(literal)
        return [tuple(option) for option in options]


@cache
def built_in_grammar() -> Grammar:
    """Load the grammar of the built-in corpus."""
    names = ("words.toml", "phrases.toml", "plots.toml")
    words, phrases, plots = (tomllib.loads((files(__package__) / name).read_text(encoding="utf-8")) for name in names)
    classes = {name: tuple(WordClass(**group) for group in groups) for name, groups in words.items()}
    return Grammar(classes, phrases, plots)


def _logical_lines(text: str) -> list[str]:
    return re.sub(r"\n +", " ", text.strip()).splitlines()


def _weighted_choice(options: list[Nodes]) -> Choice:
    """Return a choice between options, with the weights removed from their beginnings; a missing weight is 1."""
    weights, rest = [], []
    for option in options:
        first = option[0] if option else ""
        weight = _WEIGHT.match(first) if isinstance(first, str) else None
        weights.append(int(weight[1]) if weight else 1)
        rest.append((first[weight.end() :], *option[1:]) if weight and isinstance(first, str) else option)
    return Choice(tuple(accumulate(weights)), tuple(rest))
