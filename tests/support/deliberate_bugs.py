"""Break the code on purpose, one bug at a time, and show which test fails. Run by `make check-all`.

A test suite is worth what it catches. Each bug is a small edit to a copy of the package; the tests named beside it have
to fail with the edit and pass without it. Exits with 1 when a bug goes unnoticed.
"""

import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue

CHECKOUT = Path(__file__).parents[2]
sys.path.insert(0, str(CHECKOUT))

from tests.support.bugs import BUGS, Bug  # noqa: E402


def main() -> int:
    """Try every bug, or those whose words or file have the argument in them; print a line for each.

    Returns the number that went unnoticed.
    """
    wanted = sys.argv[1] if len(sys.argv) > 1 else ""
    bugs = [bug for bug in BUGS if wanted in bug.what or wanted in bug.where]
    n_workers = os.cpu_count() or 1
    unnoticed = 0
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(n_workers) as pool:
        copies: SimpleQueue[Path] = SimpleQueue()  # one for each bug that is tried at the same time
        ignore = shutil.ignore_patterns(".git", ".venv*", "checkpoints*", "__pycache__", ".*_cache", ".hypothesis")
        for i in range(n_workers):
            copies.put(shutil.copytree(CHECKOUT, Path(scratch, str(i)), ignore=ignore))

        def try_bug(bug: Bug) -> str:
            copy = copies.get()
            try:
                return _who_notices(bug, copy)
            finally:
                copies.put(copy)

        for bug, caught in zip(bugs, pool.map(try_bug, bugs), strict=True):
            unnoticed += not caught
            print(f"{'caught  ' if caught else 'UNNOTICED'} {bug.what}: {caught or bug.tests}", flush=True)
    return unnoticed


def _who_notices(bug: Bug, copy: Path) -> str:
    """The first test that fails with the bug, or nothing."""
    path, broken = bug.apply(copy)
    good = path.read_text(encoding="utf-8")
    path.write_text(broken, encoding="utf-8")
    try:
        words = [
            sys.executable,
            "-m",
            "pytest",
            "-q",
            "-x",
            "--no-header",
            "-p",
            "no:cacheprovider",
            *bug.tests.split(),
        ]
        env = os.environ | {"PYTHONPATH": str(copy), "PYTHONDONTWRITEBYTECODE": "1"}
        child = subprocess.run(words, cwd=copy, env=env, capture_output=True, text=True, check=False)
        failed = [line.split()[1] for line in child.stdout.splitlines() if line.startswith(("FAILED ", "ERROR "))]
        return failed[0] if child.returncode == 1 and failed else ""
    finally:
        path.write_text(good, encoding="utf-8")


if __name__ == "__main__":
    raise SystemExit(1 if main() else 0)
