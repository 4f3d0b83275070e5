"""Packages that only an export needs: asked for when it is wanted, and not before."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from ..errors import ConfigError


class NotHere(ConfigError):
    """A program is not on this machine, or does not run on it: of what was written for it nothing is known."""


def need(module: str, extra: str) -> ModuleType:
    """An optional package, imported.

    Args:
        module: its name in Python, with dots where it is a part: `onnxruntime`.
        extra: of light-llm, that has it: hf, gguf, onnx, eval.

    Raises:
        NotHere: it is not installed, or its own parts are not.
    """
    package = module.partition(".")[0]
    way_out = f'install it with: pip install "light-llm[{extra}]"'
    if find_spec(package) is None:
        raise NotHere(f"this needs the package {package}, which is not installed; {way_out}")
    try:
        return import_module(module)
    except ImportError as error:
        raise NotHere(f"the package {package} is installed and cannot be imported ({error}); {way_out}") from None
