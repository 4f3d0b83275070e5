"""A large corpus, encoded in parts by processes that know nothing of each other, and joined at the end.

The files of a source are taken in the order of their paths and grouped (`plan_source`); each group becomes a shard
`FOLDER/<source>-<number>-<hash>/`, encoded by `encode_splits`. The grouping depends on the names and sizes of the files
alone, and a shard on its files, the tokenizer and the settings alone. Part k of n encodes each n-th shard from the k-th
on, so the shards are the same bytes for every n, on every machine and in every order, and so is the held-out text: the
end of each group, or the files of `val_data`.

A finished shard is skipped, an interrupted one continues, and two processes on the same shard wait for each other
(where the file system has locks; without, the later one's work is discarded). join_parts.py makes the corpus of them.
"""

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..atomic_io import atomic_write
from ..config import DataConfig
from ..errors import ConfigError, DataError
from ..json_io import canonical_json, dump_with_digest, load_verified
from ..runtime import expand_path, lock_folder, unlock
from .corpus import VOCABULARY, read_vocabulary, write_vocabulary
from .encode import encode_splits
from .piped_text import STDIN
from .resolve import read_splits
from .shards import Shard
from .sources import is_built_in, source_from_files
from .text_files import ReadOptions, TextFiles, find_text_files
from .text_stream import Chunk, ProgressFn
from .tokenizers import Tokenizer, make_tokenizer, tokenizer_hash

PLAN_FORMAT = 1
PLAN = "{}.parts.json"
MIN_SHARD_BYTES = 1 << 20  # of text, unless a file ends before
MAX_SHARDS = 512  # of many small files; a large file is a shard of its own
HELD_OUT = "-held-out"  # in the names of the shards of `val_data`
MAX_NAMED = 4  # shards or files in a message
LEARNED = ("bpe", "char")  # tokenizers that are made from the whole text
_SPLITS = {"both": ("train", "held_out"), "train": ("train",), "held_out": ("held_out",)}


@dataclass(frozen=True)
class Group:
    """The files of one shard."""

    name: str  # of the shard, without its hash: wiki-00003
    texts: TextFiles
    names: tuple[str, ...]  # of the files, relative to the folder of the text
    sizes: tuple[int, ...]  # bytes
    splits: tuple[str, ...]  # that the shard has

    @property
    def inputs(self) -> str:
        """The SHA-256 of the names and sizes of the files."""
        return hashlib.sha256(canonical_json({"names": self.names, "sizes": self.sizes})).hexdigest()


@dataclass(frozen=True)
class SourcePlan:
    """The shards of a source: a pure function of the names and sizes of its files, the tokenizer and the settings."""

    source: str
    groups: tuple[Group, ...]
    values: dict[str, Any]  # of the plan's file

    @property
    def sha256(self) -> str:
        """The SHA-256 of the plan, which every shard carries."""
        return hashlib.sha256(canonical_json(self.values)).hexdigest()


@dataclass(frozen=True)
class PartResult:
    """The work of one part."""

    shards: int  # of this part
    done_before: int
    tokens: int  # of all shards of this part, both splits
    n_bytes: int  # of their text


def fixed_tokenizer(spec: str, *, data: str, offline: bool = False) -> Tokenizer:
    """Return a tokenizer that does not depend on the text. Raises ConfigError for one that is made from it."""
    kind, _, size = spec.partition(":")
    if kind in LEARNED:
        train = f"light-llm tokenizer train --data {data} --out tokenizer.json"
        train = f"light-llm tokenizer train --data {data} --vocab-size {size} --out tokenizer.json" if size else train
        raise ConfigError(
            f"{{--tokenizer {spec}}} is made from the whole text, and a part has only some of it. Train one first: "
            f"{train}; then use {{--tokenizer tokenizer.json}} in every part (byte and gpt2 need no training)"
        )
    return make_tokenizer(spec, offline=offline)


def source_name(name: str, data: str) -> str:
    """Return the name of a source: as given, or from the file or folder of its text. Raises ConfigError."""
    chosen = name or re.sub(r"[^\w.-]+", "-", expand_path(data).absolute().name.partition(".")[0]).strip("-.") or "text"
    if not re.fullmatch(r"[\w-][\w.-]*", chosen) or chosen.endswith(HELD_OUT):
        raise ConfigError(
            f"{{--source {name}}} must consist of letters, digits, dots, dashes and underscores, and not end in "
            f"{HELD_OUT!r}"
        )
    return chosen


