"""What is measured: shapes, and how often."""

from dataclasses import dataclass, field

import torch

from ..config import DataConfig, ModelConfig, TrainConfig
from .timing import Repeats


@dataclass(frozen=True)
class Effort:
    """The shapes and how often: arguments, so that a test can measure something small."""

    dtypes: tuple[str, ...]  # of products
    product: tuple[int, int, int]  # n, k, m of (n, k) by (k, m)
    block: int  # bytes of memory to copy and to read: more than a cache holds
    training: tuple[tuple[str, ModelConfig], ...]  # from small to large, so that a peak is the last one's
    batch: tuple[int, int]  # B x T
    writing: tuple[tuple[str, ModelConfig], ...]
    tokens: int  # of a text
    quick: bool = False
    repeats: Repeats = field(default=Repeats())
    most: float = 75.0  # seconds: training that would go on for longer is left out


def usual(device: str, *, quick: bool = False) -> Effort:
    """What the command measures: on a CPU products of a block of micro, on a GPU squares that fill it.

    Those are the products whose share MFU is. Training is in the steps that `light-llm train` makes by default.
    """
    on_cpu = torch.device(device).type == "cpu"

    def presets(*names: str) -> tuple[tuple[str, ModelConfig], ...]:
        return tuple((name, ModelConfig.preset(name)) for name in names)

    return Effort(
        dtypes=("float32", "bfloat16") if on_cpu else ("float32", "bfloat16", "float16"),
        product=(2048, 384, 1536) if on_cpu else (4096, 4096, 4096),
        block=1 << 28,
        training=presets("nano") if quick else presets("nano", "micro", "small"),
        batch=(TrainConfig().batch_size, DataConfig().max_length),
        writing=presets("nano") if quick else presets("nano", "micro"),
        tokens=64,
        quick=quick,
    )
