"""Checkpoints of nanoGPT: the same logits, the same ids, and no code in a pickle is run."""

import math
import zipfile
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from light_llm.checkpoint import load_model
from light_llm.cli.import_ import command
from light_llm.config import ModelConfig
from light_llm.data.tokenizers import CharTokenizer
from light_llm.errors import CheckpointError, ConfigError, DataError, LightLLMError
from light_llm.generate import TextGenerator
from light_llm.interop.nanogpt import read_checkpoint
from tests.support.tools import model_path, some_tokens

L, H, C, T, V = 2, 3, 24, 16, 12
SIZES: dict[str, Any] = {"n_layer": L, "n_head": H, "n_embd": C, "block_size": T, "bias": True, "vocab_size": V}
TEXT = "abcd abc ab\nhello, hello, hello!\n"  # 12 different characters
Tensors = OrderedDict[str, Tensor]


def tensors(*, bias: bool = True, vocab_size: int = V) -> Tensors:
    """Weights as nanoGPT names and shapes them, its head the token table itself."""
    draw = torch.Generator().manual_seed(2)

    def weight(*shape: int, scale: float = 0.3, mean: float = 0.0) -> Tensor:
        return mean + scale * torch.randn(*shape, generator=draw)

    found: Tensors = OrderedDict()
    found["transformer.wte.weight"], found["transformer.wpe.weight"] = weight(vocab_size, C), weight(T, C)
    linear = {"attn.c_attn": (3 * C, C), "attn.c_proj": (C, C), "mlp.c_fc": (4 * C, C), "mlp.c_proj": (C, 4 * C)}
    for i in range(L):
        for name in ("ln_1", "attn.c_attn", "attn.c_proj", "ln_2", "mlp.c_fc", "mlp.c_proj"):
            shape = linear.get(name, (C,))
            full = f"transformer.h.{i}.{name}"
            found[f"{full}.weight"] = weight(*shape) if name in linear else weight(C, scale=0.1, mean=1.0)
            if bias:
                found[f"{full}.bias"] = weight(shape[0], scale=0.1)
    found["transformer.ln_f.weight"] = weight(C, scale=0.1, mean=1.0)
    if bias:
        found["transformer.ln_f.bias"] = weight(C, scale=0.1)
    found["lm_head.weight"] = found["transformer.wte.weight"]
    return found


