"""JSON with bounds and digests: the same values give the same bytes, damage is detected, and reading is limited."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class JsonLimits:
    """The largest JSON file that is read."""

    bytes: int  # its values can take forty times that in memory
    brackets: int  # objects and arrays, and brackets in texts


ORDINARY = JsonLimits(16 << 20, 1 << 18)
# A vocabulary of 262,144 tokens with its merges takes more than 30 MB and half a million brackets.
TOKENIZER = JsonLimits(64 << 20, 2_000_000)
MAX_DEPTH = 64  # of nested objects and arrays
DIGEST = "digest"  # the key that `dump_with_digest` adds


def canonical_json(values: Mapping[str, Any]) -> bytes:
    """Encode values as JSON, the same bytes for the same values. Raises ValueError for NaN and infinity."""
    return json.dumps(values, indent=1, sort_keys=True, allow_nan=False).encode()


def dump_with_digest(values: Mapping[str, Any]) -> bytes:
    """Encode values as JSON together with their SHA-256, for `load_verified`."""
    return canonical_json({**values, DIGEST: hashlib.sha256(canonical_json(values)).hexdigest()})


def load_verified(path: Path, limits: JsonLimits = ORDINARY) -> dict[str, Any]:
    """Read what `dump_with_digest` wrote, without the digest.

    Raises:
        OSError: the file cannot be read.
        ValueError: any byte differs from what was written, white space included.
    """
    return parse_verified(read_bounded(path, limits), limits)


def parse_verified(data: bytes, limits: JsonLimits = ORDINARY) -> dict[str, Any]:
    """Decode what `dump_with_digest` gave, without the digest. Raises ValueError if any byte differs."""
    values = parse_json(data, limits)
    without_digest = {k: v for k, v in values.items() if k != DIGEST} if isinstance(values, dict) else {}
    if data != dump_with_digest(without_digest):
        raise ValueError("it was changed after it was written")
    return without_digest


def load_json(path: Path, limits: JsonLimits = ORDINARY) -> Any:
    """Read a JSON file. Raises OSError, and ValueError for invalid, too large or too deeply nested JSON."""
    return parse_json(read_bounded(path, limits), limits)


def read_bounded(path: Path, limits: JsonLimits = ORDINARY) -> bytes:
    """Read a file of limited size. Raises OSError, and ValueError for a larger file or no regular file."""
    # Opening a pipe would block, and reading a device might never end.
    if path.exists() and not path.is_file():
        raise ValueError("it is not a regular file")
    with open(path, "rb") as file:
        data = file.read(limits.bytes + 1)
    if len(data) > limits.bytes:
        raise ValueError(f"it is longer than {limits.bytes:,} bytes")
    return data


def parse_json(data: bytes, limits: JsonLimits = ORDINARY) -> Any:
    """Decode JSON of limited size and depth. Raises ValueError."""
    if data.count(b"{") + data.count(b"[") > limits.brackets:
        raise ValueError(f"it has more than {limits.brackets:,} brackets")
    try:
        values = json.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested thousands deep") from None
    check_depth(values)
    return values


def check_depth(values: Any) -> None:
    """Raise ValueError if dicts, lists and tuples are nested more than MAX_DEPTH deep."""
    level = [values] if isinstance(values, (dict, list, tuple)) else []
    for _ in range(MAX_DEPTH):
        children = (value.values() if isinstance(value, dict) else value for value in level)
        level = [value for values in children for value in values if isinstance(value, (dict, list, tuple))]
    if level:
        raise ValueError(f"it is nested more than {MAX_DEPTH} deep")
