"""The child process of llama.cpp, with a stand-in package, because the real one is compiled from source.

tests/support/check_gguf.py runs the real one.
"""

import re
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

from light_llm.errors import CheckpointError, ConfigError
from light_llm.interop import llama_cpp
from light_llm.interop.export import ExportResult, export
from light_llm.interop.exporter import MissingDependency
from tests.interop.test_export_gguf import a_model
from tests.support.export_tools import GGUF

STAND_IN = """
import os, signal, sys
import numpy as np

__version__ = "0.0.1"
LLAMA_VOCAB_TYPE_NONE, LLAMA_VOCAB_TYPE_SPM = 0, 1
llama_model_get_vocab = lambda model: "words"
llama_vocab_type = lambda vocab: 2
CHANGE

def llama_token_to_piece(vocab, token, buffer, size, left, special):
    text = ("é" * token).encode()
    if len(text) > size:
        return -len(text)
    buffer[: len(text)] = text
    return len(text)

class Llama:
    def __init__(self, path, **settings):
        print("words that are no answer")
        at("open")
        self.model, self.n_tokens, self.scores = path, 0, np.zeros((50, 7), np.float32)

    def reset(self):
        self.n_tokens = 0

    def eval(self, ids):
        at("eval")
        for i in ids:
            self.scores[self.n_tokens] = np.cos(self.n_tokens + i + np.arange(7))
            self.n_tokens += 1

    def tokenize(self, text, add_bos, special):
        return list(text)
"""
NOTHING = "at = lambda where: None"


def stand_in(folder: Path, monkeypatch: pytest.MonkeyPatch, change: str = NOTHING) -> None:
    """Install a stand-in of llama_cpp for this process and its children."""
    (folder / "packages").mkdir(exist_ok=True)
    (folder / "packages" / "llama_cpp.py").write_text(STAND_IN.replace("CHANGE", change))
    monkeypatch.syspath_prepend(folder / "packages")
    monkeypatch.setenv("PYTHONPATH", str(folder / "packages"))


def test_requests_and_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Large arrays and any text are transferred whole, and printed text is not taken for an answer."""
    stand_in(tmp_path, monkeypatch)
    runtime = GGUF.open(tmp_path / "a model.gguf")
    assert runtime.name == "llama.cpp (llama-cpp-python 0.0.1)"
    rows = [[1, 2, 3], [4, 5, 6]]
    by_formula = [[np.cos(place + i + np.arange(7)) for place, i in enumerate(row)] for row in rows]
    assert np.array_equal(runtime.logits(rows).numpy(), np.array(by_formula, np.float32))
    assert runtime.logits([[1] * 50] * 300).shape == (300, 50, 7)  # more than a pipe holds
    written = [3]
    for _ in range(5):
        written.append(int(np.cos(len(written) - 1 + written[-1] + np.arange(7)).argmax()))
    assert runtime.greedy([3], 5) == written[1:]
    assert runtime.encode("naïve 東京\n") == list("naïve 東京\n".encode())
    assert runtime.decode([1, 0, 40]) == "é" * 41  # one token of 80 bytes, more than it asks for at first
    runtime.close()
    assert runtime.process.returncode == -signal.SIGKILL


DIES = "at = lambda where: os.kill(os.getpid(), signal.{}) if where == {!r} else None"
SAYS = "at = lambda where: (print('ggml.c: an assertion failed', file=sys.stderr, flush=True), os.abort())"


@pytest.mark.skipif(sys.platform == "win32", reason="NOT RUN: Windows ends processes without signals")
@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        (
            SAYS,
            CheckpointError,
            r"llama.cpp crashed on .*m.gguf \(signal 6\): ggml.c: an assertion failed. The export was deleted",
        ),
        (DIES.format("SIGKILL", "eval"), CheckpointError, r"\(signal 9\): "),
        (DIES.format("SIGILL", "eval"), MissingDependency, "instructions that this processor lacks; compile it again"),
        (DIES.format("SIGILL", "open"), MissingDependency, r"GGML_NATIVE=OFF"),
        ("at = lambda where: sys.exit(3)", CheckpointError, r"\(exit code 3\)"),
        ("def at(where): raise ValueError('no such file')", CheckpointError, "does not open .*m.gguf: no such file"),
        ("raise ImportError('no libggml.so')", CheckpointError, r"\(exit code 1\): ImportError: no libggml.so"),
    ],
)
def test_a_crash_is_an_error_of_the_export(
    change: str, kind: type[Exception], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in(tmp_path, monkeypatch, change)
    with pytest.raises(kind, match=message):
        GGUF.open(tmp_path / "m.gguf").logits([[1]])


def exported(tmp_path: Path) -> ExportResult:
    return export(a_model(tmp_path), GGUF, tmp_path / "model.gguf")


def test_without_a_running_llama_cpp_the_file_is_read_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A build for another processor says nothing about the file; an assertion does."""
    stand_in(tmp_path, monkeypatch, DIES.format("SIGILL", "eval"))
    done = exported(tmp_path)
    assert done.check is None and done.path.is_file()
    assert re.search(r"^read back with gguf .*; NOT run .*: llama.cpp was compiled", done.summary)
    done.path.unlink()
    stand_in(tmp_path, monkeypatch, SAYS)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(CheckpointError, match="llama.cpp crashed on"):
        exported(tmp_path)
    assert sorted(tmp_path.iterdir()) == before


def test_another_model_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(tmp_path, monkeypatch)
    with pytest.raises(CheckpointError, match="it has logits for 7 ids, and the model has 257"):
        exported(tmp_path)


def test_without_llama_cpp_the_install_command_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(llama_cpp, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="pip install llama-cpp-python"):
        GGUF.open(tmp_path / "model.gguf")
    assert re.search("read back with gguf .*; NOT run .*llama-cpp-python", exported(tmp_path).summary)
