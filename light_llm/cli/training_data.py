"""Find the text that a model was trained on, from what its file records."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..config import DataConfig
from ..errors import CheckpointError, DataError

if TYPE_CHECKING:
    from ..checkpoint import ModelFile
    from ..data import TokenDataset


def open_training_data(file: ModelFile, moved: str = "", max_length: int | None = None) -> TokenDataset:
    """Return the dataset of a model file, with the tokenizer and the split that it was trained with.

    Args:
        moved: the new path of the text, if it was moved; any text for an imported model.
        max_length: T of the windows; None: as in training.

    Raises:
        CheckpointError: the file does not record its training text or its tokenizer.
        DataError: the text is missing, or is a different one.
    """
    from ..data import load_dataset

    data = file.data
    source = str(data.get("source") or "")
    if file.tokenizer is None or not (source or moved):
        hint = "; name one with --data" if file.tokenizer is not None else ""
        raise CheckpointError(f"{file.path} does not say what it was trained on, so there is no text to read{hint}")
    config = DataConfig(
        data=moved or source,
        max_length=max_length or int(data.get("max_length") or file.config.n_positions),
        **{name: data[name] for name in ("held_out", "val_data", "text_field", "errors") if name in data},
    )
    dataset = load_dataset(config, tokenizer=file.tokenizer)
    # An imported model records no text, so that any text will do.
    if source and dataset.source.sha256 != data["sha256"]:
        raise DataError(
            f"{dataset.source.path} is not the text {file.path} was trained on (its SHA-256 differs); name the old "
            "text with --data"
        )
    return dataset
