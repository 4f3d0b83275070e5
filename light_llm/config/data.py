"""The data of a run: its text, tokenizer, windows and splits."""

from dataclasses import dataclass

from .settings import check_settings, describe_settings, setting
from .validation import DEFAULT_SEED, MAX_SEED

DEFAULT_SOURCE = "shakespeare"


@describe_settings
@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """The text, how it is cut into tokens, windows and splits, and the seed of the order of the windows."""

    data: str = setting(
        DEFAULT_SOURCE,
        "text to train on: a file, a folder, a name such as shakespeare or tales, or - for standard input",
        short="file, folder, name; -: stdin",
        resume="by_hash",
        flag=True,
        metavar="NAME|PATH",
    )
    tokenizer: str = setting(
        "gpt2",
        "gpt2, bpe (trained on the text), bpe:N (with N tokens), char, byte, or a tokenizer.json",
        short="gpt2, bpe, bpe:N, char, byte, file",
        flag=True,
        metavar="NAME|PATH",
    )
    # T. Longer windows need more steps before attention pays off: at 500 steps 512 was best (docs/log.md).
    max_length: int = setting(
        512, "tokens in a training window (the context)", short="tokens in a training window", low=1, flag=True
    )
    held_out: float = setting(
        0.1,
        "share at the end of the text that is held out for evaluation",
        short="share of the text to evaluate on",
        above=0.0,
        below=1.0,
        flag=True,
    )
    val_data: str | None = setting(
        None,
        "text to evaluate on instead of the end of the text",
        short="evaluate on this text instead",
        resume="by_hash",
        flag=True,
        metavar="PATH",
    )
    text_field: str = setting(
        "text",
        "field of JSON, CSV or Parquet that holds the text; none reads such a file as plain text",
        short="field with the text (JSON, CSV ...)",
        flag=True,
    )
    separator: str | None = setting(
        None,
        "line between the documents of a text, such as <|endoftext|>; without it such lines are ordinary text",
        short="line between documents",
        flag=True,
        metavar="LINE",
    )
    suffixes: str = setting(
        "",
        "suffixes of the files to read in a folder, such as .py,.md; by default those of texts, JSON Lines or Parquet",
        short="files of a folder, such as .py,.md",
        flag=True,
        metavar="LIST",
    )
    # Bytes that are not UTF-8: strict refuses the text, replace counts and replaces them.
    errors: str = setting(
        "strict",
        "what to do with bytes that are not UTF-8: strict refuses the text, replace substitutes U+FFFD",
        short="invalid UTF-8",
        choices=("strict", "replace"),
        flag=True,
        metavar="WHAT",
    )
    order: int | None = setting(
        None,
        "order of the windows: 1 shuffles single windows, 2 shuffles chunks of 64 neighbours, for a corpus larger than "
        "memory, 3 shuffles chunks of 8 million tokens, for a corpus that is downloaded; by default 1 for a text, 2 "
        "for a corpus and 3 for one at a URL",
        low=1,
        high=3,
    )
    weights: str | None = setting(
        None, "share of each source of a corpus, such as wiki=0.7,code=0.3; by default those in its corpus.json"
    )
    seed: int = setting(
        DEFAULT_SEED, "seed of the order of the windows", short="seed: window order", low=0, high=MAX_SEED, flag=True
    )

    def __post_init__(self) -> None:
        check_settings(self)
