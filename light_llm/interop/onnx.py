"""Export to a folder for ONNX Runtime, which needs neither torch nor this package: two graphs, and the tokenizer.

`model.onnx` reads whole texts. `model_with_past.onnx` also takes and returns keys and values, so that generating a
token costs one token. Any combination of layers can be exported. `onnx_generate.py` generates with such a folder.
"""

from collections.abc import Callable, Sequence
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
from .architectures import trim_vocab
from .exporter import Exporter, Runtime, require
from .onnx_graphs import cached_graph, drop_past, prepare_for_tracing
from .tokenizer_files import tokenizer_files, write_json_files

WHOLE, CACHED = "model.onnx", "model_with_past.onnx"
MAX_GRAPH_ERROR = 1e-4  # between a logit of one graph and that of the other
Past = dict[str, Any]  # keys and values of each layer, by the name of the input


class OnnxExporter(Exporter):
    """Writes both graphs, in float32, and the files of the tokenizer.

    The metadata of the graphs has `context`, the tokens of a training window; `separator` and `start`, the ids that end
    a document and begin one; `stop_ids`, all ids at which generation stops; and `light_llm`, the version.
    """

    name = "onnx"
    program = "ONNX Runtime"
    out = "model-onnx"
    dtypes = ("float32",)
    files = (WHOLE, CACHED, "tokenizer.json", "tokenizer_config.json")
    weights = WHOLE
    package = "onnxruntime"

    def write(self, loaded: LoadedModel, path: Path, *, dtype: str = "float32") -> None:
        """Write the folder."""
        onnx = require("onnx", "onnx")
        config, state = trim_vocab(loaded)
        model = prepare_for_tracing(build(replace(loaded.file, config=config, weights=state)))
        graph = cached_graph(model)
        onnx.helper.set_model_props(graph, _metadata(loaded))
        # Checked, because both graphs are changed after torch has made them.
        onnx.checker.check_model(graph)
        atomic_write(path / CACHED, graph.SerializeToString())
        drop_past(graph)
        onnx.checker.check_model(graph)
        atomic_write(path / WHOLE, graph.SerializeToString())
        write_json_files(path, tokenizer_files(loaded.file.tokenizer, loaded.file.training_window))

    def open(self, path: Path, *, threads: int = 0) -> Runtime:
        """Open a folder on the CPU. `threads` is those of one matrix product; 0: the default of ONNX Runtime."""
        from tokenizers import Tokenizer

        # Some builds send usage data. The variable counts only if it is set before the import.
        disable_onnx_telemetry()
        runtime = require("onnxruntime", "onnx")
        runtime.disable_telemetry_events()
        options = runtime.SessionOptions()
        options.intra_op_num_threads = threads
        options.log_severity_level = 4  # fatal: errors are raised, and need not be printed as well

        def session(name: str) -> Any:
            return runtime.InferenceSession(path / name, options, providers=["CPUExecutionProvider"])

        whole, cached = (_attempt(path / name, "used", session, name) for name in (WHOLE, CACHED))
        file = path / "tokenizer.json"
        tokenizer = _attempt(file, "used", Tokenizer.from_file, str(file)) if file.exists() else None
        return _OnnxRuntime(f"onnxruntime {runtime.__version__}", whole, cached, tokenizer)

    def try_command(self, path: str, prompt: str, n: int, *, has_tokenizer: bool = True) -> list[str]:
        """Return a call of `onnx_generate.py`; without a tokenizer it takes ids."""
        words = ["python", "-m", "light_llm.interop.onnx_generate", path, prompt if has_tokenizer else "0"]
        return [*words, "--tokens", str(n)]


def _metadata(loaded: LoadedModel) -> dict[str, str]:
    """Return the values that a program needs besides the graphs to generate text."""
    values = {"light_llm": __version__, "context": str(loaded.file.training_window)}
    if (tokenizer := loaded.file.tokenizer) is not None:
        start = start_ids(tokenizer, knows_separator=loaded.file.knows_separator)[0]
        values |= {"separator": str(tokenizer.separator), "start": str(start)}
        values["stop_ids"] = " ".join(map(str, tokenizer.stop_ids))
    return values


def _attempt(file: Path | str, action: str, function: Callable[..., Any], *arguments: Any) -> Any:
    """Call a function on a file of the export. Raises CheckpointError with the file and the action if it fails."""
    try:
        return function(*arguments)
    except Exception as error:  # the errors of ONNX Runtime and of tokenizers have no common base class
        reason = (str(error).strip() or repr(error)).splitlines()[0][:200]
        raise CheckpointError(f"{file} cannot be {action}: {reason}; export the model again") from None


@dataclass
class _OnnxRuntime(Runtime):
    """Both graphs: logits by the one for whole texts, greedy texts by the one with a cache."""

    name: str
    whole: Any
    cached: Any
    tokenizer: Any

    def logits(self, ids: Sequence[Sequence[int]]) -> Tensor:
        """Return logits: (B, T) -> (B, T, V) float32. Raises CheckpointError if the graphs disagree."""
        tokens = np.asarray(ids, dtype=np.int64)
        # A graph may open and not run.
        (logits,) = _attempt(WHOLE, "run", self.whole.run, None, {"input_ids": tokens})
        # In two calls, so that the second has a past.
        middle = tokens.shape[1] // 2
        first, past = self._extend(tokens[:, :middle], self._empty_past(len(tokens)))
        second, _ = self._extend(tokens[:, middle:], past)
        both = np.concatenate((first, second), axis=1)
        if both.shape != logits.shape or not np.abs(both - logits).max() <= MAX_GRAPH_ERROR:
            raise CheckpointError(f"{CACHED} is not the model that {WHOLE} is; export the model again")
        return torch.from_numpy(logits)

    def greedy(self, ids: Sequence[int], n: int) -> list[int]:
        written: list[int] = []
        new, past = list(ids), self._empty_past(1)
        while len(written) < n:
            logits, past = self._extend(np.asarray([new], dtype=np.int64), past)
            new = [int(logits[0, -1].argmax())]
            written += new
        return written

    def encode(self, text: str) -> list[int] | None:
        return None if self.tokenizer is None else list(self.tokenizer.encode(text, add_special_tokens=False).ids)

    def encode_with_ends(self, text: str) -> list[int] | None:
        return list(self.tokenizer.encode(text).ids)

    def decode(self, ids: Sequence[int]) -> str:
        return str(self.tokenizer.decode(list(ids), skip_special_tokens=True))

    def _empty_past(self, B: int) -> Past:
        return {i.name: np.zeros((B, i.shape[1], 0, i.shape[3]), np.float32) for i in self.cached.get_inputs()[1:]}

    def _extend(self, tokens: Any, past: Past) -> tuple[Any, Past]:
        """Return the logits of new tokens, and the past that includes them."""
        logits, *present = _attempt(CACHED, "run", self.cached.run, None, {"input_ids": tokens} | past)
        names = [o.name.replace("present", "past_key_values") for o in self.cached.get_outputs()[1:]]
        return logits, dict(zip(names, present, strict=True))
