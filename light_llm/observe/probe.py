"""Probe a model on a small fixed batch: attention, activations and predictions as one row of metrics.

A probe makes a forward pass of its own, uncompiled and in evaluation mode. It draws from none of the run's generators
and leaves no hook and no gradient, so that a run with probes has the same numbers as one without.
"""

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import TokenArray
from ..model import LightLLM, eval_mode
from ..runtime import autocast
from . import activations, attention, predictions

BATCH_TOKENS, MAX_WINDOW = 512, 256  # tokens of the batch, and of a window in it
MAP_TOKENS = 24  # tokens of an attention map
REPEATED_HALF = 48  # tokens of a random sequence before it is repeated
# Why a head's map is selected: the head metric that decides, and whether its largest value is wanted.
MAP_CRITERIA = {
    "most weight on the previous token": ("previous", True),
    "most weight on the first token": ("first", True),
    "most local": ("distance", False),
    "most even": ("relative", True),
    "sharpest": ("relative", False),
}


@dataclass(frozen=True)
class ProbeBatch:
    """The tokens of every probe of a run."""

    tokens: Tensor  # (B, T)
    targets: Tensor  # (B, T)
    repeated: Tensor  # (B', 2 half) random sequences, each followed by itself


def make_probe_batch(held_out: TokenArray, *, context: int, n_ids: int) -> ProbeBatch:
    """Return windows spread evenly over a text of at least two tokens, at most 512 tokens together.

    The batch depends on its arguments alone, so that a resumed run continues with the same one.
    """
    n = len(held_out)
    T = min(context, MAX_WINDOW, n - 1)
    B = max(1, min(BATCH_TOKENS // T, (n - 1) // T))
    starts = np.linspace(0, n - 1 - T, B).astype(int)
    ids = torch.from_numpy(np.stack([held_out.read(int(s), int(s) + T + 1) for s in starts]))
    return ProbeBatch(ids[:, :-1], ids[:, 1:], copying_tokens(n_ids, context))


def copying_tokens(n_ids: int, context: int) -> Tensor:
    """Return repeated random sequences, (B', 2 half), that fit into the context without their last token."""
    half = max(1, min(REPEATED_HALF, (context + 1) // 2))
    return predictions.repeated_sequence(n_ids, max(1, BATCH_TOKENS // 4 // half), half)


@dataclass(frozen=True)
class ProbeResult:
    """The metrics of a probe, and the attention maps of its first window."""

    row: dict[str, Any]
    maps: list[Tensor]  # L of (H, n, n), the first tokens of the first window


@torch.no_grad()
def probe_model(model: LightLLM, batch: ProbeBatch, *, dtype: str = "float32") -> ProbeResult:
    """Return all metrics of a `probe` row except its kind and step."""
    device = model.head_weight.device
    tokens, targets, repeated = (x.to(device) for x in (batch.tokens, batch.targets, batch.repeated))
    with eval_mode(model), autocast(device.type, dtype):
        with attention.record_attention(model) as weights, activations.record_activations(model) as recorded:
            hidden = model.hidden_states(tokens)
        predicted = predictions.predict(model, hidden.flatten(0, 1), targets.flatten())
        lens = predictions.logit_lens(model, recorded.stream, targets)
        induction = _measure_copying(model, repeated)
    error, bins = predictions.calibration(predicted.confidence, predicted.right)
    layers = [attention.head_metrics(w, model.config.window_size(layer)) for layer, w in enumerate(weights)]
    heads = {name: [metrics[name] for metrics in layers] for name in layers[0]}  # (L, H) by name
    similarity = activations.to_floats(torch.stack([attention.overlap(w) for w in weights]))
    dead_units = torch.stack([activations.dead_share(units) for units in recorded.mlp_units])
    row = {
        "loss": lens[-1],
        "attention": {**heads, "similarity": similarity},
        "stream": activations.stream_metrics(recorded.stream),
        "dead_units": activations.to_floats(dead_units),
        "predictions": {
            "entropy": float(predicted.entropy.mean()),
            "accuracy": float(predicted.right.mean()),
            "confidence": float(predicted.confidence.mean()),
            "calibration_error": error,
            "bins": [asdict(b) for b in bins],
        },
        "induction": induction,
        "lens": lens,
        "alarms": [asdict(alarm) for alarm in attention.alarms(heads["relative"], similarity, heads["previous"])],
    }
    return ProbeResult(row, [w[0, :, :MAP_TOKENS, :MAP_TOKENS] for w in weights])


def select_attention_maps(result: ProbeResult) -> list[dict[str, Any]]:
    """Return the maps of the heads that stand out, each head once, and of the best induction head.

    Row i of a map has the weights of query i on the positions 0 ... i.
    """
    metrics, induction = result.row["attention"], result.row["induction"]
    candidates = [(layer, head) for layer, heads in enumerate(metrics["entropy"]) for head in range(len(heads))]
    reasons: dict[tuple[int, int], str] = {}
    for reason, (name, wants_largest) in MAP_CRITERIA.items():
        remaining = [candidate for candidate in candidates if candidate not in reasons]
        if remaining:
            sign = 1 if wants_largest else -1
            reasons[max(remaining, key=lambda at: sign * metrics[name][at[0]][at[1]])] = reason
    reasons.setdefault((induction["layer"], induction["head"]), "best induction score")
    return [
        {
            "layer": layer,
            "head": head,
            "why": reason,
            "weights": [[round(w, 3) for w in row[: i + 1]] for i, row in enumerate(result.maps[layer][head].tolist())],
        }
        for (layer, head), reason in reasons.items()
    ]


def _measure_copying(model: LightLLM, repeated: Tensor) -> dict[str, Any]:
    """Return the best induction head and the gain from copying; windows of one or two tokens have neither."""
    if repeated.size(1) < 4:
        return {"score": None, "layer": 0, "head": 0, "gain": None}
    with attention.record_attention(model) as weights:
        gain = predictions.copying_gain(model, repeated)
    scores = torch.stack([attention.induction_score(w) for w in weights])  # (L, H)
    layer, head = divmod(int(scores.argmax()), scores.size(1))
    return {"score": float(scores[layer, head]), "layer": layer, "head": head, "gain": gain}
