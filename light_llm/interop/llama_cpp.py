"""llama.cpp, asked from here and run in a process of its own: what ends it ends no export.

It is compiled for one processor, and fails by assertions that end the process they are in.
"""

import json
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from contextlib import suppress
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..runtime import subprocess_env
from .optional_deps import NotHere

LONGEST_REASON = 300  # characters
LONGEST_END = 10.0  # seconds between the last of its answers and its end
NOT_OF_THIS_PROCESSOR = (-signal.SIGILL, 0xC000001D)  # how a process ends then: on POSIX, on Windows


def has_llama_cpp() -> bool:
    """Whether llama-cpp-python is installed."""
    return find_spec("llama_cpp") is not None


class LlamaCpp:
    """A GGUF file as llama.cpp computes it on the CPU, keys and values in float32: the `Runtime` of this format.

    Raises:
        NotHere: by any of its methods: this build of llama.cpp does not run on this processor.
        CheckpointError: by any of its methods: llama.cpp does not open the file, or has ended over it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.said = tempfile.TemporaryFile()  # noqa: SIM115  (as long as the process)
        command = [sys.executable, "-P", "-m", "light_llm.interop.llama_process"]
        self.process = subprocess.Popen(  # noqa: S603  (our own program)
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.said, env=subprocess_env()
        )
        try:
            version = self._ask("open", str(path), torch.get_num_threads())
        except BaseException:
            self.close()
            raise
        self.name = f"llama.cpp (llama-cpp-python {version})"

    def logits(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """(B, T) ids -> (B, T, V) float32."""
        found: Tensor = self._ask("logits", [list(row) for row in ids])
        return found

    def greedy(self, ids: Sequence[int], n: int) -> list[int]:
        """The n likeliest tokens after ids, one by one, with its cache."""
        return list(self._ask("greedy", list(ids), n))

    def encode(self, text: str) -> list[int] | None:
        """Ids by the tokenizer in the file, with what it adds by itself; None where it has none."""
        found: list[int] | None = self._ask("encode", text)
        return found

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        return str(self._ask("decode", list(ids)))

    def close(self) -> None:
        """End the process."""
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.said):
            with suppress(OSError):  # a question that nobody took
                if pipe:
                    pipe.close()
        self.process.wait()

    def _ask(self, what: str, *values: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps([what, *values]).encode() + b"\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
            if "shape" in answer:
                numbers = bytearray(self.process.stdout.read(4 * prod(answer["shape"])))
                return torch.frombuffer(numbers, dtype=torch.float32).view(answer["shape"])
        except (OSError, ValueError, RuntimeError):  # no answer, or half of one
            raise self._ended() from None
        if "error" in answer:
            raise CheckpointError(f"llama.cpp does not open {self.path}: {answer['error']}; export it again")
        return answer["value"]

    def _ended(self) -> Exception:
        """Why there is no answer."""
        try:
            code = self.process.wait(LONGEST_END)
        except subprocess.TimeoutExpired:  # it goes on, and what it said was no answer
            self.process.kill()
            code = self.process.wait()
        if code in NOT_OF_THIS_PROCESSOR:
            return NotHere(
                "llama.cpp is built here for instructions that this processor refuses; build it again without them: "
                'CMAKE_ARGS="-DGGML_NATIVE=OFF" pip install --force-reinstall --no-cache-dir llama-cpp-python'
            )
        self.said.seek(0)
        lines = self.said.read().decode("utf-8", errors="replace").splitlines()
        last = next((line.strip() for line in reversed(lines) if line.strip()), "no reason given")
        how = f"signal {-code}" if code < 0 else f"exit code {code}"
        return CheckpointError(
            f"llama.cpp ended over {self.path} ({how}): {last[:LONGEST_REASON]}. Nothing was kept; "
            "please report it, with the version of llama-cpp-python"
        )


def open_export(path: Path) -> LlamaCpp:
    """Open a GGUF file with llama.cpp.

    Raises:
        NotHere: llama-cpp-python is not installed, or not for this processor.
        CheckpointError: llama.cpp does not open the file.
    """
    if not has_llama_cpp():
        raise NotHere(
            "this needs the package llama-cpp-python, which is not installed; install it with: "
            "pip install llama-cpp-python, which compiles it in some minutes"
        )
    return LlamaCpp(path)
