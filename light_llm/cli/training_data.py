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
        moved: where the text is now, if it is no longer where it was; any text for a model that came from elsewhere.
        max_length: T of the windows; None: as in training.

    Raises:
        CheckpointError: the file does not say what it was trained on.
        DataError: the text is not to be had, or is another one.
    """
    from ..data import prepare_dataset

    data = file.data
    source = str(data.get("source") or "")
    if file.tokenizer is None or not (source or moved):
        raise CheckpointError(
            f"{file.path} does not say what it was trained on, so there is no text to read"
            + ("; name one with --data" if file.tokenizer is not None else "")
        )
    dataset, _ = prepare_dataset(
        moved or source,
        max_length=max_length or int(data.get("max_length") or file.config.n_positions),
        tokenizer=file.tokenizer,
        **{name: data[name] for name in _RECORDED if name in data},
    )
    if source and dataset.source.sha256 != data["sha256"]:  # of a model from elsewhere, any text will do
        raise DataError(
            f"{dataset.source.path} is not the text {file.path} was trained on (its SHA-256 differs); name the old "
            "text with --data"
        )
    return dataset
