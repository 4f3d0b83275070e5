"""Evaluate a model on tasks of lm-evaluation-harness (Gao et al., EleutherAI), in this process.

The package `lm_eval` of the harness is imported only where tasks run.
"""

from .lm import LightLLMForEval as LightLLMForEval
from .run import EvalJob as EvalJob
from .run import Row as Row
from .run import result_rows as result_rows
from .run import run_tasks as run_tasks
from .run import summarize_results as summarize_results
