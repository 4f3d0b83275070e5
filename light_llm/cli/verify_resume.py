"""`light-llm verify-resume`: train a small run whole and in two parts, and compare the results bit for bit."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Annotated, Any

from tyro.conf import UseAppendAction, arg

from ..config import parse_settings
from ..errors import ConfigError
from ..observe.metrics import TIMING_KEYS
from .args import flag_of, parse, with_run_settings


@dataclass(frozen=True)
class VerifyFlags:
    """The flags of `verify-resume`; the settings in DEFAULTS follow them."""

    preset: Annotated[str, arg(metavar="NAME", help="nano, micro, small, llama-nano ...")] = "nano"
    stop_at: Annotated[int, arg(metavar="N", help="interrupt after this step; 0: halfway")] = 0
    set: Annotated[
        UseAppendAction[tuple[str, ...]], arg(metavar="PART.NAME=VALUE", help="any setting: train.beta2=0.9")
    ] = ()


# The settings of `train` that have a flag here, and their defaults: a run of some seconds. No data: generated tales.
DEFAULTS = {
    "data": "",
    "tokenizer": "byte",
    "max_steps": 12,
    "max_length": 64,
    "batch_size": 4,
    "micro_batch": 2,
    "optimizer": "adamw",
    "dropout": 0.1,
    "device": "auto",
    "dtype": "auto",
    "compile": "auto",
}


def command(argv: Sequence[str]) -> int:
    """Compare the two runs. Returns 0 if they are equal bit for bit, else 1."""
    about = (
        "Train a small run without interruption, and the same run stopped and resumed, each in its own process. "
        "Without --data, the text is built-in stories. Compare the runs bit for bit: weights, optimizer, random "
        "generators, counters, best model and all metrics. Exit code 0: equal; 1: not equal."
    )
    kind = with_run_settings(VerifyFlags, DEFAULTS, DEFAULTS)
    flags, _ = parse(kind, argv, prog="light-llm verify-resume", about=about)
    parse_settings(flags.set)
    settings = {name: getattr(flags, name) for name in DEFAULTS}
    last = settings["max_steps"]
    stop_at = flags.stop_at or last // 2
    if not 0 < stop_at < last:
        raise ConfigError(
            f"stop_at={flags.stop_at} cannot be used; it must be a step before the last, 1 ... {last - 1}"
        )
    with tempfile.TemporaryDirectory(prefix="light-llm-verify-") as scratch:
        settings["data"] = settings["data"] or _write_tales(Path(scratch))
        return _compare(Path(scratch), _train_args(flags, settings), last, stop_at)


def _write_tales(folder: Path) -> Path:
    """Write a text so small that evaluations are quick, and return its path."""
    from ..data.tales.generator import stories

    path = folder / "tales.txt"
    path.write_text("\n".join(story.text for story in islice(stories(seed=1), 60)), encoding="utf-8")
    return path


def _train_args(flags: VerifyFlags, settings: Mapping[str, Any]) -> list[str]:
    """Return the arguments of `train`."""
    words = [f"{flag_of(name)}={value}" for name, value in settings.items()]
    # Saves and evaluations in both parts, and a warm-up that ends in the first.
    interval = max(1, settings["max_steps"] // 4)
    words += [f"{flag}={interval}" for flag in ("--save-interval", "--eval-interval", "--warmup-steps")]
    words += [f"--preset={flags.preset}", "--set=train.sample_interval=0"]
    return [*words, *(f"--set={setting}" for setting in flags.set)]


def _compare(scratch: Path, words: list[str], last: int, stop_at: int) -> int:
    """Train both runs, print their differences, and return the exit code."""
    whole, parts = scratch / "whole", scratch / "parts"
    print(f"1 of 3   {last} steps in one go", flush=True)
    _train([*words, "--out", str(whole)])
    print(f"2 of 3   the same, stopped after step {stop_at}", flush=True)
    _train([*words, "--out", str(parts)], stop_after=stop_at)
    print(f"3 of 3   resumed at step {stop_at}, in another process", flush=True)
    _train(["--resume", "--out", str(parts)])
    decided = json.loads((whole / "run.json").read_text(encoding="utf-8"))["decided"]
    print("on       " + ", ".join(f"{name} {decision['value']}" for name, decision in decided.items()))
    differences = list(_differences(whole, parts, last))
    for line in differences:
        print(f"differs  {line}")
    if differences:
        print("verdict  NOT the same: on this device and in this format a resumed run is only nearly the run")
        return 1
    print("verdict  the same to the last bit: weights, optimizer, generators, counters, best model, metrics")
    return 0


def _differences(whole: Path, parts: Path, last: int) -> Iterator[str]:
    """Yield a description of each file that differs."""
    a, b = (folder / f"step-{last:06d}" for folder in (whole, parts))
    # settings.json has the time of the start, and the manifest its hash.
    for name in sorted({p.name for p in [*a.iterdir(), *b.iterdir()]} - {"MANIFEST.json", "settings.json"}):
        if _hash(a / name) != _hash(b / name):
            yield f"{name} of step {last}{_tensor_difference(a / name, b / name)}"
    if _hash(whole / "best_model.pt") != _hash(parts / "best_model.pt"):
        yield "best_model.pt"
    rows = [_rows(folder / "metrics.jsonl") for folder in (whole, parts)]
    if rows[0] != rows[1]:
        first = next((x for x, y in zip(*rows, strict=False) if x != y), rows[0][-1])
        yield f"the metrics, from step {first.get('step')} on"


def _tensor_difference(a: Path, b: Path) -> str:
    """Return the first tensor of a file that differs, with the largest difference; empty for other files."""
    if a.suffix != ".safetensors" or not b.is_file():
        return ""
    import safetensors.torch

    tensors_a, tensors_b = safetensors.torch.load_file(a), safetensors.torch.load_file(b)
    for name in tensors_a:
        x, y = tensors_a[name].double(), tensors_b[name].double()
        if not x.equal(y):
            return f": {name}, by up to {(x - y).abs().max():.3g}"
    return ""


def _rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a metrics file without the measured times, which always differ."""
    rows = map(json.loads, path.read_text(encoding="utf-8").splitlines())
    return [{key: row[key] for key in row.keys() - TIMING_KEYS} for row in rows if row["kind"] != "end"]


def _hash(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""


def _train(words: list[str], stop_after: int | None = None) -> None:
    """Run `light-llm train` in a child process. Raises ConfigError with its error message if it fails."""
    from ..runtime.env import stop_after_env

    # A process of its own, as when a user resumes: no state in memory can help.
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
