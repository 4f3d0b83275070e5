"""Open the text that a model was trained on, and evaluate the model on its held-out part: `eval`, `generate eval`."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from ..config import DataConfig
from ..errors import CheckpointError, DataError
from .progress import counting, waiting

if TYPE_CHECKING:
    from ..checkpoint import ModelFile
    from ..data import TokenDataset
    from ..evaluate import LimitDistance

READ_SETTINGS = ("text_field", "errors", "separator", "suffixes")  # that decide what is read from a text


def open_training_data(file: ModelFile, moved: str = "", max_length: int | None = None) -> TokenDataset:
    """Return the dataset of a model file, with the tokenizer and the split that it was trained with.

    Args:
        moved: the new path of the text or of its held-out text, if it was moved; any text for an imported model.
        max_length: T of the windows; None: as in training.

    Raises:
        CheckpointError: the file does not record its training text or its tokenizer.
        DataError: the text is missing, or is a different one.
    """
    from ..checkpoint.load import missing_tokenizer
    from ..data import load_dataset

    data = file.data
    source = str(data.get("source") or "")
    if file.tokenizer is None:
        raise missing_tokenizer(file)
    if not (source or moved):
        raise CheckpointError(f"{file.path} does not record its text; name one with --data PATH")
    settings: dict[str, Any] = {name: data[name] for name in ("held_out", "val_data", *READ_SETTINGS) if name in data}
    is_held_out = bool(moved) and _is_held_out_text(moved, data)
    paths = {"data": source, "val_data": moved} if is_held_out else {"data": moved or source}
    config = DataConfig(max_length=max_length or file.training_window, **(settings | paths))
    try:
        dataset = load_dataset(config, tokenizer=file.tokenizer)
    except DataError as error:
        hint = "" if moved else f"; if the text that {file.path} was trained on was moved, use --data PATH"
        if is_held_out:
            use = f"light-llm eval {shlex.quote(str(file.path))} --text {shlex.quote(moved)}"
            hint = f". To evaluate on {moved} without the training text: {use}"
        raise DataError(f"{error.message.rstrip('.')}{hint}") from None
    # An imported model records no text, so that any text will do.
    if source and dataset.source.sha256 != data["sha256"]:
        raise DataError(
            f"{dataset.source.name} is not the text that {file.path} was trained on (its SHA-256 differs). eval and "
            f"analyze read that text, {source}: leave out --data, or give its new path. To measure the model on "
            f"another text: light-llm eval {shlex.quote(str(file.path))} --text {shlex.quote(moved or 'FILE')}"
        )
    return dataset


def _is_held_out_text(path: str, data: Mapping[str, Any]) -> bool:
    """Return whether a path is that of the text that was held out with --val-data, according to the record."""
    from ..data.sources import find_source

    if not data.get("held_out_sha256"):
        return False
    source = find_source(path, **{name: data[name] for name in READ_SETTINGS if name in data})
    return source.sha256 == data["held_out_sha256"]


def evaluate_held_out(checkpoint: str, device_name: str, moved: str) -> None:
    """Print loss, perplexity and bits per byte on the held-out text of a model.

    Args:
        moved: the new path of the text, if it was moved.

    Raises:
        CheckpointError, DataError: no such model; its text is missing or is a different one.
    """
    import numpy as np

    with waiting("loading the model"):
        from .. import evaluate
        from ..checkpoint import load_model
        from ..data.tokenizers import byte_lengths
        from ..runtime import choose_device

        device = choose_device(device_name).value
        loaded = load_model(checkpoint, device)
    if loaded.file.tokenizer is not None and not (moved or loaded.file.data.get("source")):
        use = f"light-llm eval {shlex.quote(checkpoint)} --text FILE"
        raise CheckpointError(f"{loaded.file.path} does not record its text; name one: {use}")
    dataset = open_training_data(loaded.file, moved)
    text, trained_on = dataset.source.held_out, loaded.file.data
    if text and trained_on.get("source") and text.sha256 != trained_on.get("held_out_sha256"):
        raise DataError(
            f"{text.path} is not the text that was held out when {loaded.file.path} was trained (its SHA-256 differs); "
            "restore that file, or give its new path with --data"
        )
    # As in training, so that the loss is the one that training printed.
    dtype = loaded.file.meta.get("dtype", "float32")
    with counting("evaluating") as progress:
        evaluation, distance = evaluate.evaluate_held_out(
            loaded.model,
            dataset,
            np.array(byte_lengths(dataset.tokenizer)),
            context=dataset.max_length,
            dtype=dtype,
            progress=progress,
        )
        by_source = {
            name: evaluate.evaluate_loss(
                loaded.model,
                tokens,
                np.array(byte_lengths(dataset.tokenizer)),
                context=dataset.max_length,
                dtype=dtype,
            )
            for name, tokens in (dataset.held_out_by_source() if len(dataset.sources) > 1 else {}).items()
        }
    title = text.title if text else f"the held-out part of {dataset.source.title}"
    stderr = f" ± {evaluation.stderr:.3f}" if evaluation.stderr is not None else ""
    lines = [
        f"model       {loaded.file.path}, step {loaded.file.meta.get('step')}",
        f"text        {title}: {evaluation.tokens:,} targets, {evaluation.bytes:,} bytes",
        f"loss        {evaluation.loss:.4f}{stderr} nats per token",
        f"perplexity  {evaluation.perplexity:.2f}",
        f"bits/byte   {evaluation.bits_per_byte:.4f}",
        *(_distance_lines(distance) if distance else []),
        *(
            f"{name:<11} loss {part.loss:.4f}, {part.bits_per_byte:.4f} bits/byte, {part.tokens:,} targets"
            for name, part in by_source.items()
        ),
        f"context     {evaluation.context:,} tokens, {evaluation.windows} windows, each without earlier context; "
        f"{dtype} on {device}",
    ]
    print("\n".join(lines))


def _distance_lines(distance: LimitDistance) -> list[str]:
    """Return the distance from the entropy of the built-in corpus, whose true probabilities are known."""
    places = (("inside one window", distance.in_whole), ("cut by a window's edge", distance.in_cut))
    by_place = "; ".join(f"{value:.4f} in stories {place}" for place, value in places if value is not None)
    kinds = [f"{kind} {value:.4f}" for kind, value in distance.by_kind]
    return [
        f"limit       {distance.limit:.4f} bits/byte: the entropy of this text; no model can do better on average",
        f"distance    {distance.distance:.4f} bits/byte: {by_place}",
        f"hardest     story types: {', '.join(kinds[:3])}",
        f"easiest     story types: {', '.join(kinds[-2:])}",
    ]
