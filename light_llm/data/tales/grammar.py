"""What a grammar of tales is written in, and how it is read: lines of text with slots and choices, made into a tree.

    {hero=child}     a word of the class "child" that this story has not used yet; from here on it is called hero
    {hero=child.a}   the same, in its form "a"; the forms of a class stand in words.py
    {hero.his}       a form of the word called hero; {hero} is the word itself
    [3:big|small]    one of these, big with the probability 3/4 (1 where no weight stands)
    <open>           the rule of that name: one of its lines, each with its weight in front ("3: ...")

A plot is told line by line. "?60 ..." is told with the probability 60/100, "--" begins a new paragraph, and a line
that begins with spaces goes on with the one above it.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from functools import cached_property
from itertools import accumulate

_TOKEN = re.compile(r"\{(\w+)(?:=(\w+))?(?:\.(\w+))?\}|<(\w+)>|([\[|\]])|([^{}<>\[|\]]+)")
_WEIGHT = re.compile(r"(\d+):")


@dataclass(frozen=True)
class Words:
    """Words that are used alike. `forms` names what a template may ask for besides w (the word) and a (a or an + it).

    >>> beach = Words("beach/at, hill/on", {"at": "{1} the {0}"}).entries()[0]
    >>> beach.forms["w"], beach.forms["a"], beach.forms["A"], beach.forms["at"]
    ('beach', 'a beach', 'A beach', 'at the beach')
    """

    listing: str
    forms: Mapping[str, str] = field(default_factory=dict)
    part: str = ""  # what stands after the slash where nothing does
    scale: int = 1000  # a word's weight is scale // (rank + 8)

    def entries(self) -> "list[Word]":
        """The words with their weights, which fall as in Zipf's law but never so low that a word cannot be learned."""
        found = []
        for rank, entry in enumerate(" ".join(self.listing.split()).split(", ")):
            word, _, part = entry.partition("/")
            article = "an" if word[0].lower() in "aeiou" else "a"
            patterns = {"w": "{0}", "a": article + " {0}", **self.forms}
            forms = {name: pattern.format(word, part or self.part.format(word)) for name, pattern in patterns.items()}
            capital = {name.capitalize(): form[0].upper() + form[1:] for name, form in forms.items()}
            found.append(Word(self.scale // (rank + 8), forms | capital))
        return found


@dataclass(frozen=True)
class Word:
    """A word of a class: its weight, and its forms by name; a name with a capital gives the form with one."""

    weight: int
    forms: Mapping[str, str]


@dataclass(frozen=True)
class Say:
    """A form of the word that a slot holds."""

    slot: str
    form: str


@dataclass(frozen=True)
class Pick:
    """A new word of a class into a slot, in one of its forms."""

    slot: str
    words: str
    form: str


@dataclass(frozen=True)
class Choice:
    """One of several ways on; ends[i] is the sum of the weights up to and with the i-th."""

    ends: tuple[int, ...]
    ways: tuple["Nodes", ...]


Nodes = tuple["str | Say | Pick | Choice", ...]


@dataclass(frozen=True)
class WordTable:
    """The words of a class with the running sums of their weights."""

    words: tuple[Word, ...]
    ends: tuple[int, ...]


@dataclass(frozen=True)
class Grammar:
    """Words, rules and plots as they are written; every plot is as likely as another. A rule never leads to itself."""

    words: Mapping[str, tuple[Words, ...]]
    rules: Mapping[str, str]
    plots: Mapping[str, str]

    @cached_property
    def trees(self) -> Mapping[str, Nodes]:
        """The plots by name, read once."""
        return {name: self._read_plot(text) for name, text in self.plots.items()}

    @cached_property
    def tables(self) -> Mapping[str, WordTable]:
        """The classes of words by name, counted once."""
        tables = {}
        for name, groups in self.words.items():
            words = tuple(word for group in groups for word in group.entries())
            tables[name] = WordTable(words, tuple(accumulate(word.weight for word in words)))
        return tables

    def _read_plot(self, text: str) -> Nodes:
        nodes: list[str | Say | Pick | Choice] = []
        for line in _lines(text):
            if line == "--":
                nodes.append("\n")
            elif line.startswith("?"):
                percent, _, rest = line[1:].partition(" ")
                told, of = Fraction(int(percent), 100).as_integer_ratio()
                nodes.append(Choice((told, of), ((*self._read(rest), " "), ())))
            else:
                nodes += [*self._read(line), " "]
        return tuple(nodes)

    def _read(self, text: str) -> Nodes:
        tokens = _TOKEN.finditer(text)
        (nodes,) = self._read_ways(tokens, closing="")
        return nodes

    def _read_ways(self, tokens: Iterator[re.Match[str]], closing: str) -> list[Nodes]:
        """What stands up to `closing`: several sequences, where bars divide them."""
        ways: list[list[str | Say | Pick | Choice]] = [[]]
        for token in tokens:
            slot, words, form, rule, mark, literal = token.groups()
            if slot:
                ways[-1].append(Pick(slot, words, form or "w") if words else Say(slot, form or "w"))
            elif rule:
                lines = _lines(self.rules[rule])
                ways[-1].append(_choice([self._read(line.replace(": ", ":", 1)) for line in lines]))
            elif mark == "[":
                ways[-1].append(_choice(self._read_ways(tokens, closing="]")))
            elif mark == "|":
                ways.append([])
            elif mark == closing:
                break
            else:
                ways[-1].append(literal)
        return [tuple(way) for way in ways]


def _lines(text: str) -> list[str]:
    return re.sub(r"\n +", " ", text.strip()).splitlines()


def _choice(ways: list[Nodes]) -> Choice:
    """The ways with the weights that stand at their beginnings taken off; 1 where none stands."""
    weights, rest = [], []
    for way in ways:
        first = way[0] if way else ""
        weight = _WEIGHT.match(first) if isinstance(first, str) else None
        weights.append(int(weight[1]) if weight else 1)
        rest.append((first[weight.end() :], *way[1:]) if weight and isinstance(first, str) else way)
    return Choice(tuple(accumulate(weights)), tuple(rest))
