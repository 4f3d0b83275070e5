"""Compare llama.cpp with our models for every family, tokenizer and number format: `make check-gguf`.

python tests/support/check_gguf.py           all of it, some five minutes
python tests/support/check_gguf.py llama     one family of those with our tokenizers

Each model is trained for some seconds, so that its predictions are not uniform. Columns:
  logits     the largest difference between a logit of llama.cpp and of our model with the weights of the file
  allowed    the limit of that difference, which is measured for each model
  as there   the same difference if ours also rounds activations, as llama.cpp does on a CPU; the rest comes from
             numbers near the middle of two of a format, which were rounded to the other one
  exact      the share of positions in a window where that is below 1e-4
  greedy     equal tokens if ours rounds in the same way; the others tie
  ids        texts with the same ids from both tokenizers, and the same text again

The exit code is 1 if something differs, and 2 if llama-cpp-python is not installed.
"""

import os
import random
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

CHECKOUT = Path(__file__).parents[2]
sys.path.insert(0, str(CHECKOUT))

import torch  # noqa: E402
from torch import Tensor  # noqa: E402

from light_llm.checkpoint import LoadedModel  # noqa: E402
from light_llm.data import Tokenizer  # noqa: E402
from light_llm.data.tokenizers import decode  # noqa: E402
from light_llm.errors import LightLLMError  # noqa: E402
from light_llm.interop.exporter import MissingDependency  # noqa: E402
from light_llm.interop.gguf import file_parts, write_parts  # noqa: E402
from light_llm.interop.gguf_formats import DTYPES  # noqa: E402
from light_llm.interop.gguf_verify import emulate_llama_cpp, logit_tolerance, round_weights  # noqa: E402
from light_llm.interop.llama_cpp import LlamaCpp, has_llama_cpp  # noqa: E402
from light_llm.interop.verify import verify  # noqa: E402
from light_llm.objective import NextTokenLoss  # noqa: E402
from tests.interop.test_export_gguf import MODELS, a_model  # noqa: E402
from tests.support.export_tools import FAMILIES, GGUF, TOKENIZERS, a_tokenizer  # noqa: E402
from tests.support.gguf_parity import CHANGES, VARIANTS, check  # noqa: E402
from tests.support.gguf_reference import check_by_reference  # noqa: E402

STEPS = {"gpt2": 40, "bpe": 150, "char": 150, "byte": 150}  # of training, by tokenizer: GPT-2's table is large
TEXT = (CHECKOUT / "README.md").read_text(encoding="utf-8")
N_TEXTS = 500
COLUMNS = "{:43} {:5} {:>8} {:>8} {:>8} {:>6} {:>9} {:>8}"


def main() -> int:
    """Print the tables. Returns the exit code."""
    if not has_llama_cpp():
        print("llama-cpp-python is not installed: pip install llama-cpp-python (it is compiled there, in some minutes)")
        return 2
    torch.set_num_threads(1)
    families = [name for name in FAMILIES if name in sys.argv[1:]] or list(FAMILIES)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        bad = sum(_trained_ones(folder, families)) + sum(_other_shapes(folder, families))
        bad += sum(_published_ones(folder)) + sum(_wrong_files(folder))
    print("\nall that was run is as it should be" if not bad else f"\n{bad} of these are WRONG")
    return 1 if bad else 0


