"""`light-llm prepare`: encode a text ahead of time, or check the cached token ids."""

from __future__ import annotations

import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import arg

from ..config import Run
from ..errors import as_flags
from ..text_format import format_bytes, format_duration
from .args import given_flags, given_settings, parse, with_run_settings
from .prepare_parts import EXAMPLES, check_flags, encode, join

if TYPE_CHECKING:
    from ..data import Source, TokenDataset

SETTINGS = ("data", "tokenizer", "held_out", "val_data", "text_field", "separator", "suffixes", "errors")


@dataclass(frozen=True)
class PrepareFlags:
    """The flags of `prepare`; the settings of the text are those of `train`."""

    verify: Annotated[bool, arg(help="also verify every cached byte")] = False
    offline: Annotated[bool, arg(help="download nothing")] = False
    quiet: Annotated[bool, arg(help="print nothing")] = False
    part: Annotated[str, arg(metavar="K/N", help="encode only the K-th of N parts")] = ""
    to: Annotated[str, arg(metavar="FOLDER", help="part: folder of the corpus")] = ""
    source: Annotated[str, arg(metavar="NAME", help="part: name in a mixture")] = ""
    join: Annotated[str, arg(metavar="FOLDER", help="make a corpus of its parts")] = ""
    weight: Annotated[str, arg(metavar="LIST", help="join: weights, web=0.7,books=0.3")] = ""


def command(argv: Sequence[str]) -> int:
    """Encode a text, and print how large it is and how it was encoded."""
    about = (
        "Encode a text ahead of time; `train` uses the result. If it is interrupted, run it again to continue.\n"
        "A large corpus is encoded in parts, on any number of machines: "
        f"light-llm prepare {EXAMPLES['part']}; then light-llm prepare --join corpus."
    )
    flags, given = parse(with_run_settings(PrepareFlags, SETTINGS), argv, prog="light-llm prepare", about=about)
    check_flags(given)
    from .progress import counting, load_torch, preparing

    load_torch(quiet=flags.quiet)
    if flags.join:
        join(flags)
        return 0
    from ..data import load_dataset

    # The length of the windows does not change the token ids, and 1 accepts the shortest text.
    data = Run().with_settings(**given_settings(flags, given), data__max_length=1).data
    if flags.part:
        encode(flags, data)
        return 0
    start, encoding_start = time.perf_counter(), list[float]()

    with preparing(quiet=flags.quiet) as show:
        # The speed is of encoding alone: reading and training a tokenizer come before it.
        def progress(stage: str, done: int, total: int) -> None:
            if stage == "encoding" and not encoding_start:
                encoding_start.append(time.perf_counter())
            show(stage, done, total)

        chosen = {"data", "tokenizer"} & given
        dataset = load_dataset(data, chosen=chosen, offline=flags.offline, progress=progress)
    end = time.perf_counter()
    encoding_seconds = end - encoding_start[0] if encoding_start else None
    lines = [*_text_lines(dataset), _time_line(dataset, end - start, encoding_seconds)]
    if flags.verify:
        with counting("checking", quiet=flags.quiet) as show_blocks:
            blocks = dataset.check(show_blocks)
        lines.append(f"checked  {blocks:,} block{'s' * (blocks != 1)} of up to 1 MiB: every byte is as it was written")
    else:
        # Standard input cannot be read again; its saved copy can.
        text = "" if dataset.source.name == data.data else f" --data {shlex.quote(dataset.source.name)}"
        same = given_flags(flags, given, [name for name in SETTINGS if name != "data" or not text])
        lines.append(f"next     light-llm train{text}{same}")
    if not flags.quiet:
        print("\n".join(lines))
    return 0


def _text_lines(dataset: TokenDataset) -> list[str]:
    """Return lines on the text, its tokens and the folder of the cached ids."""
    source, tokenizer = dataset.source, dataset.tokenizer
    tokens = len(dataset.tokens) + len(dataset.held_out)
    lines = [f"note     {as_flags(note)}" for note in dataset.notes]
    lines.append(f"text     {source.title}: {_amount(source)}")
    if source.held_out:
        lines.append(f"         {source.held_out.title}: {_amount(source.held_out)}, held out")
    if source.replaced:
        lines.append(f"         {source.replaced:,} bytes that are not UTF-8 were replaced")
    lines.append(
        f"tokens   {len(dataset.tokens):,} training, {len(dataset.held_out):,} held out "
        f"({tokenizer.name}, vocabulary {tokenizer.vocab_size:,}, {_size(source) / tokens:.2f} bytes per token)"
    )
    return [*lines, f"cached   {dataset.folder}"]


def _time_line(dataset: TokenDataset, seconds: float, encoding_seconds: float | None) -> str:
    """Return the line with the duration and the speed of encoding; `encoding_seconds` is None for cached ids."""
    from ..runtime import usable_cores

    if encoding_seconds is None:
        return f"took     {format_duration(seconds)}: it was cached already"
    speed = format_bytes(_size(dataset.source) / max(encoding_seconds, 1e-9))
    cores = usable_cores()
    return f"took     {format_duration(seconds)}; encoded at {speed}/s on {cores} core{'s' * (cores != 1)}"


def _amount(source: Source) -> str:
    """Return the bytes and documents of one text."""
    return f"{source.n_bytes:,} bytes, {source.documents:,} document{'s' * (source.documents > 1)}"


def _size(source: Source) -> int:
    """Return the bytes of the text, a separate held-out text included."""
    return source.n_bytes + (source.held_out.n_bytes if source.held_out else 0)
