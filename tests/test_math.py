"""README-transformer-math.md is true: each formula is tested, each link leads to code, each number is computed.

The formulas themselves stand in tests/formulas/, a module for each chapter of the page.
"""

import ast
import re
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from types import ModuleType

import pytest

from tests.conftest import CHECKOUT
from tests.formulas import (
    attention,
    backward,
    counting,
    curvature,
    families,
    loss,
    modern,
    optimisation,
    parts,
    probes,
    sampling,
    tokens,
)
from tests.formulas.numbers import numbers, tables

PAGE = CHECKOUT / "README-transformer-math.md"
TEXT = PAGE.read_text(encoding="utf-8")
CHAPTERS = {
    "T": tokens,
    "A": attention,
    "N": parts,
    "C": counting,
    "L": loss,
    "B": backward,
    "O": optimisation,
    "S": sampling,
    "P": probes,
    "H": curvature,
    "M": modern,
    "F": families,
}
Check = Callable[[], None]

FORMULA = re.compile(r'^<a id="([a-z]\d+)"></a>\*\*\(([A-Z]\d+)\)\*\* (.*?)```math\n(.*?)\n```$', re.S | re.M)
LINK = re.compile(r"\[([^\[\]]+)\]\(([^()\s]+)\)")
NUMBER = re.compile(r"(-?\d[\d,]*(?:\.\d+)?)<!--=(\w+)-->")
TABLE = re.compile(r"<!-- table (\w+) -->\n(.*?)<!-- end -->", re.S)


def checks(chapters: dict[str, ModuleType]) -> dict[str, Check]:
    """The tests of formulas by id, from their names: `A4_weights_are_...` is the test of (A4)."""
    found: dict[str, Check] = {}
    for letter, module in chapters.items():
        for name, function in vars(module).items():
            if match := re.match(rf"({letter}\d+)_", name):
                assert match[1] not in found, f"two tests of {match[1]}"
                found[match[1]] = function
    return found


CHECKS = checks(CHAPTERS)


@pytest.mark.parametrize("check", CHECKS.values(), ids=[check.__name__ for check in CHECKS.values()])
def test_formula(check: Check) -> None:
    check()


def test_every_formula_has_a_test_and_every_test_a_formula() -> None:
    ids = [formula[1] for formula in FORMULA.findall(TEXT)]
    assert ids == [i for _, i in re.findall(r'<a id="(\w+)"></a>\*\*\((\w+)\)\*\*', TEXT)], "a formula has no block"
    assert [i for i, n in Counter(ids).items() if n > 1] == []
    assert sorted(ids) == sorted(CHECKS)
    assert len(ids) >= 60


def test_formulas_are_numbered_in_order() -> None:
    expected = [f"{letter}{n + 1}" for letter in CHAPTERS for n in range(sum(i[0] == letter for i in CHECKS))]
    assert [i for _, i, _, _ in FORMULA.findall(TEXT)] == expected
    assert all(anchor == i.lower() for anchor, i, _, _ in FORMULA.findall(TEXT))


def test_every_formula_is_linked_to_the_code_that_computes_it() -> None:
    for _, i, words, _ in FORMULA.findall(TEXT):
        targets = [target for name, target in LINK.findall(words) if name.startswith("`")]
        assert targets and all(target.startswith("light_llm/") for target in targets), i


# What a test gets at through something else.
BY_WAY_OF = {
    "BytePairTokenizer": "train_bpe",
    "SelfAttention": "LightLLM",
    "MLP": "LightLLM",
    "Block": "LightLLM",
    "LightLLM": "tiny_model",
    "Evaluation": "summarise",
    "position_buckets": "evaluate_loss",
    "StepNorms": "StepMetrics",
    "Ritz": "lanczos",
    "adamw": "build_optimizer",
    "muon": "build_optimizer",
}


@cache
def names_inside(path: Path) -> dict[str, set[str]]:
    """The names that each function and class of a file uses."""
    return {
        node.name: {part.id for part in ast.walk(node) if isinstance(part, ast.Name)}
        for node in parsed(path).body
        if isinstance(node, (ast.FunctionDef, ast.ClassDef))
    }


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


def names_used(check: Check) -> set[str]:
    """Every name in a function, and in the functions of its module that it uses."""
    inside = names_inside(Path(check.__code__.co_filename))
    found, new = set(), {check.__name__}
    while new:
        found |= new
        new = set().union(*(inside.get(name, set()) for name in new)) - found
    return found


def test_the_test_of_a_formula_uses_what_the_page_links_to() -> None:
    idle = []
    for _, i, words, _ in FORMULA.findall(TEXT):
        used = names_used(CHECKS[i])
        for name, _ in LINK.findall(words):
            way = name.strip("`").split(".")[0]
            while name.startswith("`") and way not in used:
                if way not in BY_WAY_OF:
                    idle.append(f"({i}) {name}")
                    break
                way = BY_WAY_OF[way]
    assert idle == []


def broken_links(text: str) -> list[str]:
    """Links to files that are not there, to functions their file does not define, to anchors nobody set."""
    anchors = {*re.findall(r'<a id="([\w-]+)"></a>', text), *map(slug, re.findall(r"^#+ (.+)$", text, re.M))}
    wrong = []
    for name, target in LINK.findall(text):
        path, _, anchor = target.partition("#")
        if (path and not (CHECKOUT / path).is_file()) or (not path and anchor not in anchors):
            wrong.append(target)
        elif name.startswith("`") and path.endswith(".py") and name.strip("`") not in defined_in(CHECKOUT / path):
            wrong.append(f"{name} in {target}")
        elif re.fullmatch(r"\([A-Z]\d+\)|[A-Z]\d+", name) and anchor != name.strip("()").lower():
            wrong.append(f"{name} leads to {target}")
    return wrong


