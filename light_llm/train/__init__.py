"""Training: the loop, guards that decide about an update, and callbacks that run after it."""

from ..observe.dynamics import analyze_training_dynamics as analyze_training_dynamics
from .callbacks import Callback as Callback
from .callbacks import LogMetrics as LogMetrics
from .checkpointer import Checkpointer as Checkpointer
from .evaluation import EvaluateHeldOut as EvaluateHeldOut
from .evaluation import ProbeModel as ProbeModel
from .evaluation import WriteSample as WriteSample
from .step import GuardAction as GuardAction
from .step import Result as Result
from .step import Step as Step
from .step import TrainState as TrainState
from .trainer import Trainer as Trainer
