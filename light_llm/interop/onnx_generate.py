"""Generate text with a model exported to ONNX: python -m light_llm.interop.onnx_generate model-onnx "Once upon a time"

The file works alone, too: it needs onnxruntime, tokenizers and numpy, but neither PyTorch nor light-llm.
"""

import argparse
import os
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

GRAPH = "model_with_past.onnx"


def main() -> None:
    """Read the command line, and print the prompt and its continuation."""
    parser = argparse.ArgumentParser(description="Generate text with a model exported to ONNX.")
    parser.add_argument("folder", type=Path, help=f"with {GRAPH} and tokenizer.json")
    parser.add_argument("prompt", nargs="?", default="", help="a text; token ids, if the model has no tokenizer")
    parser.add_argument("--tokens", type=int, default=200, help="how many to generate at most")
    parser.add_argument("--temperature", type=float, default=0.8, help="0: always the most likely token")
    options = parser.parse_args()
    if not (options.folder / GRAPH).is_file():
        parser.error(f"{options.folder} has no {GRAPH}; make one with: light-llm export onnx")
    # Some builds of ONNX Runtime send usage data; the variable is read when it is imported.
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    try:
        onnxruntime = import_module("onnxruntime")
        from tokenizers import Tokenizer
    except ImportError as error:
        parser.error(f'{error}; install what it needs with: pip install "light-llm[onnx]"')
    session = onnxruntime.InferenceSession(options.folder / GRAPH, providers=["CPUExecutionProvider"])
    file = options.folder / "tokenizer.json"
    if file.is_file():
        tokenizer = Tokenizer.from_file(str(file))
        print(tokenizer.decode(generate(session, tokenizer.encode(options.prompt).ids, options)))
        return
    try:
        ids = [int(word) for word in options.prompt.split()]
    except ValueError:
        ids = []
    if not ids:
        parser.error('the model was exported without a tokenizer; give token ids as the prompt, as in "0 1 2"')
    print(*generate(session, ids, options))


def generate(session: Any, prompt: list[int], options: argparse.Namespace) -> list[int]:
    """Return the ids of a prompt and of its continuation.

    Args:
        session: of the graph with keys and values.
    """
    metadata = session.get_modelmeta().custom_metadata_map
    context = int(metadata["context"])
    # Older exports have only the separator.
    ends = [int(word) for word in metadata.get("stop_ids", metadata.get("separator", "")).split()]
    empty_past = {i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32) for i in session.get_inputs()[1:]}
    rng = np.random.default_rng()
    ids = list(prompt)
    window = ids[-context:] or [int(metadata["start"])]  # the tokens that the next one depends on
    new, past = list(window), empty_past  # tokens without keys and values yet, and keys and values of the others
    for _ in range(options.tokens):
        logits, *present = session.run(None, {"input_ids": np.array([new], np.int64)} | past)
        past = dict(zip(empty_past, present, strict=True))
        last = logits[0, -1].astype(np.float64)
        weights = np.exp((last - last.max()) / (options.temperature or 1))
        token = int(rng.choice(len(weights), p=weights / weights.sum()) if options.temperature else last.argmax())
        if token in ends:  # the end of the text
            break
        ids, window, new = [*ids, token], [*window, token], [token]
        # Positions are absolute, so a full window cannot be shifted: its last half is read again.
        if len(window) > context:
            window = window[context - context // 2 :]
            new, past = window, empty_past
    return ids


if __name__ == "__main__":
    main()
