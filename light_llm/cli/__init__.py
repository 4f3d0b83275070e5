"""The command line: one module per command, and `main`, which runs one of them."""

from .main import main as main
from .main import run as run
