"""Measure a model during training, in one call: gradients, attention, activations, predictions, curvature and noise."""

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor

from ..config import repr_short
from ..data import Batch, Batches, DataLoader, TokenDataset, batches_from, create_dataloader
from ..errors import ConfigError
from ..model import LightLLM, eval_mode
from ..objective import NextTokenLoss, total_weight
from .analysis import AdamState, AnalysisConfig, ProgressFn, analyze
from .flat_params import trainable_parameters
from .probe import BATCH_TOKENS, ProbeBatch, copying_tokens, probe_model
from .step_metrics import group_of

CURVATURE_CONTEXT = 64  # tokens of the sequences for curvature, whose graph is many times the batch


def analyze_training_dynamics(
    model: LightLLM,
    dataloader: DataLoader | TokenDataset | Iterable[tuple[Tensor, Tensor]],
    *,
    curvature: bool = True,
    progress: ProgressFn = lambda stage, done, total: None,
) -> dict[str, Any]:
    """Measure a model on text of a loader without changing its weights, gradients or mode.

    Makes a forward and a backward pass on the loader's first batch, without dropout, and with `curvature` about two
    hundred more on short sequences: seconds for a small model, a minute or two for nano.

    Returns:
        loss (nats per token); grad_norm and, by group, grad_norms; weight_norm; attention, stream, dead_units,
        predictions, induction, lens, alarms as in a run's `probe` rows; with `curvature` also hessian, sharpness,
        noise and landscape as `light-llm analyze` writes them. docs/observe.md explains each.

    Raises:
        ConfigError: the model is not a LightLLM; the loader yields no pairs of token ids, or ids that this model lacks.
    """
    model = getattr(model, "_orig_mod", model)  # of torch.compile
    if not isinstance(model, LightLLM):
        raise ConfigError(
            f"analyze_training_dynamics takes a LightLLM and then a loader, not a {type(model).__name__} first"
        )
    if isinstance(dataloader, TokenDataset):
        dataloader = create_dataloader(dataloader)
    given: Any = dataloader
    if isinstance(given, (str, bytes)) or not isinstance(given, Iterable):
        raise ConfigError(
            f"analyze_training_dynamics takes a dataset or a loader, not {repr_short(dataloader)}; make one with "
            "prepare_dataset"
        )
    source = batches_from(dataloader, model.config.vocab_size)
    first = _batch(source, 0)
    T = first.tokens.size(1)
    B = max(1, BATCH_TOKENS // T)
    probe_batch = ProbeBatch(first.tokens[:B], first.targets[:B], copying_tokens(model.config.vocab_size, T))
    # The loss of a probe is that of a few sequences; the result has that of the whole batch.
    result = probe_model(model, probe_batch).row | _measure_gradients(model, first)
    if curvature:
        config = AnalysisConfig()
        windows = _windows(source, first, max(config.sequences, config.batch_size), model.head_weight.device)
        optimizer = AdamState(
            why_not="the state of the optimizer is unknown; light-llm analyze reads it from a checkpoint"
        )
        analysis = analyze(model, windows, step=0, optimizer=optimizer, config=config, progress=progress)
        result |= {name: analysis[name] for name in ("hessian", "sharpness", "noise", "landscape")}
    return result


def _measure_gradients(model: LightLLM, batch: Batch) -> dict[str, Any]:
    """Return the loss and the norms of gradients and weights, from one forward and backward pass."""
    device, trainable = model.head_weight.device, trainable_parameters(model)
    with eval_mode(model), torch.enable_grad():
        total = NextTokenLoss(model)(batch.tokens.to(device), batch.targets.to(device))
        loss = total / total_weight(batch.targets)
        # Not `backward`, which would change the caller's gradients.
        gradients = torch.autograd.grad(loss, list(trainable.values()), allow_unused=True)
    squares: dict[str, float] = {}
    for name, gradient in zip(trainable, gradients, strict=True):
        if gradient is not None:
            squares[group_of(name)] = squares.get(group_of(name), 0.0) + _squared_norm(gradient)
    return {
        "loss": float(loss.detach()),
        "grad_norm": sum(squares.values()) ** 0.5,
        "grad_norms": {group: square**0.5 for group, square in squares.items()},
        "weight_norm": sum(map(_squared_norm, model.parameters())) ** 0.5,
    }


def _squared_norm(tensor: Tensor) -> float:
    # On the CPU first: MPS has no float64.
    return float(tensor.detach().cpu().double().square().sum())


def _batch(source: Batches, k: int) -> Batch:
    """Return batch k. Raises ConfigError at the end of a loader that can be read only once."""
    batch = source.batch(k)
    if batch is None:
        raise ConfigError(
            f"the loader ended after {k} batches, and more are needed; give a list, or a loader that can be read again"
        )
    return batch


def _windows(source: Batches, first: Batch, n: int, device: torch.device) -> Batch:
    """Return n short sequences, from as many batches as needed."""
    batches = [first]
    while sum(len(batch.tokens) for batch in batches) < n:
        batches.append(_batch(source, len(batches)))
    T = min(CURVATURE_CONTEXT, *(batch.tokens.size(1) for batch in batches))
    return Batch(*(torch.cat([part[:, :T] for part in parts])[:n].to(device) for parts in zip(*batches, strict=True)))
