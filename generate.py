"""Text generation: `python generate.py demo`, or `from generate import TextGenerator`."""

import sys

from light_llm.cli import main, run

if __name__ == "__main__":
    raise SystemExit(run(["generate", *sys.argv[1:]]))

# Imported after the command has run, so that --help does not wait for torch.
from light_llm.generate import TextGenerator

__all__ = ["TextGenerator", "main"]
