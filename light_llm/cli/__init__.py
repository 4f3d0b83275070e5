"""The command line: one thin module per verb, and `main` over them."""

from .main import main as main
