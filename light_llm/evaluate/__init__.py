"""Evaluate a model: loss, perplexity and bits per byte of the held-out text, of a known text, or of any text."""

from .limits import LimitDistance as LimitDistance
from .limits import evaluate_against_limits as evaluate_against_limits
from .limits import evaluate_held_out as evaluate_held_out
from .loss import DTYPES as DTYPES
from .loss import Evaluation as Evaluation
from .loss import PositionBucket as PositionBucket
from .loss import bucket_ends as bucket_ends
from .loss import evaluate_batches as evaluate_batches
from .loss import evaluate_loss as evaluate_loss
from .loss import position_buckets as position_buckets
from .loss import summarise as summarise
from .loss import use_bfloat16_weights as use_bfloat16_weights
from .text import TextEvaluation as TextEvaluation
from .text import evaluate_text as evaluate_text
