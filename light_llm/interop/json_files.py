"""JSON files of a folder that another program wrote."""

from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..json_io import load_json

COMPLETE = "use a complete copy of the model"


def read_object(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file. Raises CheckpointError if it is missing, damaged or no object."""
    try:
        values = load_json(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}; {COMPLETE}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged, or not JSON: {error}; {COMPLETE}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is damaged: it has no fields; {COMPLETE}")
    return values
