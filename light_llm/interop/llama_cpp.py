"""llama.cpp in a child process, because a crash there must not end the export.

It is compiled for one processor, and its failed assertions abort the process that they are in.
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
from .exporter import MissingDependency, Runtime

MAX_REASON = 300  # characters of an error message
EXIT_TIMEOUT = 10.0  # seconds that a process may take to end after it closed its output
ILLEGAL_INSTRUCTION = (-signal.SIGILL, 0xC000001D)  # exit codes on POSIX and on Windows


def has_llama_cpp() -> bool:
    """Return whether llama-cpp-python is installed."""
    return find_spec("llama_cpp") is not None


class LlamaCpp(Runtime):
    """A GGUF file computed by llama.cpp on the CPU, keys and values in float32.

    Raises:
        MissingDependency: llama-cpp-python is not installed; by any method: it was built for another processor.
        CheckpointError: by any method: llama.cpp does not open the file, or crashed on it.
    """

    def __init__(self, path: Path) -> None:
        if not has_llama_cpp():
            raise MissingDependency(
                "the package llama-cpp-python is not installed; install it with: pip install llama-cpp-python, which "
                "compiles it in about five minutes"
            )
        self.path = path
        self.stderr = tempfile.TemporaryFile()  # noqa: SIM115  (open as long as the process)
        # -P: a folder named light_llm or numpy in the working directory is not imported.
        command = [sys.executable, "-P", "-m", "light_llm.interop.llama_process"]
        self.process = subprocess.Popen(  # noqa: S603  (our own program)
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.stderr, env=subprocess_env()
        )
        try:
            version = self._request("open", str(path), torch.get_num_threads())
        except BaseException:
            self.close()
            raise
        self.name = f"llama.cpp (llama-cpp-python {version})"

    def logits(self, ids: Sequence[Sequence[int]]) -> Tensor:
        logits: Tensor = self._request("logits", [list(row) for row in ids])
        return logits

    def greedy(self, ids: Sequence[int], n: int) -> list[int]:
        return list(self._request("greedy", list(ids), n))

    def encode(self, text: str) -> list[int] | None:
        ids: list[int] | None = self._request("encode", text)
        return ids

    def encode_with_ends(self, text: str) -> list[int] | None:
        return list(self._request("encode_with_ends", text))

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._request("decode", list(ids)))

    def close(self) -> None:
        self.process.kill()
        for pipe in (self.process.stdin, self.process.stdout, self.stderr):
            with suppress(OSError):  # closing flushes a request that the dead process never read
                if pipe:
                    pipe.close()
        self.process.wait()

    def _request(self, method: str, *values: Any) -> Any:
        """Send a request and return its answer: a line of JSON, followed by float32 numbers if it has a shape."""
        assert self.process.stdin and self.process.stdout
        try:
            self.process.stdin.write(json.dumps([method, *values]).encode() + b"\n")
            self.process.stdin.flush()
            answer = json.loads(self.process.stdout.readline())
            if "shape" in answer:
                numbers = bytearray(self.process.stdout.read(4 * prod(answer["shape"])))
                return torch.frombuffer(numbers, dtype=torch.float32).view(answer["shape"])
        except (OSError, ValueError, RuntimeError):  # no answer, or half of one
            raise self._exit_error() from None
        if "error" in answer:
            raise CheckpointError(f"llama.cpp does not open {self.path}: {answer['error']}; export it again")
        return answer["value"]

    def _exit_error(self) -> Exception:
        """Return the error for a process that gave no answer: by its exit code, and its last line on stderr."""
        try:
            code = self.process.wait(EXIT_TIMEOUT)
        except subprocess.TimeoutExpired:  # it still runs, but its output was no answer
            self.process.kill()
            code = self.process.wait()
        if code in ILLEGAL_INSTRUCTION:
            return MissingDependency(
                "llama.cpp was compiled for instructions that this processor lacks; compile it again without them: "
                'CMAKE_ARGS="-DGGML_NATIVE=OFF" pip install --force-reinstall --no-cache-dir llama-cpp-python'
            )
        self.stderr.seek(0)
        lines = self.stderr.read().decode("utf-8", errors="replace").splitlines()
        reason = next((line.strip() for line in reversed(lines) if line.strip()), "no reason given")
        ended_by = f"signal {-code}" if code < 0 else f"exit code {code}"
        return CheckpointError(
            f"llama.cpp crashed on {self.path} ({ended_by}): {reason[:MAX_REASON]}. The export was deleted; "
            "please report it, with the version of llama-cpp-python"
        )
