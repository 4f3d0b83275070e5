"""Compare every family of published models with transformers and llama.cpp, and print a table: part of check_interop.

Each row is a model of random weights with the values of a published config.json, scaled down, and a tokenizer of the
same kind as the published one, trained on Shakespeare. Columns:
  logits, gradients   the largest difference from transformers; gradients relative to the norm of a parameter
  greedy              equal tokens, decoded with a cache on both sides
  cached              decoding with a cache and without it gives the same tokens
  ids                 of N_TEXTS texts in 20 scripts, with decoded texts, streams and bytes: those that agree
  perplexity          the largest relative difference of windows with a stride, by the loop of Hugging Face's guide
  back                exported again in the dtype it came in: every tensor and file is the same, byte for byte
  llama.cpp           its logits from our export, with its allowed difference
"""

import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
import transformers

sys.path.insert(0, str(Path(__file__).parents[2]))

from light_llm.errors import LightLLMError
from light_llm.evaluate import evaluate_text
from light_llm.interop.exporter import MissingDependency
from light_llm.interop.import_model import read_folder
from light_llm.interop.llama_cpp import has_llama_cpp
from tests.evaluate.test_text import loop_of_the_guide
from tests.support import gguf_parity, parity
from tests.support.published import CONFIGS, write_folder
from tests.support.texts_in_scripts import SONNET, texts_in_scripts
from tests.support.tokenizer_checks import compare
from tests.support.tokenizer_kinds import tokenizer_kind

N_TEXTS = 2000
WINDOWS = ((160, 64), (100, 99), (33, 7))  # context and stride
# The kind of tokenizer that each published model has.
KINDS = {
    "gpt2": "gpt2",
    "smollm2": "smollm",
    "tinyllama": "llama2",
    "llama2-long": "llama2",
    "llama3.2": "llama3",
    "mistral": "mistral",
    "mistral-v0.3": "mistral",
    "qwen2.5": "qwen2",
    "qwen2-windows": "qwen2",
    "qwen3": "qwen2",
    "pythia": "gpt_neox",
    "tinystories": "gpt2",
    "gemma3": "gemma",
}
HEAD = ("model", "tokenizer", "logits", "gradients", "greedy", "cached", "ids", "perplexity", "back", "llama.cpp")


@dataclass(frozen=True)
class Line:
    """A row of the table."""

    cells: tuple[str, ...]
    problems: tuple[str, ...]


def lines(names: list[str]) -> Iterator[Line]:
    """Yield the rows of the models by name."""
    texts = texts_in_scripts(N_TEXTS)
    for name in names:
        with tempfile.TemporaryDirectory() as scratch:
            yield _line(name, Path(scratch), texts)


def _line(name: str, folder: Path, texts: list[str]) -> Line:
    problems: list[str] = []
    for each in ("float32", "published", "perplexity", "gguf"):
        (folder / each).mkdir()
    row = parity.check_family(name, folder / "float32", dtype="float32")
    stored = parity.check_family(name, folder / "published")
    back = [row.dtype] if row.same_way_back else []
    back += [stored.dtype] if stored.same_way_back else []
    if not (row.right and stored.right):
        problems.append(f"{row} {stored}")
    kind = tokenizer_kind(KINDS[name])
    ids_of = {"vocab_size": kind.vocab_size, "bos_token_id": kind.bos, "eos_token_id": kind.eos}
    theirs = write_folder(folder / "perplexity" / name, name, dtype="float32", files=kind.files(), **ids_of)
    loaded = read_folder(folder / "perplexity" / name)
    tokenizer = loaded.file.tokenizer
    assert tokenizer is not None
    # Not AutoTokenizer, which builds the tokenizers of GPT-2 and Llama from parts of the file.
    reference = transformers.PreTrainedTokenizerFast.from_pretrained(folder / "perplexity" / name)
    odd = compare(tokenizer, reference, texts)
    ids = torch.tensor(reference(SONNET * 4, verbose=False)["input_ids"])
    (folder / "sonnet.txt").write_text(SONNET * 4, encoding="utf-8")
    error = 0.0
    for context, stride in WINDOWS:
        result = evaluate_text(loaded, str(folder / "sonnet.txt"), context=context, stride=stride)
        expected = loop_of_the_guide(theirs, ids, context, stride)
        error = max(error, abs(result.loss - expected) / expected)
    if odd or error > 1e-5:
        problems.append(f"{name}: {odd[:3]}, perplexity off by {error:.1e}")
    there, problem = _llama_cpp(name, folder / "gguf")
    problems += [problem] if problem else []
    return Line(
        (
            name,
            KINDS[name],
            f"{max(row.logit_error, stored.logit_error):.0e}",
            f"{max(row.gradient_error, stored.gradient_error):.0e}",
            f"{min(row.greedy_equal, stored.greedy_equal)}/{parity.GREEDY}",
            "equal" if row.cached_equal and stored.cached_equal else "WRONG",
            f"{N_TEXTS:,}" if not odd else "WRONG",
            f"{error:.0e}",
            " and ".join(dict.fromkeys(back)) or "WRONG",
            there,
        ),
        tuple(problems),
    )


def _llama_cpp(name: str, folder: Path) -> tuple[str, str]:
    """Return the cell of llama.cpp, and what is wrong."""
    if name not in gguf_parity.CHANGES:
        return "no such model", ""
    if not has_llama_cpp():
        return "not installed", ""
    try:
        row = gguf_parity.check(name, folder)
    except MissingDependency as error:
        return "not run", str(error)
    except LightLLMError as error:
        return "WRONG", str(error)
    return f"{row.logit_error:.0e} (<= {row.limit:.0e})", "" if row.right else str(row)


def as_markdown(rows: list[Line]) -> str:
    """Return the table for a page."""
    cells = [HEAD, ("---",) * len(HEAD), *(row.cells for row in rows)]
    return "\n".join(f"| {' | '.join(row)} |" for row in cells) + "\n"


def main() -> int:
    """Print the table of the models named on the command line, or of all. Returns the exit code."""
    torch.set_num_threads(2)
    names = [name for name in sys.argv[1:] if name in CONFIGS] or list(CONFIGS)
    rows = []
    for line in lines(names):
        rows.append(line)
        print(*line.cells, *line.problems, sep=" | ", file=sys.stderr, flush=True)
    print(as_markdown(rows))
    wrong = sum(bool(row.problems) for row in rows)
    print(f"{wrong} wrong" if wrong else "nothing is wrong")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
