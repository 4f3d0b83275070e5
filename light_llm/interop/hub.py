"""Upload an exported folder to the Hugging Face hub."""

import json
import shlex
from pathlib import Path

from .. import __version__
from ..checkpoint.tensors import read_tensors
from ..data.hub import is_hub_error, reason_of
from ..errors import CheckpointError, ConfigError, DataError

REQUIRED_FILES = ("config.json", "model.safetensors", "README.md")


def check_push(name: str) -> str:
    """Return the token to upload with. Raises ConfigError for an invalid model name, or without a token."""
    from huggingface_hub import get_token
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]  # it exists, but is not declared

    try:
        validate_repo_id(name)
    except HFValidationError as error:
        reason = str(error).strip().rstrip(".")
        raise ConfigError(f"{name!r} is not a name for a model: {reason}; try one like you/small-stories") from None
    token = get_token()
    if token is None:
        raise ConfigError(
            f"no token for the Hugging Face hub was found on this machine, so {name} cannot be pushed; "
            "run: hf auth login, with a token that may write"
        )
    return token


def push(folder: Path, name: str, *, private: bool = True, endpoint: str | None = None) -> str:
    """Upload a folder to the hub, as a new model or a commit to an existing one. Return the address of the model.

    Args:
        name: of the model: `you/small-stories`; without an owner, the owner of the token.
        private: whether only the owner may see a new model. An existing model keeps its visibility.
        endpoint: the address of another hub.

    Raises:
        ConfigError: files are missing, the name is invalid, there is no token, or `private` for a public model.
        CheckpointError: its weights or a JSON file are damaged.
        DataError: the hub does not answer, or refuses.
    """
    from huggingface_hub import HfApi

    if missing := [file for file in REQUIRED_FILES if not (folder / file).is_file()]:
        raise ConfigError(f"{folder} has no {', '.join(missing)}; export it first: light-llm export hf --out {folder}")
    # Before anything is sent: a damaged upload would replace a good model.
    read_tensors(folder / "model.safetensors")
    for path in sorted(folder.glob("*.json")):
        try:
            json.loads(path.read_bytes())
        except ValueError as error:
            raise CheckpointError(f"{path} is damaged, or no JSON: {error}; nothing was sent") from None
    token = check_push(name)
    api = HfApi(endpoint=endpoint, token=token, library_name="light-llm", library_version=__version__)
    try:
        full_name = name if "/" in name else f"{api.whoami()['name']}/{name}"
        repo = api.create_repo(full_name, private=private, exist_ok=True).repo_id
        # create_repo ignores `private` for an existing model.
        if private and not api.model_info(repo).private:
            raise ConfigError(
                f"{repo} is on the hub already and public, and a private model was asked for; nothing was sent. "
                "Choose another name, or say that it may be public"
            )
        api.upload_folder(repo_id=repo, folder_path=folder, commit_message=f"Exported with light-llm {__version__}")
    except Exception as error:
        if not is_hub_error(error):
            raise
        raise DataError(
            f"{name} could not be pushed ({reason_of(error)}); the folder {folder} is as it was, so push it again "
            "with: "
            + shlex.join(["light-llm", "export", "push", "--out", str(folder), "--push", name])
            + ("" if private else " --public")
        ) from None
    return f"{api.endpoint}/{repo}"
