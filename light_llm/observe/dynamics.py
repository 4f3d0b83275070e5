"""Measure a model during training, in one call: gradients, attention, activations, predictions, curvature and noise."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from ..data import Batch, Batches, DataLoader, batches_from
from ..model import LightLLM, eval_mode
from ..objective import NextTokenLoss, total_weight
from .analysis import AdamState, AnalysisConfig, analyze
from .probe import BATCH_TOKENS, ProbeBatch, copying_tokens, probe_model
from .step_metrics import group_of

CURVATURE_CONTEXT = 64  # tokens of the sequences for curvature, whose graph is many times the batch


def analyze_training_dynamics(
    model: LightLLM,
    dataloader: DataLoader | Iterable[tuple[Tensor, Tensor]],
    *,
    curvature: bool = True,
    progress: Callable[[str, int, int], object] = lambda what, done, total: None,
) -> dict[str, Any]:
    """Measure a model on text of a loader without changing its weights, gradients or mode.

    Makes a forward and a backward pass on the loader's first batch, without dropout, and with `curvature` about two
    hundred more on short sequences: seconds for a small model, a minute or two for nano.

    Returns:
        loss (nats per token); grad_norm and, by group, grad_norms; weight_norm; attention, stream, dead_units,
        predictions, induction, lens, alarms as in a run's `probe` rows; with `curvature` also hessian, sharpness,
        noise and landscape as `light-llm analyze` writes them. docs/observe.md explains each.

    Raises:
        ConfigError: the loader yields no pairs of token ids, or ids that this model lacks.
    """
    source = batches_from(dataloader, model.config.vocab_size)
    first = source.batch(0)
    result = {**_measure_gradients(model, first), **_probe(model, first)}
    if curvature:
        config = AnalysisConfig()
        windows = _windows(source, first, max(config.sequences, config.batch_size))
        why_not = "the optimizer is not at hand; light-llm analyze reads it from a checkpoint"
        device = model.head_weight.device
        windows = Batch(windows.tokens.to(device), windows.targets.to(device))
        analysis = analyze(
            model, windows, step=0, optimizer=AdamState(why_not=why_not), config=config, progress=progress
        )
        result |= {name: analysis[name] for name in ("hessian", "sharpness", "noise", "landscape")}
    return result


def _measure_gradients(model: LightLLM, batch: Batch) -> dict[str, Any]:
    """Return the loss and the norms of gradients and weights, from one forward and backward pass."""
    device, weight = model.head_weight.device, total_weight(batch.targets)
    with _separate_gradients(model):
        loss = NextTokenLoss(model)(batch.tokens.to(device), batch.targets.to(device)) / weight
        loss.backward()
        squares: dict[str, float] = {}
        for name, p in model.named_parameters():
            if p.grad is not None:
                squares[group_of(name)] = squares.get(group_of(name), 0.0) + float(p.grad.cpu().double().square().sum())
    weights = sum(float(p.detach().cpu().double().square().sum()) for p in model.parameters())
    return {
        "loss": float(loss.detach()),
        "grad_norm": sum(squares.values()) ** 0.5,
        "grad_norms": {group: square**0.5 for group, square in squares.items()},
        "weight_norm": weights**0.5,
    }


def _probe(model: LightLLM, batch: Batch) -> dict[str, Any]:
    T = batch.tokens.size(1)
    B, repeated = max(1, BATCH_TOKENS // T), copying_tokens(model.config.vocab_size, T)
    row = probe_model(model, ProbeBatch(batch.tokens[:B], batch.targets[:B], repeated)).row
    # The loss of a probe is that of a few sequences; the caller has that of the whole batch.
    return {name: value for name, value in row.items() if name != "loss"}


def _windows(source: Batches, first: Batch, n: int) -> Batch:
    """Return n short sequences, from as many batches as needed."""
    batches, k = [first], 1
    while sum(len(batch.tokens) for batch in batches) < n:
        batches.append(source.batch(k))
        k += 1
    T = min(CURVATURE_CONTEXT, *(batch.tokens.size(1) for batch in batches))
    return Batch(*(torch.cat([part[:, :T] for part in parts])[:n] for parts in zip(*batches, strict=True)))


@contextmanager
def _separate_gradients(model: nn.Module) -> Iterator[None]:
    """Clear the gradients and switch dropout off inside the block, and restore the caller's gradients afterwards."""
    gradients = [p.grad for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    try:
        with eval_mode(model), torch.enable_grad():
            yield
    finally:
        for p, gradient in zip(model.parameters(), gradients, strict=True):
            p.grad = gradient
