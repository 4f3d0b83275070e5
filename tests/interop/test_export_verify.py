"""An export that is not the model is refused, wherever in the context it differs."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from light_llm.checkpoint import LoadedModel, ModelFile
from light_llm.data.tokenizers import ByteTokenizer, CharTokenizer, Tokenizer, decode
from light_llm.errors import CheckpointError
from light_llm.interop.export import TARGETS, export
from light_llm.interop.exporter import Runtime, rounded
from light_llm.interop.verify import MAX_TIES, change_by_rounding, verify
from light_llm.model import LightLLM
from tests.support.tools import tiny_model

QWEN3 = {"positions": "rope", "norm": "rmsnorm", "mlp": "swiglu", "bias": False, "qk_norm": True}


def loaded(model: LightLLM, tokenizer: Tokenizer | None = None) -> LoadedModel:
    file = ModelFile(Path("tiny"), {}, model.config, tokenizer, {}, {})
    return LoadedModel(model, file)


class Program(Runtime):
    """A runtime with a model of its own: the same, or nearly."""

    name = "a program 1.0"

    def __init__(self, model: LightLLM, tokenizer: Tokenizer | None = None) -> None:
        self.model, self.tokenizer = model, tokenizer

    def logits(self, ids: Sequence[Sequence[int]]) -> Tensor:
        return self.model(torch.tensor(ids)).float()

    def greedy(self, ids: Sequence[int], n: int) -> list[int]:
        text = list(ids)
        for _ in range(n):
            text.append(int(self.model(torch.tensor([text]))[0, -1].argmax()))
        return text[len(ids) :]

    def encode(self, text: str) -> list[int] | None:
        return self.tokenizer.encode(text) if self.tokenizer else None

    def decode(self, ids: Sequence[int]) -> str:
        assert self.tokenizer is not None
        return decode(self.tokenizer, ids)


def model_of(**changes: Any) -> LightLLM:
    return tiny_model(scale=4, **({"n_positions": 160, "vocab_size": 61} | changes))


@pytest.mark.parametrize("n_positions", [1, 2, 5, 9, 160])
def test_the_model_itself_is_verified(n_positions: int) -> None:
    model = model_of(n_positions=n_positions)
    check = verify(loaded(model), Program(model))
    assert check.max_logit_error == 0 and check.positions == n_positions and check.greedy_equal == check.greedy_compared
    assert check.greedy_compared == min(64, n_positions - max(1, min(8, n_positions // 2)))
    assert f"logits at {n_positions} positions differ by 0.0e+00" in check.summary


@pytest.mark.parametrize(
    ("right", "wrong"),
    [
        ({"window": 100}, {"window": 101}),  # differs from token 101 on
        ({"window": 150}, {}),
        ({"rope_scaling": "llama3", "rope_factor": 8.0}, {"rope_scaling": "llama3", "rope_factor": 32.0}),
    ],
)
def test_a_difference_late_in_the_context_is_found(right: dict[str, Any], wrong: dict[str, Any]) -> None:
    model, other = model_of(**QWEN3, **right), model_of(**QWEN3, **wrong)
    other.load_state_dict(model.state_dict())
    with pytest.raises(CheckpointError, match="it is not the same model: its logits are off by"):
        verify(loaded(model), Program(other))


def nearly_tied() -> LightLLM:
    """Ids 0 and 1 have the same logits everywhere, and they are the largest."""
    model = model_of()
    with torch.no_grad():
        model.ln_f.bias[0] = 50
        model.wte.weight[:, 0] = 0
        model.wte.weight[:2, 0] = 5
        model.wte.weight[1] = model.wte.weight[0]
    return model


def test_a_greedy_text_continues_after_a_tie() -> None:
    class Other(Program):
        def __init__(self, model: LightLLM, after: Callable[[int], int]) -> None:
            super().__init__(model)
            self.after = after

        def greedy(self, ids: Sequence[int], n: int) -> list[int]:
            tokens = super().greedy(ids, n)
            return [self.after(len(ids) + i) if token == 0 else token for i, token in enumerate(tokens)]

    model = nearly_tied()
    with pytest.raises(CheckpointError, match="its greedy text is another one from token"):
        verify(loaded(model), Other(model, lambda place: 1 if place == 12 else 17 if place == 20 else 0))
    check = verify(loaded(model), Other(model, lambda place: 1 if place in (12, 30) else 0))
    assert (check.greedy_compared, check.greedy_equal) == (64, 62)
    assert "62 of 64 greedy tokens are equal (the others tie)" in check.summary
    with pytest.raises(CheckpointError, match="greedy text"):  # one that ties at every token says nothing
        verify(loaded(model), Other(model, lambda place: 1 if place % 4 == 0 else 0))
    assert 64 // 4 > MAX_TIES


def test_the_limit_is_a_part_of_the_spread_of_the_logits() -> None:
    """Logits that hardly vary are within 1e-4 of those of any other model."""
    model, other = (tiny_model(seed, tied_head=False) for seed in (1, 2))
    for each in (model, other):
        with torch.no_grad():
            each.head_weight.mul_(1e-5)
    assert (model(torch.arange(9)[None]) - other(torch.arange(9)[None])).abs().max() < 1e-4
    with pytest.raises(CheckpointError, match="its logits are off by"):
        verify(loaded(model), Program(other))
    assert verify(loaded(model), Program(model)).rms_logit_error == 0


def test_a_model_with_nan_is_refused() -> None:
    model = model_of()
    with torch.no_grad():
        model.ln_f.weight.fill_(torch.nan)
    with pytest.raises(CheckpointError, match="the model itself gives logits that are NaN or infinite"):
        verify(loaded(model), Program(model))


def test_an_alphabet_is_encoded_too() -> None:
    """None of its letters is in the usual texts."""

    class AllZeros(Program):
        def encode(self, text: str) -> list[int]:
            return [0] * len(text)

    ours = CharTokenizer("абв")
    model = model_of(vocab_size=ours.vocab_size)
    assert verify(loaded(model, ours), Program(model, ours)).same_tokenizer
    with pytest.raises(CheckpointError, match="its tokenizer gives other ids for 'абв'"):
        verify(loaded(model, ours), AllZeros(model, ours))


@pytest.mark.parametrize("kind", ["gguf", "hf"])
def test_overwrite_replaces_only_exports(kind: str, tmp_path: Path) -> None:
    out = tmp_path / "there"
    if kind == "gguf":
        out.write_text("a text, or a trained model")
    else:
        out.mkdir()
        (out / "best_model.pt").write_text("a trained model")
    model = loaded(model_of(vocab_size=257), ByteTokenizer())
    with pytest.raises(CheckpointError, match="so it is not replaced; name another path with out="):
        export(model, TARGETS[kind], out, overwrite=True)
    with pytest.raises(
        CheckpointError, match="already exists; name another with out=..., or replace it: overwrite=True"
    ):
        export(model, TARGETS[kind], out)
    kept = out if kind == "gguf" else out / "best_model.pt"
    assert "a trained model" in kept.read_text() and list(tmp_path.iterdir()) == [out]


def test_the_limit_grows_with_the_rounding_of_the_model_and_not_with_other_differences() -> None:
    class Exact(Program):
        def logits(self, ids: Sequence[Sequence[int]]) -> Tensor:
            return deepcopy(self.model).double()(torch.tensor(ids))

    model = model_of(**QWEN3, tied_head=False)
    with torch.no_grad():
        model.head_weight.mul_(1e4)
    before = {name: t.clone() for name, t in model.state_dict().items()}
    check = verify(loaded(model), Exact(model))
    assert 1e-4 < check.max_logit_error < check.limit
    assert all(torch.equal(before[name], t) for name, t in model.state_dict().items())
    other = deepcopy(model)
    with torch.no_grad():
        other.h[0].mlp.c_proj.weight.mul_(1.001)
    with pytest.raises(CheckpointError, match="its logits are off by"):
        verify(loaded(model), Exact(other))


def test_an_export_that_rounds_the_weights_says_by_how_much(tmp_path: Path) -> None:
    """In the result and on the card; a model whose weights the dtype can hold is not rounded."""
    model = loaded(model_of(vocab_size=257, n_positions=40, n_embd=32, n_head=2), ByteTokenizer())
    hf, gguf = TARGETS["hf"], TARGETS["gguf"]
    for exporter, dtype in ((hf, "bfloat16"), (hf, "float16"), (gguf, "f16"), (gguf, "q8_0"), (gguf, "q4_0")):
        change = change_by_rounding(model, exporter.rounded_weights(model, dtype))
        assert change is not None and 1e-4 < change < 10, (dtype, change)
    assert change_by_rounding(model, hf.rounded_weights(model, "float32")) is None
    assert change_by_rounding(model, gguf.rounded_weights(model, "f32")) is None
    coarse = rounded(model, "bfloat16")
    assert change_by_rounding(coarse, hf.rounded_weights(coarse, "bfloat16")) is None
    said = f"rounded to bfloat16, which changes the model's logits by up to {change_by_rounding(model, coarse):.1e}"
    assert said in export(model, hf, tmp_path / "a", dtype="bfloat16").summary
    assert said in (tmp_path / "a" / "README.md").read_text()
    assert "rounded" not in export(coarse, hf, tmp_path / "b", dtype="bfloat16").summary


def test_with_a_large_limit_the_root_mean_square_tells_another_model() -> None:
    """Rounding to 4 bits moves single logits of a deep model far, and another model moves all of them."""

    class Noisy(Program):
        noise, outlier = 0.0, 0.0

        def logits(self, ids: Sequence[Sequence[int]]) -> Tensor:
            y = super().logits(ids)
            y += self.noise * y.std() * torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
            y[0, 0, 0] += self.outlier
            return y

    model = model_of()
    program = Noisy(model)
    program.noise, program.outlier = 0.05, 5.0
    check = verify(loaded(model), program, limit=6.0)
    assert 4 < check.max_logit_error < 6 and check.rms_logit_error < 1
    program.outlier = 7.0
    with pytest.raises(CheckpointError, match="its logits are off by"):
        verify(loaded(model), program, limit=6.0)
    program.noise, program.outlier = 0.4, 0.0
    with pytest.raises(CheckpointError, match="in root mean square"):
        verify(loaded(model), program, limit=100.0)


def test_other_ids_around_a_text_are_refused() -> None:
    class WithEnds(Program):
        ends: tuple[int, ...] = ()

        def encode_with_ends(self, text: str) -> list[int]:
            return [*self.ends, *ByteTokenizer().encode(text)]

    model = model_of(vocab_size=257)
    program = WithEnds(model, ByteTokenizer())
    assert verify(loaded(model, ByteTokenizer()), program).same_tokenizer
    program.ends = (256,)
    with pytest.raises(CheckpointError, match=r"its tokenizer puts other ids around .*: \[256, "):
        verify(loaded(model, ByteTokenizer()), program)
