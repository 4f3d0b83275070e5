"""Frozen values that describe a run. Nothing here imports torch."""

from .data import DEFAULT_SOURCE as DEFAULT_SOURCE
from .data import DataConfig as DataConfig
from .model import PRESETS as PRESETS
from .model import ModelConfig as ModelConfig
from .model import preset_settings as preset_settings
from .param_shapes import block_shapes as block_shapes
from .param_shapes import get_model_size as get_model_size
from .param_shapes import matrix_parameters as matrix_parameters
from .param_shapes import outer_shapes as outer_shapes
from .recipe import About as About
from .recipe import about_recipe as about_recipe
from .recipe import load_recipe as load_recipe
from .recipe import recipe_names as recipe_names
from .recipe import recipe_text as recipe_text
from .run_config import Run as Run
from .run_config import changes as changes
from .run_config import differences as differences
from .run_config import parse_settings as parse_settings
from .train import TrainConfig as TrainConfig
from .validation import MAX_SEED as MAX_SEED
from .validation import check_choice as check_choice
from .validation import check_range as check_range
from .validation import from_dict as from_dict
from .validation import show as show
