"""Generate text with a model exported to ONNX: python onnx_generate.py model-onnx "Once upon a time"

Needs onnxruntime, tokenizers and numpy, but neither PyTorch nor light-llm.
"""

import argparse
import os
from pathlib import Path

import numpy as np

# Some builds of ONNX Runtime send usage data; the variable is read when it is imported.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime
from tokenizers import Tokenizer

parser = argparse.ArgumentParser(description="Generate text with a model exported to ONNX.")
parser.add_argument("folder", type=Path, help="with model_with_past.onnx and tokenizer.json")
parser.add_argument("prompt", nargs="?", default="")
parser.add_argument("--tokens", type=int, default=200, help="how many to generate at most")
parser.add_argument("--temperature", type=float, default=0.8, help="0: always the most likely token")
options = parser.parse_args()
if not (options.folder / "model_with_past.onnx").is_file():
    parser.error(f"{options.folder} has no model_with_past.onnx; make one with: light-llm export onnx")

session = onnxruntime.InferenceSession(options.folder / "model_with_past.onnx", providers=["CPUExecutionProvider"])
tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))
metadata = session.get_modelmeta().custom_metadata_map
context, separator = int(metadata["context"]), int(metadata["separator"])
empty_past = {i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32) for i in session.get_inputs()[1:]}
rng = np.random.default_rng()

text = tokenizer.encode(options.prompt).ids
window = text[-context:] or [int(metadata["start"])]  # the tokens that the next one depends on
new, past = list(window), empty_past  # tokens without keys and values yet, and keys and values of the others
for _ in range(options.tokens):
    logits, *present = session.run(None, {"input_ids": np.array([new], np.int64)} | past)
    past = dict(zip(empty_past, present, strict=True))
    last = logits[0, -1].astype(np.float64)
    weights = np.exp((last - last.max()) / (options.temperature or 1))
    token = int(rng.choice(len(weights), p=weights / weights.sum()) if options.temperature else last.argmax())
    if token == separator:  # the end of the text
        break
    text, window, new = [*text, token], [*window, token], [token]
    # Positions are absolute, so a full window cannot be shifted: its last half is read again.
    if len(window) > context:
        window = window[context - context // 2 :]
        new, past = window, empty_past
print(tokenizer.decode(text))