def _trained_ones(folder: Path, families: list[str]) -> Iterator[bool]:
    """Check a model of each family with each tokenizer in each format. Yield whether each is wrong."""
    _head("trained, by tokenizer")
    for family in families:
        for kind in TOKENIZERS:
            try:
                tokenizer = a_tokenizer(kind)
            except LightLLMError as error:
                print(f"{family}, {kind}: NOT RUN: {error}")
                continue
            padded = -(-tokenizer.vocab_size // 64) * 64
            loaded = a_model(folder, family, tokenizer, n_embd=64, vocab_size=padded)
            train(loaded, STEPS[kind])
            for dtype in DTYPES if kind == "bpe" else ("f32", "q8_0", "q4_0"):
                back = kind != "gpt2" or dtype == "f32"  # 50,257 tokens are read in seconds
                yield _row(f"{family}, {kind}", loaded, folder / "model.gguf", dtype, back=back)


def _other_shapes(folder: Path, families: list[str]) -> Iterator[bool]:
    """Check models without biases, with other head sizes, scaled contexts ... Yield whether each is wrong."""
    _head("other shapes, not trained")
    for name, (family, changes) in MODELS.items():
        if family in families:
            loaded = a_model(folder, family, **changes)
            for dtype in ("f32", "q8_0"):
                yield _row(name, loaded, folder / "model.gguf", dtype)


def _published_ones(folder: Path) -> Iterator[bool]:
    """Check models with the config.json of published ones, imported from the file itself. Yield whether each is wrong.

    The column `as there` is empty: the logits are compared with ours rounded as llama.cpp's.
    """
    _head("published, scaled down")
    for name in (*CHANGES, *VARIANTS):
        for dtype in DTYPES if name in CHANGES else ("f32",):
            try:
                row = check(name, folder, dtype)
            except LightLLMError as error:
                print(f"{name:43} {dtype:5} WRONG: {error}", flush=True)
                yield True
                continue
            numbers = (f"{row.logit_error:.1e}", f"{row.limit:.1e}", "", "", f"{row.greedy_equal}/{row.greedy}", "")
            print(COLUMNS.format(name, dtype, *numbers), "" if row.right else "WRONG", flush=True)
            yield not row.right


def _head(what: str) -> None:
    print()
    print(COLUMNS.format(what, "dtype", "logits", "allowed", "as there", "exact", "greedy", "ids"), flush=True)


def train(loaded: LoadedModel, steps: int) -> None:
    """Train for some seconds on README.md."""
    model, tokenizer = loaded.model, loaded.file.tokenizer
    assert tokenizer
    alphabet = getattr(tokenizer, "alphabet", TEXT)
    ids = torch.tensor(tokenizer.encode("".join(c for c in TEXT if c in alphabet)))
    loss_of, T = NextTokenLoss(model), 64
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    generator = torch.Generator().manual_seed(0)
    model.train()
    for _ in range(steps):
        starts = torch.randint(len(ids) - T - 1, (8,), generator=generator)
        windows = torch.stack([ids[start : start + T + 1] for start in starts.tolist()])
        optimizer.zero_grad()
        (loss_of(windows[:, :-1], windows[:, 1:]) / (8 * T)).backward()
        optimizer.step()
    model.eval()


@torch.inference_mode()
def _row(name: str, loaded: LoadedModel, path: Path, dtype: str, *, back: bool = True) -> bool:
    """Write, read back, open, compare, print. Returns whether something is wrong."""
    try:
        GGUF.write(loaded, path, dtype=dtype)
        if back:
            GGUF.read_back(loaded, path, dtype=dtype)
            check_by_reference(loaded, path)
        plain, twin = round_weights(loaded, dtype), emulate_llama_cpp(loaded, dtype)
        limit, runtime = logit_tolerance(loaded, dtype), GGUF.open(path)
        try:
            check = verify(twin, runtime, limit=limit)
            moved, off = float(_off(plain, runtime).max()), _off(twin, runtime)
            ids = _same_texts(loaded.file.tokenizer, runtime)
        finally:
            runtime.close()
    except MissingDependency as error:
        print(f"{name:43} {dtype:5} NOT RUN: {error}", flush=True)
        return False
    except LightLLMError as error:
        print(f"{name:43} {dtype:5} WRONG: {error}", flush=True)
        return True
    exact = float((off < 1e-4).float().mean())
    greedy, texts = f"{check.greedy_equal}/{check.greedy_compared}", f"{ids}/{N_TEXTS}"
    numbers = (f"{moved:.1e}", f"{limit:.1e}", f"{float(off.max()):.1e}", f"{exact:.0%}", greedy, texts)
    wrong = ids != N_TEXTS or moved > limit
    print(COLUMNS.format(name, dtype, *numbers), "WRONG" if wrong else "", flush=True)
    return wrong


def _off(loaded: LoadedModel, runtime: LlamaCpp) -> Tensor:
    """Return the largest difference at each position of eight windows: (8, T)."""
    tokenizer, config = loaded.file.tokenizer, loaded.model.config
    n_ids = tokenizer.vocab_size if tokenizer else config.vocab_size
    windows = torch.randint(n_ids, (8, 48), generator=torch.Generator().manual_seed(3))
    ours = loaded.model(windows)[..., :n_ids]
    return (ours - runtime.logits(windows.tolist())).abs().amax(dim=-1)


def _same_texts(tokenizer: Tokenizer | None, runtime: LlamaCpp) -> int:
    """Return the number of texts with the same ids in both tokenizers."""
    if tokenizer is None:
        return N_TEXTS
    alphabet = getattr(tokenizer, "alphabet", None)
    same = 0
    for text in _texts():
        known = text if alphabet is None else "".join(c for c in text if c in alphabet)
        ids = tokenizer.encode(known)
        same += runtime.encode(known) == ids and runtime.decode(ids) == decode(tokenizer, ids)
    return same


def _texts() -> Iterator[str]:
    """Yield parts of README.md, letters of many languages, all kinds of spaces, runs, and text like a separator."""
    draw = random.Random(0)
    letters = [*range(0xD800), *range(0xE000, 0x110000)]
    for i in range(N_TEXTS):
        n, start = draw.randint(1, 60), draw.randrange(len(TEXT) - 300)
        yield [
            TEXT[start : start + 5 * n],
            "".join(map(chr, draw.choices(letters, k=n))),
            "".join(draw.choices("aab \n\t'sé1²٣ \u00a0\u3000.", k=n)),
            "a" * n + "b" * draw.randint(0, 9) + " " * draw.randint(0, 9),
            "<|endoftext|>" + "\r\n" * draw.randint(0, 3) + "don't I'LL 'S " + TEXT[start : start + n],
        ][i % 5]


def _wrong_files(folder: Path) -> Iterator[bool]:
    """Write files that the exporter refuses or writes differently: llama.cpp must give another model, or an error.

    The exact GELU is refused too, but its difference is as small as the rounding of llama.cpp's table for GELU.
    """
    print("\nwritten wrongly on purpose")
    wrong: dict[str, tuple[LoadedModel, Any]] = {
        "llama, rows of q and k as ours": (a_model(folder, "llama"), _as_ours),
        "gpt2, matrices turned as at Hugging Face": (a_model(folder), _turned),
        "gpt2, no biases written": (a_model(folder, bias=False), _no_biases),
        "qwen3, a window of 16 tokens": (a_model(folder, "qwen3", window=16), dict),
        "qwen3, slowed down as in Llama 3": (
            a_model(folder, "qwen3", rope_scaling="llama3", rope_factor=4.0, rope_trained=16),
            dict,
        ),
    }
    (folder / "no model.gguf").write_bytes(b"GGUF but not really")
    try:
        GGUF.open(folder / "no model.gguf")
        yield True
    except LightLLMError as error:
        yield "llama.cpp does not open" not in str(error)
    for name, (loaded, change) in wrong.items():
        seen = _noticed(loaded, change, folder / "wrong.gguf")
        print(f"{name:43} {'noticed: ' + seen if seen else 'NOT NOTICED: is it still wrong?'}", flush=True)
        yield not seen


def _noticed(loaded: LoadedModel, change: Any, path: Path) -> str:
    """Return the complaint of `verify` about a wrong file; empty if it accepts the file."""
    fields, tensors = file_parts(loaded, "f32")
    write_parts(path, fields, change(tensors), "f32")
    try:
        runtime = GGUF.open(path)
    except LightLLMError:
        return "llama.cpp does not open it"
    try:
        verify(loaded, runtime, limit=logit_tolerance(loaded, "f32"))
    except LightLLMError as error:
        return str(error).partition("not the same model: ")[2].partition(";")[0].partition(". ")[0]
    finally:
        runtime.close()
    return ""


def _as_ours(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Undo the order of rows for llama.cpp."""
    found = {name: t for name, t in tensors.items() if name.endswith(("attn_q.weight", "attn_k.weight"))}
    return tensors | {name: t.view(-1, 8, 2, 64).transpose(1, 2).reshape(t.shape) for name, t in found.items()}


def _turned(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Transpose the square matrices; the others would not have their shape."""
    return {n: t.T.contiguous() if n.endswith("attn_output.weight") else t for n, t in tensors.items()}


def _no_biases(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: t for name, t in tensors.items() if not name.endswith("bias")}


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
