"""Export models of every family and tokenizer to every program, open and compare them there, and print a matrix.

    python tests/support/check_interop.py [--write]    some five minutes; llama.cpp's cells need `make check-gguf` once

The models are small, and trained on the built-in corpus. A cell is green (the program gave the model's logits, greedy
text and ids), marked (the program is not installed or has no such model; the reason is printed below), or red. The exit
code is 1 if a cell is red. A second table compares published families with transformers (`check_published.py`).
--write puts the tables into benchmarks/results/ for benchmarks/pages.py.
"""

import platform
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[2]))

from light_llm.checkpoint import LoadedModel, load_model
from light_llm.config import ModelConfig
from light_llm.data import create_dataloader, prepare_dataset
from light_llm.data.tokenizers import tokenizer_hash
from light_llm.errors import ConfigError, DataError, LightLLMError
from light_llm.interop.export import TARGETS, export
from light_llm.interop.import_model import read_folder
from light_llm.model import LightLLM
from light_llm.train import Trainer
from tests.support import check_published

SHAPE: dict[str, Any] = {"n_positions": 96, "n_embd": 64, "n_layer": 2, "n_head": 4, "head_dim": 32}
LLAMA = {"positions": "rope", "norm": "rmsnorm", "mlp": "swiglu", "bias": False, "n_kv_head": 2, "n_inner": 160}
FAMILIES: dict[str, dict[str, Any]] = {
    "GPT-2": {"head_dim": 0},
    "GPT-2, no biases, own head": {"head_dim": 0, "bias": False, "tied_head": False},
    "Llama": LLAMA,
    "Llama, own head, longer": LLAMA | {"tied_head": False, "rope_scaling": "llama3", "rope_factor": 2.0},
    "Qwen3": LLAMA | {"qk_norm": True},
}
TOKENIZERS = ("bpe:512", "byte", "char", "gpt2")
STEPS = 40
PACKAGES = ("torch", "transformers", "llama-cpp-python", "gguf", "onnxruntime")


@dataclass(frozen=True)
class Cell:
    """The result of one program for one model."""

    state: str  # green, marked or red
    text: str
    reason: str = ""


def trained(folder: Path, shape: dict[str, Any], tokenizer: str) -> LoadedModel:
    """Train a small model on the built-in corpus and load it from its run folder."""
    dataset, found = prepare_dataset("tales:1", max_length=SHAPE["n_positions"], tokenizer=tokenizer)
    model = LightLLM(ModelConfig(**(SHAPE | {"vocab_size": found.vocab_size} | shape)), seed=1)
    how: dict[str, Any] = {"max_steps": STEPS, "lr": 3e-3, "warmup_steps": 5, "eval_interval": STEPS}
    quiet: dict[str, Any] = {"quiet": True, "report": False, "sample_interval": 0, "probe_interval": 0}
    how |= {"save_interval": STEPS, "device": "cpu", "dtype": "float32", "skip_doctor": True}
    Trainer(model, create_dataloader(dataset, 8), out=str(folder), **(how | quiet)).train()
    return load_model(folder)


def exported(loaded: LoadedModel, name: str, dtype: str, folder: Path) -> Cell:
    """Export a model and return its cell."""
    target, out = TARGETS[name], folder / f"{name}-{dtype}"
    try:
        done = export(loaded, target, out, dtype=dtype)
    except ConfigError as error:
        return Cell("marked", "no such model there", str(error))
    except LightLLMError as error:
        return Cell("red", "WRONG", str(error))
    if (v := done.check) is None:
        return Cell("marked", "written, not run", done.summary[done.summary.find("NOT ") :])
    tie = "" if v.greedy_equal == v.greedy_compared else " tie"
    ids = " ids" if v.same_tokenizer else ""
    return Cell("green", f"{v.max_logit_error:.0e} {v.greedy_equal}/{v.greedy_compared}{tie}{ids}")