def slug(heading: str) -> str:
    """The anchor that GitHub gives a heading.

    >>> slug("11. Where common texts are wrong, and why")
    '11-where-common-texts-are-wrong-and-why'
    """
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def defined_in(path: Path) -> set[str]:
    """Functions, classes and methods of a file, `Class.method`."""
    found = set()
    for node in parsed(path).body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            found.add(node.name)
        if isinstance(node, ast.ClassDef):
            found |= {f"{node.name}.{part.name}" for part in node.body if isinstance(part, ast.FunctionDef)}
    return found


def test_every_link_has_a_target() -> None:
    assert broken_links(TEXT) == []


@pytest.mark.parametrize(
    ("link", "whole"),
    [
        ("[`attention_weights`](light_llm/layers/attention.py)", True),
        ("[`Block.forward`](light_llm/model.py)", True),
        ("[`attention_wishes`](light_llm/model.py)", False),
        ("[`Block.backward`](light_llm/model.py)", False),
        ("[`attention_weights`](light_llm/models.py)", False),
        ("[(A1)](#a1)", True),
        ("[(A1)](#a2)", False),
        ("[(A9)](#a9)", False),
        ("[2](#2-attention)", True),
        ("[2](#3-attention)", False),
    ],
)
def test_the_reader_of_links_sees_broken_ones(link: str, whole: bool) -> None:
    text = f'<a id="a1"></a> <a id="a2"></a>\n## 2. Attention\n{link}'
    assert (broken_links(text) == []) == whole


def as_quoted(value: float, quoted: str) -> str:
    """A value with the digits of a quotation.

    >>> as_quoted(12983.6, "12,984"), as_quoted(0.0057735, "0.00577")
    ('12,984', '0.00577')
    """
    return f"{value:,.{len(quoted.partition('.')[2])}f}"


def test_every_quoted_number_is_the_one_computed() -> None:
    known, quoted = numbers() | modern.numbers(), NUMBER.findall(TEXT)
    assert TEXT.count("<!--=") == len(quoted), "a mark without a number before it"
    wrong = [
        f"{name}: {q}, computed {known.get(name)}"
        for q, name in quoted
        if name not in known or as_quoted(known[name], q) != q
    ]
    assert wrong == []
    assert known.keys() == {name for _, name in quoted}, "computed, and quoted nowhere"


def unmarked(text: str) -> list[str]:
    """Numbers with a decimal point or thousands in running text that no mark holds to anything."""
    for gone in (TABLE, re.compile(r"```.*?```", re.S), re.compile(r"\$.*?\$"), re.compile(r"`.*?`"), NUMBER):
        text = gone.sub(" ", text)
    return re.findall(r"(?<![\w.])\d+(?:,\d{3}|\.\d)[\d,.]*", text)


def test_no_number_is_quoted_without_being_computed() -> None:
    assert unmarked(TEXT) == []
    assert unmarked("of 3.5 and 1,024 or 7.3<!--=x--> in 2017, $0.02$ and 50") == ["3.5", "1,024"]


def test_the_tables_are_the_ones_computed() -> None:
    assert dict(TABLE.findall(TEXT)) == tables() | modern.tables()


def breaks_on_github(text: str) -> list[str]:
    """What GitHub's renderer of mathematics refuses, or its Markdown takes away before."""
    wrong = re.findall(r"\\(?:operatorname|label|ref|tag|newcommand|def|require|href|style|class|cssId)\b", text)
    blocks = re.compile(r"```(\w+)\n.*?\n```", re.S)
    assert len(blocks.findall(text)) * 2 == text.count("```"), "a fence is open"
    text = re.sub(r"`[^`\n]+`", "code", blocks.sub("", text))
    for line in text.splitlines():
        spans = re.findall(r"\$([^$]*)\$", line)
        if line.count("$") != 2 * len(spans):
            wrong.append(f"a dollar is open: {line}")
        for span in spans:  # Markdown reads a backslash before a sign as that sign, and < as the start of a tag
            if span != span.strip() or not span or re.search(r"\\[^a-zA-Z]|[<>*`]", span):
                wrong.append(f"${span}$")
        if re.search(r"\w\0|\0\w", re.sub(r"\$[^$]*\$", "\0", line)):
            wrong.append(f"a letter at a dollar: {line}")
    return wrong


def test_it_renders_on_github() -> None:
    assert breaks_on_github(TEXT) == []


@pytest.mark.parametrize(
    ("line", "breaks"),
    [
        ("$x_i + y_i$ and $P^{-1}$", False),
        (r"$a\, b$", True),
        (r"$\{a\}$", True),
        ("$a < b$", True),
        ("$ a$", True),
        ("$a", True),
        ("2$a$", True),
        (r"```math" "\n" r"a\, b < \{c\}" "\n```", False),
        (r"```math" "\n" r"\operatorname{softmax}" "\n```", True),
    ],
)
def test_the_reader_of_formulas_sees_what_breaks(line: str, breaks: bool) -> None:
    assert bool(breaks_on_github(line)) == breaks