def their_logits(w: Tensors, ids: Tensor, approximate: str = "none") -> Tensor:
    """What nanoGPT computes, written down from its definition: pre-norm blocks, causal attention, exact GELU."""

    def norm(x: Tensor, name: str) -> Tensor:
        return F.layer_norm(x, (C,), w[f"transformer.{name}.weight"], w.get(f"transformer.{name}.bias"), 1e-5)

    def linear(x: Tensor, name: str) -> Tensor:
        return F.linear(x, w[f"transformer.{name}.weight"], w.get(f"transformer.{name}.bias"))

    B, n = ids.shape
    x = w["transformer.wte.weight"][ids] + w["transformer.wpe.weight"][:n]
    for i in range(L):
        q, k, v = linear(norm(x, f"h.{i}.ln_1"), f"h.{i}.attn.c_attn").view(B, n, 3, H, C // H).unbind(2)
        scores = torch.einsum("bthd,bshd->bhts", q, k) / math.sqrt(C // H)
        seen = scores.masked_fill(torch.ones(n, n).triu(1).bool(), -math.inf).softmax(-1)
        x = x + linear(torch.einsum("bhts,bshd->bthd", seen, v).reshape(B, n, C), f"h.{i}.attn.c_proj")
        inner = F.gelu(linear(norm(x, f"h.{i}.ln_2"), f"h.{i}.mlp.c_fc"), approximate=approximate)
        x = x + linear(inner, f"h.{i}.mlp.c_proj")
    return norm(x, "ln_f") @ w["lm_head.weight"].T


def save(path: Path, model: Any, sizes: dict[str, Any] | None = None, **more: Any) -> Path:
    """A checkpoint with all that nanoGPT's train.py puts into one."""
    with torch.inference_mode(False), torch.enable_grad():
        parameter = torch.nn.Parameter(torch.ones(3))
        optimizer = torch.optim.AdamW([parameter])
        parameter.sum().backward()
        optimizer.step()
    stored = {
        "model": model,
        "optimizer": optimizer.state_dict(),
        "model_args": SIZES | {"dropout": 0.1} if sizes is None else sizes,
        "iter_num": 250,
        "best_val_loss": torch.tensor(1.5),
        "config": {"dataset": "shakespeare_char", "learning_rate": 1e-3},
    }
    torch.save(stored | more, path)
    return path


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("compiled", [True, False])
@torch.inference_mode()
def test_logits_are_nanogpts(bias: bool, compiled: bool, tmp_path: Path) -> None:
    w = tensors(bias=bias)
    named = OrderedDict((f"_orig_mod.{name}", t) for name, t in w.items()) if compiled else w
    mask = {"_orig_mod." * compiled + f"transformer.h.{i}.attn.bias": torch.ones(1, 1, T, T) for i in range(L)}
    path = save(tmp_path / "ckpt.pt", OrderedDict(named | mask), SIZES | {"bias": bias, "dropout": 0.1})
    found = read_checkpoint(path, tokenizer="none")
    ids = some_tokens(T=T, V=V)
    expected = their_logits(w, ids)
    assert expected.std() > 0.3
    torch.testing.assert_close(found.model(ids), expected, atol=1e-5, rtol=0)
    shape = {"vocab_size": V, "n_positions": T, "n_embd": C, "n_layer": L, "n_head": H}
    assert found.model.config == ModelConfig(**shape, dropout=0.1, bias=bias, activation="gelu")
    assert (found.file.meta["step"], found.file.meta["imported"]["best_val_loss"]) == (250, 1.5)


@torch.inference_mode()
def test_an_older_nanogpt_has_the_other_gelu(tmp_path: Path) -> None:
    w = tensors()
    path, ids = save(tmp_path / "ckpt.pt", w), some_tokens(T=T, V=V)
    found = read_checkpoint(path, tokenizer="none", activation="gelu_tanh").model(ids)
    torch.testing.assert_close(found, their_logits(w, ids, "tanh"), atol=1e-5, rtol=0)
    assert (found - their_logits(w, ids)).abs().max() > 1e-4
    with pytest.raises(ConfigError, match="activation='relu' is not known"):
        read_checkpoint(path, activation="relu")


def test_shared_storages_are_separated(tmp_path: Path) -> None:
    """A file of ours has a storage for each tensor, and is refused otherwise."""
    w, flat = tensors(), torch.cat([t.flatten() for t in tensors().values()])
    at = 0
    for name, t in w.items():
        w[name], at = flat[at : at + t.numel()].view(t.shape), at + t.numel()
    w["lm_head.weight"] = w["transformer.wte.weight"]
    w["transformer.h.0.ln_2.weight"] = w["transformer.h.0.ln_1.weight"] = torch.full((C,), 1.5)
    assert command([str(save(tmp_path / "ckpt.pt", w)), "--tokenizer", "none", "--out", "m.pt"]) == 0
    for name, tensor in load_model("m.pt").file.weights.items():
        assert torch.equal(tensor, w[f"transformer.{name}"]), name


@torch.inference_mode()
def test_an_untied_head_stays_untied(tmp_path: Path) -> None:
    w = tensors()
    w["lm_head.weight"] = w["transformer.wte.weight"].flip(0).clone()
    found = read_checkpoint(save(tmp_path / "ckpt.pt", w), tokenizer="none").model
    ids = some_tokens(T=T, V=V)
    assert not found.config.tied_head
    torch.testing.assert_close(found(ids), their_logits(w, ids), atol=1e-5, rtol=0)


def text_file(folder: Path) -> Path:
    path = folder / "input.txt"
    path.write_text(TEXT)
    assert len(set(TEXT)) == V
    return path


@torch.inference_mode()
def test_characters_have_the_ids_that_nanogpt_gave_them(tmp_path: Path) -> None:
    w = tensors()
    text = text_file(tmp_path)
    words = [str(save(tmp_path / "ckpt.pt", w)), "--tokenizer", "char", "--text", str(text), "--out", "m.pt"]
    assert command(words) == 0
    loaded = load_model("m.pt")
    tokenizer = loaded.file.tokenizer
    assert isinstance(tokenizer, CharTokenizer)
    stoi = {c: i for i, c in enumerate(sorted(set(TEXT)))}  # nanoGPT's prepare.py
    assert tokenizer.encode(TEXT) == [stoi[c] for c in TEXT]
    ids = torch.tensor([tokenizer.encode(TEXT[:T])])
    found, expected = loaded.model(ids), their_logits(w, ids)
    torch.testing.assert_close(found[..., :V], expected, atol=1e-5, rtol=0)
    # The separator is as likely as the rarest character: here ! and d occur once, and ! comes first.
    assert tokenizer.separator == V and torch.equal(found[..., V], found[..., stoi["!"]])
    written = TextGenerator("m.pt", device="cpu").generate("hello", 20, seed=1)
    assert written.startswith("hello") and {*written} <= {*TEXT}
    assert loaded.file.data == {"max_length": T, "documents": 1}


def refused(path: Path, named: str, error: type[LightLLMError] = CheckpointError, **settings: Any) -> None:
    with pytest.raises(error, match=named):
        read_checkpoint(path, **({"tokenizer": "none"} | settings))


def test_another_text_has_another_alphabet(tmp_path: Path) -> None:
    path, text = save(tmp_path / "ckpt.pt", tensors()), tmp_path / "other.txt"
    text.write_text(TEXT + "é")
    refused(path, "13 different characters, .*vocab_size=12", DataError, tokenizer="char", text=text)
    text.write_bytes(b"\xff")
    refused(path, r"other\.txt is not UTF-8", DataError, tokenizer="char", text=text)
    refused(path, r"no\.txt cannot be read", DataError, tokenizer="char", text=tmp_path / "no.txt")


def test_a_model_of_unknown_characters_needs_its_text(tmp_path: Path) -> None:
    path = save(tmp_path / "ckpt.pt", tensors())
    refused(path, r"vocab_size=12, .*meta\.pkl.*text=", ConfigError, tokenizer="")
    refused(path, r"text=.input\.txt", ConfigError, tokenizer="char")
    refused(path, "text=... .*has no effect", ConfigError, tokenizer="byte", text=text_file(tmp_path))
    refused(path, "vocab_size=12, .*257 ids", tokenizer="byte")


def test_gpt2s_padded_table_is_kept(offline_files: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = save(tmp_path / "ckpt.pt", tensors(vocab_size=50304), SIZES | {"vocab_size": 50304})
    found = read_checkpoint(path, offline=True)
    assert found.file.tokenizer is not None and found.file.tokenizer.name == "gpt2"
    assert found.model.config.vocab_size == 50304 and found.file.data["documents"] > 1
    monkeypatch.delenv("LIGHT_LLM_OFFLINE_DIR")
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "none"))
    monkeypatch.setenv("TIKTOKEN_CACHE_DIR", str(tmp_path / "none"))
    with pytest.raises(DataError, match="vocab"):
        read_checkpoint(path, offline=True)


class Harmful:
    """Would create a file when it is unpickled."""

    def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
        return (touch, ("harmed",))


def touch(name: str) -> None:
    Path(name).write_text("x")


def test_no_code_in_a_checkpoint_is_run(tmp_path: Path) -> None:
    path = save(tmp_path / "ckpt.pt", tensors(), config=Harmful())
    refused(path, "objects that only running its code would make")
    assert not Path("harmed").exists()
    torch.load(path, weights_only=False)  # the trap is a trap
    assert Path("harmed").exists()


def test_a_model_of_ours_needs_no_import(tmp_path: Path) -> None:
    refused(model_path(tmp_path), "is a model of light-llm already")


def packed(path: Path) -> None:
    """The same archive with its records compressed."""
    with zipfile.ZipFile(path) as old:
        records = {name: old.read(name) for name in old.namelist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as new:
        for name, data in records.items():
            new.writestr(name, data)


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "ckpt.pt", tensors())
    whole = path.read_bytes()
    packed(path)
    refused(path, "compressed or too large")
    for damaged in (whole[:-200], b"", b"PK\x03\x04 nonsense", whole.replace(b"model_args", b"model_arg\xff")):
        path.write_bytes(damaged)
        refused(path, "is damaged, or holds more")
    refused(tmp_path / "no.pt", r"no\.pt cannot be read")
    for stored, missing in (({"model": {}}, "model_args"), ([1], "model"), ({"a": 1}, "model")):
        torch.save(stored, path)
        refused(path, rf"not a checkpoint of nanoGPT: it has no {missing};")


@pytest.mark.parametrize(
    ("model", "named"),
    [
        ({"a": [1.0]}, "not a table of plain tensors"),
        ([1], "not a table of plain tensors"),
        ({"a": torch.ones(3, device="meta")}, "not a table of plain tensors"),
        ({"a": torch.ones(1).expand(10**9)}, "not a table of plain tensors"),  # four bytes that claim to be many
        ({}, "2 layers, .* 0 tensors"),
        ({"transformer.h.0.ln_1.weight": torch.ones(C, dtype=torch.int64)}, "int64"),
    ],
)
def test_a_model_without_weights_is_refused(model: Any, named: str, tmp_path: Path) -> None:
    refused(save(tmp_path / "ckpt.pt", model), named)


@pytest.mark.parametrize("loss", [None, [], torch.ones(2), math.inf, torch.tensor(1j)])
def test_an_invalid_loss_is_left_out(loss: Any, tmp_path: Path) -> None:
    path = save(tmp_path / "ckpt.pt", tensors(), best_val_loss=loss, iter_num="x")
    meta = read_checkpoint(path, tokenizer="none").file.meta
    assert meta["step"] == 0 and meta["imported"] == {"format": "nanogpt", "name": "ckpt.pt"}


@pytest.mark.parametrize(
    ("sizes", "named"),
    [
        ([], "model_args are not a table"),
        ({k: v for k, v in SIZES.items() if k != "block_size"}, "model_args has no block_size"),
        (SIZES | {"n_kv_head": 1}, "model_args has 'n_kv_head'=1"),
        (SIZES | {"bias": 1}, "model_args has bias=1"),
        (SIZES | {"n_head": 5}, "n_embd=24 .*n_head=5"),
        (SIZES | {"block_size": 17}, r"wpe\.weight .* \(16, 24\).* \(17, 24\)"),
        (SIZES | {"n_layer": 1}, r"'h\.1\.attn\.c_attn\.bias' and 11 more"),
        (SIZES | {"n_layer": 3}, r"no tensor h\.2\.ln_1\.weight"),
        (SIZES | {"n_layer": 10**12}, "1000000000000 layers"),
        (SIZES | {"bias": False}, "its config does not mention: "),
    ],
)
def test_wrong_sizes_are_named(sizes: Any, named: str, tmp_path: Path) -> None:
    refused(save(tmp_path / "ckpt.pt", tensors(), sizes), named)


IDS = [int(i) for i in torch.randint(0, 50257, (5000,), generator=torch.Generator().manual_seed(1))]
IDS[0] = 0x0280  # whose bytes begin a pickle


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("train.bin", np.array(IDS, "<u2").tobytes(), "as nanoGPT's prepare.py writes it: 5,000 16-bit ids"),
        ("u32.bin", np.array(IDS, "<u4").tobytes(), "a token file: 5,000 32-bit ids"),
        (
            "llmc.bin",
            np.array([20240520, 1, 5000, *[0] * 253], "<i4").tobytes() + np.array(IDS, "<u2").tobytes(),
            r"llm.c or modded-nanogpt \(header 20240520, version 1\): 5,000 16-bit ids",
        ),
        (
            "llama3.bin",
            np.array([20240801, 7, 5000, *[0] * 253], "<i4").tobytes() + np.array(IDS, "<u4").tobytes(),
            r"\(header 20240801, version 7\): 5,000 32-bit ids",
        ),
    ],
)
def test_a_token_file_is_named_with_what_to_do(name: str, data: bytes, message: str) -> None:
    Path(name).write_bytes(data)
    with pytest.raises(CheckpointError, match=f"{name} is .*{message}.*light-llm train --data input.txt"):
        command([name, "val.bin", "--tokenizer", "gpt2"])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: torch.save({"w": torch.zeros(2)}, "x.bin"), "x.bin holds weights of PyTorch in a pickle.*save_pre"),
        (
            lambda: torch.save({"w": torch.zeros(2)}, "x.bin", _use_new_zipfile_serialization=False),
            "x.bin holds weights of PyTorch in a pickle",
        ),
        (
            lambda: Path("x.bin").write_bytes(np.array([20240326, 3, *[0] * 254], "<i4").tobytes()),
            "x.bin is weights of llm.c, which cannot be imported",
        ),
        (lambda: Path("x.bin").write_bytes(b"%PDF-1.7"), "x.bin is a PDF document"),
        (lambda: Path("x.bin").write_bytes(b"abc"), "x.bin is no file of token ids"),
        (lambda: Path("x.bin").write_bytes(b""), "x.bin is no file of token ids"),
    ],
)
def test_other_bin_files_are_named(make: Callable[[], object], message: str) -> None:
    make()
    with pytest.raises(CheckpointError, match=message):
        command(["x.bin"])
    Path("model.safetensors").touch()
    if "pickle" in message:
        with pytest.raises(CheckpointError, match=f"import its folder, .*: light-llm import .*{Path.cwd().name}"):
            command(["x.bin"])
