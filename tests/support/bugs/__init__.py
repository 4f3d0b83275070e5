"""Deliberate bugs: small edits to the package that a named test must notice. `deliberate_bugs.py` tries them."""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path


class BugMismatch(Exception):
    """A bug whose function or code no longer exists exactly once."""


@dataclass(frozen=True)
class Bug:
    """One edit of one function.

    Args:
        what: the bug in words.
        where: `package: Class.method`, a function anywhere in that package; or the path of a file, for code outside
            functions. A file may be renamed, and a function moved within its package, without touching the bug.
        right: the code to replace. White space matches any white space.
        wrong: the code to put there.
        tests: pytest arguments; at least one of these tests must fail.
    """

    what: str
    where: str
    right: str
    wrong: str
    tests: str

    def apply(self, checkout: Path) -> tuple[Path, str]:
        """Return the file to change and its text with the bug. Raises BugMismatch."""
        edits = [
            (path, source[: start + match.start()] + self._replacement() + source[start + match.end() :])
            for path, source, start, end in self._places(checkout)
            for match in re.finditer(self._pattern(), source[start:end])
        ]
        if len(edits) != 1:
            raise BugMismatch(f"{self.what}: {len(edits)} places in {self.where!r} match {self.right!r}, not one")
        path, broken = edits[0]
        if path.suffix == ".py":
            try:
                ast.parse(broken)
            except SyntaxError as error:
                raise BugMismatch(f"{self.what}: with the bug {path.name} does not parse: {error}") from None
        return path, broken

    def _pattern(self) -> str:
        """A regular expression for `right` in which white space matches any white space."""
        return r"\s+".join(re.escape(word) for word in self.right.split())

    def _replacement(self) -> str:
        """`wrong` without its outer white space; a statement that goes leaves `pass`, so that its block stays whole."""
        is_statement = self.right.endswith("\n") and not self.right.rstrip().endswith(",")
        return self.wrong.strip() or ("pass" if is_statement else "")

    def _places(self, checkout: Path) -> Iterator[tuple[Path, str, int, int]]:
        """Each file to search, its text, and the range of characters that belongs to the function."""
        package, colon, function = self.where.partition(": ")
        if not colon:
            path = checkout / self.where
            source = path.read_text(encoding="utf-8") if path.is_file() else ""
            yield path, source, 0, len(source)
            return
        root = checkout / "light_llm"
        for path in sorted((root / package).rglob("*.py")) or [root / f"{package}.py"]:
            source = path.read_text(encoding="utf-8") if path.is_file() else ""
            yield from ((path, source, *span) for span in _spans(source, function.split(".")))


def _spans(source: str, names: list[str]) -> Iterator[tuple[int, int]]:
    """The character ranges of the function or class called `names`, outermost first."""
    starts = [0]
    for line in source.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))

    def search(node: ast.AST, left: list[str]) -> Iterator[tuple[int, int]]:
        for child in ast.iter_child_nodes(node):
            if not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                yield from search(child, left)
            elif child.name == left[0]:
                if len(left) > 1:
                    yield from search(child, left[1:])
                else:
                    first = min([child.lineno, *(d.lineno for d in child.decorator_list)])
                    yield starts[first - 1], starts[child.end_lineno or first]

    yield from search(ast.parse(source), names)
