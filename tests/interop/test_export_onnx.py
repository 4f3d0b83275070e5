"""A model as ONNX graphs: the same numbers in ONNX Runtime, for every batch and length, with a past and without."""

import logging
import shutil
import subprocess
import sys
import warnings
from argparse import Namespace
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, replace
from io import StringIO
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx.checker
import onnxruntime
import pytest

from light_llm.checkpoint import LoadedModel
from light_llm.config import ModelConfig, get_model_size
from light_llm.data.hf_tokenizer import HuggingFaceTokenizer
from light_llm.errors import CheckpointError, ConfigError
from light_llm.generate import TextGenerator
from light_llm.interop.exporter import Runtime
from light_llm.interop.onnx import CACHED, WHOLE, _metadata
from light_llm.interop.onnx_generate import generate
from light_llm.interop.onnx_graphs import _quiet, check_size
from light_llm.interop.verify import verify
from tests.conftest import CHECKOUT
from tests.support.export_tools import FAMILIES, ONNX, a_tokenizer, tiny_loaded
from tests.support.tokenizer_kinds import tokenizer_kind
from tests.support.tools import run_child, some_tokens

MIXED = FAMILIES["qwen3"] | {"n_positions": 80, "window": 5, "window_layers": "1", "logit_cap": 20.0}
MIXED |= {"tied_head": False, "rope_scaling": "llama3", "rope_factor": 4.0}
FILES = (WHOLE, CACHED)


@dataclass(frozen=True)
class Export:
    """An exported folder and its model."""

    folder: Path
    loaded: LoadedModel
    output: str  # printed, logged and warned by the exporter

    @property
    def n_ids(self) -> int:
        assert self.loaded.file.tokenizer is not None
        return self.loaded.file.tokenizer.vocab_size


def export(folder: Path, loaded: LoadedModel) -> Export:
    out, printed = folder / "out", StringIO()
    out.mkdir()
    handler = logging.StreamHandler(printed)
    logging.getLogger("torch.onnx").addHandler(handler)
    with redirect_stdout(printed), redirect_stderr(printed), warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        ONNX.write(loaded, out)
    logging.getLogger("torch.onnx").removeHandler(handler)
    return Export(out, loaded, printed.getvalue() + "".join(str(warning.message) for warning in warned))


@pytest.fixture(scope="module")
def gpt2(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """A GPT-2 with 43 rows of padding in its table."""
    folder = tmp_path_factory.mktemp("gpt2")
    return export(folder, tiny_loaded(folder, vocab_size=300, n_positions=80))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Export:
    """A combination of no family: grouped heads, a window in one layer, a cap, an untied head."""
    folder = tmp_path_factory.mktemp("mixed")
    return export(folder, tiny_loaded(folder, tokenizer=a_tokenizer("char"), **MIXED))


@pytest.fixture(params=["gpt2", "mixed"])
def exported(request: pytest.FixtureRequest) -> Export:
    return request.getfixturevalue(request.param)


def opened(export: Export) -> Runtime:
    return ONNX.open(export.folder, threads=1)


def session(path: Path) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    return onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])


def test_any_batch_and_length(exported: Export) -> None:
    """Below a window and beyond it, up to all positions: no size of the trace is fixed."""
    whole = session(exported.folder / WHOLE)
    for B, T in ((1, 1), (1, 2), (4, 1), (3, 5), (3, 6), (2, 80)):
        tokens = some_tokens(B, T, exported.n_ids)
        ours = exported.loaded.model(tokens)[..., : exported.n_ids].detach().numpy()
        (theirs,) = whole.run(None, {"input_ids": tokens.numpy()})
        assert theirs.shape == ours.shape
        assert np.abs(theirs - ours).max() < 1e-5, (B, T)


