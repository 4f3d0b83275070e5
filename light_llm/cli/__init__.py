"""The command line: one thin module per verb, and `main` over them, which `run` gives a process."""

from .main import main as main
from .main import run as run
