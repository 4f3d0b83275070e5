"""Export to a folder for Hugging Face's transformers: config, weights and tokenizer, without code of ours."""

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import safetensors
import torch
from torch import Tensor

from ..atomic_io import atomic_write
from ..checkpoint import CARRIED_FILES, LoadedModel
from ..checkpoint.carried_files import TOKENIZER_JSON
from ..checkpoint.tensors import write_tensors
from ..config import check_choice
from ..errors import CheckpointError, ConfigError
from .architectures import family_of_model, origin_of, trim_vocab
from .exporter import MIXED, TOKENIZER_TEXTS, Exporter, Runtime, dtype_of, require
from .hf_export_config import config_json
from .hf_mapping import to_hf_tensors
from .tokenizer_files import generation_config, tokenizer_files, write_json_files

WEIGHTS = "model.safetensors"
_HEADS = {"embed_out.weight": "lm_head.weight"}


class HuggingFaceExporter(Exporter):
    """Writes a folder for `AutoModelForCausalLM` and `AutoTokenizer`."""

    name = "hf"
    program = "Transformers"
    out = "model-hf"
    dtypes = ("float32", "bfloat16", "float16")
    files = ("config.json", WEIGHTS, *CARRIED_FILES)
    weights = WEIGHTS
    package = "transformers"

    def default_dtype(self, loaded: LoadedModel) -> str:
        """Return the dtype that the weights were imported in; float32 for a model of ours."""
        stored = origin_of(loaded).get("weights", {})
        return MIXED if stored.get("others") else stored.get("dtype", "float32")

    def write(self, loaded: LoadedModel, path: Path, *, dtype: str = "float32") -> None:
        """Write config, weights, tokenizer and defaults for generating. The card is written by `write_card`.

        A model that was imported, or fine-tuned from one, has the fields and files that it came with.
        """
        if dtype != MIXED:
            check_choice("dtype", dtype, self.dtypes)
        # Refuse the combination before the weights are copied.
        family = family_of_model(loaded)
        config, state = trim_vocab(loaded)
        state = {name: _cast(name, tensor, dtype_of(loaded, name, dtype)) for name, tensor in state.items()}
        weights = to_hf_tensors(config, state, family)
        files = dict(loaded.file.files)
        generated: dict[str, dict[str, Any] | bytes] = {"config.json": config_json(loaded, config, dtype)}
        # A tokenizer.json that a run was started with has no tokenizer_config.json, and the class of the architecture
        # would not use it as it is.
        if TOKENIZER_JSON not in files or "config_json" not in origin_of(loaded):
            generated |= tokenizer_files(loaded.file.tokenizer, loaded.file.training_window)
        if "config_json" not in origin_of(loaded):
            # No max_length: transformers warns a caller who also gives max_new_tokens.
            generated["generation_config.json"] = generation_config(loaded.file.tokenizer)
        write_json_files(path, {name: values for name, values in generated.items() if name not in files})
        for name, data in files.items():
            atomic_write(path / name, data)
        atomic_write(path / WEIGHTS, lambda file: write_tensors(file, weights))

    def open(self, path: Path) -> Runtime:
        """Open a folder with transformers, in float32 on the CPU, offline.

        Raises:
            MissingDependency: transformers is not installed.
            CheckpointError: transformers cannot open it, or its tensors are not exactly those that its config asks
                for: transformers fills missing ones with random numbers and ignores unknown ones.
        """
        transformers = require("transformers", "hf")
        try:
            with _quiet():
                config = transformers.AutoConfig.from_pretrained(path, local_files_only=True)
                _check_tensors(path, transformers, config)
                model = transformers.AutoModelForCausalLM.from_pretrained(
                    path, dtype=torch.float32, local_files_only=True
                )
                tokenizer, note = None, ""
                if (path / "tokenizer.json").is_file():
                    # Some classes of transformers 5 build a tokenizer of their own instead of the one in the file.
                    auto = transformers.AutoTokenizer.from_pretrained(path, local_files_only=True)
                    tokenizer = transformers.PreTrainedTokenizerFast.from_pretrained(path, local_files_only=True)
                    note = _tokenizer_note(tokenizer, auto)
        except CheckpointError:
            raise
        except Exception as error:  # the types that a damaged folder raises have no common base
            lines = str(error).strip().splitlines()
            reason = lines[0][:200] if lines else type(error).__name__
            raise CheckpointError(f"transformers cannot open {path}: {reason}; export it again") from None
        return _Transformers(f"transformers {transformers.__version__}", model.eval(), tokenizer, note)

    def try_command(self, path: str, prompt: str, n: int, *, has_tokenizer: bool = True) -> list[str]:
        """Return a call of `transformers.pipeline`; without a tokenizer, of the model on the id 0."""
        if not has_tokenizer:
            model = f"AutoModelForCausalLM.from_pretrained({json.dumps(path, ensure_ascii=False)})"
            code = "import torch; from transformers import AutoModelForCausalLM; "
            code += f"print({model}.generate(torch.tensor([[0]]), max_new_tokens={n}))"
            return ["python", "-c", code]
        pipeline = f'pipeline("text-generation", {json.dumps(path, ensure_ascii=False)})'
        code = f'from transformers import pipeline; print({pipeline}("{prompt}", max_new_tokens={n}))'
        return ["python", "-c", code]


