"""The built-in corpus: small stories from a grammar that knows the exact probability of each of its texts."""

from .plots import TALES as TALES
from .telling import Story as Story
from .telling import stories as stories
from .telling import story as story
