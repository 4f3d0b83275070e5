"""On what a model is trained."""

from dataclasses import dataclass

from .validation import MAX_SEED, check_choice, check_range

DEFAULT_SOURCE = "shakespeare"


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The text, how it is cut into tokens, windows and splits, and the seed of the order it is read in."""

    data: str = DEFAULT_SOURCE  # the name of a source, or a path
    tokenizer: str = "gpt2"
    max_length: int = 512  # T, tokens of one training window: longer ones learn later to attend (docs/log.md)
    held_out: float = 0.1  # the last share of the characters, never trained on
    val_data: str | None = None  # another text to hold out instead
    text_field: str = "text"  # of JSONL and Parquet
    errors: str = "strict"  # bytes that are no UTF-8: strict refuses, replace counts and replaces
    seed: int = 1337  # of the order of the windows

    def __post_init__(self) -> None:
        check_range("max_length", self.max_length, low=1, integer=True)
        check_range("held_out", self.held_out, above=0.0, below=1.0)
        check_choice("errors", self.errors, ("strict", "replace"))
        check_range("seed", self.seed, low=0, high=MAX_SEED, integer=True)