def test_a_past_of_any_split(exported: Export) -> None:
    """Split in any way, the logits are those of the whole text."""
    continued = session(exported.folder / CACHED)
    names = [i.name for i in continued.get_inputs()[1:]]
    B, H_kv, D = 3, exported.loaded.model.config.kv_heads, exported.loaded.model.config.head_size
    tokens = some_tokens(B, 80, exported.n_ids)
    ours = exported.loaded.model(tokens)[..., : exported.n_ids].detach().numpy()
    for pieces in ([80], [3, 1, 1, 1, 5, 2, 67], [1] * 12):
        past = dict.fromkeys(names, np.zeros((B, H_kv, 0, D), np.float32))
        done = 0
        for T in pieces:
            new = tokens[:, done : done + T].numpy()
            logits, *present = continued.run(None, {"input_ids": new} | past)
            past = dict(zip(names, present, strict=True))
            assert np.abs(logits - ours[:, done : done + T]).max() < 1e-5, (pieces, done)
            done += T
        assert {value.shape for value in past.values()} == {(B, H_kv, done, D)}


def test_an_export_is_verified(exported: Export) -> None:
    check = verify(exported.loaded, opened(exported))
    assert check.runtime == f"onnxruntime {onnxruntime.__version__}"
    assert (check.greedy_compared, check.greedy_equal, check.same_tokenizer) == (64, 64, True)
    assert check.max_logit_error < 1e-5


def test_names_and_sizes_are_those_of_optimum(mixed: Export) -> None:
    config = mixed.loaded.model.config
    parts = [f"{layer}.{kind}" for layer in range(config.n_layer) for kind in ("key", "value")]
    kept = ["batch", config.kv_heads, "past", config.head_size]
    both = ["batch", config.kv_heads, "past + length", config.head_size]
    tokens, logits = ("input_ids", ["batch", "length"]), ("logits", ["batch", "length", mixed.n_ids])

    def sides(name: str) -> list[list[tuple[str, Any]]]:
        graph = session(mixed.folder / name)
        return [[(value.name, value.shape) for value in side] for side in (graph.get_inputs(), graph.get_outputs())]

    assert sides(WHOLE) == [[tokens], [logits]]
    past, present = [(f"past_key_values.{p}", kept) for p in parts], [(f"present.{p}", both) for p in parts]
    assert sides(CACHED) == [[tokens, *past], [logits, *present]]


@pytest.mark.parametrize("name", FILES)
def test_the_files_are_sound_and_hold_the_weights_once(exported: Export, name: str) -> None:
    onnx.checker.check_model(exported.folder / name, full_check=True)
    file = onnx.load(exported.folder / name)
    numbers = sum(onnx.numpy_helper.to_array(t).size for t in file.graph.initializer)
    config = exported.loaded.model.config
    parameters = get_model_size(replace(config, vocab_size=exported.n_ids))
    transposed = exported.n_ids * config.n_embd if config.tied_head else 0  # a small tied table is stored both ways
    assert 0 <= numbers - parameters < transposed + 200  # besides: a few sizes, and the angles of the positions
    assert [opset.domain for opset in file.opset_import] == [""]  # no operators but ONNX's own


@pytest.mark.parametrize("name", FILES)
def test_no_path_of_this_machine_is_in_a_file(exported: Export, name: str) -> None:
    """The exporter notes the source lines of each node."""
    data = (exported.folder / name).read_bytes()
    for word in (str(CHECKOUT), "site-packages", ".py", "forward"):
        assert word.encode() not in data, word


def test_writing_prints_nothing(exported: Export) -> None:
    assert exported.output == ""


def test_other_warnings_are_shown() -> None:
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    with pytest.warns(UserWarning, match="something real"), _quiet():
        assert not logger.filter(logging.makeLogRecord({"msg": "torchvision is not installed. Skipping %s"}))
        assert logger.filter(logging.makeLogRecord({"msg": "an operator is missing"}))
        warnings.warn("something real", stacklevel=1)
    assert not logger.filters


def test_metadata_for_generation(gpt2: Export, mixed: Export) -> None:
    for exported in (gpt2, mixed):
        separator = str(exported.n_ids - 1)
        for name in FILES:
            values = session(exported.folder / name).get_modelmeta().custom_metadata_map
            assert (values["context"], values["separator"], values["start"]) == ("24", separator, separator)


def tampered(export: Export, folder: Path, change: Callable[[Any], None], names: tuple[str, ...] = FILES) -> Runtime:
    """The export with a change to some of its graphs."""
    shutil.copytree(export.folder, folder)
    for name in names:
        file = onnx.load(folder / name)
        change(file.graph)
        onnx.save(file, folder / name)
    return ONNX.open(folder, threads=1)


