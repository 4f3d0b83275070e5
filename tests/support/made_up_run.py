"""Build run folders from formulas, without training, so that a test knows what a reader of them must return."""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from light_llm.config import Run
from light_llm.json_io import dump_with_digest

V, L, H, T = 512, 2, 3, 16
RUN = Run().with_settings(
    model__vocab_size=V,
    model__n_layer=L,
    model__n_head=H,
    model__n_embd=48,
    model__n_positions=T,
    data__tokenizer="bpe",
    data__data="verse.txt",
    data__max_length=T,
    train__max_steps=200,
    train__eval_interval=20,
    train__warmup_steps=20,
    train__device="cpu",
)
GROUPS = ("wte", "wpe", "h.0.attn", "h.0.mlp", "h.1.attn", "h.1.mlp", "ln_f")
HASHES = {"sha256": "a" * 64, "tokenizer_sha256": "b" * 64}
PER_STEP = RUN.train.batch_size * T  # tokens
BITS = 0.75  # bits per byte for each nat per token

Curve = Callable[[int], float | None]


def wobble(step: int) -> float:
    """Return deterministic noise with mean near 0 and standard deviation 1."""
    return math.sqrt(2) * math.sin(12.9898 * step * step)


def learning(step: int) -> float:
    """Return a training loss that falls from about log V to 3.5."""
    return 3.5 + 2.7 * math.exp(-step / 60) + 0.03 * wobble(step)


def made_up_run(
    folder: Path,
    *,
    steps: int = 200,
    loss: Curve = learning,
    held: Curve | None = None,
    run: Run = RUN,
    every: int = 20,
    status: str | None = "done",
    change: Callable[[dict[str, Any]], object] = lambda row: None,
    probed: bool = True,
    data: Mapping[str, Any] | None = None,
) -> Path:
    """Write a folder with run.json and metrics.jsonl. Returns the folder.

    Args:
        loss, held: nats per token by step; by default `held` is 0.05 above the noiseless training curve.
        every: steps between evaluations and probes.
        status: of the last row; None for a run that was killed.
        change: called with each row before it is written.
        probed: False writes only the rows and fields of older versions.
    """
    rows = []
    for step in range(1, steps + 1):
        rows.append(step_row(step, loss(step), run, probed))
        if step % every == 0:
            rows.append(eval_row(step, (held or (lambda s: 3.55 + 2.7 * math.exp(-s / 60)))(step), probed))
            rows += [probe_row(step), attention_row(step), {"kind": "sample", "step": step, "text": f"At {step}."}]
    if not probed:
        rows = [row for row in rows if row["kind"] in ("step", "eval")]
    if status:
        rows.append({"kind": "end", "step": steps, "status": status, "seconds": 1.5 * steps, "memory": 10**9})
    for row in rows:
        change(row)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "run.json").write_bytes(dump_with_digest(run_record(run, data)))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def memorised(step: int) -> float:
    """Return a training loss that falls throughout."""
    return 1.0 + 5.0 * math.exp(-step / 70) + 0.02 * wobble(step)


def turning(step: int) -> float:
    """Return a held-out loss that falls until step 100, then rises."""
    return 1.3 + 5.0 * math.exp(-min(step, 100) / 70) + 0.004 * max(0, step - 100)


