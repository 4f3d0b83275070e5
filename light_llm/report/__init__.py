"""What a run folder tells when the run is over: read back, listed, compared. Nothing here imports torch."""

from .compare import CurvePoint as CurvePoint
from .compare import beyond as beyond
from .compare import common_curve as common_curve
from .compare import common_measure as common_measure
from .compare import difference as difference
from .compare import what_differs as what_differs
from .past_run import HeldOut as HeldOut
from .past_run import Measure as Measure
from .past_run import PastRun as PastRun
from .past_run import StepRow as StepRow
from .past_run import read_past_run as read_past_run
from .shelf import find_runs as find_runs
from .shelf import open_run as open_run
from .shelf import read_all as read_all
