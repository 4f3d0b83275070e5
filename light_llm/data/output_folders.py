"""Recognize what light-llm writes into a folder of texts: runs, exports, the cache. None of it is part of a text.

Otherwise a run in the folder of its text would change the text, and could not be resumed.
"""

import re
from collections.abc import Collection
from pathlib import Path

from ..runtime import cache_dir

RUN = "a run"
RUN_TEXTS = ("metrics.jsonl",)  # files of a run whose names end like those of a text
RUN_FILES = (*RUN_TEXTS, "best_model.pt", "best_step.json", "run.json", "train.log", "report.html", "analysis.json")
_RUN_MARKS = {"run.json", "best_model.pt", ".previous-run"}
STEP_FOLDER = re.compile(r"step-\d{6,}")
_CACHE_FOLDERS = {"scans", "shards"}  # every cache has both after its first text
_CARD_START = b"---\nlicense: "
_HASH_ROW = re.compile(rb"^\| `[^`]+` \| `[0-9a-f]{64}` \|$", re.MULTILINE)


def output_kind(folder: Path, folders: Collection[str], names: Collection[str]) -> str:
    """Return what light-llm, or a tracker of its runs, wrote into a folder with these entries; "" for anything else.

    >>> output_kind(Path("a"), ["step-000500"], []), output_kind(Path("b"), [], ["config.json", "model.safetensors"])
    ('a run', 'a model')
    """
    entries = {*folders, *names}
    if entries & _RUN_MARKS or any(STEP_FOLDER.fullmatch(name) for name in folders):
        return RUN
    if "config.json" in entries and any(name.endswith(".safetensors") for name in names):
        return "a model"
    if any(name.endswith(".onnx") for name in names) or is_model_card(folder / "README.md"):
        return "an export"
    if entries >= _CACHE_FOLDERS or folder.absolute() == cache_dir().absolute():
        return "the cache"
    return "of Weights & Biases" if folder.name == "wandb" else ""


def is_model_card(path: Path) -> bool:
    """Return whether a file is the README.md of an export: it has front matter and lists its files with SHA-256."""
    if path.name != "README.md" or not path.is_file():
        return False
    with path.open("rb") as file:
        text = file.read(1 << 16)
    return text.startswith(_CARD_START) and b"light-llm" in text and bool(_HASH_ROW.search(text))
