"""JSON files of a folder that another program wrote."""

from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..json_io import ORDINARY, JsonLimits, load_json

COMPLETE = "use a complete copy of the model"


def read_object(path: Path, limits: JsonLimits = ORDINARY, remedy: str = COMPLETE) -> dict[str, Any]:
    """Return the object in a JSON file. Raises CheckpointError, with the remedy, for a missing or damaged file."""
    try:
        values = load_json(path, limits)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {error.strerror or error}; {remedy}") from None
    except ValueError as error:
        raise CheckpointError(f"{path} is damaged, or not JSON: {error}; {remedy}") from None
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} is damaged: it has no fields; {remedy}")
    return values
