"""Deliberate bugs: small edits to the package that a named test must notice. `deliberate_bugs.py` tries them.

The text files of this folder list them, each in this form:

    what the bug is
    in package: Class.method
    by tests that must notice it
    - the code to replace
    + the code to put there; without this line the code is deleted
"""

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from textwrap import indent


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
        places = [
            (path, source, start + match.start(), start + match.end())
            for path, source, start, end in self._places(checkout)
            for match in re.finditer(self._pattern(), source[start:end])
        ]
        if len(places) != 1:
            raise BugMismatch(f"{self.what}: {len(places)} places in {self.where!r} match {self.right!r}, not one")
        path, source, start, end = places[0]
        broken = source[:start] + self._replacement(source, start) + source[end:]
        if path.suffix == ".py":
            try:
                ast.parse(broken)
            except SyntaxError as error:
                raise BugMismatch(f"{self.what}: with the bug {path.name} does not parse: {error}") from None
        return path, broken

    def _pattern(self) -> str:
        """A regular expression for `right` in which white space matches any white space."""
        return r"\s+".join(re.escape(word) for word in self.right.split())

    def _replacement(self, source: str, at: int) -> str:
        """`wrong`, indented as the code that it replaces."""
        line = source[source.rfind("\n", 0, at) + 1 :]
        depth = len(line) - len(line.lstrip()) - (len(self.right) - len(self.right.lstrip()))
        return indent(self.wrong, " " * depth).lstrip()

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


def _read_bugs(path: Path) -> Iterator[Bug]:
    """Read the bugs of a text file. Blank lines separate them; the first block says what they have in common."""
    for block in path.read_text(encoding="utf-8").strip().split("\n\n")[1:]:
        what, where, tests, *edit = block.split("\n")
        right, wrong = ("\n".join(line[2:] for line in edit if line[0] == sign) for sign in "-+")
        yield Bug(what, where.removeprefix("in "), right, wrong, tests.removeprefix("by "))


BUGS = [bug for path in sorted(Path(__file__).parent.glob("*.txt")) for bug in _read_bugs(path)]
