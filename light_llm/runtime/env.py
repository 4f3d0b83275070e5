"""Read the environment variables of light-llm; no other module reads any."""

import os
import re
import sys
import tempfile
from contextlib import suppress
from pathlib import Path

from ..errors import ConfigError


def expand_path(path: str | Path) -> Path:
    """Return a path that a user gave, with a leading `~` as the home folder.

    A shell expands `~` only at the beginning of a word: not in `--out=~/runs`, a recipe or an .env file. A path that
    exists as it is written, or a home folder that is unknown, changes nothing.
    """
    path = Path(path)
    if path.parts[:1] != ("~",) or Path("~").exists():
        return path
    with suppress(RuntimeError):
        return path.expanduser()
    return path


def offline_dir() -> Path | None:
    """Return LIGHT_LLM_OFFLINE_DIR: a folder of downloads for machines without a network. It is never written to."""
    value = os.environ.get("LIGHT_LLM_OFFLINE_DIR")
    return expand_path(value) if value else None


def cache_dir() -> Path:
    """Return LIGHT_LLM_CACHE, or `light-llm` in the platform's cache folder.

    Raises:
        ConfigError: neither that variable nor a home folder is known.
    """
    if value := os.environ.get("LIGHT_LLM_CACHE"):
        return expand_path(value)
    try:
        return _platform_cache_dir() / "light-llm"
    except RuntimeError:  # a container's user without a name, and HOME is not set
        raise ConfigError(
            "this user has no home folder to cache texts and token ids in; set LIGHT_LLM_CACHE to a folder"
        ) from None


def _platform_cache_dir() -> Path:
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches"
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")


def tiktoken_cache_dir() -> Path:
    """Return tiktoken's cache folder. It is never written to."""
    value = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    return expand_path(value) if value else Path(tempfile.gettempdir()) / "data-gym-cache"


def remote_cache_bytes(default: int) -> int:
    """Return LIGHT_LLM_REMOTE_CACHE in bytes, such as 20GB: the bound of what is cached of shards at URLs.

    Raises:
        ConfigError: the value is not a size.
    """
    value = os.environ.get("LIGHT_LLM_REMOTE_CACHE")
    if not value:
        return default
    match = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([KMGT]?)I?B?\s*", value.upper())
    if not match:
        raise ConfigError(f"LIGHT_LLM_REMOTE_CACHE={value!r} cannot be used; it must be a size such as 20GB")
    return int(float(match[1]) * 1000 ** " KMGT".index(match[2] or " "))


def stop_after() -> int | None:
    """Return LIGHT_LLM_STOP_AFTER: the number of steps after which training stops as if interrupted; None if not set.

    Raises:
        ConfigError: the value is not a whole number above 0.
    """
    value = os.environ.get("LIGHT_LLM_STOP_AFTER")
    if not value:
        return None
    if not value.isdecimal() or int(value) < 1:
        raise ConfigError(f"LIGHT_LLM_STOP_AFTER={value!r} cannot be used; it must be a whole number of steps above 0")
    return int(value)


def stop_after_env(steps: int | None) -> dict[str, str]:
    """Return the environment for a child process that stops training after some steps, or does not stop for None."""
    rest = {name: value for name, value in os.environ.items() if name != "LIGHT_LLM_STOP_AFTER"}
    return rest | ({"LIGHT_LLM_STOP_AFTER": str(steps)} if steps else {})


def subprocess_env() -> dict[str, str]:
    """Return the environment for a child process that can import this package from any working directory."""
    paths = [str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH")]
    return dict(os.environ) | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}


def disable_onnx_telemetry() -> None:
    """Set ORT_DISABLE_TELEMETRY, because some builds of ONNX Runtime report their use. Call it before the import."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def wandb_reason() -> str:
    """Return why metrics may go to Weights & Biases: WANDB_MODE=offline, or WANDB_API_KEY; "" if neither is set.

    WANDB_MODE=disabled, W&B's own switch, and WANDB_DISABLED=true, that of Hugging Face's Trainer, forbid it.
    """
    if os.environ.get("WANDB_DISABLED", "").strip().lower() in ("1", "true", "yes", "on", "t", "y"):
        return ""
    mode = os.environ.get("WANDB_MODE")
    if mode in ("offline", "dryrun"):
        return f"WANDB_MODE={mode}"
    return "WANDB_API_KEY is set" if os.environ.get("WANDB_API_KEY") and mode != "disabled" else ""


def wandb_subprocess_env(files: Path) -> dict[str, str]:
    """Return the environment for the child process that runs W&B.

    W&B's error reports are off, and its cache goes to `files` instead of the home folder, unless WANDB_CACHE_DIR or
    WANDB_DATA_DIR is set.
    """
    folders = {"WANDB_CACHE_DIR": str(files / "cache"), "WANDB_DATA_DIR": str(files / "data")}
    return folders | subprocess_env() | {"WANDB_ERROR_REPORTING": "false"}
