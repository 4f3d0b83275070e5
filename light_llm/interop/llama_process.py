"""The child process that runs llama.cpp: `python -m light_llm.interop.llama_process`, requests on standard input.

A request is a line of JSON: the name of a method, and its arguments. An answer is a line of JSON too; if it has a
shape, the numbers follow as float32. Neither torch nor a model of ours is loaded here.
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

GGML_TYPE_F32 = 0


class Llama:
    """A GGUF file opened by llama.cpp on the CPU."""

    def __init__(self, path: str, threads: int) -> None:
        import llama_cpp

        self.api: Any = llama_cpp
        self.llama = llama_cpp.Llama(
            path,
            n_ctx=0,  # the context of the model
            n_threads=threads,
            n_threads_batch=threads,
            logits_all=True,
            type_k=GGML_TYPE_F32,
            type_v=GGML_TYPE_F32,
            verbose=False,
        )
        self.vocab = llama_cpp.llama_model_get_vocab(self.llama.model)
        self.has_tokenizer = llama_cpp.llama_vocab_type(self.vocab) != llama_cpp.LLAMA_VOCAB_TYPE_NONE

    def version(self) -> str:
        """Return the version of llama-cpp-python."""
        return str(self.api.__version__)

    def logits(self, ids: Sequence[Sequence[int]]) -> NDArray[np.float32]:
        """Compute logits row by row: (B, T) ids -> (B, T, V)."""
        rows = []
        for row in ids:
            self.llama.reset()
            rows.append(self._extend(row))
        return np.stack(rows)

    def greedy(self, ids: Sequence[int], n: int) -> list[int]:
        """Return the n most likely tokens after ids, one by one, with the cache."""
        written: list[int] = []
        new = list(ids)
        self.llama.reset()
        while len(written) < n:
            new = [int(self._extend(new)[-1].argmax())]
            written += new
        return written

    def _extend(self, ids: Sequence[int]) -> NDArray[np.float32]:
        """Append ids to the cached ones and return their logits: (T,) -> (T, V)."""
        start = self.llama.n_tokens
        self.llama.eval(list(ids))
        return np.array(self.llama.scores[start : start + len(ids)], np.float32)

    def encode(self, text: str) -> list[int] | None:
        """Return the ids of a text, without BOS and EOS; None if the file has no tokenizer."""
        if not self.has_tokenizer:
            return None
        return [int(i) for i in self.llama.tokenize(text.encode("utf-8"), add_bos=False, special=False)]

    def encode_with_ends(self, text: str) -> list[int]:
        """Return the ids of a text with the BOS and EOS that the file asks for."""
        return [int(i) for i in self.llama.tokenize(text.encode("utf-8"), add_bos=True, special=False)]

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens left out."""
        if self.api.llama_vocab_type(self.vocab) == self.api.LLAMA_VOCAB_TYPE_SPM:
            return self._detokenize(ids)
        # llama.cpp's detokenizer of the other kinds also drops spaces before signs.
        return b"".join(self._token_bytes(i) for i in ids).decode("utf-8", errors="replace")

    def _detokenize(self, ids: Sequence[int]) -> str:
        """Return the text of ids without the space that the tokenizer puts before it."""
        array, size = (self.api.llama_token * len(ids))(*ids), 64
        while True:
            buffer = create_string_buffer(size)
            n = int(self.api.llama_detokenize(self.vocab, array, len(ids), buffer, size, False, False))
            if n >= 0:
                return buffer.raw[:n].decode("utf-8", errors="replace")
            size = -n

    def _token_bytes(self, token: int) -> bytes:
        size = 64
        while True:
            buffer = create_string_buffer(size)
            n = int(self.api.llama_token_to_piece(self.vocab, token, buffer, size, 0, False))
            if n >= 0:
                return buffer.raw[:n]
            size = -n  # a negative count is the size that the token needs


def main() -> None:
    """Answer requests until standard input is closed."""
    # Ctrl-C goes to the whole process group; the parent handles it, and ends this process.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # llama.cpp prints to standard output, which is the channel of the answers
    llama: Llama | None = None
    for line in sys.stdin.buffer:
        method, *values = json.loads(line)
        try:
            if method == "open":
                llama = Llama(*values)
                method, values = "version", []
            result = getattr(llama, method)(*values)
        except (ValueError, RuntimeError, OSError) as error:
            answers.write(_line({"error": " ".join(str(error).split())}))
        else:
            if isinstance(result, np.ndarray):
                answers.write(_line({"shape": result.shape}) + result.tobytes())
            else:
                answers.write(_line({"value": result}))
        answers.flush()


def _line(answer: Any) -> bytes:
    return json.dumps(answer).encode() + b"\n"


if __name__ == "__main__":
    main()