def plan_source(source: str, config: DataConfig, tokenizer: Tokenizer) -> SourcePlan:
    """Group the files of a text into shards. Raises DataError and ConfigError for a text that is no file or folder."""
    options = ReadOptions(config.text_field, config.errors, config.separator, config.suffixes)
    groups = list(_groups(source, config.data, options, "train" if config.val_data else "both"))
    if config.val_data:
        groups += _groups(f"{source}{HELD_OUT}", config.val_data, options, "held_out")
    settings = ("text_field", "errors", "separator", "suffixes")
    values = {
        "format": PLAN_FORMAT,
        "source": source,
        "tokenizer": tokenizer.name,
        "tokenizer_sha256": tokenizer_hash(tokenizer),
        "held_out": None if config.val_data else config.held_out,
        **{name: getattr(config, name) for name in settings},
        # The names of millions of files would be too much; sizes may change when a faulty file is repaired.
        "shards": [
            {
                "name": group.name,
                "files": len(group.names),
                "first": group.names[0],
                "names_sha256": hashlib.sha256("\0".join(group.names).encode()).hexdigest(),
                "splits": list(group.splits),
            }
            for group in groups
        ],
    }
    return SourcePlan(source, tuple(groups), values)


def encode_part(
    folder: Path,
    plan: SourcePlan,
    tokenizer: Tokenizer,
    k: int,
    n: int,
    progress: Callable[[str, int, int], object] | None = None,
) -> PartResult:
    """Encode the shards of part k of n (1 ... n) that are not finished.

    Args:
        folder: of the corpus; all parts of all its sources may use the same one, at the same time.
        progress: called with (stage, bytes done, bytes in total); the stages are reading and encoding.

    Raises:
        DataError: a file cannot be read; the folder has parts of other files, settings or another tokenizer.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = lock_folder(folder, wait=True)
    try:
        _agree_on_tokenizer(folder, tokenizer)
        _agree_on_plan(folder / PLAN.format(plan.source), plan)
    finally:
        unlock(lock)
    groups = plan.groups[k - 1 :: n]
    done = tokens = n_bytes = 0
    for group in groups:
        finished = _finished(folder, group)
        if finished is None:
            finished = _encode_group(folder, group, plan, tokenizer, progress)
        else:
            done += 1
        shards = [Shard(finished / f"{split}.bin") for split in group.splits]
        tokens += sum(len(shard) for shard in shards)
        n_bytes += shards[0].manifest["bytes"]
    return PartResult(len(groups), done, tokens, n_bytes)


def _groups(name: str, data: str, options: ReadOptions, splits: str) -> Iterator[Group]:
    """Yield the groups of the files of a text: neighbours, of at least the same bytes each but for the last one."""
    if data == STDIN or is_built_in(data) or "://" in data:
        raise ConfigError(f"{data!r} cannot be encoded in parts: name a file or a folder of files")
    path = expand_path(data)
    if not path.exists():
        raise DataError(f"there is no file or folder {path}; name the text whose parts are to be encoded")
    texts = find_text_files(path, options)
    files = [(file, file.stat().st_size) for file in texts.files]
    files = [(file, size) for file, size in files if size]
    if not files:
        raise DataError(f"{path} holds no text; name another file or folder")
    limit = shard_bytes(sum(size for _, size in files))
    groups, filled = list[list[tuple[Path, int]]](), limit
    for file, size in files:
        if filled >= limit or filled + size > 2 * limit:
            groups.append([])
            filled = 0
        groups[-1].append((file, size))
        filled += size
    for number, members in enumerate(groups):
        yield Group(
            f"{name}-{number:05d}",
            replace(texts, files=tuple(file for file, _ in members), hash_raw_bytes=False, others=(), skipped=()),
            tuple(file.relative_to(path).as_posix() if path.is_dir() else file.name for file, _ in members),
            tuple(size for _, size in members),
            _SPLITS[splits],
        )


def shard_bytes(total: int) -> int:
    """Return the bytes of text that a shard of several files has at least: a power of two, so that it is stable.

    >>> [shard_bytes(n) >> 20 for n in (1000, 500 << 20, 600 << 20, 100 << 30)]
    [1, 1, 2, 256]
    """
    limit = MIN_SHARD_BYTES
    while limit * MAX_SHARDS < total:
        limit *= 2
    return limit


def _encode_group(
    folder: Path,
    group: Group,
    plan: SourcePlan,
    tokenizer: Tokenizer,
    progress: Callable[[str, int, int], object] | None,
) -> Path:
    """Encode a group to its folder, which has its name when it is complete."""

    def stage(name: str) -> ProgressFn | None:
        return (lambda done, total: progress(name, done, total)) if progress else None

    source = source_from_files(group.name, group.name, group.texts.files[0], group.texts, stage("reading"))
    metadata = {
        "source_sha256": source.sha256,
        "tokenizer_sha256": plan.values["tokenizer_sha256"],
        "plan": plan.sha256,
        "inputs": group.inputs,
        "documents": source.documents,
        "characters": source.n_chars,
        "bytes": source.n_bytes,
        "replaced": source.replaced,
    }
    # A changed text must not continue the interrupted encoding of the old one, so the name has a hash of everything.
    key = hashlib.sha256(canonical_json(metadata)).hexdigest()[:8]
    path = folder / f"{group.name}-{key}"
    splits: Iterator[tuple[str, Iterator[Chunk]]]
    if len(group.splits) == 1:
        splits = iter([(group.splits[0], source.read(stage("encoding")))])
    else:
        splits = read_splits(source, plan.values["held_out"], stage("encoding"))
    try:
        # Separators always: what is one document here may be followed by another shard.
        encode_splits(path, splits, tokenizer, metadata=metadata, separators=True)
    except OSError:
        # Without locks, another process may have finished the same shard first.
        if not path.is_dir():
            raise
    return path


def _finished(folder: Path, group: Group) -> Path | None:
    """Return the folder of a group's shard if it is complete. Raises DataError if its files have changed since."""
    for path in shard_folders(folder, group.name):
        try:
            manifest = load_verified(path / f"{group.splits[0]}.json")
        except (OSError, ValueError) as error:
            raise DataError(f"{path} is damaged ({error}); {repair_of(path)}") from None
        if manifest.get("inputs") != group.inputs:
            files = f"{group.names[0]}{f' or one of {len(group.names) - 1} more' if len(group.names) > 1 else ''}"
            raise DataError(
                f"{path} was encoded from files of other sizes: {files} changed; delete {path} to encode it again"
            )
        return path
    return None


