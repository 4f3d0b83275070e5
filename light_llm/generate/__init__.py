"""Text generation: sampling rules, the key/value cache, decoding, and `TextGenerator`, which combines them."""

from .cache import KVCache as KVCache
from .decode import decode as decode
from .generator import TextGenerator as TextGenerator
from .inference import convert_for_inference as convert_for_inference
from .sampling import Sampling as Sampling
