"""Small models, batches and runs for tests, and child processes."""

import os
import subprocess
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from light_llm.checkpoint import Files, RunFolder, model_meta, write_model_file
from light_llm.config import ModelConfig
from light_llm.data import Batch, DataLoader, create_dataloader, prepare_dataset
from light_llm.data.shards import ShardWriter
from light_llm.data.tokenizers import ByteTokenizer
from light_llm.model import LightLLM
from light_llm.observe import read_rows
from light_llm.observe.metrics import TIMING_KEYS
from light_llm.plan.profile import Profile, keys
from light_llm.runtime.device import measure_bfloat16_speedup
from light_llm.runtime.machine_cache import machine_key, store_measurements
from light_llm.train import Result, Trainer

ALPHABET = "abcdefghij \n.é/"  # of the model that the tests of the prompt write with
# A made-up speed of this machine, in the cache of all tests: none waits for a measurement or depends on one.
PROFILE = Profile(
    block_batch=(1e-4, 2e-4, 4e-4),
    block_token=(1e-6, 3e-6, 1e-5),
    attention=(1e-7, 2e-7, 8e-7),
    attention_kernel=(4e-7, 8e-7, 2e-6),
    head_batch=(1e-7, 2e-7, 4e-7),
    head_token=(1e-9, 2e-9, 4e-9),
    muon=(1e-3, 4e-3, 2e-2),
    table=1e-9,
    adamw=1e-9,
    dropout=2e-9,
    forward=0.35,
    evaluated=0.4,
)
TINY = ModelConfig(vocab_size=61, n_positions=32, n_embd=24, n_layer=2, n_head=3)


def cache_profile(model: ModelConfig = TINY) -> None:
    """Cache a made-up speed of this machine, PROFILE, for both number formats and a model's kind of blocks."""
    numbers = [n for value in vars(PROFILE).values() for n in (value if isinstance(value, tuple) else (value,))]
    for dtype in ("float32", "bfloat16"):
        store_measurements(dict(zip(keys("cpu", dtype, model), numbers, strict=True)))
        store_measurements({f"{dtype} products on cpu, FLOP/s: {machine_key()}": 1e11})
    # Measured, because it decides the number format: a made-up one could be slow here. Cached even if other tests run.
    store_measurements({machine_key(): measure_bfloat16_speedup(0.02)})


def some_tokens(B: int = 3, T: int = 16, V: int = TINY.vocab_size, seed: int = 5) -> Tensor:
    """(B, T) ids."""
    return torch.randint(V, (B, T), generator=torch.Generator().manual_seed(seed))


def some_batch(B: int = 3, T: int = 16, V: int = TINY.vocab_size) -> Batch:
    ids = some_tokens(B, T + 1, V)
    return Batch(ids[:, :-1], ids[:, 1:])


def tiny_model(seed: int = 0, scale: float = 1.0, **changes: Any) -> LightLLM:
    """A tiny model in evaluation mode; a scale above 1 makes it opinionated, so that its guesses are not uniform."""
    torch.manual_seed(seed)
    config = ModelConfig(**({f: getattr(TINY, f) for f in TINY.__dataclass_fields__} | changes))
    model = LightLLM(config, seed=None).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(scale)
            else:  # biases and gains start at 0 and 1: moved, so that a test notices when one is forgotten
                parameter.add_(0.1 * torch.randn_like(parameter))
    return model


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    """The gradients of all parameters, by name."""
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def byte_loader(path: Path, *, max_length: int = 16, batch_size: int = 4, seed: int = 1) -> DataLoader:
    """A loader over a text file, by bytes."""
    dataset, _ = prepare_dataset(str(path), max_length=max_length, tokenizer="byte")
    return create_dataloader(dataset, batch_size, seed=seed)


def byte_model(dropout: float = 0.0, seed: int = 0) -> LightLLM:
    """A tiny model over bytes."""
    torch.manual_seed(seed)
    config = ModelConfig(vocab_size=257, n_positions=32, n_embd=24, n_layer=2, n_head=3, dropout=dropout)
    return LightLLM(config, seed=None)


