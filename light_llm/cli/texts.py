"""The text a model was trained on, found again from what its file says."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import CheckpointError, DataError

if TYPE_CHECKING:
    from ..checkpoint import ModelFile
    from ..data import TokenDataset

_RECORDED = ("held_out", "val_data", "text_field", "errors")


def text_of(file: ModelFile, moved: str = "", max_length: int | None = None) -> TokenDataset:
    """The dataset of a model file, with the tokenizer and the split it was trained with.

    Args:
        moved: where the text is now, if it is no longer where it was.
        max_length: T of the windows; None: as in training.

    Raises:
        CheckpointError: the file does not say what it was trained on.
        DataError: the text is not to be had, or is another one.
    """
    from ..data import prepare_dataset

    data = file.data
    if file.tokenizer is None or not data:
        raise CheckpointError(f"{file.path} does not say what it was trained on, so there is no text to read")
    dataset, _ = prepare_dataset(
        moved or data["source"],
        max_length=max_length or data["max_length"],
        tokenizer=file.tokenizer,
        **{name: data[name] for name in _RECORDED if name in data},
    )
    if dataset.source.sha256 != data["sha256"]:
        raise DataError(
            f"{dataset.source.path} is not the text {file.path} was trained on (its SHA-256 differs); name the old "
            "text with --data"
        )
    return dataset
