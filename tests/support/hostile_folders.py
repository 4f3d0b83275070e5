"""Folders of Hugging Face made to harm their reader."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save

from light_llm.config import param_shapes
from light_llm.interop.hf_config import read_config
from light_llm.interop.hf_mapping import to_hf_tensors
from light_llm.model import LightLLM
from tests.support.published import CONFIGS

TEN_GB = 10_000_000_000
CONFIG = CONFIGS["tinystories"]


def sound_files() -> dict[str, bytes]:
    """Return the files of a model that can be imported."""
    _, config = read_config(CONFIG, "config.json")
    state = LightLLM(config).state_dict()
    assert state.keys() == param_shapes(config).keys()
    tensors = {name: t.contiguous() for name, t in to_hf_tensors(config, state).items()}
    return {"config.json": json.dumps(CONFIG).encode(), "model.safetensors": save(tensors)}


def header(values: Any) -> bytes:
    """Return the beginning of a safetensors file."""
    data = values if isinstance(values, bytes) else json.dumps(values).encode()
    return len(data).to_bytes(8, "little") + data


def make_folders(folder: Path, bad_json: Mapping[str, bytes]) -> None:
    """Write a folder for each case: a sound model with one file that is not."""
    files = sound_files()
    table = {"dtype": "F32", "shape": [304, 64], "data_offsets": [0, 304 * 64 * 4]}
    weights = {
        "terabyte_of_header": (1 << 40).to_bytes(8, "little") + b"{}",
        "deep": header(b"[" * 100_000),
        "pickle": bad_json["pickle"],
        "beyond": header({"wte.weight": table | {"data_offsets": [0, TEN_GB]}}),
        "backwards": header({"wte.weight": table | {"data_offsets": [400, 0]}}) + bytes(400),
        "overflow": header({"wte.weight": table | {"shape": [1 << 40, 1 << 40]}}) + bytes(400),
        "many": header({f"t{i}": {"dtype": "F32", "shape": [0], "data_offsets": [0, 0]} for i in range(90_000)}),
        "other_type": header({"wte.weight": {"dtype": "F8_E5M2", "shape": [4], "data_offsets": [0, 4]}}) + bytes(4),
    }
    sizes: dict[str, dict[str, Any]] = {
        "layers": {"num_layers": 10**9, "attention_types": [[["global"], 10**9]]},
        "repeats": {"attention_types": [[["global", "local"], 10**12]]},
        "negative": {"attention_types": [[["global", "local"], -(10**12)]]},
        "vocab": {"vocab_size": 10**12},
        "width": {"hidden_size": 1 << 62},
        "heads": {"num_heads": 0},
        "window": {"window_size": -1},
        "eps": {"layer_norm_epsilon": 1e400},
    }
    cases: dict[str, dict[str, bytes]] = {}
    cases |= {f"config_{name}": {"config.json": data} for name, data in bad_json.items()}
    cases |= {f"size_{name}": {"config.json": json.dumps(CONFIG | change).encode()} for name, change in sizes.items()}
    cases |= {f"weights_{name}": {"model.safetensors": data} for name, data in weights.items()}
    for name, change in cases.items():
        write(folder / name, files | change)
    index = "model.safetensors.index.json"
    rest = {"config.json": files["config.json"]}
    outside = {"outside": "../model.safetensors", "device": "/dev/zero", "pickle_name": "pytorch_model.bin"}
    for name, data in bad_json.items():
        write(folder / f"index_{name}", rest | {index: data})
    for name, shard in outside.items():
        write(folder / f"index_{name}", rest | {index: json.dumps({"weight_map": {"wte.weight": shard}}).encode()})
    write(folder / "sparse", rest)
    with open(folder / "sparse" / "model.safetensors", "wb") as file:
        file.write(files["model.safetensors"])
        file.truncate(TEN_GB)
    write(folder / "link", rest)
    (folder / "link" / "model.safetensors").symlink_to("/dev/zero")


def write(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write the files of one folder."""
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
