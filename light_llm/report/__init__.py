"""Read runs back from their folders, also while they train: list, compare, judge and draw them. Without torch."""

from .charts import Series as Series
from .charts import line_chart as line_chart
from .charts import shaded_rows as shaded_rows
from .charts import sparkline as sparkline
from .compare import common_evals as common_evals
from .compare import comparable_unit as comparable_unit
from .compare import eval_difference as eval_difference
from .compare import exceeds_error as exceeds_error
from .compare import run_differences as run_differences
from .find_runs import find_runs as find_runs
from .find_runs import open_run as open_run
from .find_runs import read_runs as read_runs
from .log_rows import Evaluation as Evaluation
from .log_rows import LossUnit as LossUnit
from .page import write_report as write_report
from .rules import HealthNote as HealthNote
from .rules import judge as judge
from .run_log import FINAL_STEPS as FINAL_STEPS
from .run_log import RunLog as RunLog
from .run_log import read_run_log as read_run_log
from .summary import key_numbers as key_numbers
from .summary import repro_command as repro_command
from .summary import run_facts as run_facts
