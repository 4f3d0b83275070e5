"""Training: the loop, what may stop an update (guards), and what runs after one (listeners)."""

from .dynamics import analyze_training_dynamics as analyze_training_dynamics
from .guards import Proposal as Proposal
from .listeners import Step as Step
from .result import Result as Result
from .trainer import Trainer as Trainer
