"""Run folders, step folders and model files: written atomically, verified when read."""

from ..atomic_io import Files as Files
from .across_ranks import all_see as all_see
from .across_ranks import broadcast_tensors as broadcast_tensors
from .carried_files import CARRIED_FILES as CARRIED_FILES
from .carried_files import read_carried_files as read_carried_files
from .generators import gather_rng as gather_rng
from .generators import select_rng as select_rng
from .load import LoadedModel as LoadedModel
from .load import ModelFile as ModelFile
from .load import describe_model as describe_model
from .load import load_model as load_model
from .load import read_meta as read_meta
from .load import read_model as read_model
from .model_file import model_meta as model_meta
from .model_file import write_model_file as write_model_file
from .run_folder import RunFolder as RunFolder
from .run_folder import contains_run as contains_run
from .step_folder import FILE_PARAMETERS as FILE_PARAMETERS
from .step_folder import StepState as StepState
from .step_folder import read_step as read_step
from .step_folder import read_step_files as read_step_files
from .step_folder import restore_optimizer as restore_optimizer
from .step_folder import restore_weights as restore_weights
from .step_folder import write_step as write_step
