"""Training: `python train.py`, or `from train import Trainer`."""

import sys

from light_llm.cli import main, run

if __name__ == "__main__":
    raise SystemExit(run(["train", *sys.argv[1:]]))

# Imported after the command has run, so that --help does not wait for torch.
from light_llm.train import Trainer, analyze_training_dynamics

__all__ = ["Trainer", "analyze_training_dynamics", "main"]
