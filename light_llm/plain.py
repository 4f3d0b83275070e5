"""JSON files of our own: the same values are the same bytes, and reading one is bounded, whatever is in it."""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LARGEST = 16 << 20  # bytes; the values of a file can take forty times its size in memory
MOST_INNER = 1 << 18  # objects and arrays in a file
DEEPEST = 64  # objects and arrays in one another
DIGEST = "digest"


def canonical(values: Mapping[str, Any]) -> bytes:
    """Values as JSON, the same bytes for the same values. Raises ValueError for NaN and infinity."""
    return json.dumps(values, indent=1, sort_keys=True, allow_nan=False).encode()


def sealed(values: Mapping[str, Any]) -> bytes:
    """Values as JSON with a digest of themselves, so that no other bytes are taken for them."""
    return canonical({**values, DIGEST: hashlib.sha256(canonical(values)).hexdigest()})


def read_sealed(path: Path) -> dict[str, Any]:
    """What `sealed` wrote. Raises OSError, and ValueError for any other bytes, a flip in white space included."""
    values = parsed(data := read_bounded(path))
    rest = {key: value for key, value in values.items() if key != DIGEST} if isinstance(values, dict) else {}
    if data != sealed(rest):
        raise ValueError("it is not as it was written")
    return rest


def read_plain(path: Path) -> Any:
    """The JSON in a file. Raises OSError, and ValueError for what is no JSON, too long or too deep."""
    return parsed(read_bounded(path))


def read_bounded(path: Path) -> bytes:
    """The bytes of a small file. Raises OSError, and ValueError for a long one, or one that is none."""
    if path.exists() and not path.is_file():
        raise ValueError("it is no plain file")  # a pipe would be waited for, a device read for ever
    with open(path, "rb") as file:
        data = file.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"it is longer than {LARGEST:,} bytes")
    return data


def parsed(data: bytes) -> Any:
    """The values of a JSON text. Raises ValueError."""
    if data.count(b"{") + data.count(b"[") > MOST_INNER:
        raise ValueError(f"it has more than {MOST_INNER:,} brackets")
    try:
        values = json.loads(data.decode("utf-8"))
    except RecursionError:
        raise ValueError("it is nested thousands deep") from None
    check_depth(values)
    return values


def check_depth(values: Any) -> None:
    """Raise ValueError for objects and arrays so deep in one another that nothing of ours wrote them."""
    level = [values] if isinstance(values, (dict, list, tuple)) else []
    for _ in range(DEEPEST):
        inner = (value.values() if isinstance(value, dict) else value for value in level)
        level = [value for values in inner for value in values if isinstance(value, (dict, list, tuple))]
    if level:
        raise ValueError(f"it is nested more than {DEEPEST} deep")
