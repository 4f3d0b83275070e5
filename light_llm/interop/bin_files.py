"""Name the format of a .bin file. None can be imported: token ids are not a model, and reading a pickle can run code.

Headers are those of llm.c's `dev/data/data_common.py` and `train_gpt2.c`: 256 little-endian int32, first a number for
the kind of file, then its version and the number of tokens.
"""

import shlex
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ..data.file_formats import START_BYTES, format_of
from ..errors import CheckpointError

HEADER_BYTES = 1024
TOKENS_GPT2, TOKENS_LLAMA3 = 20240520, 20240801  # ids of 16 bits, ids of 32 bits
# Other files of llm.c.
_MODELS = {20240326: "weights of llm.c", 20240327: "activations of llm.c", 20240328: "a vocabulary of llm.c"}
_OTHER = "name a Hugging Face folder, a GGUF file or a checkpoint of nanoGPT (.pt)"
LARGEST_ID = 1 << 19  # the largest vocabularies in use have 262,144 ids


def bin_file_error(path: Path) -> CheckpointError:
    """Return the error for the import of a .bin file, with its format and the command to use instead."""
    with path.open("rb") as file:
        start = file.read(max(START_BYTES, HEADER_BYTES))
    if found := format_of(start):
        return CheckpointError(_pickle(path) if "PyTorch" in found.name else f"{path} is {found.name}; {_OTHER}")
    numbers = np.frombuffer(start[: len(start) // 4 * 4], "<u4")
    if len(start) >= HEADER_BYTES and (what := _MODELS.get(int(numbers[0]))):
        return CheckpointError(f"{path} is {what}, which cannot be imported; {_OTHER}")
    if tokens := _describe_ids(numbers, path.stat().st_size):
        return CheckpointError(
            f"{path} is {tokens}, which are no model and do not say which tokenizer made them; train on the text that "
            "they were made from: light-llm train --data input.txt --tokenizer gpt2"
        )
    return CheckpointError(f"{path} is no file of token ids, and no model that can be imported; {_OTHER}")


def _pickle(path: Path) -> str:
    folder = path.absolute().parent
    has_safetensors = any(folder.glob("*.safetensors"))
    how = (
        f"import its folder, which has safetensors: light-llm import {shlex.quote(str(folder))}"
        if has_safetensors
        else "load the model with transformers, call model.save_pretrained(FOLDER), and import that folder"
    )
    return f"{path} holds weights of PyTorch in a pickle, which can run code when it is read; {how}"


def _describe_ids(numbers: npt.NDArray[np.uint32], size: int) -> str:
    """Describe a file of token ids, by its header or its ids; "" for any other file.

    Args:
        numbers: the beginning of the file as numbers of 32 bits.
        size: of the file, in bytes.
    """
    if 4 * len(numbers) >= HEADER_BYTES and numbers[0] in (TOKENS_GPT2, TOKENS_LLAMA3):
        bits = 16 if numbers[0] == TOKENS_GPT2 else 32
        return (
            f"a token file of llm.c or modded-nanogpt (header {numbers[0]}, version {numbers[1]}): {numbers[2]:,} "
            f"{bits}-bit ids"
        )
    # The upper half of a 32-bit id is nearly 0. In a file of 16-bit ids it would be another id.
    if size % 4 == 0 and len(numbers) and numbers.max() < LARGEST_ID:
        return f"a token file: {size // 4:,} 32-bit ids"
    return f"a token file as nanoGPT's prepare.py writes it: {size // 2:,} 16-bit ids" if size and size % 2 == 0 else ""
