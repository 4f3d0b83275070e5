"""Files that must never be half written or silently wrong: run folders, step folders, model files."""

from ..atomic_io import Files as Files
from .load import Loaded as Loaded
from .load import ModelFile as ModelFile
from .load import load_model as load_model
from .load import read_model as read_model
from .portable import write_portable as write_portable
from .run_folder import RunFolder as RunFolder
from .run_folder import holds_run as holds_run
from .steps import StepState as StepState
from .steps import read_step as read_step
from .steps import restore_optimizer as restore_optimizer
from .steps import write_step as write_step
