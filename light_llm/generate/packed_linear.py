"""The matrix products of a finished model, changed from outside: weights laid out for few rows, in 32 or 16 bits.

To write a token, every weight is read once and multiplied with one row, so the speed is that of reading: the time goes
into bytes and into how a kernel walks through them. The twin of all here is `F.linear`.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model import LightLLM, soft_cap

FEW_ROWS = 3  # up to here the kernel of 16-bit weights and float32 rows is the faster one
LARGEST_FLOAT16 = 65504.0


def replace_linear_layers(model: LightLLM, make: Callable[[Tensor, Tensor | None], nn.Module]) -> None:
    """Put `make(weight, bias)` in the place of every linear layer and of the head's product, for writing only.

    The token table stays as it is: it is looked up by rows, and `head_weight` is still the same tensor.
    """
    for module in list(model.modules()):
        for name, child in module.named_children():
            if isinstance(child, nn.Linear):
                setattr(module, name, make(child.weight.detach(), None if child.bias is None else child.bias.detach()))
            elif isinstance(child, nn.Dropout):  # of a finished model it does nothing, and takes its time for that
                setattr(module, name, nn.Identity())
    # Not a module of the model: the table it was made from is already in there.
    product, cap = make(model.head_weight.detach(), None), model.logit_cap
    model.logits = lambda hidden: soft_cap(product(hidden), cap)  # type: ignore[method-assign]


class PackedLinear(nn.Module):
    """x W^T + b by kernels for few rows: (..., in) -> (..., out) in x's number format. No gradients.

    `dtype` is that of the weights W (out, in). In bfloat16 they are kept twice: as oneDNN reads them, which multiplies
    many rows fastest, and where FBGEMM is at hand in its order, which multiplies one float32 row fastest. FBGEMM's 16
    bits are float16: they hold every bfloat16 weight, but for parts below 2^-25, exactly.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        weight = weight.to(dtype)
        # The number of rows a kernel is chosen for. In float32, one row would choose one that does no more and is slow.
        packed = torch.ops.mkldnn._reorder_linear_weight(weight.contiguous(), 32)
        self.weight = nn.Parameter(packed, requires_grad=False)
        self.bias = None if bias is None else nn.Parameter(bias.float(), requires_grad=False)
        self.bias_here = None if bias is None else bias.to(dtype)
        self.few = pack_for_few_rows(weight, bias) if dtype == torch.bfloat16 else None
        # Looked up once: a name of `torch.ops` costs as much as a small product.
        self.of_few: Callable[..., Tensor] = torch.ops.quantized.linear_dynamic_fp16.default
        self.of_many: Callable[..., Tensor] = torch.ops.mkldnn._linear_pointwise.default

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if self.few is not None and x.numel() <= FEW_ROWS * x.size(-1):
            return self.of_few(x, self.few)
        rows = x.to(self.weight.dtype)
        return self.of_many(rows, self.weight, self.bias_here, "none", [], "").to(x.dtype)

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        """The numbers in their usual order: what a plain model would save."""
        destination[f"{prefix}weight"] = self.weight.to_dense().float()
        if self.bias is not None:
            destination[f"{prefix}bias"] = self.bias.detach()


def pack_for_few_rows(weight: Tensor, bias: Tensor | None) -> Any:
    """FBGEMM's 16-bit form of a matrix; None where this processor has none, or a weight does not fit."""
    if float(weight.abs().max()) > LARGEST_FLOAT16:
        return None
    try:
        return torch.ops.quantized.linear_prepack_fp16(weight.float(), None if bias is None else bias.float())
    except (RuntimeError, AttributeError):  # not an x86 processor, or a torch without it
        return None


def can_pack(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether this torch and this processor have the packed products, and they are right."""
    if device.type != "cpu" or not torch.backends.mkldnn.is_available():
        return False
    weight, bias = torch.linspace(-1, 1, 2048).view(64, 32), torch.linspace(-1, 1, 64)
    try:
        packed = PackedLinear(weight, bias, dtype)
        pairs = [(packed(x), F.linear(x, weight, bias)) for x in (weight[:1], weight)]
    except (RuntimeError, AttributeError):  # another torch, or a processor without a kernel for it
        return False
    return all(torch.allclose(found, right, rtol=0.02, atol=0.05) for found, right in pairs)


def pack_weights(model: LightLLM, dtype: torch.dtype = torch.float32) -> bool:
    """Lay out a finished float32 model's weights for writing, in dtype; rows stay in float32 between the products.

    Returns:
        False, and nothing is changed, where this machine cannot.
    """
    if not can_pack(model.head_weight.device, dtype):
        return False
    replace_linear_layers(model, lambda weight, bias: PackedLinear(weight, bias, dtype))
    return True
