"""The number format of a model that generates: requested by name, decided once, with the reason."""

import torch

from ..config import check_choice
from ..errors import ConfigError
from ..model import LightLLM
from ..runtime import Decision
from .packed_linear import pack_weights, replace_linear_layers
from .quantize import Int8Linear

DTYPES = ("auto", "float32", "bfloat16")
QUANTIZE = ("none", "int8")


def check_inference_dtype(dtype: str, quantize: str) -> None:
    """Raise ConfigError for an unknown name, or for two formats at once."""
    check_choice("dtype", dtype, DTYPES)
    check_choice("quantize", quantize, QUANTIZE)
    if quantize != "none" and dtype != "auto":
        raise ConfigError(f"quantize={quantize!r} is a number format, and so is dtype={dtype!r}; leave one out")


def convert_for_inference(model: LightLLM, dtype: str = "auto", quantize: str = "none") -> Decision:
    """Convert a trained float32 model in place, once, to the requested format and this machine's fastest kernels.

    Raises:
        ConfigError: see `check_inference_dtype`.
    """
    check_inference_dtype(dtype, quantize)
    if quantize == "int8":
        replace_linear_layers(model, Int8Linear)
        return Decision("int8", "asked for")
    name = "float32" if dtype == "auto" else dtype
    why = "the same text from a seed, alone or in a batch" if dtype == "auto" else "asked for"
    if pack_weights(model, getattr(torch, name)):
        return Decision(name, f"{why}; weights laid out for single rows")
    model.to(getattr(torch, name))
    return Decision(name, f"{why}; this machine has no packed products")
