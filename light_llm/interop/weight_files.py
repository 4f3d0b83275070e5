"""The weights in a folder of Hugging Face: one safetensors file, or several and an index, read tensor by tensor."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import safetensors
import torch
from torch import Tensor

from ..checkpoint.tensors import MAX_HEADER, TYPES
from ..config import repr_short
from ..errors import CheckpointError
from .json_files import COMPLETE, read_object

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ADAPTER = "adapter_model.safetensors"
SHARD = re.compile(r"model-\d+-of-\d+\.safetensors", re.ASCII)
PIECE = 1 << 21  # numbers that are read at once
_OTHER_FORMATS = {  # a file that a folder without safetensors may have, and what to do
    "*.bin": "pickles run code when they are read, so light-llm does not; save them as safetensors first: load the "
    "model with transformers and call model.save_pretrained(FOLDER)",
    ADAPTER: "an adapter is not a model; merge it into its model first",
    "*.gguf": "import that file: light-llm import FILE.gguf",
    "*.h5": "TensorFlow's weights cannot be imported; save them as safetensors with transformers first",
    "*.msgpack": "Flax's weights cannot be imported; save them as safetensors with transformers first",
}
_DTYPES = {name: dtype for dtype, name in TYPES.items()}


@dataclass(frozen=True)
class StoredTensor:
    """A tensor in a file: its dtype and shape, and a function that reads it."""

    path: Path  # of the file
    shape: tuple[int, ...]
    dtype: torch.dtype | str  # its name in the file, where torch has no such type
    # The first row and the rows of each piece, a multiple of so many rows; a piece is valid until the next is read.
    pieces: Callable[[int], Iterator[tuple[int, Tensor]]]


def in_memory(tensors: Mapping[str, Tensor], path: Path) -> dict[str, StoredTensor]:
    """Return tensors that were read from `path` already in the same form."""

    def whole(tensor: Tensor, multiple: int) -> Iterator[tuple[int, Tensor]]:
        yield 0, tensor

    return {name: StoredTensor(path, tuple(t.shape), t.dtype, partial(whole, t)) for name, t in tensors.items()}


def find_weights(folder: Path) -> Path:
    """Return the file with the weights, or the index of several.

    Raises CheckpointError if there is neither; it names a file in another format, and what to do with it.
    """
    for name in (WEIGHTS, INDEX):
        if (folder / name).is_file():
            return folder / name
    if not folder.is_dir():
        raise CheckpointError(
            f"there is no folder {folder}; name a folder, or a model of the Hugging Face hub as in: "
            "light-llm import OWNER/NAME"
        )
    found = sorted(path.name for path in folder.glob("*.safetensors") if path.name != ADAPTER)
    if shards := [name for name in found if SHARD.fullmatch(name)]:
        raise CheckpointError(f"{folder} has {shards[0]}, and no {INDEX}, which lists such files; {COMPLETE}")
    if found:
        raise CheckpointError(
            f"{folder} has no {WEIGHTS}, only {', '.join(found[:3])}; if {found[0]} is the whole model, rename it to "
            f"{WEIGHTS}"
        )
    for pattern, advice in _OTHER_FORMATS.items():
        if paths := sorted(folder.glob(pattern)):
            raise CheckpointError(f"{folder} has no {WEIGHTS}, only {paths[0].name}: {advice}")
    raise CheckpointError(f"{folder} has no {WEIGHTS}; {COMPLETE}")


def open_weights(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of model.safetensors, or of all files that an index names, by name. Raises CheckpointError."""
    if path.name == WEIGHTS:
        return _open_file(path)
    folder = path.parent
    tensors: dict[str, StoredTensor] = {}
    shards = _shards(path)
    for shard, expected in shards.items():
        if not (folder / shard).is_file():
            raise CheckpointError(
                f"{folder} lacks {shard}, one of the {len(shards):,} files of its weights; {COMPLETE}"
            )
        part = _open_file(folder / shard)
        if odd := sorted(expected ^ part.keys()):
            if other := next((file for file, names in shards.items() if file != shard and odd[0] in names), ""):
                wrong = f"holds {repr_short(odd[0])}, which the index has in {other}"
            else:
                wrong = f"and the index differ in {repr_short(odd[0])}"
            raise CheckpointError(f"{folder / shard} {wrong}; {COMPLETE}")
        tensors |= part
    return tensors


def _shards(index: Path) -> dict[str, set[str]]:
    """Return the files that an index names, with the names of the tensors in each. Raises CheckpointError."""
    shard_of = read_object(index).get("weight_map")
    if not isinstance(shard_of, dict) or not all(isinstance(shard, str) for shard in shard_of.values()):
        raise CheckpointError(f"{index} is damaged: it has no weight_map; {COMPLETE}")
    shards: dict[str, set[str]] = {}
    for name, shard in shard_of.items():
        # A name with folders in it could point anywhere on the disk.
        if Path(shard).name != shard or not shard.endswith(".safetensors"):
            raise CheckpointError(
                f"{index} names {repr_short(shard)}, which is not a safetensors file in that folder; {COMPLETE}"
            )
        shards.setdefault(shard, set()).add(name)
    return dict(sorted(shards.items()))


def _open_file(path: Path) -> dict[str, StoredTensor]:
    """Return the tensors of a safetensors file. Raises CheckpointError."""
    try:
        with open(path, "rb") as file:
            header = int.from_bytes(file.read(8), "little")
        # The library allocates what the header claims, so check the claim first.
        if header > MAX_HEADER:
            raise CheckpointError(f"{path} is damaged: its header claims {header:,} bytes; {COMPLETE}")
        tensors = {}
        with safetensors.safe_open(path, framework="pt") as weights:
            for name in weights.keys():  # noqa: SIM118
                piece = weights.get_slice(name)
                shape, stored = tuple(piece.get_shape()), piece.get_dtype()
                dtype = _DTYPES.get(stored, stored)
                tensors[name] = StoredTensor(path, shape, dtype, partial(_pieces, path, name, shape))
        return tensors
    except (OSError, ValueError, TypeError, KeyError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged or truncated ({error}); {COMPLETE}") from None


def _pieces(path: Path, name: str, shape: tuple[int, ...], multiple: int) -> Iterator[tuple[int, Tensor]]:
    """Read a tensor piece by piece, so that no second copy of it is needed. Raises CheckpointError."""
    try:
        if not shape:
            with safetensors.safe_open(path, framework="pt") as weights:
                yield 0, weights.get_tensor(name)
            return
        rows = multiple * max(1, PIECE // max(1, multiple * math.prod(shape[1:])))
        # The library maps the file into memory, where what was read stays until the file is closed.
        for start in range(0, shape[0], rows):
            with safetensors.safe_open(path, framework="pt") as weights:
                yield start, weights.get_slice(name)[start : start + rows]
    except (OSError, ValueError, RuntimeError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path}: {name} cannot be read ({error}); {COMPLETE}") from None