def swap_two_layers(graph: Any) -> None:
    """Two matrices of one shape change places."""
    by_shape: dict[tuple[int, ...], list[Any]] = {}
    for tensor in graph.initializer:
        by_shape.setdefault(tuple(tensor.dims), []).append(tensor)
    first, second = next(found for shape, found in by_shape.items() if len(shape) == 2 and len(found) == 2)
    first.raw_data, second.raw_data = second.raw_data, first.raw_data


def keep_the_padding(graph: Any) -> None:
    """The token table, which is there both ways round, with 43 rows more."""
    for table in graph.initializer:
        if 257 in table.dims:
            values = onnx.numpy_helper.to_array(table)
            values = np.pad(values, [(0, 43 if size == 257 else 0) for size in values.shape])
            table.CopyFrom(onnx.numpy_helper.from_array(values, table.name))
    for value in (*graph.output, *graph.value_info):
        for dim in value.type.tensor_type.shape.dim:
            if dim.dim_value == 257:
                dim.dim_value = 300


def take_the_other_gelu(graph: Any) -> None:
    """The exact one, which is off by 5e-4 at most."""
    for node in graph.node:
        if node.op_type == "Gelu":
            node.attribute[0].s = b"none"


def change_a_weight(graph: Any) -> None:
    """One number of the largest matrix of the layers."""
    tensor = max((t for t in graph.initializer if len(t.dims) == 2), key=lambda t: t.dims[1])
    values = onnx.numpy_helper.to_array(tensor).copy()
    values[3, 5] += 0.5
    tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))


@pytest.mark.parametrize(
    "change, reason",
    [
        (swap_two_layers, "logits are off"),
        (keep_the_padding, "logits for 300 ids, and the model has 257"),
        (take_the_other_gelu, "logits are off"),
        (change_a_weight, "logits are off"),
    ],
)
def test_another_model_is_refused(gpt2: Export, tmp_path: Path, change: Callable[[Any], None], reason: str) -> None:
    with pytest.raises(CheckpointError, match=reason):
        verify(gpt2.loaded, tampered(gpt2, tmp_path / "other", change))


@pytest.mark.parametrize("name", FILES)
def test_the_two_graphs_are_one_model(gpt2: Export, tmp_path: Path, name: str) -> None:
    """A graph that differs alone is refused too, although logits come from one and greedy texts from the other."""
    with pytest.raises(CheckpointError, match="is not the model that"):
        verify(gpt2.loaded, tampered(gpt2, tmp_path / "other", change_a_weight, (name,)))


