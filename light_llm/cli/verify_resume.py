"""`light-llm verify-resume`: the experiment behind the promise, on this machine: one run whole, one in two parts."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import UseAppendAction, arg

from ..config import parse_settings
from ..errors import ConfigError
from ..observe.metrics import TIMING_KEYS
from ..runtime.env import stop_after_env
from .args import parse


@dataclass(frozen=True)
class VerifyFlags:
    """The flags of `verify-resume`: those of `train` that can make a difference."""

    preset: Annotated[str, arg(metavar="NAME", help="nano, micro, small, llama-nano ...")] = "nano"
    data: Annotated[str, arg(metavar="NAME|PATH", help="a source or file; else some tales")] = ""
    tokenizer: Annotated[str, arg(metavar="NAME|PATH", help="gpt2, bpe, bpe:N, char, byte")] = "byte"
    max_steps: Annotated[int, arg(metavar="N", help="steps of the whole run")] = 12
    stop_at: Annotated[int, arg(metavar="N", help="the step the other one stops after; 0: half")] = 0
    max_length: Annotated[int, arg(metavar="N", help="context, tokens")] = 64
    batch_size: Annotated[int, arg(metavar="N", help="sequences of one step")] = 4
    micro_batch: Annotated[int, arg(metavar="N", help="sequences at a time; 0: all")] = 2
    optimizer: Annotated[str, arg(metavar="NAME", help="adamw or muon")] = "adamw"
    dropout: Annotated[float, arg(metavar="P", help="embeddings, branches")] = 0.1
    device: Annotated[str, arg(metavar="NAME", help="auto, cpu, cuda, mps")] = "auto"
    dtype: Annotated[str, arg(metavar="NAME", help="auto, float32, bfloat16")] = "auto"
    compile: Annotated[str, arg(metavar="WHEN", help="auto, on or off")] = "auto"
    set: Annotated[UseAppendAction[tuple[str, ...]], arg(metavar="PATH=VALUE", help="as train.beta2=0.99")] = ()


def command(argv: Sequence[str]) -> int:
    """Run the verb. Returns 0 when the runs are the same to the last bit, else 1."""
    about = (
        "Train a small run whole, and the same run stopped and resumed, each in a process of its own, and compare them "
        "bit for bit: weights, optimizer, generators, counters, best model and every number on the way."
    )
    flags, _ = parse(VerifyFlags, argv, prog="light-llm verify-resume", about=about)
    parse_settings(flags.set)
    stop_at = flags.stop_at or flags.max_steps // 2
    if not 0 < stop_at < flags.max_steps:
        raise ConfigError(
            f"stop_at={flags.stop_at} cannot be used; it must be a step before the last, 1 ... {flags.max_steps - 1}"
        )
    with tempfile.TemporaryDirectory(prefix="light-llm-verify-") as scratch:
        words = [*_words(flags), "--data", flags.data or str(_tales(Path(scratch)))]
        return _compare(Path(scratch), words, flags.max_steps, stop_at)


def _tales(folder: Path) -> Path:
    """A small text, so that evaluations are short."""
    from ..data.tales.telling import stories

    path = folder / "tales.txt"
    path.write_text("\n".join(story.text for story in islice(stories(seed=1), 60)), encoding="utf-8")
    return path


def _words(flags: VerifyFlags) -> list[str]:
    named = ("preset", "tokenizer", "max_steps", "max_length", "batch_size", "micro_batch", "optimizer")
    words = [f"--{name.replace('_', '-')}={getattr(flags, name)}" for name in (*named, "dropout")]
    words += [f"--{name}={getattr(flags, name)}" for name in ("device", "dtype", "compile")]
    # Evaluations and saves of their own in both parts, and a warm-up that ends between them.
    often = max(1, flags.max_steps // 4)
    words += [f"--save-interval={often}", f"--eval-interval={often}", f"--warmup-steps={often}"]
    return [*words, "--set", "train.sample_interval=0", *(w for one in flags.set for w in ("--set", one))]


def _compare(scratch: Path, words: list[str], last: int, stop_at: int) -> int:
    whole, parts = scratch / "whole", scratch / "parts"
    print(f"1 of 3   {last} steps in one go", flush=True)
    _train([*words, "--out", str(whole)])
    print(f"2 of 3   the same, stopped after step {stop_at}", flush=True)
    _train([*words, "--out", str(parts)], stop_after=stop_at)
    print(f"3 of 3   resumed at step {stop_at}, in another process", flush=True)
    _train(["--resume", "--out", str(parts)])
    settled = json.loads((whole / "run.json").read_text(encoding="utf-8"))["decided"]
    print("on       " + ", ".join(f"{name} {choice['value']}" for name, choice in settled.items()))
    differences = list(_differences(whole, parts, last))
    for line in differences:
        print(f"differs  {line}")
    if differences:
        print("verdict  NOT the same: on this device and in this format a resumed run is only nearly the run")
        return 1
    print("verdict  the same to the last bit: weights, optimizer, generators, counters, best model, metrics")
    return 0


def _differences(whole: Path, parts: Path, last: int) -> Iterator[str]:
    a, b = (folder / f"step-{last:06d}" for folder in (whole, parts))
    for name in sorted({p.name for p in [*a.iterdir(), *b.iterdir()]} - {"MANIFEST.json", "settings.json"}):
        if _hash(a / name) != _hash(b / name):
            yield f"{name} of step {last}{_which(a / name, b / name)}"
    if _hash(whole / "best_model.pt") != _hash(parts / "best_model.pt"):
        yield "best_model.pt"
    rows = [_rows(folder / "metrics.jsonl") for folder in (whole, parts)]
    if rows[0] != rows[1]:
        first = next((x for x, y in zip(*rows, strict=False) if x != y), rows[0][-1])
        yield f"the metrics, from step {first.get('step')} on"


def _which(a: Path, b: Path) -> str:
    """Of a file of tensors, the first that differs, and by how much."""
    if a.suffix != ".safetensors" or not b.is_file():
        return ""
    import safetensors.torch

    ours, theirs = safetensors.torch.load_file(a), safetensors.torch.load_file(b)
    for name in ours:
        x, y = ours[name].double(), theirs[name].double()
        if not x.equal(y):
            return f": {name}, by up to {(x - y).abs().max():.3g}"
    return ""


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [
        {key: value for key, value in row.items() if key not in TIMING_KEYS} for row in rows if row["kind"] != "end"
    ]


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _train(words: list[str], stop_after: int | None = None) -> None:
    """`light-llm train` in a process of its own. Raises ConfigError with what it said when it fails."""
    child = subprocess.run(  # noqa: S603  (our own program)
        [sys.executable, "-m", "light_llm", "train", "--quiet", *words],
        env=stop_after_env(stop_after),
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    if child.returncode != (0 if stop_after is None else 130):
        raise ConfigError(child.stderr.strip().removeprefix("error: ") or f"a run ended with {child.returncode}")
