"""A model of the Hugging Face hub by its name: find it on this machine, or download the commit that is meant."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .. import __version__
from ..checkpoint import CARRIED_FILES
from ..data.hub import ETAG_TIMEOUT, check_download, is_hub_error, progress_bar_class, quiet_library, reason_of
from ..data.text_stream import ProgressFn
from ..errors import ConfigError, DataError
from ..runtime import cache_dir, offline_dir
from .weight_files import ADAPTER, INDEX, SHARD, WEIGHTS

CONFIG = "config.json"
PLACE = "models"  # the folder below LIGHT_LLM_OFFLINE_DIR and the cache, for models that were copied there
_NAME = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?", re.ASCII)
_COMMIT = re.compile("[0-9a-f]{40}")


@dataclass(frozen=True)
class HubModel:
    """A model on the hub: OWNER/NAME, and a branch, tag or commit."""

    repo: str
    revision: str = ""  # empty: the main branch


@dataclass(frozen=True)
class FoundModel:
    """A folder with the files of a model of the hub."""

    folder: Path
    repo: str
    commit: str = ""  # empty for a folder that the user filled: its revision is unknown


def parse_name(name: str, revision: str = "") -> HubModel | None:
    """Return the model that OWNER/NAME or OWNER/NAME@REVISION names, None for any other text.

    >>> parse_name("openai-community/gpt2@main")
    HubModel(repo='openai-community/gpt2', revision='main')

    Raises ConfigError for two different revisions.
    """
    match = _NAME.fullmatch(name)
    if match is None or name.startswith("."):
        return None
    own = match["revision"] or ""
    if own and revision and own != revision:
        raise ConfigError(f"{name} and {{--revision {revision}}} name two revisions; leave one out")
    return HubModel(match["repo"], own or revision)


def find_model(
    model: HubModel, *, offline: bool = False, progress: ProgressFn | None = None, endpoint: str | None = None
) -> FoundModel:
    """Return the folder of a model, after downloading it if necessary: config, safetensors, tokenizer; no pickles.

    The search order is LIGHT_LLM_OFFLINE_DIR, our cache, the cache of huggingface_hub, the hub. A folder that the user
    filled is used unchanged. The revision is resolved to a commit before anything is downloaded.

    Args:
        endpoint: the address of another hub.

    Raises:
        DataError: the model does not exist, is gated, has no safetensors, or cannot be downloaded; the message says
            which files to place where.
    """
    for place in (offline_dir(), cache_dir()):
        if place and (place / PLACE / model.repo / CONFIG).is_file():
            return FoundModel(place / PLACE / model.repo, model.repo)
    if offline or _COMMIT.fullmatch(model.revision):
        if (cached := _cached(model)) is not None:
            return cached
        if offline:
            raise _unavailable(model, "it is not on this machine, and {--offline} downloads nothing")
    try:
        return _download(model, progress, endpoint)
    except Exception as error:
        if not is_hub_error(error):
            raise
        raise _unavailable(model, _why(model, error)) from None


def _cached(model: HubModel) -> FoundModel | None:
    """Return the copy in the cache of huggingface_hub, if it is there with config and weights."""
    from huggingface_hub import snapshot_download

    try:
        with quiet_library():
            folder = Path(snapshot_download(model.repo, revision=model.revision or None, local_files_only=True))
    except Exception as error:
        if not is_hub_error(error):
            raise
        return None
    complete = (folder / CONFIG).is_file() and any((folder / name).is_file() for name in (WEIGHTS, INDEX))
    return FoundModel(folder, model.repo, folder.name) if complete else None


def _download(model: HubModel, progress: ProgressFn | None, endpoint: str | None) -> FoundModel:
    """Download the files of the commit that the revision is now."""
    from huggingface_hub import HfApi, hf_hub_download

    api = HfApi(endpoint=endpoint, library_name="light-llm", library_version=__version__)
    with quiet_library():
        info = api.model_info(model.repo, revision=model.revision or None, timeout=ETAG_TIMEOUT)
        commit = str(info.sha)
        names = [file.rfilename for file in info.siblings or []]
        for name in _files_to_read(model, names):
            path = hf_hub_download(
                model.repo,
                name,
                revision=commit,
                endpoint=api.endpoint,
                library_name="light-llm",
                library_version=__version__,
                etag_timeout=ETAG_TIMEOUT,
                tqdm_class=progress_bar_class(progress),
            )
            check_download(model.repo, name, Path(path), _remedy(model))
    return FoundModel(Path(path).parent, model.repo, commit)


def _files_to_read(model: HubModel, names: Sequence[str]) -> list[str]:
    """Return the names of the files that an import reads, of those on the hub. Raises DataError without weights."""
    weights = [WEIGHTS] if WEIGHTS in names else []
    if not weights and INDEX in names:
        weights = [INDEX, *(name for name in names if SHARD.fullmatch(name))]
    if CONFIG not in names or not weights:
        missing = CONFIG if CONFIG not in names else WEIGHTS
        how = "; load it with transformers and call model.save_pretrained(FOLDER), which writes safetensors"
        others = [name for name in names if name.endswith(".safetensors") and name != ADAPTER and "/" not in name]
        if others and missing == WEIGHTS:
            how = f", only {others[0]}; if that is the whole model, download the files, rename it to {WEIGHTS}, and "
            how += "import the folder"
        elif gguf := next((name for name in names if name.endswith(".gguf")), ""):
            how = f"; download one of its GGUF files, such as {gguf}, and import that"
        elif pickle := next((name for name in names if name.endswith((".bin", ".pth"))), ""):
            how = f", only {pickle}, a pickle, which can run code when it is read{how}"
        raise DataError(f"{model.repo} has no {missing} on the hub{how}")
    # The config comes last: a folder that has it has everything.
    return [*weights, *(name for name in CARRIED_FILES if name in names), CONFIG]


def _why(model: HubModel, error: Exception) -> str:
    """Return the reason in the words of a user."""
    from huggingface_hub.errors import (
        GatedRepoError,
        OfflineModeIsEnabled,
        RepositoryNotFoundError,
        RevisionNotFoundError,
    )

    if isinstance(error, GatedRepoError):
        return "it is gated: accept its terms on its page of the hub, and log in with: hf auth login"
    if isinstance(error, RepositoryNotFoundError):
        return "there is no such model on the hub, or it is private: hf auth login"
    if isinstance(error, RevisionNotFoundError):
        return f"it has no revision {model.revision}"
    if isinstance(error, OfflineModeIsEnabled):
        return "HF_HUB_OFFLINE is set"
    return reason_of(error)


def _unavailable(model: HubModel, why: str) -> DataError:
    return DataError(f"{model.repo} cannot be imported from the hub: {why}; {_remedy(model)}")


def _remedy(model: HubModel) -> str:
    folder = (offline_dir() or cache_dir()) / PLACE / model.repo
    return (
        f"put its config.json, its safetensors ({WEIGHTS}, or {INDEX} and the files in it) and its tokenizer.json into "
        f"{folder}, or import any folder that holds them"
    )
