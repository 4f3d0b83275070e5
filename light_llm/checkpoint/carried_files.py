"""The files that travel with a published model, byte for byte: tokenizer, settings for generation, chat template."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from ..errors import CheckpointError
from ..json_io import TOKENIZER, read_bounded

TOKENIZER_JSON = "tokenizer.json"
CARRIED_FILES = (
    TOKENIZER_JSON,
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
    "generation_config.json",
    "chat_template.jinja",
    "chat_template.json",
)
MAX_FILE = TOKENIZER.bytes


def read_carried_files(folder: Path, names: Iterable[str] = CARRIED_FILES) -> dict[str, bytes]:
    """Return the files that a folder has of those that travel with a model, by name.

    Raises:
        CheckpointError: a file cannot be read, or is too large.
    """
    files = {}
    for name in CARRIED_FILES:
        if name in names and (folder / name).exists():
            try:
                files[name] = read_bounded(folder / name, TOKENIZER)
            except (OSError, ValueError) as error:
                raise CheckpointError(f"{folder / name} cannot be read: {error}; use another copy") from None
    return files


def check_carried_files(files: Mapping[str, bytes]) -> None:
    """Raise ValueError for a file that could not be read again: another name, or too large."""
    for name, data in files.items():
        if name not in CARRIED_FILES or len(data) > MAX_FILE:
            raise ValueError(f"{name!r}, {len(data):,} bytes, is not a file that travels with a model")
