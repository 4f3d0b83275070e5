"""The environment variables light-llm reads, all of them, each behind a function."""

import os
import sys
import tempfile
from pathlib import Path

from ..errors import ConfigError


def offline_dir() -> Path | None:
    """LIGHT_LLM_OFFLINE_DIR: a folder someone filled beforehand; only ever read."""
    value = os.environ.get("LIGHT_LLM_OFFLINE_DIR")
    return Path(value) if value else None


def cache_dir() -> Path:
    """LIGHT_LLM_CACHE, or `light-llm` in the platform's own cache folder."""
    value = os.environ.get("LIGHT_LLM_CACHE")
    if value:
        return Path(value)
    if sys.platform == "darwin":
        base = Path.home() / "Library" / "Caches"
    elif sys.platform == "win32":
        base = Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local")
    else:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return base / "light-llm"


def tiktoken_cache_dir() -> Path:
    """Where tiktoken keeps its downloads; read, never written."""
    value = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    return Path(value) if value else Path(tempfile.gettempdir()) / "data-gym-cache"


def stop_after() -> int | None:
    """LIGHT_LLM_STOP_AFTER=N: end any training after N steps, as a polite interruption would.

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
    """The environment for a child process that is to end its training after so many steps, or not at all."""
    rest = {name: value for name, value in os.environ.items() if name != "LIGHT_LLM_STOP_AFTER"}
    return rest | ({"LIGHT_LLM_STOP_AFTER": str(steps)} if steps else {})


def subprocess_env() -> dict[str, str]:
    """The environment for a child process that runs a module of this package, wherever it is started."""
    package = str(Path(__file__).parents[2])
    search = os.pathsep.join([package, *filter(None, [os.environ.get("PYTHONPATH")])])
    return dict(os.environ) | {"PYTHONPATH": search}


def disable_onnx_telemetry() -> None:
    """ORT_DISABLE_TELEMETRY, before ONNX Runtime is imported: some builds of it send how they are used."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")


def wandb_reason() -> str:
    """Why rows may go to Weights & Biases: WANDB_MODE=offline, or WANDB_API_KEY; "" where neither is set.

    WANDB_MODE=disabled is W&B's own word for no, whatever the key.
    """
    mode = os.environ.get("WANDB_MODE")
    if mode in ("offline", "dryrun"):
        return f"WANDB_MODE={mode}"
    return "WANDB_API_KEY is set" if os.environ.get("WANDB_API_KEY") and mode != "disabled" else ""


def wandb_subprocess_env(files: Path) -> dict[str, str]:
    """The environment for the child process that speaks with W&B.

    It finds this package wherever it is started, sends no reports of its own errors, and keeps what it would put into
    the home folder in `files`, unless WANDB_CACHE_DIR or WANDB_DATA_DIR says otherwise.
    """
    folders = {"WANDB_CACHE_DIR": str(files / "cache"), "WANDB_DATA_DIR": str(files / "data")}
    return folders | subprocess_env() | {"WANDB_ERROR_REPORTING": "false"}
