"""Convert a trained model for generation: its number format, and weights laid out for products with few rows.

To generate a token, every weight is read once and multiplied with one row, so the speed is that of memory: it depends
on the bytes, and on the order in which a kernel reads them. The reference is `F.linear`.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..config import check_choice
from ..errors import ConfigError
from ..model import LightLLM, soft_cap
from ..runtime import Decision
from .quantize import Int8Linear

DTYPES = ("auto", "float32", "bfloat16")
QUANTIZE = ("none", "int8")
FEW_ROWS = 3  # up to here the kernel of 16-bit weights and float32 rows is the faster one
MAX_FLOAT16 = 65504.0
MAX_TWICE = 1 << 28  # weights in matrices: those of a larger model are not stored in a second layout


def check_inference_dtype(dtype: str, quantize: str) -> None:
    """Raise ConfigError for an unknown name, or for two formats at once."""
    if dtype in ("int8", "q8_0"):
        raise ConfigError(
            f"dtype={dtype} is no number format of the products; for weights in 8 bits use {{--quantize int8}}"
        )
    check_choice("dtype", dtype, DTYPES)
    check_choice("quantize", quantize, QUANTIZE)
    if quantize != "none" and dtype != "auto":
        raise ConfigError(f"quantize={quantize!r} is a number format, and so is dtype={dtype!r}; leave one out")


def convert_for_inference(model: LightLLM, dtype: str = "auto", quantize: str = "none") -> Decision:
    """Convert a trained model in place, once, to the requested format and this machine's fastest kernels.

    Args:
        model: in float32; for bfloat16 it may be loaded in bfloat16, and for int8 in the number formats of its file.

    Raises:
        ConfigError: see `check_inference_dtype`.
    """
    check_inference_dtype(dtype, quantize)
    if quantize == "int8":
        replace_linear_layers(model, Int8Linear)
        _widen_the_rest(model)
        return Decision("int8", "asked for")
    name = "float32" if dtype == "auto" else dtype
    why = "the same text from a seed, alone or in a batch" if dtype == "auto" else "asked for"
    if pack_weights(model, getattr(torch, name)):
        return Decision(name, f"{why}; weights laid out for single rows")
    model.to(getattr(torch, name))
    return Decision(name, f"{why}; this machine has no packed products")


def pack_weights(model: LightLLM, dtype: torch.dtype = torch.float32) -> bool:
    """Pack a trained model's weights in place, in dtype; activations are float32 between the products.

    Each matrix of the model is freed when its packed form is made.

    Returns:
        False, with the model unchanged, if this machine has no packed products.
    """
    if not can_pack(model.head_weight.device, dtype):
        return False
    twice = sum(p.numel() for p in model.parameters() if p.ndim == 2) <= MAX_TWICE
    replace_linear_layers(model, lambda weight, bias: PackedLinear(weight, bias, dtype, twice=twice))
    _widen_the_rest(model)
    return True


def _widen_the_rest(model: LightLLM) -> None:
    """Make the residual stream float32 where the linear layers are replaced: norms, and looked-up embeddings."""
    if model.wte.weight.dtype != torch.float32:
        model.wte = WideEmbedding.from_pretrained(model.wte.weight)
    for parameter in model.parameters():
        if parameter.ndim < 2 and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()


def replace_linear_layers(model: LightLLM, make: Callable[[Tensor, Tensor | None], nn.Module]) -> None:
    """Replace every linear layer and the head's product by `make(weight, bias)`, for inference only.

    The token table stays: its rows are looked up, and `head_weight` is still the same tensor.
    """
    # A list of the layers too would hold every old weight until the end.
    for module in [module for module in model.modules() if not isinstance(module, nn.Linear)]:
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, make(child.weight.detach(), None if child.bias is None else child.bias.detach()))
            elif isinstance(child, nn.Dropout):  # does nothing in evaluation, and calling it costs time
                setattr(module, name, nn.Identity())
    # Not registered as a module, because its table is in the model already and would be saved twice.
    product, cap = make(model.head_weight.detach(), None), model.logit_cap
    model.logits = lambda hidden: soft_cap(product(hidden), cap)  # type: ignore[method-assign]


class WideEmbedding(nn.Embedding):
    """A token table in 16 bits whose rows become float32 when they are looked up: (B, T) -> (B, T, C)."""

    def forward(self, tokens: Tensor) -> Tensor:
        """Look up the rows of tokens."""
        return super().forward(tokens).float()


class PackedLinear(nn.Module):
    """x W^T + b by kernels for few rows: (..., in) -> (..., out) in x's number format. No gradients.

    `dtype` is that of the weights W (out, in). In bfloat16 they are stored twice: in oneDNN's order, which is fastest
    for many rows, and, with `twice` and if torch has FBGEMM, in its order, which is fastest for one float32 row.
    FBGEMM's 16 bits are float16: they hold every bfloat16 weight exactly, except for parts below 2^-25.
    """

    def __init__(
        self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype = torch.float32, *, twice: bool = True
    ) -> None:
        super().__init__()
        weight = weight.to(dtype)
        # 32 is the number of rows that oneDNN chooses a kernel for. In float32, its choice for one row is slow.
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 32)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.float(), requires_grad=False)
        self.bias_as_weight = None if bias is None else bias.to(dtype)
        self.few = pack_for_few_rows(weight, bias) if twice and dtype == torch.bfloat16 else None
        # Looked up once: finding a name in `torch.ops` takes as long as a small product.
        self.few_rows_kernel: Callable[..., Tensor] = torch.ops.quantized.linear_dynamic_fp16.default
        self.many_rows_kernel: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default

    def forward(self, x: Tensor) -> Tensor:
        """Apply the layer: (..., in) -> (..., out)."""
        if self.few is not None and x.numel() <= FEW_ROWS * x.size(-1):
            return self.few_rows_kernel(x, self.few)
        rows = x.to(self.weight.dtype)
        return self.many_rows_kernel(rows, self.weight, self.bias_as_weight, "none", [], "").to(x.dtype)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """Save the weights unpacked, as the original model would."""
        destination[f"{prefix}weight"] = self.weight.to_dense().float()
        if self.bias is not None:
            destination[f"{prefix}bias"] = self.bias.detach()


def pack_for_few_rows(weight: Tensor, bias: Tensor | None) -> Any:
    """Return FBGEMM's 16-bit form of a matrix; None if this processor has none, or a weight is too large."""
    if float(weight.abs().max()) > MAX_FLOAT16:
        return None
    try:
        return torch.ops.quantized.linear_prepack_fp16(weight.float(), None if bias is None else bias.float())
    except (RuntimeError, AttributeError):  # not an x86 processor, or a torch without it
        return None


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Return whether the packed products work on this torch and processor, by a small comparison with `F.linear`."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    weight, bias = torch.linspace(-1, 1, 2048).view(64, 32), torch.linspace(-1, 1, 64)
    try:
        packed = PackedLinear(weight, bias, dtype)
        pairs = [(packed(x), F.linear(x, weight, bias)) for x in (weight[:1], weight)]  # both kernels
    except (RuntimeError, AttributeError):  # another torch, or a processor without a kernel for it
        return False
    return all(torch.allclose(y, expected, rtol=0.02, atol=0.05) for y, expected in pairs)
