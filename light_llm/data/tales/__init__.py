"""The built-in corpus: small stories from a probabilistic grammar, each with the exact probability of its text.

The grammar is data: words.toml, phrases.toml and plots.toml.
"""

from .generator import Story as Story
from .generator import stories as stories
from .generator import story as story
