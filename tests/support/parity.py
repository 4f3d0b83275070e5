"""Compare an imported model with transformers: logits, gradients, cached decoding, greedy text, and the way back."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor

from light_llm.checkpoint import LoadedModel, load_model
from light_llm.checkpoint.carried_files import CARRIED_FILES
from light_llm.generate.decode import decode
from light_llm.generate.sampling import Sampling
from light_llm.interop.architectures import family_of_model
from light_llm.interop.hf_mapping import to_hf_tensors
from light_llm.interop.huggingface import HuggingFaceExporter
from light_llm.interop.import_model import read_folder, write_model
from light_llm.objective import NextTokenLoss
from tests.support.published import CONFIGS, write_folder
from tests.support.tools import gradients, some_tokens

HF = HuggingFaceExporter()
MAX_LOGIT_ERROR, MAX_GRADIENT_ERROR = 1e-4, 1e-3


@dataclass(frozen=True)
class Row:
    """The comparison of one model: a line of the table that `make check-interop` prints."""

    name: str
    dtype: str  # of the files
    logit_error: float  # the largest
    gradient_error: float  # the largest of a parameter, relative to its norm
    greedy_equal: int  # of GREEDY tokens, with a cache on both sides
    cached_equal: bool  # decoded with a cache and without it
    same_way_back: bool  # every tensor and field is the one that came in
    differences: tuple[str, ...] = ()  # on the way back

    @property
    def right(self) -> bool:
        """Return whether all of it is as it has to be."""
        logits, gradients = self.logit_error <= MAX_LOGIT_ERROR, self.gradient_error <= MAX_GRADIENT_ERROR
        return logits and gradients and self.greedy_equal == GREEDY and self.cached_equal and self.same_way_back


GREEDY = 64


def imported(folder: Path, name: str, **how: Any) -> tuple[LoadedModel, Any]:
    """Return a published model as it comes out of a model file, in float32, and the one of transformers."""
    theirs = write_folder(folder / "published", name, **how)
    write_model(read_folder(folder / "published", tokenizer="" if "files" in how else "none"), folder / "model.pt")
    return load_model(folder / "model.pt"), theirs


def check_family(name: str, folder: Path, *, dtype: str = "", shards: bool = True, tokens: int = 61) -> Row:
    """Compare a published model of `published.CONFIGS` with transformers, in an empty folder.

    Args:
        dtype: of the files; empty for the published one.
        shards: several files and an index.
        tokens: of the texts, three times as many as a window has.
    """
    loaded, theirs = imported(folder, name, dtype=dtype, shards=shards)
    # Without id 0: that of padding, whose row has no gradient in transformers' Gemma.
    x = some_tokens(2, tokens, CONFIGS[name]["vocab_size"]).clamp(min=1)
    prompt = x[:1, :9]
    expected = theirs.generate(
        prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=GREEDY, do_sample=False, eos_token_id=None,
        pad_token_id=0, use_cache=True,
    )[0, 9:].tolist()  # fmt: skip
    cached, uncached = greedy(loaded, prompt.tolist()), greedy(loaded, prompt.tolist(), use_cache=False)
    back = differences(loaded, folder)
    return Row(
        name=name,
        dtype=dtype or CONFIGS[name].get("torch_dtype", "float32"),
        logit_error=logit_error(loaded, theirs, x),
        gradient_error=gradient_error(loaded, theirs, x),
        greedy_equal=next((i for i, (a, b) in enumerate(zip(cached, expected, strict=True)) if a != b), GREEDY),
        cached_equal=cached == uncached,
        same_way_back=not back,
        differences=tuple(back),
    )


def greedy(loaded: LoadedModel, prompt: list[list[int]], *, use_cache: bool = True) -> list[int]:
    """Return the most likely tokens after a prompt."""
    how: dict[str, Any] = {"seeds": [0], "max_new_tokens": GREEDY, "use_cache": use_cache}
    steps = decode(loaded.model, prompt, sampling=Sampling(temperature=0.0), **how)
    return [token for (token,) in steps if token is not None]


@torch.inference_mode()
def logit_error(loaded: LoadedModel, theirs: Any, x: Tensor) -> float:
    """Return the largest difference of two logits of texts, (B, T) ids."""
    expected = theirs(x).logits
    assert expected.std() > 0.5, "a model without opinions would agree with anything"
    return float((loaded.model(x) - expected).abs().max())


def gradient_error(loaded: LoadedModel, theirs: Any, x: Tensor) -> float:
    """Return the largest difference of the gradients of a parameter, relative to its norm."""
    (NextTokenLoss(loaded.model)(x[:, :-1], x[:, 1:]) / x[:, 1:].numel()).backward()
    theirs.zero_grad()
    theirs(x, labels=x).loss.backward()
    expected = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    family = family_of_model(loaded)
    ours = to_hf_tensors(loaded.model.config, gradients(loaded.model), family)
    ours = {("lm_head.weight" if name == family.tensors.head else name): grad for name, grad in ours.items()}
    assert ours.keys() == expected.keys()
    return max(float((ours[name] - grad).norm() / grad.norm()) for name, grad in expected.items())


def differences(loaded: LoadedModel, folder: Path) -> list[str]:
    """Export a model that was imported from `folder`/published, and return what is not as it came."""
    (folder / "back").mkdir()
    HF.write(loaded, folder / "back", dtype=HF.default_dtype(loaded))
    return differences_of(folder / "published", folder / "back")


def differences_of(published: Path, out: Path) -> list[str]:
    """Return the tensors and files of two folders that differ, without the card of an export."""
    before, after = weights(published), weights(out)
    odd = sorted(before.keys() ^ after.keys())
    odd += [name for name in before.keys() & after.keys() if not _same_bytes(before[name], after[name])]
    fields = [json.loads((place / "config.json").read_text()) for place in (published, out)]
    odd += [] if fields[0] == fields[1] else ["config.json"]
    for name in CARRIED_FILES:
        one, other = published / name, out / name
        if one.exists() != other.exists() or (one.exists() and one.read_bytes() != other.read_bytes()):
            odd.append(name)
    return odd


def weights(folder: Path) -> dict[str, Tensor]:
    """Return all tensors of a folder by name."""
    tensors: dict[str, Tensor] = {}
    for path in folder.glob("*.safetensors"):
        tensors |= load_file(path)
    return tensors


def _same_bytes(a: Tensor, b: Tensor) -> bool:
    same = a.dtype == b.dtype and a.shape == b.shape
    return same and torch.equal(a.contiguous().view(torch.uint8), b.contiguous().view(torch.uint8))
