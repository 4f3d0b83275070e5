"""With no network at all everything still works: in a child process where whoever opens a socket is refused."""

import shutil
import sys
from pathlib import Path

from light_llm.runtime import cache_dir
from tests.conftest import CHECKOUT
from tests.support.tools import NANO_RUN, rows_of, run_child

REFUSE = """\
import socket


class Refused(socket.socket):
    def __init__(self, *args, **kwargs):
        raise RuntimeError("a socket was opened")


def refuse(*args, **kwargs):
    raise RuntimeError("a name was looked up")


socket.socket = socket.SocketType = Refused
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = refuse
"""


class Cut:
    """The command line on a machine without a network: Python itself loads `sitecustomize` before anything else."""

    def __init__(self, folder: Path, **env: str) -> None:
        site = folder / "site"
        site.mkdir()
        (site / "sitecustomize.py").write_text(REFUSE)
        known, cache = cache_dir(), folder / "cache"  # no text is taken along, but what is known of this machine
        for name in ("doctor", "measured.json"):
            if (known / name).is_dir():
                shutil.copytree(known / name, cache / name)
            elif (known / name).exists():
                cache.mkdir(exist_ok=True)
                shutil.copy(known / name, cache / name)
        path = f"{site}:{CHECKOUT}" if sys.platform != "win32" else f"{site};{CHECKOUT}"
        self.env = {"PYTHONPATH": path, "LIGHT_LLM_CACHE": str(folder / "cache"), **env}

    def __call__(self, *words: str, fails: bool = False) -> str:
        child = run_child([sys.executable, *words], env=self.env)
        assert (child.returncode != 0) == fails, child.stdout + child.stderr
        return child.stdout + child.stderr


def test_the_network_is_cut(tmp_path: Path) -> None:
    """The tests below are worth what this is worth."""
    cut = Cut(tmp_path)
    for line in ("socket.socket()", "socket.create_connection(('127.0.0.1', 9))", "socket.getaddrinfo('a.b', 80)"):
        assert "RuntimeError: a " in cut("-c", f"import socket; {line}", fails=True)
    asks = "import urllib.request as u; u.urlopen('http://127.0.0.1:9/')"
    assert "RuntimeError: a " in cut("-c", asks, fails=True)


def test_a_run_from_beginning_to_end(tmp_path: Path, poem: Path) -> None:
    cut = Cut(tmp_path, LIGHT_LLM_OFFLINE_DIR="")
    run = [*NANO_RUN, "--data", str(poem), "--out", "run", "--tokenizer", "bpe:300"]
    cut("-m", "light_llm", "train", *run, "--max-steps", "2")
    cut("-m", "light_llm", "train", "--resume", "--out", "run", "--max-steps", "4")
    assert [row["step"] for row in rows_of("run", "step")] == [1, 2, 3, 4]
    written = cut("-m", "light_llm", "generate", "text", "--prompt", "The old owl", "--checkpoint", "run")
    assert "The old owl" in written
    assert "bits/byte" in cut("-m", "light_llm", "generate", "eval", "--checkpoint", "run")


def test_what_was_brought_along_is_enough(tmp_path: Path, offline_files: Path) -> None:
    """Shakespeare and GPT-2's vocabulary from a folder that someone filled beforehand."""
    cut = Cut(tmp_path, LIGHT_LLM_OFFLINE_DIR=str(offline_files))
    assert "301,966 training, 36,059 held out (gpt2, 50,257 ids" in cut("-m", "light_llm", "prepare")


def test_without_it_the_built_in_corpus_stands_in(tmp_path: Path) -> None:
    """Nothing was brought along: a plain line says so, and what was asked for by name is an error."""
    cut = Cut(tmp_path, LIGHT_LLM_OFFLINE_DIR="")
    assert "this is tales, the built-in corpus" in cut("-m", "light_llm", "prepare", "--offline", "--tokenizer", "byte")
    refused = cut("-m", "light_llm", "prepare", "--offline", "--data", "shakespeare", fails=True)
    assert "--offline forbids to download it; put the file" in refused and "Traceback" not in refused
