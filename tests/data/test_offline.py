"""Everything works without a network: in a child process where opening a socket raises an error."""

import os
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from light_llm.runtime import cache_dir
from tests.conftest import CHECKOUT
from tests.support.tools import NANO_RUN, rows_of, run_child

REFUSE = """\
import socket


def refuse(*args, **kwargs):
    raise RuntimeError("the network was used")


class Refused(socket.socket):
    __init__ = refuse


socket.socket = socket.SocketType = Refused
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = refuse
"""


class Cut:
    """The command line on a machine without a network: Python itself loads `sitecustomize` before anything else."""

    def __init__(self, folder: Path, **env: str) -> None:
        site = folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(REFUSE)
        # Copy the measurements of this machine from the cache, but no text.
        known, cache = cache_dir(), folder / "cache"
        cache.mkdir()
        if (known / "doctor").is_dir():
            shutil.copytree(known / "doctor", cache / "doctor")
        if (known / "measured.json").exists():
            shutil.copy(known / "measured.json", cache)
        self.env = {"PYTHONPATH": os.pathsep.join([str(site), str(CHECKOUT)]), "LIGHT_LLM_CACHE": str(cache), **env}

    def run(self, program: str) -> "subprocess.CompletedProcess[str]":
        return run_child([sys.executable, "-c", program], env=self.env)

    def commands(self, *commands: str, code: int = 0) -> str:
        """Return the output of several commands in one process; `code` is the exit code of the last."""
        codes = [0] * (len(commands) - 1) + [code]
        words = [shlex.split(command) for command in commands]
        child = self.run(f"from light_llm.cli import main; assert [main(w) for w in {words}] == {codes}")
        assert child.returncode == 0, child.stdout + child.stderr
        return child.stdout + child.stderr


@pytest.mark.parametrize(
    "line",
    [
        *("import socket; socket.socket()", "import socket; socket.create_connection(('127.0.0.1', 9))"),
        "import socket; socket.getaddrinfo('a.b', 80)",
        "import urllib.request as u; u.urlopen('http://127.0.0.1:9/')",
    ],
)
def test_the_network_is_cut(tmp_path: Path, line: str) -> None:
    """The tests below depend on it."""
    assert "RuntimeError: the network was used" in Cut(tmp_path).run(line).stderr


def test_a_run_from_beginning_to_end(tmp_path: Path, poem: Path) -> None:
    cut = Cut(tmp_path, LIGHT_LLM_OFFLINE_DIR="")
    output = cut.commands(
        f"train {shlex.join(NANO_RUN)} --data {poem} --out run --tokenizer bpe:300 --max-steps 2",
        "train --resume --out run --max-steps 4",
        "generate text --prompt 'The old owl' --checkpoint run",
        "generate eval --checkpoint run",
    )
    assert [row["step"] for row in rows_of("run", "step")] == [1, 2, 3, 4]
    assert "The old owl" in output and "bits/byte" in output


def test_an_offline_folder_is_enough(tmp_path: Path, offline_files: Path) -> None:
    """Shakespeare and GPT-2's vocabulary come from it."""
    cut = Cut(tmp_path, LIGHT_LLM_OFFLINE_DIR=str(offline_files))
    assert "301,966 training, 36,059 held out (gpt2, vocabulary 50,257" in cut.commands("prepare")


def test_without_it_the_built_in_corpus_is_used(tmp_path: Path) -> None:
    """A line of the output says so; a text that was chosen by name is an error."""
    cut = Cut(tmp_path, LIGHT_LLM_OFFLINE_DIR="")
    output = cut.commands("prepare --offline --tokenizer byte", "prepare --offline --data shakespeare", code=2)
    assert "Shakespeare has not been downloaded yet: using the built-in stories ('tales') instead" in output
    assert "this command downloads nothing; put the file" in output and "Traceback" not in output
