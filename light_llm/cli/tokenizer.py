"""`light-llm tokenizer train|show|compare`: train a tokenizer, show the tokens of a text, compare tokenizers."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING, Annotated

from tyro.conf import UseAppendAction, arg

from ..config import DataConfig
from ..errors import ConfigError, DataError, as_flags
from ..text_format import print_wrapped
from .args import given_flags, parse_mode

if TYPE_CHECKING:
    from ..data import Source, Tokenizer

_D = DataConfig()


@dataclass(frozen=True)
class TokenizerFlags:
    """The flags of `tokenizer`."""

    data: Annotated[str, arg(metavar="NAME|PATH", help="text to train or compare on")] = _D.data
    text_field: Annotated[str, arg(metavar="NAME", help="text field of JSON, CSV, Parquet")] = _D.text_field
    separator: Annotated[str | None, arg(metavar="LINE", help="line between documents")] = _D.separator
    suffixes: Annotated[str, arg(metavar="LIST", help="files of a folder, such as .py,.md")] = _D.suffixes
    held_out: Annotated[float, arg(metavar="X", help="share that is not trained on")] = _D.held_out
    vocab_size: Annotated[int, arg(metavar="N", help="train: largest vocabulary")] = 4096
    out: Annotated[str, arg(metavar="FILE", help="train: file to write")] = "tokenizer.json"
    overwrite: Annotated[bool, arg(help="train: replace the file")] = False
    tokenizer: Annotated[
        UseAppendAction[tuple[str, ...]], arg(metavar="NAME|PATH", help="gpt2, bpe, char, byte; .json, .gguf, .model")
    ] = ()
    text: Annotated[str, arg(metavar="TEXT", help="show: the text to tokenize")] = ""
    offline: Annotated[bool, arg(help="download nothing")] = False


NO_EFFECT = {
    "train": {"tokenizer", "text"},
    "show": {"vocab_size", "out", "overwrite"},
    "compare": {"vocab_size", "out", "overwrite", "text"},
}


def command(argv: Sequence[str]) -> int:
    """Train, show or compare tokenizers, as the mode says."""
    about = (
        "train: train a byte-level BPE tokenizer on --data. show: print the tokens of --text. "
        "compare: compare several (--tokenizer A --tokenizer B) on --data."
    )
    mode, flags, given = parse_mode(TokenizerFlags, argv, command="tokenizer", about=about, no_effect=NO_EFFECT)
    {"train": train, "show": show_tokens, "compare": compare}[mode](flags, given)
    return 0


def train(flags: TokenizerFlags, given: set[str]) -> None:
    """Train a byte-level BPE on the training split of a text, and write it as `tokenizer.json`."""
    import json
    import shlex

    from ..atomic_io import atomic_write
    from ..data.bpe import train_bpe
    from ..data.resolve import training_texts
    from ..data.tokenizer_json import to_tokenizer_json
    from ..runtime import expand_path
    from .progress import preparing

    out = expand_path(flags.out)
    if out.exists() and not flags.overwrite:
        raise ConfigError(f"{out} already exists; name another file with --out, or replace it with --overwrite")
    source = _source(flags, given)
    with preparing(quiet=False) as show:
        tokenizer = train_bpe(training_texts(source, flags.held_out, partial(show, "learning")), flags.vocab_size)
    out.parent.mkdir(parents=True, exist_ok=True)
    atomic_write(out, json.dumps(to_tokenizer_json(tokenizer), ensure_ascii=False).encode())
    fewer = "" if tokenizer.vocab_size == flags.vocab_size else f" (not {flags.vocab_size:,}: the text is too short)"
    print(f"trained  on {source.title}: a vocabulary of {tokenizer.vocab_size:,} tokens{fewer}")
    size, (n,) = _counts([tokenizer], source, flags.held_out)
    print(f"measured {size / n:.2f} bytes per token on the held-out text")
    print(f"written  {out}")
    same = given_flags(flags, given, ("held_out", "text_field", "separator", "suffixes"))
    print(f"next     light-llm train --data {shlex.quote(source.name)}{same} --tokenizer {shlex.quote(str(out))}")


def show_tokens(flags: TokenizerFlags, given: set[str]) -> None:
    """Print the tokens of a text by each tokenizer: in alternating colours, or separated by bars without colours."""
    from rich.console import Console

    # A terminal would wait for a text without asking for one.
    text = flags.text if "text" in given else "" if sys.stdin.isatty() else sys.stdin.read()
    if not text:
        raise ConfigError('tokenizer show needs a text, as in: light-llm tokenizer show --text "Once upon a time"')
    console = Console(highlight=False, soft_wrap=True)
    for spec in flags.tokenizer or ("gpt2",):
        tokenizer = _tokenizer(spec, flags, given, text)
        ids = tokenizer.encode(text)
        # A command line may hold bytes that are not UTF-8.
        size = len(text.encode("utf-8", errors="replace"))
        console.print(_join_tokens(tokenizer, ids, in_color=console.is_terminal))
        print_wrapped(
            f"{spec}: {len(ids):,} tokens, {size:,} bytes, {size / max(1, len(ids)):.2f} bytes per token; "
            f"ids {' '.join(map(str, ids[:16]))}{' ...' if len(ids) > 16 else ''}",
            sys.stdout,
        )


def compare(flags: TokenizerFlags, given: set[str]) -> None:
    """Print bytes per token of several tokenizers on a held-out text, and the size of a micro model with each.

    A tokenizer whose file is missing is named, and the others are compared.

    Raises:
        DataError: none of them is available.
    """
    from ..config import ModelConfig, get_model_size
    from .output import new_table, number_column, print_rich

    source = _source(flags, given)
    tokenizers: dict[str, Tokenizer] = {}
    missing: list[DataError] = []
    for spec in flags.tokenizer or ("gpt2", "bpe", "char", "byte"):
        try:
            tokenizers[spec] = _tokenizer(spec, flags, given, "", source)
        except DataError as error:
            missing.append(error)
    if not tokenizers:
        raise missing[0]
    size, counts = _counts(list(tokenizers.values()), source, flags.held_out)
    table = new_table("tokenizer", *map(number_column, ("vocabulary", "bytes/token", "tokens", "micro, parameters")))
    for (spec, tokenizer), n in zip(tokenizers.items(), counts, strict=True):
        parameters = get_model_size(ModelConfig.micro(vocab_size=tokenizer.vocab_size))
        table.add_row(spec, f"{tokenizer.vocab_size:,}", f"{size / n:.2f}", f"{n:,}", f"{parameters:,}")
    print_rich(f"the held-out text of {source.title}", table)
    for problem in missing:
        print(f"missing  {as_flags(problem.message)}")


def _source(flags: TokenizerFlags, given: set[str]) -> Source:
    """Return the text of --data, and print notes on substitutes and skipped files."""
    from ..data.resolve import resolve_source

    source, notes = resolve_source(
        DataConfig(
            data=flags.data,
            text_field=flags.text_field,
            separator=flags.separator,
            suffixes=flags.suffixes,
            held_out=flags.held_out,
        ),
        chosen="data" in given,
        offline=flags.offline,
    )
    for note in notes:
        print_wrapped(f"note     {as_flags(note)}", sys.stdout)
    return source


def _tokenizer(spec: str, flags: TokenizerFlags, given: set[str], text: str, source: Source | None = None) -> Tokenizer:
    """Return a tokenizer: bpe is trained on --data or cached, char has the alphabet of --data or the text."""
    from ..data.resolve import cached_tokenizer, full_alphabet
    from ..data.tokenizers import make_tokenizer
    from ..interop.vocabulary_file import SUFFIXES, read_vocabulary_file
    from ..runtime import expand_path

    if spec.endswith(SUFFIXES):
        return read_vocabulary_file(expand_path(spec))
    if spec.partition(":")[0] == "bpe":
        return cached_tokenizer(spec, source or _source(flags, given), flags.held_out, offline=flags.offline)
    characters = full_alphabet(source) if source else "".join(sorted(set(text)))
    return make_tokenizer(spec, characters, offline=flags.offline)


def _counts(tokenizers: Sequence[Tokenizer], source: Source, held_out: float) -> tuple[int, list[int]]:
    """Return the bytes of the held-out text and its tokens by each tokenizer, in one pass."""
    from ..data.encode import join_documents
    from ..data.resolve import read_splits
    from ..data.text_stream import split_at_word_boundaries

    parts = read_splits(source, held_out)
    _, training = next(parts)
    if source.held_out is None:
        # The held-out split comes after the training split in the same file.
        for _ in training:
            pass
    size, counts = 0, [0] * len(tokenizers)
    chunks = next(parts)[1]
    at_words = all(tokenizer.cuts_at_words for tokenizer in tokenizers)
    for text in filter(None, split_at_word_boundaries(chunks) if at_words else join_documents(chunks)):
        size += len(text.encode())
        counts = [n + len(tokenizer.encode(text)) for n, tokenizer in zip(counts, tokenizers, strict=True)]
    return size, counts


def _join_tokens(tokenizer: Tokenizer, ids: Sequence[int], *, in_color: bool) -> object:
    """Return the tokens as text. Tokens that split a character are joined."""
    from rich.text import Text

    stream = tokenizer.stream()
    parts = [piece for piece in (*map(stream.push, ids), stream.close()) if piece]
    if not in_color:
        return Text("|".join(parts))
    styles = cycle(("black on cyan", "black on yellow", "black on magenta", "black on green"))
    return Text.assemble(*zip(parts, styles, strict=False))
