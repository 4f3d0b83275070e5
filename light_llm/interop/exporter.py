"""The base classes of an export target: what it writes and how to check it, and the program that opens it."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from copy import copy, deepcopy
from dataclasses import replace
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

import torch
from torch import Tensor

from ..checkpoint import LoadedModel
from ..errors import ConfigError
from .architectures import origin_of

MIXED = "mixed"  # the dtypes that the weights of a model were imported in, where they are several
TOKENIZER_TEXTS = (  # words, signs, numbers, line breaks, characters of several bytes
    "To be, or not to be: that is the question.\n",
    "  two spaces,\ttab, 1234 and don't!\n\n",
    "naïve café — Ωμέγα, 東京 🙂",
)
MAX_LOGIT_ERROR = 1e-4  # float32 with sums in another order


class MissingDependency(ConfigError):
    """A program is not installed or does not run on this machine, so an export for it cannot be verified."""


def require(module: str, extra: str) -> ModuleType:
    """Import a module of an optional package, which `pip install light-llm[extra]` installs.

    Raises MissingDependency if the package is not installed, or something that it needs is not.
    """
    package = module.partition(".")[0]
    remedy = f'install it with: pip install "light-llm[{extra}]"'
    # Asked first, because an ImportError can also come from inside an installed package.
    if find_spec(package) is None:
        raise MissingDependency(f"the package {package} is not installed; {remedy}")
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependency(
            f"the package {package} is installed but cannot be imported ({error}); {remedy}"
        ) from None


class Runtime(ABC):
    """An exported model, opened by the program it is for."""

    name: str  # with its version: "transformers 5.23.0"
    note: str = ""  # on a difference of the program that the export cannot avoid, for the result and the model card

    @abstractmethod
    def logits(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Return logits: (B, T) ids, rows of one length -> (B, T, V) float32."""

    @abstractmethod
    def greedy(self, ids: Sequence[int], n: int) -> list[int]:
        """Return the n most likely tokens after ids, one by one, decoded with the program's own cache."""

    @abstractmethod
    def encode(self, text: str) -> list[int] | None:
        """Return the ids of a text by the exported tokenizer, without BOS and EOS; None without one."""

    def encode_with_ends(self, text: str) -> list[int] | None:
        """Return the ids of a text with BOS and EOS, as the program puts them by default; None if it has no default."""
        return None

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of ids, special tokens left out."""

    def close(self) -> None:  # noqa: B027  (most runtimes have nothing to close)
        """Free the program."""


class Exporter(ABC):
    """A format for another program. A subclass sets the attributes and defines the abstract methods."""

    name: str  # of the command: `light-llm export NAME`
    program: str  # that opens the export
    package: str  # to import for it
    out: str  # default path
    dtypes: tuple[str, ...]  # of the weights; the first is the default
    is_folder = True
    files: tuple[str, ...] = ()  # all names that it may write into a folder
    weights = ""  # the file of the folder that holds them
    magic = b""  # the first bytes of an export that is a file

    @abstractmethod
    def write(self, loaded: LoadedModel, path: Path, *, dtype: str) -> None:
        """Write the model to a file, or into an empty folder.

        Rows of the token table beyond `trimmed_config` are left out.

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
    def try_command(self, path: str, prompt: str, n: int, *, has_tokenizer: bool = True) -> list[str]:
        """Return the words of a shell command that continues a prompt by n tokens; none if there is no such command."""

    def read_back(self, loaded: LoadedModel, path: Path, *, dtype: str) -> str:
        """Check the export without its program: return a line on the result, or raise CheckpointError if it differs."""
        return ""

    def default_dtype(self, loaded: LoadedModel) -> str:
        """Return the dtype of an export that names none."""
        return self.dtypes[0]

    def rounded_weights(self, loaded: LoadedModel, dtype: str) -> LoadedModel:
        """Return our model with the weights of an export in this dtype; the model itself for float32."""
        return rounded(loaded, dtype)

    def reference(self, loaded: LoadedModel, dtype: str) -> LoadedModel:
        """Return our model with all roundings of the dtype, which the program is compared with."""
        return self.rounded_weights(loaded, dtype)

    def notes(self, loaded: LoadedModel) -> Sequence[str]:
        """Return what the program does differently from the model, a sentence each."""
        return ()

    def tokenizer_texts(self, loaded: LoadedModel) -> Sequence[str]:
        """Return texts that have the same ids in the program."""
        return TOKENIZER_TEXTS

    def tolerance(self, loaded: LoadedModel, dtype: str) -> float:
        """Return how far a logit may be from that of `reference`."""
        return MAX_LOGIT_ERROR


def dtype_of(loaded: LoadedModel, name: str, dtype: str) -> torch.dtype:
    """Return the dtype of a weight in an export; for MIXED the one that it was imported in."""
    if dtype == MIXED:
        stored = origin_of(loaded)["weights"]
        dtype = stored["others"].get(name, stored["dtype"])
    found: torch.dtype = getattr(torch, dtype)
    return found


def rounded(loaded: LoadedModel, dtype: str) -> LoadedModel:
    """Return the model with its weights rounded to a dtype of torch, computed in float32."""
    if dtype == "float32":
        return loaded
    model = deepcopy(loaded.model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(parameter.to(dtype_of(loaded, name, dtype)))
    return replace(copy(loaded), model=model)
