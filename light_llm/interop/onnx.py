"""A model as a folder for ONNX Runtime, which needs neither torch nor this package: two graphs, and the tokenizer.

`model.onnx` reads whole texts; `model_with_past.onnx` also takes and gives keys and values, so that a token costs one
token. Any mix of layers can be exported. `examples/onnx_generate.py` writes with such a folder.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .. import __version__
from ..atomic_io import atomic_write
from ..checkpoint import LoadedModel
from ..checkpoint.load import build
from ..data.tokenizers import start_ids
from ..errors import CheckpointError
from ..runtime import disable_onnx_telemetry
from .architectures import cut_to_tokenizer
from .huggingface import trained_window
from .onnx_graphs import continued_graph, for_tracing, forget_past
from .optional_deps import need
from .tokenizer_files import tokenizer_config, tokenizer_json
from .verify import Runtime

WHOLE, CONTINUED = "model.onnx", "model_with_past.onnx"
APART = 1e-4  # that a logit of the one graph may be from that of the other
Past = dict[str, Any]  # of each layer, by the name of the input


def write(loaded: LoadedModel, folder: Path) -> None:
    """Write both graphs, in float32, and the tokenizer's files into a folder that is there and empty.

    Rows of the token table beyond the tokenizer's ids are cut. In the graphs' metadata stand `context`, the tokens of a
    training window; `separator` and `start`, the ids that end a text and begin one; and the version of `light_llm`.

    Raises:
        ConfigError: a package is missing, or the model does not fit into one file.
        OSError: a file cannot be written.
    """
    onnx = need("onnx", "onnx")
    config, state = cut_to_tokenizer(loaded)
    model = for_tracing(build(replace(loaded.file, config=config, weights=state)))
    about = _about(loaded)
    graph = continued_graph(model)
    onnx.helper.set_model_props(graph, about)
    onnx.checker.check_model(graph)
    atomic_write(folder / CONTINUED, graph.SerializeToString())
    forget_past(graph)
    onnx.checker.check_model(graph)
    atomic_write(folder / WHOLE, graph.SerializeToString())
    if loaded.file.tokenizer is not None:
        window = trained_window(loaded)
        contents = {
            "tokenizer.json": tokenizer_json(loaded.file.tokenizer),
            "tokenizer_config.json": tokenizer_config(window),
        }
        for name, values in contents.items():
            text = json.dumps(values, ensure_ascii=False, indent=1) + "\n"
            atomic_write(folder / name, text.encode("utf-8"))


def _about(loaded: LoadedModel) -> dict[str, str]:
    """What a program has to know of a model to write with it, beside its graphs."""
    about = {"light_llm": __version__, "context": str(trained_window(loaded))}
    tokenizer = loaded.file.tokenizer
    if tokenizer is not None:
        knows_separator = int(loaded.file.data.get("documents") or 1) > 1
        start = start_ids(tokenizer, knows_separator=knows_separator)[0]
        about |= {"separator": str(tokenizer.separator), "start": str(start)}
    return about


def open_export(folder: Path, *, threads: int = 0) -> Runtime:
    """The model of a folder, opened by ONNX Runtime on the CPU.

    Args:
        threads: of one product; 0: as ONNX Runtime chooses.

    Raises:
        ConfigError: ONNX Runtime is not installed.
        CheckpointError: a file is missing or cannot be used.
    """
    disable_onnx_telemetry()
    runtime = need("onnxruntime", "onnx")
    runtime.disable_telemetry_events()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = threads
    options.log_severity_level = 4  # an error is raised as well, and not to be printed

    def session(path: Path) -> Any:
        try:
            return runtime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # its kinds of error have no class of their own in common
            raise _useless(path, "used", error) from None

    name = f"onnxruntime {runtime.__version__}"
    tokenizer = _open_tokenizer(folder / "tokenizer.json")
    return _OnnxRuntime(name, session(folder / WHOLE), session(folder / CONTINUED), tokenizer)


def _open_tokenizer(path: Path) -> Any:
    """The tokenizer of a file, None where there is no file."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(path)) if path.exists() else None
    except Exception as error:  # it raises no other
        raise _useless(path, "used", error) from None


def _useless(name: Path | str, what: str, error: Exception) -> CheckpointError:
    reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
    return CheckpointError(f"{name} cannot be {what}: {reason}; export the model again")


@dataclass
class _OnnxRuntime:
    """A `Runtime`: logits by the graph of whole texts, greedy texts by the one that has a cache."""

    name: str
    whole: Any
    continued: Any
    tokenizer: Any

    def logits(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """(B, T) -> (B, T, V) float32. Raises CheckpointError where the graph with the cache finds others."""
        tokens = np.asarray(ids, dtype=np.int64)
        (found,) = _run(self.whole, WHOLE, {"input_ids": tokens})
        middle = tokens.shape[1] // 2
        first, past = self._read(tokens[:, :middle], self._no_past(len(tokens)))
        second, _ = self._read(tokens[:, middle:], past)
        both = np.concatenate((first, second), axis=1)
        if both.shape != found.shape or not np.abs(both - found).max() <= APART:
            raise CheckpointError(f"{CONTINUED} is not the model that {WHOLE} is; export the model again")
        return torch.from_numpy(found)

    def greedy(self, ids: Sequence[int], n: int) -> list[int]:
        """The n likeliest ids, one by one, with keys and values kept; a separator does not end them."""
        found: list[int] = []
        new, past = list(ids), self._no_past(1)
        while len(found) < n:
            logits, past = self._read(np.asarray([new], dtype=np.int64), past)
            new = [int(logits[0, -1].argmax())]
            found += new
        return found

    def encode(self, text: str) -> list[int] | None:
        """Ids of a text; None where there is no tokenizer."""
        return None if self.tokenizer is None else list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text, special tokens left out."""
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def _no_past(self, B: int) -> Past:
        return {i.name: np.zeros((B, i.shape[1], 0, i.shape[3]), np.float32) for i in self.continued.get_inputs()[1:]}

    def _read(self, tokens: Any, past: Past) -> tuple[Any, Past]:
        """Logits of new tokens, and the past that they are in."""
        logits, *present = _run(self.continued, CONTINUED, {"input_ids": tokens} | past)
        names = [o.name.replace("present", "past_key_values") for o in self.continued.get_outputs()[1:]]
        return logits, dict(zip(names, present, strict=True))


def _run(session: Any, name: str, inputs: dict[str, Any]) -> list[Any]:
    """All outputs of a graph. Raises CheckpointError where it opened and does not work."""
    try:
        return list(session.run(None, inputs))
    except Exception as error:
        raise _useless(name, "run", error) from None
