"""Write with a model that was exported to ONNX: python onnx_generate.py model-onnx "Once upon a time"

Needs onnxruntime, tokenizers and numpy, and nothing of what the model was trained with.
"""

import argparse
import os
from pathlib import Path

import numpy as np

os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # some builds send how they are used
import onnxruntime
from tokenizers import Tokenizer

parser = argparse.ArgumentParser(description="Write with a model that was exported to ONNX.")
parser.add_argument("folder", type=Path, help="with model_with_past.onnx and tokenizer.json")
parser.add_argument("prompt", nargs="?", default="")
parser.add_argument("--tokens", type=int, default=200, help="how many to write at most")
parser.add_argument("--temperature", type=float, default=0.8, help="0: always the likeliest token")
options = parser.parse_args()
if not (options.folder / "model_with_past.onnx").is_file():
    parser.error(f"{options.folder} has no model_with_past.onnx; make one with: light-llm export onnx")

session = onnxruntime.InferenceSession(options.folder / "model_with_past.onnx", providers=["CPUExecutionProvider"])
tokenizer = Tokenizer.from_file(str(options.folder / "tokenizer.json"))
about = session.get_modelmeta().custom_metadata_map
context, separator = int(about["context"]), int(about["separator"])
nothing = {i.name: np.zeros((1, i.shape[1], 0, i.shape[3]), np.float32) for i in session.get_inputs()[1:]}
random = np.random.default_rng()

text = tokenizer.encode(options.prompt).ids
window = text[-context:] or [int(about["start"])]  # the tokens that the next guess can see
new, past = list(window), nothing  # those that are not read yet, and keys and values of those that are
for _ in range(options.tokens):
    logits, *present = session.run(None, {"input_ids": np.array([new], np.int64)} | past)
    past = dict(zip(nothing, present, strict=True))
    last = logits[0, -1].astype(np.float64)
    odds = np.exp((last - last.max()) / (options.temperature or 1))
    token = int(random.choice(len(odds), p=odds / odds.sum()) if options.temperature else last.argmax())
    if token == separator:  # the end of the text
        break
    text, window, new = [*text, token], [*window, token], [token]
    if len(window) > context:  # it is full: its last half is read again
        window = window[context - context // 2 :]
        new, past = window, nothing
print(tokenizer.decode(text))
