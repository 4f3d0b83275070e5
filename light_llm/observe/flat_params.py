"""The trainable weights of a model as one vector, and the mean loss as a function of such a vector.

No weight is changed: `functional_call` computes the model with other weights in place of its own.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.func import functional_call

from ..data import Batch
from ..layers.attention import attend_by_formula
from ..model import LightLLM, SelfAttention, eval_mode
from ..objective import NextTokenLoss, token_cross_entropy_from_logits, total_weight


def trainable_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Return the trainable parameters by name, each once; their order is that of every vector here."""
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def flatten(tensors: Iterable[Tensor]) -> Tensor:
    """Return tensors of any shapes as one vector (n,): a copy, detached from any graph."""
    return torch.cat([t.detach().flatten() for t in tensors])


def unflatten(vector: Tensor, like: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return a vector (n,) in the names, shapes and order of `like`, as differentiable views."""
    parts = vector.split([t.numel() for t in like.values()])
    return {name: part.view(t.shape) for (name, t), part in zip(like.items(), parts, strict=True)}


def mean_loss(model: LightLLM, vector: Tensor, batch: Batch) -> Tensor:
    """Return the mean nats per token of a batch, (), with the weights of a vector (n,), by the fast kernels."""
    module = NextTokenLoss(model)
    weights = {f"model.{name}": t for name, t in unflatten(vector, trainable_parameters(model)).items()}
    with eval_mode(model):
        total: Tensor = functional_call(module, weights, (batch.tokens, batch.targets))
    return total / total_weight(batch.targets)


def mean_loss_by_formula(model: LightLLM, vector: Tensor, batch: Batch) -> Tensor:
    """Return what `mean_loss` does, through attention and logits as written, in the vector's dtype.

    The fast kernels of attention and loss have hand-written gradients, which cannot be differentiated a second time.
    """
    frozen = {name: p.to(vector.dtype) for name, p in model.named_parameters() if not p.requires_grad}
    weights = unflatten(vector, trainable_parameters(model))
    with use_naive_attention(model):
        logits: Tensor = functional_call(model, frozen | weights, (batch.tokens,))  # (B, T, V)
    return token_cross_entropy_from_logits(logits, batch.targets).sum() / total_weight(batch.targets)


@contextmanager
def use_naive_attention(model: LightLLM) -> Iterator[None]:
    """Evaluate the model without dropout and with attention as written inside the block; restore both afterwards."""
    originals = {m: m.attend for m in model.modules() if isinstance(m, SelfAttention)}
    with eval_mode(model):
        try:
            for layer in originals:
                layer.attend = attend_by_formula
            yield
        finally:
            for layer, attend in originals.items():
                layer.attend = attend
