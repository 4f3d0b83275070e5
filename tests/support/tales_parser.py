"""A parser of stories: from the text of a story alone to its derivations and their probabilities.

It uses the words, weights and templates of the grammar, but none of the code that generates: it parses the templates
itself, tries every path through them that agrees with the text, and yields all that reach the end of the text.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import reduce
from operator import or_
from typing import Any

from light_llm.data.tales.grammar import Grammar

Item = tuple[Any, ...]  # ("text", s) | ("say", slot, form) | ("pick", slot, class, form) | ("any", name, weights, ways)


@dataclass(frozen=True)
class Reading:
    """One derivation of a text."""

    plot: str
    probability: Fraction
    choices: tuple[tuple[str, int], ...]  # (name, option); of word classes only the first word, whose weights are fixed


class Parser:
    """Parses the texts of one grammar."""

    def __init__(self, grammar: Grammar) -> None:
        self.grammar = grammar
        self.weights: dict[str, list[int]] = {}  # of each choice, by name
        self._choices: dict[str, Item] = {}
        self._items: dict[Item, Item] = {}  # equal items are the same object
        self._first_letters: dict[tuple[str, str], dict[str, list[tuple[int, str]]]] = {}
        self.plots = {name: self._plot(text) for name, text in grammar.plots.items()}
        self.words = {
            name: [w for group in groups for w in group.weighted_words()] for name, groups in grammar.words.items()
        }
        self.weights |= {name: [word.weight for word in words] for name, words in self.words.items()}

    def readings(self, text: str) -> list[Reading]:
        """Return every derivation of the text; none if it is not in the grammar."""
        return list(self._read(text.replace("\n", " \n") + " "))

    def _read(self, text: str) -> Iterator[Reading]:
        """Search depth first, with a stack of states: (position, rest, slots, used words, weight, total, choices).

        Plots that begin with the same items are parsed together until they differ; `rest` is then (plots, index, None).
        """
        todo: list[Any] = [(0, (tuple(self.plots), 0, None), {}, frozenset(), 1, len(self.plots), None)]
        while todo:
            at, rest, slots, used, over, under, trail = todo.pop()
            while rest[2] and rest[1] == len(rest[0]):
                rest = rest[2]
            if not rest[2]:
                names, i, _ = rest
                together: dict[int, list[str]] = {}
                for name in names:
                    if i < len(self.plots[name]):
                        together.setdefault(id(self.plots[name][i]), []).append(name)
                    elif at == len(text):
                        yield Reading(name, Fraction(over, under), _unroll(trail))
                for group in together.values():
                    following = ((self.plots[group[0]][i],), 0, (tuple(group), i + 1, None))
                    todo.append((at, following, slots, used, over, under, trail))
                continue
            items, i, up = rest
            item, rest = items[i], (items, i + 1, up)
            if item[0] == "any":
                _, name, weights, ways = item
                total = sum(weights)
                for k, (weight, way) in enumerate(zip(weights, ways, strict=True)):
                    new_trail = ((name, k), trail)
                    todo.append((at, (way, 0, rest), slots, used, over * weight, under * total, new_trail))
            elif item[0] == "pick":
                _, slot, name, form = item
                taken = [k for n, k in used if n == name]
                total = sum(self.weights[name]) - sum(self.weights[name][k] for k in taken)
                for k, said in self._starting(name, form, text[at : at + 1]):
                    if k not in taken and text.startswith(said, at):
                        word = self.words[name][k]
                        new_trail = trail if taken else ((name, k), trail)
                        state = (slots | {slot: word.forms}, used | {(name, k)}, over * word.weight, under * total)
                        todo.append((at + len(said), rest, *state, new_trail))
            else:
                said = item[1] if item[0] == "text" else slots[item[1]][item[2]]
                if text.startswith(said, at):
                    todo.append((at + len(said), rest, slots, used, over, under, trail))

    def _starting(self, name: str, form: str, letter: str) -> list[tuple[int, str]]:
        """Return the words of a class whose form begins with a letter."""
        if (name, form) not in self._first_letters:
            index: dict[str, list[tuple[int, str]]] = {}
            for k, word in enumerate(self.words[name]):
                index.setdefault(word.forms[form][0], []).append((k, word.forms[form]))
            self._first_letters[name, form] = index
        return self._first_letters[name, form].get(letter, [])

    # ---- parsing the templates

    def _plot(self, text: str) -> list[Item]:
        items: list[Item] = []
        for line in _logical_lines(text):
            if line == "--":
                items.append(("text", "\n"))
            elif optional := re.fullmatch(r"\?(\d+) (.*)", line):
                share = int(optional[1])
                items.append(self._any([share, 100 - share], [self._template(optional[2] + " "), []]))
            else:
                items += self._template(line + " ")
        return items

    def _any(self, weights: list[int], ways: list[list[Item]]) -> Item:
        """Return a choice; equal choices are the same object."""
        key = repr((weights, ways))
        if key not in self._choices:
            name = f"choice {len(self._choices)}"
            self.weights[name] = weights
            self._choices[key] = ("any", name, weights, ways)
        return self._choices[key]

    def _template(self, text: str) -> list[Item]:
        """Parse a template; the contents of brackets are extracted first and then parsed recursively."""
        items: list[Item] = []
        while text:
            if text[0] == "[":
                inside, text = _cut(text)
                items.append(self._weighted(_split(inside)))
            elif text[0] == "<":
                rule, text = text[1:].split(">", 1)
                lines = [re.sub(r"^(\d+): ", r"\1:", line) for line in _logical_lines(self.grammar.phrases[rule])]
                items.append(self._weighted(lines))
            elif text[0] == "{":
                name, text = text[1:].split("}", 1)
                name, _, form = name.partition(".")
                slot, _, words = name.partition("=")
                item: Item = ("pick", slot, words, form or "w") if words else ("say", slot, form or "w")
                items.append(self._items.setdefault(item, item))
            else:
                literal = re.split(r"[\[<{]", text, maxsplit=1)[0]
                item = ("text", literal)
                items.append(self._items.setdefault(item, item))
                text = text[len(literal) :]
        return items

    def _weighted(self, ways: list[str]) -> Item:
        parts = [re.fullmatch(r"(?:(\d+):)?(.*)", way) for way in ways]
        return self._any([int(p[1] or 1) for p in parts if p], [self._template(p[2]) for p in parts if p])

    # ---- facts that need no text

    def max_picks(self, items: list[Item]) -> Counter[str]:
        """Return the maximum number of words of each class in a sequence."""
        n_picks: Counter[str] = Counter()
        for item in items:
            if item[0] == "pick":
                n_picks[item[2]] += 1
            elif item[0] == "any":
                n_picks += reduce(or_, map(self.max_picks, item[3]))
        return n_picks


def _logical_lines(text: str) -> list[str]:
    lines: list[str] = []
    for line in text.strip("\n").split("\n"):
        if line.startswith(" "):
            lines[-1] += " " + line.strip()
        else:
            lines.append(line)
    return lines


def _cut(text: str) -> tuple[str, str]:
    """Return the contents of the bracket that opens the text, and the text after it."""
    depth = 0
    for i, letter in enumerate(text):
        depth += (letter == "[") - (letter == "]")
        if depth == 0:
            return text[1:i], text[i + 1 :]
    raise AssertionError(f"no closing bracket: {text}")


def _split(text: str) -> list[str]:
    """Split at the bars outside of inner brackets."""
    ways, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == "|" and depth == 0:
            ways.append("")
        else:
            ways[-1] += letter
    return ways


def _unroll(trail: Any) -> tuple[tuple[str, int], ...]:
    choices = []
    while trail:
        choice, trail = trail
        choices.append(choice)
    return tuple(reversed(choices))
