"""Join the parts of a corpus: every shard must be there once, undamaged, of one tokenizer; then make its sources."""

import hashlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..errors import DataError
from ..json_io import canonical_json
from ..runtime import usable_cores
from .corpus import VOCABULARY, CorpusSource, describe_shard, read_vocabulary
from .parts import PLAN, load_plan, repair_of, shard_folders
from .shards import Shard
from .text_stream import ProgressFn
from .tokenizers import Tokenizer, tokenizer_hash

MAX_NAMED = 4  # shards in a message


def join_parts(folder: Path, progress: ProgressFn | None = None) -> tuple[list[CorpusSource], Tokenizer]:
    """Check that the parts in a folder are complete, and return the sources that they make, weighted by their tokens.

    Every byte is verified, on all cores. The order of the sources and of their shards is that of their names.

    Args:
        progress: called with (shards verified, shards in all).

    Raises:
        DataError: a shard is missing, damaged, encoded twice or by another plan; the same text is in two shards.
    """
    plans = [load_plan(path) for path in sorted(folder.glob(PLAN.format("*")))]
    if not plans:
        raise DataError(
            f"{folder} has no parts of a corpus; make them with: light-llm prepare --data TEXTS --tokenizer FILE "
            f"--part 1/4 --to {folder}"
        )
    tokenizer = read_vocabulary(folder)
    shards = _find_shards(folder, plans)
    _verify(shards, tokenizer, progress)
    _check_no_duplicates(shards)
    n_train = sum(shard.facts["tokens"] for shard in shards if shard.split == "train")
    return [_joined_source(folder, plan, shards, n_train) for plan in plans], tokenizer


@dataclass(frozen=True)
class _Found:
    """A file of ids of a part."""

    source: str
    path: Path  # of the shard's folder
    split: str
    facts: dict[str, Any]  # of its manifest, without the hashes of the blocks

    def open(self) -> Shard:
        """Open the shard; thousands cannot be open at the same time."""
        return Shard(self.path / f"{self.split}.bin", {"split": self.split}, repair=repair_of(self.path))


def _joined_source(folder: Path, plan: dict[str, Any], shards: Sequence[_Found], n_train: int) -> CorpusSource:
    """Return the source of a plan, with its share of all training tokens as its weight."""
    own = [shard for shard in shards if shard.source == plan["source"]]
    train, held_out = (
        tuple(describe_shard(folder, f"{shard.path.name}/{split}.bin") for shard in own if shard.split == split)
        for split in ("train", "held_out")
    )
    # Both splits of a shard carry the facts about its whole text.
    texts = list({shard.path: shard.facts for shard in own}.values())
    return CorpusSource(
        name=plan["source"],
        weight=round(sum(entry.tokens for entry in train) / max(1, n_train), 6),
        tokenizer_sha256=plan["tokenizer_sha256"],
        train=train,
        held_out=held_out,
        documents=sum(text["documents"] for text in texts),
        characters=sum(text["characters"] for text in texts),
        bytes=sum(text["bytes"] for text in texts),
        replaced=sum(text["replaced"] for text in texts),
    )


def _find_shards(folder: Path, plans: Sequence[dict[str, Any]]) -> list[_Found]:
    """Return the files of ids of all plans. Raises DataError for missing shards and for those that are there twice."""
    shards, missing, twice, problems = list[_Found](), list[str](), list[str](), list[str]()
    for plan in plans:
        sha256 = hashlib.sha256(canonical_json(plan)).hexdigest()
        for entry in plan["shards"]:
            folders = shard_folders(folder, entry["name"])
            if len(folders) > 1:
                twice.append(" and ".join(path.name for path in folders))
            if not folders:
                missing.append(f"{entry['name']} (from {entry['first']})")
            for path, split in ((path, split) for path in folders[:1] for split in entry["splits"]):
                found = _Found(plan["source"], path, split, {})
                try:
                    found.facts.update(found.open().manifest, sha256=None)
                except DataError as error:
                    problems.append(error.message)
                    continue
                if found.facts.get("plan") != sha256:
                    problems.append(f"{path} was encoded from other files or with other settings; {repair_of(path)}")
                shards.append(found)
    total = sum(len(plan["shards"]) for plan in plans)
    if missing:
        problems.insert(
            0,
            f"{len(missing)} of the {total} shards of {folder} are missing: {_named(missing)}; run their parts again, "
            "which skips what is done",
        )
    if twice:
        problems.append(
            f"the files of a shard changed between two parts: {folder} has {_named(twice)}; delete the older ones"
        )
    if problems:
        more = f" ({len(problems) - 1} more problems)" if len(problems) > 1 else ""
        raise DataError(problems[0] + more)
    return shards


def _verify(shards: Sequence[_Found], tokenizer: Tokenizer, progress: ProgressFn | None) -> None:
    """Verify every byte, on all cores. Raises DataError for damage and for shards of another tokenizer."""
    own = tokenizer_hash(tokenizer)
    for shard in shards:
        if shard.facts["tokenizer_sha256"] != own:
            raise DataError(
                f"{shard.path} was encoded with another tokenizer than {VOCABULARY}; {repair_of(shard.path)}"
            )
    with ThreadPoolExecutor(usable_cores()) as pool:
        for done, _ in enumerate(pool.map(lambda shard: shard.open().check(), shards)):
            if progress:
                progress(done + 1, len(shards))


def _check_no_duplicates(shards: Sequence[_Found]) -> None:
    """Raise DataError if two shards have the same text: a model would see it more often than the weights say."""
    by_text: dict[str, set[Path]] = {}
    for shard in shards:
        by_text.setdefault(shard.facts["source_sha256"], set()).add(shard.path)
    for paths in by_text.values():
        if len(paths) > 1:
            raise DataError(
                f"{_named(sorted(path.name for path in paths))} hold the same text: the files are there twice, under "
                "other names; remove one of them from the text, and encode it to another folder"
            )


def _named(names: Sequence[str]) -> str:
    return ", ".join(names[:MAX_NAMED]) + (f" and {len(names) - MAX_NAMED} more" if len(names) > MAX_NAMED else "")


def with_weights(sources: Sequence[CorpusSource], weights: Sequence[float]) -> list[CorpusSource]:
    """Return sources with other weights in the mixture."""
    return [replace(source, weight=weight) for source, weight in zip(sources, weights, strict=True)]
