"""`python -m light_llm COMMAND ...`: the same command line as `light-llm`."""

from .cli import run

if __name__ == "__main__":
    raise SystemExit(run())
