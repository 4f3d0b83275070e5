"""One look inside the model, on a small fixed batch: attention, activations and predictions as a row of numbers.

It makes a forward pass of its own, uncompiled and in evaluation mode, draws from no generator of the run, and leaves
nothing behind: no hook, no gradient, no number of the run is another afterwards.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ..data import TokenArray
from ..model import LightLLM, eval_mode
from ..runtime import autocast
from . import activations, attention, predictions

BATCH_TOKENS, MAX_WINDOW = 512, 256  # of the batch, and of a window in it
MAP_TOKENS = 24  # tokens of an attention map
HALF = 48  # tokens of a random sequence, which is then said again
MAPS = {  # why a head is shown, the fact that decides, and whether the largest is wanted
    "looks at the previous token": ("previous", True),
    "looks at the first token": ("first", True),
    "most local": ("distance", False),
    "most even": ("relative", True),
    "sharpest": ("relative", False),
}


@dataclass(frozen=True)
class ProbeBatch:
    """What every look of a run is at."""

    tokens: Tensor  # (B, T)
    targets: Tensor  # (B, T)
    twice: Tensor  # (B', 2 half) random tokens, said twice


def make_probe_batch(held_out: TokenArray, *, context: int, n_ids: int) -> ProbeBatch:
    """Windows evenly spread over a text of at least two tokens, at most 512 tokens in all; the same at every start."""
    n = len(held_out)
    T = min(context, MAX_WINDOW, n - 1)
    B = max(1, min(BATCH_TOKENS // T, (n - 1) // T))
    starts = np.linspace(0, n - 1 - T, B).astype(int)
    ids = torch.from_numpy(np.stack([held_out.read(int(s), int(s) + T + 1) for s in starts]))
    return ProbeBatch(ids[:, :-1], ids[:, 1:], copying_tokens(n_ids, context))


def copying_tokens(n_ids: int, context: int) -> Tensor:
    """Random tokens for the look at copying, (B', 2 half), of which all but the last fit into the context."""
    half = max(1, min(HALF, (context + 1) // 2))
    return predictions.repeated_sequence(n_ids, max(1, BATCH_TOKENS // 4 // half), half)


@dataclass(frozen=True)
class ProbeResult:
    """A look: the row of numbers, and the maps of the first window for those who want pictures."""

    row: dict[str, Any]
    maps: list[Tensor]  # L of (H, n, n), the first tokens of the first window


@torch.no_grad()
def probe_model(model: LightLLM, batch: ProbeBatch, *, dtype: str = "float32") -> ProbeResult:
    """All facts of a `probe` row but its kind and step. The model is in its mode again afterwards."""
    device = model.head_weight.device
    tokens, targets, twice = (x.to(device) for x in (batch.tokens, batch.targets, batch.twice))
    with eval_mode(model), autocast(device.type, dtype):
        with attention.record_attention(model) as weights, activations.record_activations(model) as seen:
            hidden = model.hidden_states(tokens)
        predict = predictions.predict(model, hidden.flatten(0, 1), targets.flatten())
        lens = predictions.logit_lens(model, seen.stream, targets)
        copies = _copying(model, twice)
    error, bins = predictions.calibration(predict.confidence, predict.right)
    heads = _columns([attention.head_metrics(w, model.config.window_size(layer)) for layer, w in enumerate(weights)])
    alike = activations.to_floats([attention.overlap(w) for w in weights])
    row = {
        "loss": lens[-1],
        "attention": {**heads, "similarity": alike},
        "stream": activations.stream_metrics(seen.stream),
        "dead_units": activations.to_floats([activations.dead_share(u) for u in seen.units]),
        "predictions": {
            "entropy": float(predict.entropy.mean()),
            "accuracy": float(predict.right.mean()),
            "confidence": float(predict.confidence.mean()),
            "calibration_error": error,
            "bins": [asdict(b) for b in bins],
        },
        "induction": copies,
        "lens": lens,
        "alarms": [asdict(alarm) for alarm in attention.alarms(heads["relative"], alike, heads["previous"])],
    }
    return ProbeResult(row, [w[0, :, :MAP_TOKENS, :MAP_TOKENS] for w in weights])


def select_attention_maps(seen: ProbeResult) -> list[dict[str, Any]]:
    """The maps of the heads that stand out, each head once: of query i the weights on the positions 0 ... i."""
    facts, induction = seen.row["attention"], seen.row["induction"]
    places = [(layer, head) for layer, heads in enumerate(facts["entropy"]) for head in range(len(heads))]
    chosen: dict[tuple[int, int], str] = {}
    for why, (name, largest) in MAPS.items():
        left = [place for place in places if place not in chosen]
        if left:
            best = max(left, key=lambda at: facts[name][at[0]][at[1]] * (1 if largest else -1))
            chosen[best] = why
    chosen.setdefault((induction["layer"], induction["head"]), "induction")
    return [
        {
            "layer": layer,
            "head": head,
            "why": why,
            "weights": [[round(w, 3) for w in row[: i + 1]] for i, row in enumerate(seen.maps[layer][head].tolist())],
        }
        for (layer, head), why in chosen.items()
    ]


def _copying(model: LightLLM, twice: Tensor) -> dict[str, Any]:
    """The best copying head, and what copying gains. Windows of one or two tokens have nothing to copy from."""
    if twice.size(1) < 4:
        return {"score": None, "layer": 0, "head": 0, "gain": None}
    with attention.record_attention(model) as weights:
        gain = predictions.copying_gain(model, twice)
    scores = torch.stack([attention.induction_score(w) for w in weights])  # (L, H)
    layer, head = divmod(int(scores.argmax()), scores.size(1))
    return {"score": float(scores[layer, head]), "layer": layer, "head": head, "gain": gain}


def _columns(rows: Sequence[dict[str, list[float]]]) -> dict[str, list[list[float]]]:
    """L dicts of H numbers -> a dict of (L, H)."""
    return {name: [row[name] for row in rows] for name in rows[0]}
