"""From a trained model to text: sampling rules, the key/value cache, decoding, and `TextGenerator` over them."""

from .cache import KVCache as KVCache
from .decode import decode as decode
from .formats import change_format as change_format
from .sampling import Sampling as Sampling
from .text import TextGenerator as TextGenerator
