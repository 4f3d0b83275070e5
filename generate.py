"""The front door to writing: `python generate.py demo`, or `from generate import TextGenerator`."""

import sys

from light_llm.cli import main, run

if __name__ == "__main__":
    raise SystemExit(run(["generate", *sys.argv[1:]]))

from light_llm.generate import TextGenerator  # below, so that --help does not wait for torch

__all__ = ["TextGenerator", "main"]
