"""`light-llm prepare`: encode a text ahead of time, or check what is kept of it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import arg

from ..config import DataConfig
from ..text_format import format_bytes, format_duration
from .args import parse

_D = DataConfig()


@dataclass(frozen=True)
class PrepareFlags:
    """The flags of `prepare`; those of the text are the ones of `train`."""

    data: Annotated[str, arg(metavar="NAME|PATH", help="a source, file, folder, -")] = _D.data
    val_data: Annotated[str, arg(metavar="PATH", help="hold out this text instead")] = ""
    held_out: Annotated[float, arg(metavar="X", help="share not trained on")] = _D.held_out
    text_field: Annotated[str, arg(metavar="NAME", help="of JSONL and Parquet")] = _D.text_field
    errors: Annotated[str, arg(metavar="WHAT", help="bad bytes: strict, replace")] = _D.errors
    tokenizer: Annotated[str, arg(metavar="NAME|PATH", help="gpt2, bpe, bpe:N, char, byte")] = _D.tokenizer
    verify: Annotated[bool, arg(help="check every byte that is kept")] = False
    offline: Annotated[bool, arg(help="download nothing")] = False
    quiet: Annotated[bool, arg(help="print nothing")] = False


def command(argv: Sequence[str]) -> int:
    """Run the verb. Returns the exit code."""
    about = "Encode a text ahead of time. An interrupted preparation goes on where it was; training finds the result."
    flags, given = parse(PrepareFlags, argv, prog="light-llm prepare", about=about)
    _prepare(flags, given)
    return 0


def _prepare(flags: PrepareFlags, given: set[str]) -> None:
    import shlex
    import time

    from ..data import prepare_dataset
    from ..runtime import usable_cores
    from .progress import counting, preparing

    start, encoding = time.perf_counter(), 0.0
    with preparing(quiet=flags.quiet) as show:

        def progress(what: str, done: int, total: int) -> None:
            nonlocal encoding
            if what == "encoding" and not encoding:
                encoding = time.perf_counter()
            show(what, done, total)

        dataset, tokenizer = prepare_dataset(
            flags.data if "data" in given else None,
            max_length=1,
            tokenizer=flags.tokenizer if "tokenizer" in given else None,
            held_out=flags.held_out,
            val_data=flags.val_data or None,
            text_field=flags.text_field,
            errors=flags.errors,
            offline=flags.offline,
            progress=progress,
        )
    end = time.perf_counter()
    source, n = dataset.source, len(dataset.tokens) + len(dataset.held_out)
    size = source.n_bytes + (source.held_out.n_bytes if source.held_out else 0)
    lines = [f"note     {note}" for note in dataset.notes]
    lines.append(
        f"text     {source.title}: {size:,} bytes, {source.documents:,} document{'s' * (source.documents > 1)}"
    )
    if source.replaced:
        lines.append(f"         {source.replaced:,} bytes that are no UTF-8 were replaced")
    lines.append(
        f"tokens   {len(dataset.tokens):,} training, {len(dataset.held_out):,} held out "
        f"({tokenizer.name}, {tokenizer.vocab_size:,} ids, {size / n:.2f} bytes per token)"
    )
    lines.append(f"kept     {dataset.folder}")
    if encoding:
        speed = size / max(end - encoding, 1e-9)
        lines.append(
            f"took     {format_duration(end - start)}; encoded at {format_bytes(speed)}/s on {usable_cores()} cores"
        )
    else:
        lines.append(f"took     {format_duration(end - start)}: it was there already")
    if flags.verify:
        with counting("checking") as shown:
            blocks = dataset.check(shown if not flags.quiet else None)
        lines.append(f"checked  {blocks:,} blocks of up to 1 MiB: every byte is as it was written")
    else:
        same = given & {"data", "val_data", "held_out", "text_field", "errors", "tokenizer"}
        again = (f" --{name.replace('_', '-')} {shlex.quote(str(getattr(flags, name)))}" for name in sorted(same))
        lines.append(f"next     python train.py{''.join(again)}")
    if not flags.quiet:
        print("\n".join(lines))
