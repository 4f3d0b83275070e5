"""The process that runs llama.cpp: `python -m light_llm.interop.llama_process`, questions on standard input.

A question is a line of JSON: what to do, and with what. So is an answer; where it has a shape, the numbers follow, as
float32. Neither torch nor a model of ours is here.
"""

import json
import os
import signal
import sys
from collections.abc import Sequence
from ctypes import create_string_buffer
from typing import Any

import numpy as np
from numpy.typing import NDArray

F32_CACHE = 0  # ggml's number for float32: keys and values are kept as they are


class Llama:
    """A GGUF file as llama.cpp computes it on the CPU."""

    def __init__(self, path: str, threads: int) -> None:
        import llama_cpp

        self.api: Any = llama_cpp
        self.llama = llama_cpp.Llama(
            path,
            n_ctx=0,  # as long as the model's
            n_threads=threads,
            n_threads_batch=threads,
            logits_all=True,
            type_k=F32_CACHE,
            type_v=F32_CACHE,
            verbose=False,
        )
        self.vocab = llama_cpp.llama_model_get_vocab(self.llama.model)
        self.has_tokenizer = llama_cpp.llama_vocab_type(self.vocab) != llama_cpp.LLAMA_VOCAB_TYPE_NONE

    def version(self) -> str:
        """Of llama-cpp-python."""
        return str(self.api.__version__)

    def logits(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """(B, T) ids -> (B, T, V), row by row."""
        return np.stack([self._after(row) for row in ids])

    def _after(self, row: Sequence[int], *, more: bool = False) -> NDArray[np.float32]:
        """(T, V) logits of a row, or of what goes on after the tokens before."""
        if not more:
            self.llama.reset()
        seen = self.llama.n_tokens
        self.llama.eval(list(row))
        return np.array(self.llama.scores[seen : seen + len(row)], np.float32)

    def greedy(self, ids: Sequence[int], n: int) -> list[int]:
        """The n likeliest tokens after ids, one by one, with its cache."""
        written: list[int] = []
        after = self._after(ids)
        while len(written) < n:
            written.append(int(after[-1].argmax()))
            if len(written) < n:
                after = self._after(written[-1:], more=True)
        return written

    def encode(self, text: str) -> list[int] | None:
        """Ids by the tokenizer in the file, with what it adds by itself; None where it has none."""
        if not self.has_tokenizer:
            return None
        return [int(i) for i in self.llama.tokenize(text.encode("utf-8"), add_bos=True, special=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, special tokens left out."""
        return b"".join(self._piece(i) for i in ids).decode("utf-8", errors="replace")

    def _piece(self, token: int) -> bytes:
        """The bytes of one token, however many."""
        size = 64
        while True:
            buffer = create_string_buffer(size)
            n = int(self.api.llama_token_to_piece(self.vocab, token, buffer, size, 0, False))
            if n >= 0:
                return buffer.raw[:n]
            size = -n  # what it needs


def main() -> None:
    """Answer until there are no more questions."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the process that asks, which ends this one
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what llama.cpp prints is no answer
    llama: Llama | None = None
    for line in sys.stdin.buffer:
        what, *values = json.loads(line)
        try:
            if what == "open":
                llama = Llama(*values)
                what, values = "version", []
            found = getattr(llama, what)(*values)
        except (ValueError, RuntimeError, OSError) as error:
            answers.write(_line({"error": " ".join(str(error).split())}))
        else:
            if isinstance(found, np.ndarray):
                answers.write(_line({"shape": found.shape}) + found.tobytes())
            else:
                answers.write(_line({"value": found}))
        answers.flush()


def _line(answer: Any) -> bytes:
    return json.dumps(answer).encode() + b"\n"


if __name__ == "__main__":
    main()
