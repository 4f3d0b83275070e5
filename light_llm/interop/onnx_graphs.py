"""Our model as two ONNX graphs: one reads whole texts, one goes on from keys and values that it gave back before.

Both are traced from the model itself, so that a choice of the architecture is written once. Attention is the formula,
which every runtime computes the same.
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
from torch.export import Dim

from ..config import ModelConfig, get_model_size
from ..errors import ConfigError
from ..model import LightLLM, attend_by_formula
from ..text_format import format_bytes
from .optional_deps import need

LIMIT = 2**31 - 2**24  # bytes of weights: protobuf ends at 2 GiB, and what is not weights takes some of it
_CHATTER = (  # of the exporter, on things that are as they should be
    "# The axis name: .* will not be used",  # all layers have as much past as the first
    r"`isinstance\(treespec, LeafSpec\)` is deprecated",  # between parts of torch
)


def continued_graph(model: LightLLM) -> Any:
    """New tokens after a past -> their logits, and the past of the next call, as an onnx.ModelProto.

    Inputs are `input_ids` (B, T) and, for each layer, `past_key_values.N.key` and `.value` (B, H_kv, P, D), where P may
    be 0; outputs `logits` (B, T, V) and `present.N.key`, `.value` (B, H_kv, P + T, D). P + T is at most n_positions.
    The names are those of Optimum.

    Args:
        model: prepared by `for_tracing`.
    """
    config = model.config
    names = [f"{layer}.{kind}" for layer in range(config.n_layer) for kind in ("key", "value")]
    inputs = ["input_ids", *(f"past_key_values.{name}" for name in names)]
    outputs = ["logits", *(f"present.{name}" for name in names)]
    past = [torch.zeros(2, config.kv_heads, 3, config.head_size) for _ in names]
    batch, length = Dim("batch"), Dim("length", max=config.n_positions)
    shapes = {"input_ids": {0: batch, 1: length}, "past": [{0: batch, 2: Dim("past")} for _ in names]}
    return _trace(_Continued(model), (torch.zeros(2, 2, dtype=torch.int64), past), inputs, outputs, shapes)


def forget_past(proto: Any) -> None:
    """Make a `continued_graph` one of whole texts: `input_ids` (B, T) -> `logits` (B, T, V). It is changed in place.

    What came in as the past is now made from nothing, for as many rows as there are ids. To trace the model a second
    time would take as long as the first.
    """
    helper = need("onnx.helper", "onnx")
    graph = proto.graph
    past = {i.name for i in graph.input[1:]}
    _, H_kv, _, D = (dim.dim_value for dim in graph.input[1].type.tensor_type.shape.dim)
    sizes = helper.make_tensor("no_past_sizes", helper.TensorProto.INT64, [3], [H_kv, 0, D])
    nodes = [
        helper.make_node("Shape", ["input_ids"], ["no_past_rows"], name="no_past_rows", start=0, end=1),
        helper.make_node("Concat", ["no_past_rows", sizes.name], ["no_past_shape"], name="no_past_shape", axis=0),
        helper.make_node("ConstantOfShape", ["no_past_shape"], ["no_past"], name="no_past"),  # zeros, and none of them
    ]
    for node in graph.node:
        node.input[:] = ["no_past" if name in past else name for name in node.input]
    graph.initializer.append(sizes)
    nodes += graph.node
    for field, kept in (("node", nodes), ("input", [*graph.input[:1]]), ("output", [*graph.output[:1]])):
        graph.ClearField(field)
        getattr(graph, field).extend(kept)
    graph.ClearField("value_info")  # sizes that depend on a past


def for_tracing(model: LightLLM) -> LightLLM:
    """The model with the formula for its attention, and without gradients. It is changed, not copied.

    Raises:
        ConfigError: its weights do not fit into one file.
    """
    check_size(model.config)
    model.config = replace(model.config, n_positions=max(model.config.n_positions, 2))  # 1 would be no length to vary
    for block in model.h:
        attn: Any = block.attn
        attn.attend, attn.window = partial(_attend, window=attn.window), 0
    return model.eval().requires_grad_(False)


def _attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, dropout: float, *, window: int) -> Tensor:
    """The formula in a layer that sees `window` tokens, 0: all, however many there are.

    The model's own window asks first whether it ends within the text, and a trace goes only one of those ways.
    """
    if window:
        T, S = q.size(-2), k.size(-2)
        back = torch.arange(S - T, S)[:, None] - torch.arange(S)  # (T, S) tokens from the query to the key
        mask = mask & (back < window)
    return attend_by_formula(q, k, v, mask, dropout)


def check_size(config: ModelConfig) -> None:
    """Raise ConfigError for a model whose weights, in float32, do not fit into one ONNX file."""
    size = 4 * get_model_size(config)
    if size > LIMIT:
        raise ConfigError(
            f"the weights of this model take {format_bytes(size)}, and an ONNX file in one piece ends at 2 GB; "
            "export it for another program: hf or gguf"
        )


class _Continued(nn.Module):
    """The model with keys and values that come in and go out, instead of a cache that is kept."""

    def __init__(self, model: LightLLM) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: Tensor, past: Sequence[Tensor]) -> tuple[Tensor, ...]:
        P, T = past[0].size(2), input_ids.size(1)
        at = P + torch.arange(T)
        mask = torch.arange(P + T) <= at[:, None]  # (T, S)
        cache = _Joined(past)
        hidden = self.model.hidden_states(input_ids, at, mask, cache)
        return (self.model.logits(hidden), *cache.present)


class _Joined:
    """A `Cache` of one call: the past as it came, followed by what is new."""

    def __init__(self, past: Sequence[Tensor]) -> None:
        self.past = past
        self.present: list[Tensor] = []

    def extend(self, layer: int, k: Tensor, v: Tensor, at: Tensor) -> tuple[Tensor, Tensor]:
        """(B, H_kv, T, D) after the past of a layer: (B, H_kv, P + T, D)."""
        both = torch.cat((self.past[2 * layer], k), dim=2), torch.cat((self.past[2 * layer + 1], v), dim=2)
        self.present += both
        return both


@torch.no_grad()
def _trace(
    module: nn.Module, arguments: tuple[Any, ...], inputs: list[str], outputs: list[str], shapes: dict[str, Any]
) -> Any:
    """A graph in the opset that torch prefers, with what torch notes of the sources of each node left out."""
    need("onnxscript", "onnx")
    with _quiet():
        # Traced here: where a size cannot vary as it should, torch.onnx would narrow it without a word, and go on.
        traced = torch.export.export(module.eval(), arguments, dynamic_shapes=shapes, strict=False)
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


def _strip(graph: Any) -> None:
    """Take out the notes that torch leaves for its developers: they name the files and folders of this machine."""
    for node in graph.node:
        for attribute in node.attribute:
            if attribute.HasField("g"):
                _strip(attribute.g)
    for part in (graph, *graph.node, *graph.value_info, *graph.initializer, *graph.input, *graph.output):
        part.ClearField("doc_string")
        part.ClearField("metadata_props")


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's chatter. Other warnings are shown."""
    logger = logging.getLogger("torch.onnx._internal.exporter._registration")
    logger.addFilter(_is_news)
    try:
        with warnings.catch_warnings():
            for pattern in _CHATTER:
                warnings.filterwarnings("ignore", pattern)
            yield
    finally:
        logger.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    """torchvision has operators that no language model uses, and is said to be missing, one by one."""
    return "torchvision" not in record.getMessage()
