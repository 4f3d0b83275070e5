"""The state of a training as one plain dict: gradients, attention, activations, guesses, curvature and noise."""

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

CONTEXT = 64  # tokens of a sequence that curvature is computed on


def analyze_training_dynamics(
    model: LightLLM,
    dataloader: DataLoader | Iterable[tuple[Tensor, Tensor]],
    *,
    curvature: bool = True,
    progress: Callable[[str, int, int], object] = lambda what, done, total: None,
) -> dict[str, Any]:
    """Measure a model on text of a loader, whatever training has left behind, and leave it as it is.

    Makes a forward and a backward pass of its own on the loader's first batch, without dropout, and with `curvature`
    some two hundred more on short sequences: seconds for a small model, a minute or two for nano.

    Returns:
        loss (nats per token); grad_norm and, by group, grad_norms; weight_norm; attention, stream, dead_units,
        predictions, induction, lens, alarms as in a run's `probe` rows; with `curvature` also hessian, sharpness,
        noise and landscape as `light-llm analyze` writes them. docs/observe.md says what each is.

    Raises:
        ConfigError: the loader gives no pairs of token ids that this model has.
    """
    source = batches_from(dataloader, model.config.vocab_size)
    first = source.batch(0)
    found = {**_gradients(model, first), **_look(model, first)}
    if curvature:
        config = AnalysisConfig()
        windows = _windows(source, first, max(config.sequences, config.batch_size))
        why_not = "the optimizer is not at hand; light-llm analyze reads it from a checkpoint"
        device = model.head_weight.device
        windows = Batch(windows.tokens.to(device), windows.targets.to(device))
        more = analyze(model, windows, step=0, optimizer=AdamState(why_not=why_not), config=config, progress=progress)
        found |= {name: more[name] for name in ("hessian", "sharpness", "noise", "landscape")}
    return found


def _gradients(model: LightLLM, batch: Batch) -> dict[str, Any]:
    """Loss, norms of the gradients and of the weights, by a pass of our own."""
    device, weight = model.head_weight.device, total_weight(batch.targets)
    with _own_gradients(model):
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


def _look(model: LightLLM, batch: Batch) -> dict[str, Any]:
    T = batch.tokens.size(1)
    B, twice = max(1, BATCH_TOKENS // T), copying_tokens(model.config.vocab_size, T)
    row = probe_model(model, ProbeBatch(batch.tokens[:B], batch.targets[:B], twice)).row
    return {name: value for name, value in row.items() if name != "loss"}  # that is the whole batch's


def _windows(source: Batches, first: Batch, n: int) -> Batch:
    """At least n short sequences from as many batches as it takes."""
    batches, k = [first], 1
    while sum(len(batch.tokens) for batch in batches) < n:
        batches.append(source.batch(k))
        k += 1
    T = min(CONTEXT, *(batch.tokens.size(1) for batch in batches))
    return Batch(*(torch.cat([part[:, :T] for part in parts])[:n] for parts in zip(*batches, strict=True)))


@contextmanager
def _own_gradients(model: nn.Module) -> Iterator[None]:
    """Clear the gradients inside the block, with dropout off, and put back the caller's afterwards."""
    gradients = [p.grad for p in model.parameters()]
    model.zero_grad(set_to_none=True)
    try:
        with eval_mode(model), torch.enable_grad():
            yield
    finally:
        for p, gradient in zip(model.parameters(), gradients, strict=True):
            p.grad = gradient