def write_shard(path: Path, ids: Iterable[Iterable[int]], *, vocab_size: int, metadata: Mapping[str, Any]) -> None:
    """Write a shard from several arrays of ids."""
    with ShardWriter(path, vocab_size=vocab_size, metadata=metadata) as shard:
        for piece in ids:
            shard.write(np.fromiter(piece, dtype=np.int64))
        shard.finish()


def run_child(
    words: Sequence[str], *, cwd: Path | None = None, env: dict[str, str] | None = None, stdin: str | None = None
) -> "subprocess.CompletedProcess[str]":
    """A child process with its output as text."""
    return subprocess.run(
        words,
        cwd=cwd,
        env=os.environ | (env or {}),
        input=stdin,
        capture_output=True,
        text=True,
        encoding="utf-8",
        timeout=200,
        check=False,
    )


# A run of seconds through the command line: one layer, 24 wide.
NANO_RUN = [
    *("--preset", "nano", "--tokenizer", "byte", "--max-length", "32", "--batch-size", "2"),
    *("--dtype", "float32", "--device", "cpu", "--set", "train.sample_interval=0"),
    *("--set", "model.n_layer=1", "--set", "model.n_embd=24", "--set", "model.n_head=3"),
]

# Settings of a run of a second from Python.
SMALL: dict[str, Any] = {
    "lr": 1e-2,
    "warmup_steps": 3,
    "eval_interval": 10,
    "save_interval": 10,
    "sample_interval": 0,
    "device": "cpu",
    "dtype": "float32",
    "quiet": True,
    "report": False,
}


def train_small(
    poem: Path, out: str = "run", *, model: LightLLM | None = None, **changes: Any
) -> tuple[Trainer, Result]:
    loader = byte_loader(poem, seed=changes.get("seed", 1))
    trainer = Trainer(model or byte_model(dropout=0.2), loader, out=out, **(SMALL | changes))
    return trainer, trainer.train()


def rows_of(folder: str | Path, kind: str) -> list[dict[str, Any]]:
    rows = read_rows(Path(folder, "metrics.jsonl"))
    return [{k: v for k, v in row.items() if k not in TIMING_KEYS} for row in rows if row["kind"] == kind]


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def tensors_of(folder: str | Path) -> dict[str, bytes]:
    """Model, optimizer, generators and counters of a step, byte for byte, whatever its settings say."""
    return {
        name: data for name, data in files_of(Path(folder)).items() if name not in ("settings.json", "MANIFEST.json")
    }


def same(a: str = "whole", b: str = "two") -> bool:
    """Whether two runs ended alike: the last step and the best model byte for byte, and every row."""
    ends = [RunFolder(name).latest_step() for name in (a, b)]
    return (
        ends[0].name == ends[1].name
        and files_of(ends[0]) == files_of(ends[1])
        and Path(a, "best_model.pt").read_bytes() == Path(b, "best_model.pt").read_bytes()
        and all(rows_of(a, kind) == rows_of(b, kind) for kind in ("step", "eval", "probe"))
    )


def flip(path: Path, at: float = 0.5) -> None:
    """Turn one bit over, at a share of the file."""
    data = bytearray(path.read_bytes())
    data[int(len(data) * at)] ^= 1
    path.write_bytes(data)


class Foreign:
    """Any iterable of pairs will do."""

    def __init__(self, loader: DataLoader) -> None:
        self.loader = loader

    def __iter__(self) -> Iterator[Any]:
        return (tuple(self.loader.batch(k)) for k in range(3))


def model_path(folder: Path, tokenizer: Any = None, documents: int = 1, **changes: Any) -> Path:
    """A model file to write with: it sees 16 tokens, has opinions and never ends a text by itself."""
    tokenizer = tokenizer or ByteTokenizer()
    model = tiny_model(scale=4, **({"vocab_size": tokenizer.vocab_size} | changes))
    with torch.no_grad():  # never the separator, so that the lengths of texts are known
        model.ln_f.bias[0] = 50
        model.wte.weight[:, 0] = 0
        model.wte.weight[tokenizer.separator, 0] = -10
    meta = model_meta(model, None, step=1, dtype="float32", evaluation=None)
    meta |= {"tokenizer": tokenizer.to_dict(), "data": {"max_length": 16, "documents": documents}}
    write_model_file(folder / "best_model.pt", model.state_dict(), meta, Files())
    return folder / "best_model.pt"