def back(loaded: LoadedModel, folder: Path) -> Cell:
    """Import the Hugging Face folder and compare it bit for bit."""
    try:
        again = read_folder(folder / "hf-float32")
    except LightLLMError as error:
        return Cell("red", "WRONG", str(error))
    ours = loaded.model.state_dict()
    theirs = again.model.state_dict()
    same = ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)
    a, b = loaded.file.tokenizer, again.file.tokenizer
    same = same and a is not None and b is not None and tokenizer_hash(a) == tokenizer_hash(b)
    same = same and again.model.config == loaded.model.config
    return Cell("green" if same else "red", "bit for bit" if same else "WRONG", "" if same else "it came back changed")


def rows() -> Iterator[tuple[str, list[Cell]]]:
    """Yield the cells of one model at a time."""
    models = [(name, shape, "bpe:512") for name, shape in FAMILIES.items()]
    models += [(f"Llama, {tokenizer}", LLAMA, tokenizer) for tokenizer in TOKENIZERS[1:]]
    for name, shape, tokenizer in models:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch)
            try:
                loaded = trained(folder / "run", shape, tokenizer)
            except DataError as error:
                if tokenizer != "gpt2":
                    raise
                # GPT-2's vocabulary is not here:
                yield name, [Cell("marked", "not trained", str(error))] * len(COLUMNS)
                continue
            yield name, [*(exported(loaded, *how, folder) for how in COLUMNS[:-1]), back(loaded, folder)]


COLUMNS: list[Any] = [
    ("hf", "float32"),
    ("hf", "bfloat16"),
    ("gguf", "f32"),
    ("gguf", "f16"),
    ("gguf", "bf16"),
    ("gguf", "q8_0"),
    ("onnx", "float32"),
    "back",
]


def as_markdown(made: list[tuple[str, list[Cell]]]) -> str:
    """Return the matrix for a page, with date and versions."""
    versions = ", ".join(
        f"{name} {version(name)}" for name in PACKAGES if find_spec("llama_cpp" if "llama" in name else name)
    )
    head = ["model", *("back again" if c == "back" else f"{TARGETS[c[0]].program} {c[1]}" for c in COLUMNS)]
    lines = [head, ["---"] * len(head), *([name, *(cell.text for cell in cells)] for name, cells in made)]
    table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
    return f"{table}\n\n{STEPS} steps each. {platform.machine()}, {versions}, {date.today()}.\n"


def main() -> int:
    """Print the matrix. Returns the exit code."""
    console = Console(width=None if sys.stdout.isatty() else 200)
    table = Table(
        title="largest difference of two logits, greedy tokens that are equal, ids: of the tokenizer the same"
    )
    table.add_column("model")
    for column in COLUMNS:
        table.add_column("back again" if column == "back" else f"{TARGETS[column[0]].program}\n{column[1]}")
    made: list[tuple[str, list[Cell]]] = []
    reasons: dict[str, None] = {}
    red = 0
    for name, cells in rows():
        made.append((name, cells))
        table.add_row(name, *(f"[{_COLOUR[cell.state]}]{cell.text}[/]" for cell in cells))
        reasons |= {f"{cell.state}: {cell.reason}": None for cell in cells if cell.reason}
        red += sum(cell.state == "red" for cell in cells)
        print(f"{name}: {', '.join(cell.text for cell in cells)}", file=sys.stderr, flush=True)
    console.print(table)
    for reason in reasons:
        console.print(reason, highlight=False)
    published = list(check_published.lines(list(check_published.KINDS)))
    console.print(check_published.as_markdown(published), highlight=False)
    for problem in (problem for line in published for problem in line.problems):
        red += 1
        console.print(problem, highlight=False)
    console.print(f"{red} wrong" if red else "nothing is wrong")
    if "--write" in sys.argv[1:] and not red:
        results = Path(__file__).parents[2] / "benchmarks" / "results"
        (results / "interop.md").write_text(as_markdown(made), encoding="utf-8")
        (results / "published.md").write_text(check_published.as_markdown(published), encoding="utf-8")
    return 1 if red else 0


_COLOUR = {"green": "green", "marked": "yellow", "red": "bold red"}

if __name__ == "__main__":
    sys.exit(main())
