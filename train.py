"""The front door to training: `python train.py`, or `from train import Trainer`."""

import sys

from light_llm.cli import main, run

if __name__ == "__main__":
    raise SystemExit(run(["train", *sys.argv[1:]]))

from light_llm.train import Trainer, analyze_training_dynamics  # below, so that --help does not wait for torch

__all__ = ["Trainer", "analyze_training_dynamics", "main"]
