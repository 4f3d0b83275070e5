"""The data of a run: its text, tokenizer, windows and splits."""

from dataclasses import dataclass

from .settings import check_settings, setting
from .validation import DEFAULT_SEED, MAX_SEED

DEFAULT_SOURCE = "shakespeare"


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The text, how it is cut into tokens, windows and splits, and the seed of the order of the windows."""

    data: str = setting(DEFAULT_SOURCE, "source, file, folder, -", resume="by_hash", flag=True, metavar="NAME|PATH")
    tokenizer: str = setting("gpt2", "gpt2, bpe, bpe:N, char, byte", flag=True, metavar="NAME|PATH")
    # T. Longer windows need more steps before attention pays off: at 500 steps 512 was best (docs/log.md).
    max_length: int = setting(512, "tokens of a training window", low=1, flag=True)
    held_out: float = setting(0.1, "last share, not trained on", above=0.0, below=1.0, flag=True)
    val_data: str | None = setting(None, "hold out this text instead", resume="by_hash", flag=True, metavar="PATH")
    text_field: str = setting("text", "field of JSONL, Parquet", flag=True)
    # Bytes that are not UTF-8: strict refuses the text, replace counts and replaces them.
    errors: str = setting("strict", "bad bytes", choices=("strict", "replace"), flag=True, metavar="WHAT")
    seed: int = setting(DEFAULT_SEED, "window order", low=0, high=MAX_SEED, flag=True)

    def __post_init__(self) -> None:
        check_settings(self)