def run_record(run: Run, data: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return run.json without its digest."""
    text = {"title": "verse.txt", "tokenizer": run.data.tokenizer, "train_tokens": 10 * PER_STEP, **HASHES}
    return {
        "format": 1,
        "started": "2026-01-02T03:04:05+00:00",
        "run": run.to_dict(),
        "versions": {"light_llm": "0.1.0", "torch": "2.13.0"},
        "decided": {"device": {"value": "cpu", "reason": "asked for"}},
        "machine": "an abacus",
        "data": text | dict(data or {}),
        "plan": {"parameters": 1, "steps": 200, "tokens": 200 * PER_STEP, "passes": 20.0, "flops_per_token": 6e6},
    }


def step_row(step: int, loss: float | None, run: Run, probed: bool) -> dict[str, Any]:
    """Return a row of kind "step" with round numbers."""
    row = {"kind": "step", "step": step, "loss": loss, "bits_per_byte": None if loss is None else BITS * loss}
    row |= {"lr": run.train.lr, "grad_norm": 0.8}
    row |= {"tokens": step * PER_STEP, "seconds": 0.5, "tok_per_sec": 2 * PER_STEP}
    if probed:
        row |= {"clipped": False, "grad_norms": dict.fromkeys(GROUPS, 0.3), "weight_norm": 50 + step / 100}
        row |= {"update_ratios": dict.fromkeys(GROUPS, 1e-3), "mfu": 0.4, "memory": 10**9}
        row |= {"phases": {"data": 0.01, "gradients": 0.44, "update": 0.05}}
    return row


def eval_row(step: int, loss: float | None, probed: bool) -> dict[str, Any]:
    """Return a row of kind "eval"."""
    row = {"kind": "eval", "step": step, "split": "held_out", "loss": loss, "stderr": 0.02, "context": T}
    row["bits_per_byte"] = None if loss is None else BITS * loss
    if probed and loss is not None:
        row["by_position"] = {"upto": [1, 2, 4, 8, 16], "loss": [loss + d for d in (0.4, 0.2, 0.1, 0, -0.1)]}
    return row


def probe_row(step: int) -> dict[str, Any]:
    """Return a row of kind "probe"; layer l, head h has relative entropy (1 + l H + h) / 10."""
    grid = [[(1 + layer * H + head) / 10 for head in range(H)] for layer in range(L)]
    attention = dict.fromkeys(("entropy", "relative", "first", "previous", "distance"), grid)
    stream = {"rms": [1, 2, 3], "kurtosis": [3, 4, 5], "largest": [4, 6, 8], "effective_rank": [30, 20, 10]}
    bins = [{"confidence": c, "accuracy": c, "count": 10} for c in (0.1, 0.5, 0.9)]
    predictions = {"entropy": 3.0, "accuracy": 0.3, "confidence": 0.31, "calibration_error": 0.01, "bins": bins}
    return {
        "kind": "probe",
        "step": step,
        "loss": 4.0,
        "attention": attention | {"similarity": [0.5] * L},
        "stream": stream,
        "dead_units": [0.0, 0.1],
        "predictions": predictions,
        "induction": {"score": 0.1, "layer": 1, "head": 2, "gain": 0.2},
        "lens": [6.0, 5.0, 4.0],
        "alarms": [],
    }


def attention_row(step: int) -> dict[str, Any]:
    """Return a row of kind "attention" with one head that attends to its own position only."""
    weights = [[0.0] * i + [1.0] for i in range(4)]
    tokens = ["To", " be", "\n", "<b>"]
    maps = [{"layer": 1, "head": 2, "why": "sharpest", "weights": weights}]
    return {"kind": "attention", "step": step, "tokens": tokens, "maps": maps}


ANALYSIS: dict[str, Any] = {
    "format": 1,
    "step": 200,
    "hessian": {
        "eigenvalues": [9.0, 4.0],
        "residuals": [0.1, 0.2],
        "smallest": -1.0,
        "trace": {"value": 100.0, "stderr": 3.0, "probes": 12},
        "density": {"at": [-1.0, 0.0, 9.0], "density": [0.01, 1.0, 0.02], "probes": 3, "steps": 16},
    },
    "sharpness": {"plain": 9.0, "plain_threshold": 1333.0, "preconditioned": 19e3, "preconditioned_threshold": 38e3},
    "batch": {"sequences": 4, "context": 64, "tokens": 256},
    "noise": {"scale_sequences": 80.0, "scale_tokens": 5120.0, "stderr": 5.0, "sequences": 24},
    "landscape": {
        "line": {"at": [-1.0, 0.0, 1.0], "loss": [5.0, 3.0, 5.0]},
        "plane": {"a": [-1.0, 0.0, 1.0], "b": [-1.0, 1.0], "loss": [[5.0, 4.0, 5.0], [6.0, 5.0, 6.0]]},
    },
    "path": {
        "explained": [0.7, 0.2],
        "points": [{"step": 100, "a": 0.0, "b": 1.0, "loss": 4.0}, {"step": 200, "a": 1.0, "b": 0.0, "loss": 3.0}],
        "a": [0.0, 1.0],
        "b": [0.0, 1.0],
        "loss": [[4.0, 3.0], [4.5, 4.0]],
    },
}
