"""Deliberate bugs apply to the code as it is, and name test files that exist."""

from pathlib import Path

import pytest

from tests.conftest import CHECKOUT
from tests.support.bugs import BUGS, Bug, BugMismatch


def test_every_deliberate_bug_applies() -> None:
    """Moving or renaming a function must take its bug along; `make check-all` would stop at it."""
    wrong = []
    for bug in BUGS:
        try:
            bug.apply(CHECKOUT)
        except BugMismatch as error:
            wrong.append(str(error))
        wrong += [
            f"{bug.what}: {word} does not exist"
            for word in bug.tests.split()
            if word.startswith("tests/") and not (CHECKOUT / word.partition("::")[0]).exists()
        ]
    assert not wrong, "\n".join(wrong)


def test_a_bug_follows_its_function_and_nothing_else(tmp_path: Path) -> None:
    package = tmp_path / "light_llm" / "optim"
    package.mkdir(parents=True)
    (package / "a.py").write_text("def f(x):\n    y = x + 1\n    return y\n\n\ndef g(x):\n    return x + 1\n")
    path, broken = Bug("off by one", "optim: f", "y = x  + 1", "y = x", "").apply(tmp_path)
    assert path == package / "a.py" and "y = x\n    return y" in broken and "return x + 1" in broken
    (package / "b.py").write_text((package / "a.py").read_text())
    for where in ("optim: f", "optim: h", "light_llm/optim/c.py"):  # two places, no function, no file
        with pytest.raises(BugMismatch, match="off by one"):
            Bug("off by one", where, "y = x + 1", "y = x", "").apply(tmp_path)
