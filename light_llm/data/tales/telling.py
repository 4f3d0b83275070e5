"""Stories from a grammar, each with the exact probability of its text.

A story is a chain of choices c1, c2, ..., and by the chain rule

    P(story) = P(c1) P(c2 | c1) P(c3 | c1, c2) ...,    -log2 P(story) = sum of -log2 P(ck | c1, ..., ck-1)

Each factor is weight / total, two whole numbers of the grammar. A reader sees the text and not the choices, and P(text)
is the sum over all chains that read so. No text of this grammar comes about in two ways, so the sum has one term and
the number above is the text's own (tests/support/tales_parser.py finds it again from nothing but the text).

Shannon's source coding theorem (1948) makes it a limit: a model Q of texts drawn from P pays on average
E[-log2 Q] = E[-log2 P] + KL(P || Q) bits, never less than E[-log2 P]. For that to hold no text may ever be thrown away
and drawn again, which would change P: "another animal" is a choice among the animals that are left, weighed anew.

The size of it: 13 plots, 39 classes with 595 words and phrases, the rarest of a class no rarer than 1 in 66. A story
has 144 words in the mean (82 to 210 in the first 10 MB, which are 12,907 stories) and 205 bits. With the blank line
after each story that is 0.27 bits per byte.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from ..order import mix
from .grammar import Choice, Grammar, Nodes, Pick, Say
from .plots import TALES

Draw = Callable[[int], int]  # total -> a whole number from 0 to total - 1, all equally likely


@dataclass(frozen=True)
class Story:
    """A story, and how surprising it is to a reader who knows the grammar by heart."""

    text: str  # paragraphs of sentences, between them a line break
    bits: float  # -log2 P(text), its end included
    plot: str  # the name of the plot it follows


def stories(seed: int, *, grammar: Grammar = TALES) -> Iterator[Story]:
    """Stories without end; the i-th is story(seed, i).

    >>> next(stories(7)) == story(7, 0)
    True
    """
    return (story(seed, i, grammar=grammar) for i in count())


def story(seed: int, i: int, *, grammar: Grammar = TALES) -> Story:
    """The i-th story of a seed: on every machine the same.

    Its k-th choice takes the whole number floor(u * total / 2**64) of u = mix(mix(seed, i), k), 64 bits: a way's
    probability is weight / total to within 2**-64, and a story's bits are right to 1e-9.
    """
    key, numbers = mix(seed, i), count()
    return tell(grammar, lambda total: mix(key, next(numbers)) * total >> 64)


def tell(grammar: Grammar, draw: Draw) -> Story:
    """The story that a row of draws leads to."""
    names = list(grammar.trees)
    plot = names[draw(len(names))]
    telling = _Telling(grammar, draw)
    telling.choose(1, len(names))
    telling.follow(grammar.trees[plot])
    # Every sentence ends in a space: before a line break and at the end of the text it is taken off again.
    text = "".join(telling.said).replace(" \n", "\n").removesuffix(" ")
    return Story(text, math.log2(telling.total) - math.log2(telling.weight), plot)


class _Telling:
    """One story on its way: what is said, what the slots hold, and P so far as weight / total, exactly."""

    def __init__(self, grammar: Grammar, draw: Draw) -> None:
        self.grammar, self.draw = grammar, draw
        self.said: list[str] = []
        self.slots: dict[str, Mapping[str, str]] = {}
        self.used: dict[str, list[int]] = {}  # words of each class that this story has taken, in order of the class
        self.weight = self.total = 1

    def choose(self, weight: int, total: int) -> None:
        self.weight *= weight
        self.total *= total

    def follow(self, nodes: Nodes) -> None:
        """Say, choose and remember what a sequence tells to."""
        for node in nodes:
            if isinstance(node, str):
                self.said.append(node)
            elif isinstance(node, Say):
                self.said.append(self.slots[node.slot][node.form])
            elif isinstance(node, Choice):
                total = node.ends[-1]
                way = bisect_right(node.ends, self.draw(total))
                self.choose(_weight(node.ends, way), total)
                self.follow(node.ways[way])
            else:
                self.slots[node.slot] = forms = self.new_word(node)
                self.said.append(forms[node.form])

    def new_word(self, pick: Pick) -> Mapping[str, str]:
        """A word this story has not taken yet. The taken ones are stepped over, as if their weights were cut out."""
        table, used = self.grammar.tables[pick.words], self.used.setdefault(pick.words, [])
        total = table.ends[-1] - sum(_weight(table.ends, i) for i in used)
        number = self.draw(total)
        for i in used:
            before = table.ends[i] - _weight(table.ends, i)
            if number >= before:
                number += _weight(table.ends, i)
        chosen = bisect_right(table.ends, number)
        self.choose(_weight(table.ends, chosen), total)
        used.append(chosen)
        used.sort()
        return table.words[chosen].forms


def _weight(ends: Sequence[int], i: int) -> int:
    return ends[i] - ends[i - 1] if i else ends[0]
