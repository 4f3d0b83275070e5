"""An import needs little more memory than its result, whatever the files hold."""

import json
import re
import resource
from pathlib import Path
from typing import Any

import pytest
import torch

from light_llm.checkpoint.tensors import write_tensors
from light_llm.config import param_shapes
from light_llm.interop.hf_config import read_config
from light_llm.interop.hf_mapping import to_hf_tensors
from light_llm.interop.import_model import read_folder, write_model
from tests.support.child import Child
from tests.support.published import CONFIGS

MAX_SHARE = 1.3
LARGE: dict[str, tuple[torch.dtype, dict[str, Any]]] = {
    # Two tables that hold most of the numbers.
    "tinyllama": (torch.bfloat16, {"vocab_size": 80_000, "hidden_size": 512, "num_hidden_layers": 12}),
    # Matrices that are transposed.
    "gpt2": (torch.float32, {"vocab_size": 20_000, "n_embd": 768, "n_layer": 5}),
    # Queries, keys and values that are put into another order.
    "pythia": (torch.float16, {"vocab_size": 20_000, "hidden_size": 1024, "num_hidden_layers": 6}),
}


def write_large(folder: Path, name: str, dtype: torch.dtype, sizes: dict[str, Any]) -> None:
    """Write a published model of about 200 MB, without the library that it is published with."""
    values = CONFIGS[name] | sizes
    family, config = read_config(values, "config.json")
    torch.manual_seed(1)
    state = {part: torch.randn(shape).to(dtype) for part, shape in param_shapes(config).items()}
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(values))
    with open(folder / "model.safetensors", "wb") as file:
        write_tensors(file, to_hf_tensors(config, state, family))


def print_peaks(words: list[str]) -> int:
    """In a child process: import each folder, and print the largest memory so far in bytes."""
    for folder in map(Path, words):
        write_model(read_folder(folder, tokenizer="none"), folder / "imported.pt")
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_an_import_needs_little_more_than_its_result(name: str, tmp_path: Path) -> None:
    dtype, sizes = LARGE[name]
    write_large(tmp_path / "small", name, dtype, {})
    write_large(tmp_path / "large", name, dtype, sizes)
    child = Child([str(tmp_path / "small"), str(tmp_path / "large")], function=print_peaks)
    assert child.wait() == 0, child.output
    before, after = map(int, re.findall(r"\d+", child.output[0]))
    size = (tmp_path / "large" / "imported.pt").stat().st_size
    assert 100e6 < size < 300e6
    assert after - before < MAX_SHARE * size, (after - before) / size
