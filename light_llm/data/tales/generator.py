"""Generate stories from a grammar, each with the exact probability of its text.

A story is a chain of choices c1, c2, ..., and by the chain rule

    P(story) = P(c1) P(c2 | c1) P(c3 | c1, c2) ...,    -log2 P(story) = sum of -log2 P(ck | c1, ..., ck-1)

Each factor is weight / total, two integers of the grammar. A reader sees the text and not the choices, and P(text) is
the sum over all chains that give the text. No text of this grammar has two chains, so the sum has one term and the
number above is the text's own (tests/support/tales_parser.py recovers it from nothing but the text).

By Shannon's source coding theorem (1948) it is a limit: a model Q of texts drawn from P pays on average
E[-log2 Q] = E[-log2 P] + KL(P || Q) bits, never less than E[-log2 P]. This requires that no text is ever rejected and
drawn again, which would change P: "another animal" is a choice among the remaining animals, with their own total.

The size: 13 plots, 39 classes with 595 words and phrases, the rarest of a class no rarer than 1 in 66. A story has 144
words in the mean (82 to 210 in the first 10 MB, which are 12,907 stories) and 205 bits. With the blank line after each
story that is 0.27 bits per byte.
"""

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from ..order import mix
from .grammar import Choice, Grammar, NewWord, Nodes, SlotForm, built_in_grammar

Draw = Callable[[int], int]  # total -> an integer from 0 to total - 1, all equally likely


@dataclass(frozen=True)
class Story:
    """A story, and its information content for a reader who knows the grammar."""

    text: str  # paragraphs of sentences, separated by line breaks
    bits: float  # -log2 P(text), the end of the text included
    plot: str  # name


def stories(seed: int, *, grammar: Grammar | None = None) -> Iterator[Story]:
    """Yield stories without end; the i-th is story(seed, i).

    >>> next(stories(7)) == story(7, 0)
    True
    """
    return (story(seed, i, grammar=grammar) for i in count())


def story(seed: int, i: int, *, grammar: Grammar | None = None) -> Story:
    """Return the i-th story of a seed, the same on every machine.

    Its k-th choice takes the integer floor(u * total / 2**64) of u = mix(mix(seed, i), k), 64 bits: an option's
    probability is weight / total to within 2**-64, and a story's bits are right to 1e-9.
    """
    # Integer arithmetic only: floats could round differently on another machine.
    key, numbers = mix(seed, i), count()
    return generate_story(grammar or built_in_grammar(), lambda total: mix(key, next(numbers)) * total >> 64)


def generate_story(grammar: Grammar, draw: Draw) -> Story:
    """Return the story that a sequence of draws determines."""
    names = list(grammar.trees)
    plot = names[draw(len(names))]
    builder = _StoryBuilder(grammar, draw)
    builder.multiply_probability(1, len(names))
    builder.expand(grammar.trees[plot])
    # Every sentence ends in a space; remove it before line breaks and at the end of the text.
    text = "".join(builder.parts).replace(" \n", "\n").removesuffix(" ")
    return Story(text, math.log2(builder.total) - math.log2(builder.weight), plot)


class _StoryBuilder:
    """A story under construction: its text, the words in its slots, and its exact probability weight / total."""

    def __init__(self, grammar: Grammar, draw: Draw) -> None:
        self.grammar, self.draw = grammar, draw
        self.parts: list[str] = []
        self.slots: dict[str, Mapping[str, str]] = {}
        self.used: dict[str, list[int]] = {}  # sorted indices of the words of each class in this story
        self.weight = self.total = 1

    def multiply_probability(self, weight: int, total: int) -> None:
        self.weight *= weight
        self.total *= total

    def expand(self, nodes: Nodes) -> None:
        """Append the text of some nodes, making their choices and filling their slots."""
        for node in nodes:
            if isinstance(node, str):
                self.parts.append(node)
            elif isinstance(node, SlotForm):
                self.parts.append(self.slots[node.slot][node.form])
            elif isinstance(node, Choice):
                total = node.ends[-1]
                option = bisect_right(node.ends, self.draw(total))
                self.multiply_probability(_weight(node.ends, option), total)
                self.expand(node.options[option])
            else:
                self.slots[node.slot] = forms = self.new_word(node)
                self.parts.append(forms[node.form])

    def new_word(self, node: NewWord) -> Mapping[str, str]:
        """Draw a word that this story has not used, and return its forms."""
        table, used = self.grammar.tables[node.word_class], self.used.setdefault(node.word_class, [])
        # Draw from the weights of the unused words, then map the number to the full table by skipping the used ones.
        total = table.ends[-1] - sum(_weight(table.ends, i) for i in used)
        number = self.draw(total)
        for i in used:
            before = table.ends[i] - _weight(table.ends, i)
            if number >= before:
                number += _weight(table.ends, i)
        chosen = bisect_right(table.ends, number)
        self.multiply_probability(_weight(table.ends, chosen), total)
        used.append(chosen)
        used.sort()
        return table.words[chosen].forms


def _weight(ends: Sequence[int], i: int) -> int:
    return ends[i] - ends[i - 1] if i else ends[0]
