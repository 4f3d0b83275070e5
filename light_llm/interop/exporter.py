"""The base class of an export target: one object that states what it writes, and how to check it."""

from abc import ABC, abstractmethod
from copy import copy, deepcopy
from dataclasses import replace
from pathlib import Path

import torch

from ..checkpoint import LoadedModel
from .verify import Runtime

MAX_LOGIT_ERROR = 1e-4  # float32 with sums in another order


class Exporter(ABC):
    """A format for another program. A subclass sets the attributes and defines the abstract methods."""

    name: str  # of the command: `light-llm export NAME`
    program: str  # that opens the export
    out: str  # default path
    dtypes: tuple[str, ...]  # of the weights; the first is the default
    is_folder = True
    files: tuple[str, ...] = ()  # all names that it may write into a folder
    weights = ""  # the file of the folder that holds them
    magic = b""  # the first bytes of an export that is a file

    @abstractmethod
    def write(self, loaded: LoadedModel, path: Path, *, dtype: str) -> None:
        """Write the model to a file, or into an empty folder.

        Rows of the token table beyond the ids of the tokenizer are left out.

        Raises:
            ConfigError: the format has no such model or dtype, or a weight that it cannot hold.
            OSError: a file cannot be written.
        """

    @abstractmethod
    def open(self, path: Path) -> Runtime:
        """Open an export with the program that it is for.

        Raises:
            MissingDependency: the program is not installed.
            CheckpointError: the program cannot open the export.
        """

    @abstractmethod
    def try_command(self, path: str, prompt: str, n: int) -> list[str]:
        """Return the words of a shell command that continues a prompt by n tokens."""

    def read_back(self, loaded: LoadedModel, path: Path, *, dtype: str) -> str:
        """Check the export without its program: return a line on the result, or raise CheckpointError if it differs."""
        return ""

    def reference(self, loaded: LoadedModel, dtype: str) -> LoadedModel:
        """Return our model with the roundings of the dtype, which the program is compared with."""
        return rounded(loaded, dtype)

    def tolerance(self, loaded: LoadedModel, dtype: str) -> float:
        """Return how far a logit may be from that of `reference`."""
        return MAX_LOGIT_ERROR


def rounded(loaded: LoadedModel, dtype: str) -> LoadedModel:
    """Return the model with its weights rounded to a dtype of torch, computed in float32."""
    if dtype == "float32":
        return loaded
    model = deepcopy(loaded.model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.to(getattr(torch, dtype)))
    return replace(copy(loaded), model=model)
