"""Trace our model into two ONNX graphs: one for whole texts, one that continues from the keys and values it returned.

Both are traced from the model itself, so that no layer is written twice. Attention is the formula, which every runtime
computes alike.
"""

import logging
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from ..config import ModelConfig, get_model_size
from ..errors import ConfigError
from ..layers.attention import attend_by_formula
from ..model import LightLLM
from ..text_format import format_bytes
from .exporter import require

MAX_WEIGHT_BYTES = 2**31 - 2**24  # protobuf ends at 2 GiB, and the graph itself takes some of it
_HARMLESS_WARNINGS = (
    "# The axis name: .* will not be used",  # all layers have a past of one length
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # between parts of torch
)


def cached_graph(model: LightLLM) -> Any:
    """Trace the model with a cache: new tokens and a past -> logits and the next past, as an onnx.ModelProto.

    Inputs are `input_ids` (B, T) and, for each layer, `past_key_values.N.key` and `.value` (B, H_kv, P, D), where P may
    be 0; outputs `logits` (B, T, V) and `present.N.key`, `.value` (B, H_kv, P + T, D). P + T is at most n_positions.
    The names are those of Optimum, the opset is torch's choice. The model is from `prepare_for_tracing`.
    """
    from torch.export import Dim

    require("onnxscript", "onnx")
    config = model.config
    names = [f"{layer}.{kind}" for layer in range(config.n_layer) for kind in ("key", "value")]
    inputs = ["input_ids", *(f"past_key_values.{name}" for name in names)]
    outputs = ["logits", *(f"present.{name}" for name in names)]
    # Sizes other than 0 and 1, which torch.export would treat as constants.
    past = [torch.zeros(2, config.kv_heads, 3, config.head_size) for _ in names]
    batch, length = Dim("batch"), Dim("length", max=config.n_positions)
    shapes = {"input_ids": {0: batch, 1: length}, "past": [{0: batch, 2: Dim("past")} for _ in names]}
    arguments = (torch.zeros(2, 2, dtype=torch.int64), past)
    with _quiet(), torch.no_grad():
        # torch.onnx.export would trace by itself, but silently fixes a size that cannot vary as it should.
        traced = torch.export.export(_CachedModel(model).eval(), arguments, dynamic_shapes=shapes, strict=False)
        program = torch.onnx.export(
            traced,
            dynamo=True,
            input_names=inputs,
            output_names=outputs,
            dynamic_shapes=shapes,
            external_data=False,
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    _strip(proto.graph)
    return proto


def drop_past(proto: Any) -> None:
    """Change a `cached_graph` in place into one for whole texts: `input_ids` (B, T) -> `logits` (B, T, V).

    An empty past is made inside the graph, for as many rows as there are ids. Tracing the model a second time would
    take as long as the first.
    """
    helper = require("onnx.helper", "onnx")
    graph = proto.graph
    past = {i.name for i in graph.input[1:]}
    _, H_kv, _, D = (dim.dim_value for dim in graph.input[1].type.tensor_type.shape.dim)
    sizes = helper.make_tensor("no_past_sizes", helper.TensorProto.INT64, [3], [H_kv, 0, D])
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["no_past_rows"], name="no_past_rows", start=0, end=1),
        helper.make_node("Concat", ["no_past_rows", sizes.name], ["no_past_shape"], name="no_past_shape", axis=0),
        helper.make_node("ConstantOfShape", ["no_past_shape"], ["no_past"], name="no_past"),
    ]
    for node in graph.node:
        node.input[:] = ["no_past" if name in past else name for name in node.input]
    graph.initializer.append(sizes)
    nodes += graph.node
    for field, values in (("node", nodes), ("input", [*graph.input[:1]]), ("output", [*graph.output[:1]])):
        graph.ClearField(field)
        getattr(graph, field).extend(values)
    graph.ClearField("value_info")  # its shapes depend on the past


def prepare_for_tracing(model: LightLLM) -> LightLLM:
    """Change the model in place: the formula for attention, no gradients. Raises ConfigError: see `check_size`."""
    check_size(model.config)
    # A dimension that can only be 1 would be traced as a constant.
    model.config = replace(model.config, n_positions=max(model.config.n_positions, 2))
    for block in model.h:
        attn: Any = block.attn
        attn.attend, attn.window = partial(_attend, window=attn.window), 0
    return model.eval().requires_grad_(False)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float, scale: float, *, window: int) -> Tensor:
    """Attend by the formula in a layer that sees `window` tokens, 0: all, for any number of tokens.

    The model's own window first tests whether the text is longer than it, and a trace follows only one branch.
    """
    if window:
        T, S = q.size(-2), k.size(-2)
        distance = torch.arange(S - T, S)[:, None] - torch.arange(S)  # (T, S) tokens from the query back to the key
        mask = mask & (distance < window)
    return attend_by_formula(q, k, v, mask, dropout, scale)


def check_size(config: ModelConfig) -> None:
    """Raise ConfigError for a model whose weights, in float32, do not fit into one ONNX file."""
    size = 4 * get_model_size(config)
    if size > MAX_WEIGHT_BYTES:
        raise ConfigError(
            f"the weights of this model take {format_bytes(size)}, and a single ONNX file holds at most 2 GB; "
            "export it for another program: hf or gguf"
        )


class _CachedModel(nn.Module):
    """The model with keys and values as inputs and outputs."""

    def __init__(self, model: LightLLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, past: Sequence[Tensor]) -> tuple[Tensor, ...]:
        P, T = past[0].size(2), input_ids.size(1)
        positions = P + torch.arange(T)
        mask = torch.arange(P + T) <= positions[:, None]  # (T, S)
        cache = _TracedCache(past)
        hidden = self.model.hidden_states(input_ids, positions, mask, cache)
        return (self.model.logits(hidden), *cache.present)


class _TracedCache:
    """A `Cache` for one call, which concatenates the given past and the new keys and values."""

    def __init__(self, past: Sequence[Tensor]) -> None:
        self.past = past
        self.present: list[Tensor] = []

    def extend(self, layer: int, k: Tensor, v: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """Append to the past of a layer: (B, H_kv, T, D) -> (B, H_kv, P + T, D)."""
        both = torch.cat((self.past[2 * layer], k), dim=2), torch.cat((self.past[2 * layer + 1], v), dim=2)
        self.present += both
        return both


def _strip(graph: Any) -> None:
    """Remove torch's debugging notes, which name the files and folders of this machine."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)
    for part in (graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


@contextmanager
def _quiet() -> Iterator[None]:
    """Hide the exporter's harmless warnings. Others are shown."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")

    def keep_record(record: logging.LogRecord) -> bool:
        # It reports missing operators of torchvision, which no language model uses.
        return "torchvision" not in record.getMessage()

    logger.addFilter(keep_record)
    try:
        with warnings.catch_warnings():
            for pattern in _HARMLESS_WARNINGS:
                warnings.filterwarnings("ignore", pattern)
            yield
    finally:
        logger.removeFilter(keep_record)
