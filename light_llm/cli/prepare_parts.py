"""`light-llm prepare --part k/n --to FOLDER` and `--join FOLDER`: encode a large corpus in parts, and join them."""

from __future__ import annotations

import re
import shlex
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

from ..config import DataConfig
from ..errors import ConfigError
from ..text_format import format_bytes, format_duration

OF_PARTS = ("to", "source")
OF_JOIN = ("weight",)


def check_flags(given: Collection[str]) -> None:
    """Raise ConfigError for flags that do not belong together."""
    if {"part", "join"} <= set(given):
        raise ConfigError("--part encodes one part and --join ends a corpus whose parts are all done; use one of them")
    for name, owner in [*((n, "part") for n in OF_PARTS), *((n, "join") for n in OF_JOIN)]:
        if name in given and owner not in given:
            raise ConfigError(f"--{name} belongs to --{owner}, as in: light-llm prepare {EXAMPLES[owner]}")
    if "part" in given:
        for name in ("to", "tokenizer", "data"):
            if name not in given:
                raise ConfigError(f"--part needs --{name} too, as in: light-llm prepare {EXAMPLES['part']}")
        if "verify" in given:
            raise ConfigError("--verify has no effect on a part; --join verifies every byte of all parts")
    if "join" in given and (others := sorted(set(given) - {"join", "weight", "quiet", "verify"})):
        flag = others[0].replace("_", "-")
        raise ConfigError(f"--{flag} has no effect on --join: the parts are encoded already; leave it out")


EXAMPLES = {
    "part": "--data texts --tokenizer tokenizer.json --part 1/8 --to corpus",
    "join": "--join corpus --weight web=0.7,books=0.3",
}


def read_part(text: str) -> tuple[int, int]:
    """Return k and n of `k/n`. Raises ConfigError.

    >>> read_part("3/8")
    (3, 8)
    """
    match = re.fullmatch(r"(\d+)/(\d+)", text.strip())
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise ConfigError(f"--part {text} cannot be read; write the k-th of n parts as 1/8, 2/8, ... 8/8")
    return int(match[1]), int(match[2])


def encode(flags: Any, config: DataConfig) -> None:
    """Encode one part, and print what it was."""
    from ..data import parts
    from ..runtime import cache_in_use, expand_path
    from .progress import preparing

    k, n = read_part(flags.part)
    folder, start = expand_path(flags.to), time.perf_counter()
    tokenizer = parts.fixed_tokenizer(config.tokenizer, data=shlex.quote(config.data), offline=flags.offline)
    plan = parts.plan_source(parts.source_name(flags.source, config.data), config, tokenizer)
    with cache_in_use(), preparing(quiet=flags.quiet) as show:
        result = parts.encode_part(folder, plan, tokenizer, k, n, show)
    if flags.quiet:
        return
    total, seconds = len(plan.groups), time.perf_counter() - start
    lines = [
        f"part     {k} of {n}: {result.shards} of {total} shard{'s' * (total != 1)} of {plan.source}, "
        f"{format_bytes(result.n_bytes)} of text"
        + (f"; {result.done_before} of them were done before" if result.done_before else ""),
        f"tokens   {result.tokens:,} ({tokenizer.name}, vocabulary {tokenizer.vocab_size:,})",
        f"to       {folder}",
        f"took     {format_duration(seconds)}",
    ]
    if total < n:
        lines.append(
            f"note     {total} shard{'s are' if total > 1 else ' is'} less than {n} parts, so some have nothing to do: "
            "a file is never divided. Split a large one, for example with: split -n l/16"
        )
    print("\n".join([*lines, f"next     when all parts are done: light-llm prepare --join {shlex.quote(flags.to)}"]))


def join(flags: Any) -> None:
    """Check all parts of a corpus, and write its corpus.json."""
    from ..data import corpus, join_parts
    from ..runtime import expand_path
    from .progress import counting

    folder, start = expand_path(flags.join), time.perf_counter()
    if not folder.is_dir():
        raise ConfigError(f"there is no folder {folder}; name the one that the parts were written to with --to")
    with counting("checking", quiet=flags.quiet) as show:
        sources, tokenizer = join_parts.join_parts(folder, show)
    if flags.weight:
        weights = corpus.parse_weights(flags.weight, [source.name for source in sources])
        sources = join_parts.with_weights(sources, weights)
    corpus.write_corpus(folder, sources, tokenizer)
    if flags.quiet:
        return
    total = sum(source.weight for source in sources)
    lines = [
        f"source   {source.name}: {source.n_train:,} training tokens, {source.n_held_out:,} held out, "
        f"{len(source.train)} shard{'s' * (len(source.train) != 1)}, weight {source.weight / total:.3g}"
        for source in sources
    ]
    lines += [
        f"checked  every byte, in {format_duration(time.perf_counter() - start)}",
        f"written  {Path(folder, corpus.CORPUS)}",
        f"next     light-llm train --data {shlex.quote(flags.join)}",
    ]
    print("\n".join(lines))
