"""Frozen values that describe a run. Nothing here imports torch."""

from .data import DEFAULT_SOURCE as DEFAULT_SOURCE
from .data import DataConfig as DataConfig
from .model import PRESETS as PRESETS
from .model import ModelConfig as ModelConfig
from .model import preset_settings as preset_settings
from .recipe import About as About
from .recipe import about_recipe as about_recipe
from .recipe import load_recipe as load_recipe
from .recipe import recipe_names as recipe_names
from .recipe import recipe_text as recipe_text
from .run import Run as Run
from .run import changes as changes
from .run import differences as differences
from .run import parse_settings as parse_settings
from .size import block_shapes as block_shapes
from .size import get_model_size as get_model_size
from .size import matrix_parameters as matrix_parameters
from .size import outer_shapes as outer_shapes
from .train import TrainConfig as TrainConfig
from .values import LARGEST_SEED as LARGEST_SEED
from .values import check_choice as check_choice
from .values import check_range as check_range
from .values import from_dict as from_dict
from .values import show as show
