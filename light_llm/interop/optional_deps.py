"""Optional packages: imported when an export needs them, with an error that says how to install them."""

from importlib import import_module
from importlib.util import find_spec
from types import ModuleType

from ..errors import ConfigError


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
        raise MissingDependency(f"this needs the package {package}, which is not installed; {remedy}")
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingDependency(
            f"the package {package} is installed and cannot be imported ({error}); {remedy}"
        ) from None