def _cast(name: str, tensor: Tensor, dtype: torch.dtype) -> Tensor:
    """Return a tensor on the CPU, in the dtype of the file. Raises ConfigError if a number overflows."""
    cast = tensor.detach().to("cpu", dtype)
    if bool(tensor.isfinite().all()) and not bool(cast.isfinite().all()):
        raise ConfigError(
            f"{name} has numbers up to {float(tensor.abs().max()):.3g}, and the maximum of "
            f"{str(dtype).removeprefix('torch.')} is {torch.finfo(dtype).max:.3g}; export in bfloat16 or float32"
        )
    return cast


def _check_tensors(folder: Path, transformers: Any, config: Any) -> None:
    """Compare the names and shapes in the file with those of the model that the config describes."""
    # On the meta device no memory is allocated for the second model.
    with torch.device("meta"):
        model = transformers.AutoModelForCausalLM.from_config(config)
    # A tied head is in state_dict() but not in the file.
    tied = {"lm_head.weight"} if config.tie_word_embeddings else set()
    expected = {name: tuple(t.shape) for name, t in model.state_dict().items() if name not in tied}
    with safetensors.safe_open(folder / WEIGHTS, framework="pt") as file:
        stored = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    # In files of GPT-NeoX the head has an older name, which transformers 5 reads and writes.
    expected, stored = (
        {_HEADS.get(name, name): shape for name, shape in shapes.items()} for shapes in (expected, stored)
    )
    if stored != expected:
        odd = sorted(n for n in expected.keys() | stored.keys() if expected.get(n) != stored.get(n))
        raise CheckpointError(
            f"{folder / WEIGHTS} does not hold what its config.json asks for: "
            f"{', '.join(f'{n} is {stored.get(n)} and not {expected.get(n)}' for n in odd[:3])}; export it again"
        )


@contextmanager
def _quiet() -> Iterator[None]:
    """Disable the progress bars of transformers."""
    from transformers.utils import logging

    were_enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if were_enabled:
            logging.enable_progress_bar()


def _tokenizer_note(tokenizer: Any, auto: Any) -> str:
    """Return a sentence if AutoTokenizer gives other ids than tokenizer.json for some texts; or ""."""
    texts = (text for text in TOKENIZER_TEXTS if auto(text)["input_ids"] != tokenizer(text)["input_ids"])
    if (text := next(texts, None)) is None:
        return ""
    return (
        f"AutoTokenizer makes a {type(auto).__name__} of the folder, which gives other ids than its tokenizer.json for "
        f"some texts, such as {text!r}; for the model's ids use PreTrainedTokenizerFast.from_pretrained"
    )


class _Transformers(Runtime):
    """A model and a tokenizer of transformers."""

    def __init__(self, name: str, model: Any, tokenizer: Any, note: str) -> None:
        self.name, self.model, self.tokenizer, self.note = name, model, tokenizer, note

    @torch.inference_mode()
    def logits(self, ids: Sequence[Sequence[int]]) -> Tensor:
        return self.model(torch.tensor(ids)).logits.float()

    @torch.inference_mode()
    def greedy(self, ids: Sequence[int], n: int) -> list[int]:
        if n < 1:  # generate refuses to continue a prompt by nothing
            return []
        prompt = torch.tensor([list(ids)])
        text = self.model.generate(
            prompt,
            attention_mask=torch.ones_like(prompt),
            do_sample=False,
            max_new_tokens=n,
            eos_token_id=None,  # a separator does not end the text
            use_cache=True,
        )
        return [int(i) for i in text[0, len(ids) :]]

    def encode(self, text: str) -> list[int] | None:
        if self.tokenizer is None:
            return None
        # verbose: no warning about long texts
        return [int(i) for i in self.tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]]

    def encode_with_ends(self, text: str) -> list[int] | None:
        return [int(i) for i in self.tokenizer(text, verbose=False)["input_ids"]]

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))