@pytest.mark.parametrize("name", [*FILES, "tokenizer.json"])
def test_a_damaged_or_missing_file_is_named(gpt2: Export, tmp_path: Path, name: str) -> None:
    folder = tmp_path / "damaged"
    shutil.copytree(gpt2.folder, folder)
    data = (folder / name).read_bytes()
    (folder / name).write_bytes(data[: len(data) // 2])
    for _ in range(1 if name == "tokenizer.json" else 2):  # a missing graph is an error, a missing tokenizer is not
        with pytest.raises(CheckpointError, match=rf"{name} cannot be used: .+; export the model again"):
            ONNX.open(folder)
        (folder / name).unlink(missing_ok=True)


def test_a_graph_that_opens_and_does_not_run_is_refused(gpt2: Export, tmp_path: Path) -> None:
    def forget_a_row(graph: Any) -> None:
        """The table of positions lacks the last of 80."""
        for table in graph.initializer:
            if list(table.dims) == [80, 24]:
                table.CopyFrom(onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(table)[:-1], table.name))
        graph.ClearField("value_info")

    with pytest.raises(CheckpointError, match=r"model\.onnx cannot be run: .+; export the model again"):
        tampered(gpt2, tmp_path / "short", forget_a_row).logits([[1] * 80])


def test_without_a_tokenizer_there_are_no_texts(gpt2: Export, tmp_path: Path) -> None:
    for name in FILES:
        shutil.copy(gpt2.folder / name, tmp_path)
    assert ONNX.open(tmp_path).encode("a") is None


def test_a_model_that_does_not_fit_into_a_file() -> None:
    check_size(ModelConfig.small())
    with pytest.raises(ConfigError, match=r"2\.38 GB.* hf or gguf"):
        check_size(ModelConfig(n_embd=1024, n_layer=43, n_head=16))


EXAMPLE = (
    "import runpy, sys; sys.modules.update(torch=None, light_llm=None, transformers=None); "
    "runpy.run_path({!r}, run_name='__main__')"
)


@pytest.mark.parametrize("family, prompt", [("gpt2", ""), ("mixed", "To be")])
def test_the_example_generates_our_text(request: pytest.FixtureRequest, family: str, prompt: str) -> None:
    """Three windows long, without torch and without this package."""
    exported: Export = request.getfixturevalue(family)
    example = str(CHECKOUT / "light_llm" / "interop" / "onnx_generate.py")
    words = [str(exported.folder), prompt, "--tokens", "70", "--temperature", "0"]
    run = subprocess.run(
        [sys.executable, "-c", EXAMPLE.format(example), *words], capture_output=True, encoding="utf-8", check=False
    )
    assert run.stderr == ""
    ours = TextGenerator(exported.loaded.file.path, device="cpu").generate(prompt, 70, temperature=0)
    assert run.stdout == ours + "\n"
    assert len(ours) > 60


def test_generation_stops_at_every_stop_id(gpt2: Export, tmp_path: Path) -> None:
    """An export of a published model has those of its generation_config.json."""
    kind = tokenizer_kind("qwen2")
    published = HuggingFaceTokenizer(kind.data, separator=kind.eos, stop_ids=[kind.eos + 2])
    loaded = replace(gpt2.loaded, file=replace(gpt2.loaded.file, tokenizer=published))
    assert _metadata(loaded)["stop_ids"] == f"{kind.eos} {kind.eos + 2}"
    options = Namespace(tokens=20, temperature=0)
    whole = generate(session(gpt2.folder / CACHED), [1, 2, 3], options)
    file = onnx.load(gpt2.folder / CACHED)
    for stops in (f"{gpt2.n_ids - 1} {whole[9]}", str(whole[9])):
        onnx.helper.set_model_props(file, {"context": "24", "start": "0", "stop_ids": stops, "separator": "256"})
        onnx.save(file, tmp_path / CACHED)
        ids = generate(session(tmp_path / CACHED), [1, 2, 3], options)
        assert ids == whole[: 3 + whole[3:].index(whole[9])] != whole


def test_the_printed_command_runs_also_without_a_tokenizer(gpt2: Export, tmp_path: Path) -> None:
    """It is a module of the package, so it is there with the wheel, too. Without a tokenizer it takes ids."""
    for name in FILES:
        shutil.copy(gpt2.folder / name, tmp_path)
    python, *words = ONNX.try_command(str(tmp_path), "To be", 5, has_tokenizer=False)
    child = run_child([sys.executable, *words])
    assert python == "python" and child.returncode == 0, child.stderr
    ids = [int(word) for word in child.stdout.split()]
    assert ids[0] == 0 and 1 < len(ids) <= 6
    child = run_child([sys.executable, *words[:3], "To be"])
    assert child.returncode == 2 and "give token ids as the prompt" in child.stderr


@pytest.mark.slow
@pytest.mark.parametrize(
    "changes",
    [
        {"activation": "gelu", "bias": False},
        {"mlp": "relu2", "positions": "rope", "rope_scaling": "linear", "rope_factor": 2.0},
        {"norm": "rmsnorm", "tied_head": False, "n_head": 6, "n_kv_head": 1},
        {"mlp": "swiglu", "qk_norm": True, "window": 1},
        {"window": 31, "head_dim": 5},
        {"window": 500, "n_layer": 1, "logit_cap": 3.0},
        {"n_positions": 2},
        {"n_positions": 1},
    ],
)
def test_any_mix_can_be_exported(tmp_path: Path, changes: dict[str, Any]) -> None:
    loaded = tiny_loaded(tmp_path, **changes)
    (tmp_path / "out").mkdir()
    ONNX.write(loaded, tmp_path / "out")
    verify(loaded, ONNX.open(tmp_path / "out", threads=1), limit=1e-5)


@pytest.mark.slow
def test_the_same_model_is_the_same_bytes(gpt2: Export, tmp_path: Path) -> None:
    again = export(tmp_path, gpt2.loaded)
    for name in FILES:
        assert (again.folder / name).read_bytes() == (gpt2.folder / name).read_bytes()
