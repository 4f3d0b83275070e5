"""A model as a folder that Hugging Face's transformers opens: config, weights and tokenizer, with no code of ours."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from ..atomic_io import atomic_write
from ..checkpoint import LoadedModel
from ..checkpoint.tensors import write_tensors
from ..config import check_choice
from ..errors import CheckpointError, ConfigError
from .architectures import cut_to_tokenizer, family_of
from .hf_mapping import config_json, tensors
from .hub import push as push
from .optional_deps import need
from .tokenizer_files import tokenizer_config, tokenizer_json
from .verify import Runtime

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
WEIGHTS = "model.safetensors"


def write(loaded: LoadedModel, folder: Path, *, dtype: str = "float32") -> None:
    """Write config, weights, tokenizer and defaults for generating into a folder that is there and empty.

    Rows of the token table beyond the tokenizer's ids are cut. The card is written by `card.write_card`.

    Args:
        dtype: of the weights: float32, bfloat16, float16.

    Raises:
        ConfigError: a model of no family that transformers knows, or weights too large for the format.
        OSError: a file cannot be written.
    """
    check_choice("dtype", dtype, tuple(DTYPES))
    family_of(loaded.model.config)
    config, state = cut_to_tokenizer(loaded)
    tokenizer = loaded.file.tokenizer
    separator = tokenizer.separator if tokenizer else None
    weights = {name: _cast(name, tensor, dtype) for name, tensor in tensors(config, state).items()}
    contents = {
        "config.json": config_json(config, separator=separator, dtype=dtype) | _of_the_text(loaded),
        # no length: one that stands here is at odds with the one that a caller gives, and a warning says so
        "generation_config.json": {f"{kind}_token_id": separator for kind in ("bos", "eos", "pad")},
    }
    if tokenizer:
        contents["tokenizer.json"] = tokenizer_json(tokenizer)
        contents["tokenizer_config.json"] = tokenizer_config(trained_window(loaded))
    for name, values in contents.items():
        text = json.dumps(values, indent=2, ensure_ascii=False, allow_nan=False) + "\n"
        atomic_write(folder / name, text.encode())
    atomic_write(folder / WEIGHTS, lambda file: write_tensors(file, weights))


def _of_the_text(loaded: LoadedModel) -> dict[str, Any]:
    """What only light-llm asks a config for, when the model comes back: how an empty prompt begins."""
    documents = loaded.file.data.get("documents")
    return {"light_llm": {"documents": documents}} if documents else {}


def trained_window(loaded: LoadedModel) -> int:
    """Tokens of the windows that a model was trained on: beyond them nothing was learnt, though a position is there."""
    n_positions = loaded.model.config.n_positions
    return min(int(loaded.file.data.get("max_length") or n_positions), n_positions)


def _cast(name: str, tensor: Tensor, dtype: str) -> Tensor:
    """A tensor in the format of the file. Raises ConfigError where a number does not fit into it."""
    cast = tensor.to(DTYPES[dtype])
    if bool(tensor.isfinite().all()) and not bool(cast.isfinite().all()):
        raise ConfigError(
            f"{name} has numbers up to {float(tensor.abs().max()):.3g}, and {dtype} ends at "
            f"{torch.finfo(DTYPES[dtype]).max:.3g}; export in bfloat16 or float32"
        )
    return cast


def open_export(folder: Path) -> Runtime:
    """The model of a folder, opened by transformers, in float32 on the CPU, offline.

    Raises:
        ConfigError: transformers is not installed.
        CheckpointError: transformers cannot open it, or its tensors are not exactly those that its config asks for.
            transformers itself fills what is missing with random numbers, and passes over what is too much.
    """
    transformers = need("transformers", "hf")
    try:
        with _quiet():
            config = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
            _check_tensors(folder, transformers, config)
            model = transformers.AutoModelForCausalLM.from_pretrained(
                folder, dtype=torch.float32, local_files_only=True
            )
            has_tokenizer = (folder / "tokenizer.json").is_file()
            tokenizer = (
                transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True) if has_tokenizer else None
            )
    except CheckpointError:
        raise
    except Exception as error:  # a damaged folder raises whatever the part that meets it raises
        lines = str(error).strip().splitlines()
        reason = lines[0][:200] if lines else type(error).__name__
        raise CheckpointError(f"transformers cannot open {folder}: {reason}; export it again") from None
    return _Transformers(f"transformers {transformers.__version__}", model.eval(), tokenizer)


def _check_tensors(folder: Path, transformers: Any, config: Any) -> None:
    """Compare the names and shapes in the file with those of the model that the config describes."""
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items() if name not in tied}
    with safetensors.safe_open(folder / WEIGHTS, framework="pt") as file:
        found = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    if found != expected:
        odd = sorted(n for n in expected.keys() | found.keys() if expected.get(n) != found.get(n))
        raise CheckpointError(
            f"{folder / WEIGHTS} does not hold what its config.json asks for: "
            f"{', '.join(f'{n} is {found.get(n)} and not {expected.get(n)}' for n in odd[:3])}; export it again"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """No progress bars of transformers while it works for us."""
    from transformers.utils import logging

    bars = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if bars:
            logging.enable_progress_bar()


class _Transformers:
    """A `Runtime`: the model as `generate` and `tokenizer(text)` have it."""

    def __init__(self, name: str, model: Any, tokenizer: Any) -> None:
        self.name, self.model, self.tokenizer = name, model, tokenizer

    @torch.inference_mode()
    def logits(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """(B, T) -> (B, T, V) float32."""
        return self.model(torch.tensor(ids)).logits.float()

    @torch.inference_mode()
    def greedy(self, ids: Sequence[int], n: int) -> list[int]:
        """The n likeliest ids, one by one, with its cache; a separator does not end them."""
        if n < 1:  # a prompt that fills all positions, which generate refuses to continue by nothing
            return []
        prompt = torch.tensor([list(ids)])
        found = self.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=n,
            eos_token_id=None,
            use_cache=True,
        )
        return [int(i) for i in found[0, len(ids) :]]

    def encode(self, text: str) -> list[int] | None:
        """Ids of a text, with what the tokenizer adds by itself; None where there is no tokenizer."""
        if self.tokenizer is None:
            return None
        return [int(i) for i in self.tokenizer(text, verbose=False)["input_ids"]]  # no word on a text that is long

    def decode(self, ids: Sequence[int]) -> str:
        """The text, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
