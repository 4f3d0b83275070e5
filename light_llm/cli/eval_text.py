"""`light-llm eval --text FILE...`: evaluate a model on any texts, and print or write the results."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Protocol

from ..atomic_io import atomic_write
from ..config import check_choice
from ..errors import DataError, as_flags
from ..json_io import canonical_json
from .args import file_to_write
from .output import new_table, number_column, print_rich
from .progress import counting, waiting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.table import Table

    from ..checkpoint import ModelFile
    from ..evaluate import TextEvaluation

DTYPES = ("float32", "bfloat16")
MAX_ROWS = 40  # of the table; --output has every text


class TextFlags(Protocol):
    """The flags of `eval` that apply to texts."""

    @property
    def device(self) -> str: ...
    @property
    def text(self) -> tuple[str, ...]: ...
    @property
    def context(self) -> int: ...
    @property
    def stride(self) -> int: ...
    @property
    def dtype(self) -> str: ...
    @property
    def text_field(self) -> str: ...
    @property
    def separator(self) -> str | None: ...
    @property
    def suffixes(self) -> str: ...
    @property
    def errors(self) -> str: ...
    @property
    def output(self) -> str: ...
    @property
    def offline(self) -> bool: ...


def evaluate_texts(checkpoint: str, flags: TextFlags) -> None:
    """Evaluate a model on the texts of --text, print the results, and write them to --output.

    Raises:
        CheckpointError, DataError: no such model or text.
        ConfigError: a context, stride, dtype or output file that cannot be used.
    """
    if flags.dtype:
        check_choice("dtype", flags.dtype, DTYPES)
    target = file_to_write("--output", flags.output)
    with waiting("loading the model"):
        from ..checkpoint import load_model
        from ..checkpoint.load import missing_tokenizer
        from ..evaluate import evaluate_text, use_bfloat16_weights
        from ..runtime import choose_device

        device = choose_device(flags.device).value
        if flags.dtype == "bfloat16":
            # In the number formats of the file, so that weights of 16 bits are never all in memory in float32.
            loaded = load_model(checkpoint, device, dtype=None)
            use_bfloat16_weights(loaded.model)
        else:
            loaded = load_model(checkpoint, device)
    if loaded.file.tokenizer is None:
        raise missing_tokenizer(loaded.file)
    dtype = flags.dtype or str(loaded.file.meta.get("dtype") or "float32")
    notes: list[str] = []
    try:
        with counting("evaluating") as progress:
            result = evaluate_text(
                loaded,
                *flags.text,
                context=flags.context or None,
                stride=flags.stride or None,
                dtype=dtype,
                text_field=flags.text_field,
                errors=flags.errors,
                separator=flags.separator,
                suffixes=flags.suffixes,
                offline=flags.offline,
                progress=progress,
                log=notes.append,
            )
    except DataError as error:
        raise DataError(_as_text_flag(error.message)) from None
    notes = [*(as_flags(_as_text_flag(note)) for note in notes), *result.notes, *_known_texts(loaded.file, result)]
    settings = f"{dtype} on {device}"
    if len(result.texts) > 1:
        print_rich(_table(result.texts), "")
    print("\n".join(_summary(loaded.file, result, settings)))
    for note in notes:
        print(f"note        {note}")
    if target:
        atomic_write(target, canonical_json(_report(loaded.file, result, dtype, device, notes)))
        print(f"written to {target}")


def _as_text_flag(message: str) -> str:
    """Return a message of the readers of texts, which name `--data`, with the flag of this command."""
    return message.replace("{--data", "{--text")


def _known_texts(file: ModelFile, result: TextEvaluation) -> list[str]:
    """Return a note for each text that the model was trained on: its loss says nothing about other texts."""
    trained_on = file.data.get("sha256")
    held_out = "; without --text, its held-out part is evaluated" if file.data.get("source") else ""
    return [
        f"{text.name} is the text that the model was trained on{held_out}"
        for text in result.texts
        if trained_on and text.sha256 == trained_on
    ]


def _table(texts: Sequence[TextEvaluation]) -> Table:
    """Return a table with a line for each text."""
    heads = ("loss", "±", "perplexity", "bits/byte", "±", "tokens", "bytes")
    table = new_table("text", *map(number_column, heads))
    for text in texts[:MAX_ROWS]:
        errors = [f"{e:.4f}" if e is not None else "" for e in (text.stderr, text.bits_per_byte_stderr)]
        numbers = [f"{text.loss:.4f}", errors[0], f"{text.perplexity:.2f}", f"{text.bits_per_byte:.4f}", errors[1]]
        table.add_row(text.name, *numbers, f"{text.tokens:,}", f"{text.bytes:,}")
    if len(texts) > MAX_ROWS:
        table.add_row(f"{len(texts) - MAX_ROWS:,} more: --output FILE writes all")
    return table


def _summary(file: ModelFile, result: TextEvaluation, settings: str) -> list[str]:
    """Return the lines of the result of all texts together."""
    name = f"{len(result.texts)} texts together" if len(result.texts) > 1 else result.name
    documents = f" in {result.documents:,} documents" if result.documents > len(result.texts) else ""
    first = "" if result.tokens == result.text_tokens else " (the first token of a document is only context)"
    stderr, of_bits = "", ""
    if result.stderr is not None:
        count = result.documents if result.stderr_over == "documents" else result.windows
        stderr = f" ± {result.stderr:.4f} nats per token (standard error over {count:,} {result.stderr_over})"
    if result.bits_per_byte_stderr is not None:
        of_bits = f" ± {result.bits_per_byte_stderr:.4f}"
    windows = f"{result.windows:,} window{'s' * (result.windows != 1)}"
    if result.stride < result.context:
        before = result.context - result.stride
        windows = f"stride {result.stride:,}, {windows}: each token has at least {before:,} before it, or all there are"
    else:
        windows = f"{windows} side by side" if result.windows > 1 else windows
    origin = "imported" if file.meta.get("imported") else f"step {file.meta.get('step')}"
    return [
        f"model       {file.path}, {origin}",
        f"text        {name}: {result.text_tokens:,} tokens, {result.text_bytes:,} bytes{documents}",
        f"counted     {result.tokens:,} tokens, {result.bytes:,} bytes{first}",
        f"loss        {result.loss:.4f}{stderr or ' nats per token'}",
        f"perplexity  {result.perplexity:.2f}",
        f"bits/byte   {result.bits_per_byte:.4f}{of_bits}",
        f"context     {result.context:,} tokens, {windows}; {settings}",
    ]


def _report(file: ModelFile, result: TextEvaluation, dtype: str, device: str, notes: list[str]) -> dict[str, Any]:
    """Return the content of --output: the results of each text and together, and the settings behind them."""
    from .. import __version__

    return {
        "model": file.path.name,
        "step": file.meta.get("step"),
        "context": result.context,
        "stride": result.stride,
        "dtype": dtype,
        "device": device,
        "together": _values(result),
        "texts": [_values(text) for text in result.texts],
        "notes": notes,
        "light_llm": __version__,
    }


def _values(result: TextEvaluation) -> dict[str, Any]:
    """Return an evaluation as values of JSON: null for a number that does not exist, or is infinite."""
    left_out = ("context", "stride", "by_position", "texts", "notes")
    values = {name: value for name, value in vars(result).items() if name not in left_out}
    values["perplexity"] = result.perplexity
    return {
        name: None if isinstance(value, float) and not math.isfinite(value) else value for name, value in values.items()
    }
