"""Messages name options in the spelling that the reader can type: keywords in Python, flags on the command line."""

import ast
import re
from collections.abc import Iterator

import pytest

from light_llm.errors import ConfigError, as_flags, as_keywords
from tests.test_architecture import PACKAGE

BARE_FLAG = re.compile(r"(?<![\w{-])--[a-z][a-z-]+")
# Files that may spell flags, and why.
COMMAND_LINE = {
    "cli/": "the command line itself",
    "__main__.py": "the command line itself",
    "report/": "pages and reports, whose advice is a command",
    "plan/suggest.py": "settings as a command; plan/render.py marks them with mark_options",
    "plan/render.py": "the table of light-llm plan",
    "config/aliases.py": "builds a marked option",
    "doctor/runner.py": "what to do as a command, also in JSON; marked with mark_options where it is raised",
    "config/run_config.py": "reads --set of the command line",
    "interop/onnx_generate.py": "a program with flags of its own",
}
# Complete commands, ours and other programs', are given as they are typed.
COMMANDS = (
    "light-llm ",
    "python -m ",
    "hf download",
    "pip install",
    "--local-dir",
    "--repo-type",
    "nbconvert",
    "gguf-split",
)


def texts(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield the strings of a module that are no docstrings, f-strings with {} for each field."""
    inside = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    docs = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(str(v.value) if isinstance(v, ast.Constant) else "{}" for v in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside | docs:
            yield node.lineno, node.value


def bare_flags(tree: ast.Module) -> list[str]:
    """Return the flags in the strings of a module that are not marked as options and are no part of a command."""
    return [
        f"{line}: {flag[0]}"
        for line, text in texts(tree)
        if not any(command in text for command in COMMANDS) and not re.fullmatch(r"\s*--[a-z-]+", text)
        for flag in BARE_FLAG.finditer(text)
    ]


def test_no_message_of_the_library_spells_a_flag() -> None:
    """`{--out}` and not `--out`, so that str(error) names the keyword."""
    found = [
        f"{file.relative_to(PACKAGE)}:{place}"
        for file in sorted(PACKAGE.rglob("*.py"))
        if not file.relative_to(PACKAGE).as_posix().startswith(tuple(COMMAND_LINE))
        for place in bare_flags(ast.parse(file.read_text(encoding="utf-8")))
    ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("line", "n"),
    [
        ('raise ConfigError("name another with --out")', 1),
        ('raise ConfigError(f"{path} is there; use --out or --overwrite")', 2),
        ('raise ConfigError(f"--compile {x} needs a compiler")', 1),
        ('raise ConfigError("name another with {--out}")', 0),
        ('raise ConfigError(f"{path} is there; use {{--out}} or {{--max-steps {n}}}")', 0),
        ('raise ConfigError(f"export it first: light-llm export hf --out {folder}")', 0),
        ('words = ["light-llm", "train", "--out", folder]', 0),
        ('"""Reads --out."""', 0),
    ],
)
def test_the_walker_sees_flags(line: str, n: int) -> None:
    assert len(bare_flags(ast.parse(line))) == n


def test_a_message_in_both_spellings() -> None:
    message = "{path} holds a run: {--resume}, {--out} or {--max-steps 20}, {--set train.beta2=0.9}"
    assert as_flags(message) == "{path} holds a run: --resume, --out or --max-steps 20, --set train.beta2=0.9"
    assert as_keywords(message) == "{path} holds a run: resume=True, out=... or max_steps=20, beta2=0.9"
    error = ConfigError(message)
    assert str(error) == as_keywords(message) and error.message == message
