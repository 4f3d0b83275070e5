"""A model under the tasks of lm-evaluation-harness (Gao et al., EleutherAI), in process.

The package `lm_eval` is imported where tasks are run, and nowhere else.
"""

from .generation import Wanted as Wanted
from .generation import read_wanted as read_wanted
from .lm import Answers as Answers
from .results import Row as Row
from .results import rows_of as rows_of
from .results import without_samples as without_samples
from .run import Job as Job
from .run import run_tasks as run_tasks
from .windows import Window as Window
from .windows import split as split