def shard_folders(folder: Path, name: str) -> list[Path]:
    """Return the finished folders of the shard with a name."""
    return sorted(p for p in folder.glob(f"{name}-*") if re.fullmatch(rf"{re.escape(name)}-[0-9a-f]{{8}}", p.name))


def _agree_on_tokenizer(folder: Path, tokenizer: Tokenizer) -> None:
    """Write the vocabulary of the corpus, or raise DataError if it has another one."""
    if not (folder / VOCABULARY).exists():
        write_vocabulary(folder, tokenizer)
    own = read_vocabulary(folder)
    if tokenizer_hash(own) != tokenizer_hash(tokenizer):
        raise DataError(
            f"{folder} has parts of another tokenizer ({own.name}, {own.vocab_size:,} ids; this one is "
            f"{tokenizer.name}, {tokenizer.vocab_size:,}): use the same in all parts, or another folder ({{--to}})"
        )


def _agree_on_plan(path: Path, plan: SourcePlan) -> None:
    """Write the plan of a source, or raise DataError if the folder has another one."""
    if not path.exists():
        atomic_write(path, dump_with_digest(plan.values))
    there = load_plan(path)
    if there == plan.values:
        return
    shards, own = there["shards"], plan.values["shards"]
    different = [name for name in plan.values if name != "shards" and there.get(name) != plan.values[name]]
    reasons = [f"{name} is {there.get(name)!r} there and {plan.values[name]!r} here" for name in different]
    if not reasons:
        at = next((i for i, (a, b) in enumerate(zip(shards, own, strict=False)) if a != b), min(len(shards), len(own)))
        where = f", from {own[at]['first']} on" if at < len(own) else ""
        n_there, n_here = (sum(shard["files"] for shard in side) for side in (shards, own))
        reasons = [f"it has {n_there:,} files in {len(shards)} shards there and {n_here:,} in {len(own)} here{where}"]
    raise DataError(
        f"{path} was made for another text or other settings: {', '.join(reasons)}; use the same files and settings in "
        "all parts, or another folder ({--to}) or name ({--source})"
    )


def load_plan(path: Path) -> dict[str, Any]:
    try:
        plan = load_verified(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be used: {error}; delete it, and start a part again") from None
    if plan.get("format") != PLAN_FORMAT:
        raise DataError(f"{path} is of another version of light-llm; encode the parts again")
    return plan


def repair_of(path: Path) -> str:
    """Return the advice about a damaged or wrong shard."""
    return f"delete {path} and run the parts again, which skips what is done"
