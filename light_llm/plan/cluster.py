"""The speed of a run on a cluster: computed from shapes and a machine file, without torch and without the machine.

    token     = r (6 B / (F e) + 7 L C T / (F a)) + 6 V C / (F e) + (218 L C r + 26 V) / M
    micro     = tokens of a micro-batch x token, or as measured on one GPU
    gathers   = (2 x 2 + g) P (W - 1) / W / bw
    FSDP      : step = n (micro + max(0, gathers - 0.8 micro)) + 30 P / (W M)
    DDP       : step = n micro + max(0.2 s, s - 0.6 micro) + 30 P / M,   s = 8 P (W - 1) / W / bw
    W > 8     : step x (1 + 0.01 log2(W / 8))                            stragglers

e = E C / (C + 230) is the efficiency of products, a = 0.26 E / 0.7 that of attention. r is 1, with recomputation 4/3.
g is the bytes in which gradients are summed. bw is 0.7 of the slowest link in one direction. The constants were fitted
on published speeds of single machines; `published.py` compares them with all. There 0.2 s is the part of DDP's sum
that is not hidden; s - 0.6 micro is the rule of `tokens_to_hide`, and larger on slow networks only.

Symbols: B parameters of the blocks' matrices   P parameters   L layers   C n_embd   V vocabulary   T tokens of a window
W GPUs   F peak FLOP/s   M bytes/s of a GPU's memory   n micro-batches of a step
"""

import math
from dataclasses import dataclass

from ..config import ModelConfig, TrainConfig, get_model_size, matrix_parameters
from .machine import Gpu, Machine

HALF_WIDTH = 230  # C at which products reach half of their efficiency
ATTENTION = 0.26 / 0.7  # the efficiency of attention's products, as a share of E
BLOCK_BYTES, LOGIT_BYTES, UPDATE_BYTES = 218, 26, 30  # that pass through memory: per token, per token, per step
RECOMPUTED = 4 / 3  # of the operations, with activation checkpointing
LINK_SHARE = 0.7  # of a link's bytes/s that messages reach
OVERLAP = 0.8  # of a micro-batch during which gathers are hidden
DDP_BYTES, DDP_EXPOSED = 8, 0.2  # of a sum of gradients: bytes per parameter, and the share that is never hidden
RULE_SHARE, RULE_LINK, RULE_FACTOR = 0.6, 0.8, 1.33
STRAGGLERS, MACHINE_GPUS = 0.01, 8  # for each doubling beyond this many GPUs
LAPTOP_LINK = 125e6  # bytes/s of 1 Gb/s: Wi-Fi and the cables of homes are not faster
PROMISE = 0.25  # the error to expect of a planned step
FITTED_WIDTH, FITTED_LENGTH = 768, 8192  # the smallest C and the longest T of the published rows


@dataclass(frozen=True)
class Work:
    """A training step, as far as its speed depends on it."""

    layers: int
    width: int
    matrices: int  # parameters of the blocks' matrices
    parameters: int  # of all
    vocabulary: int
    T: int
    micro_batch: int  # sequences that a GPU holds at a time
    micro_batches: int = 1  # of one GPU in a step
    attention: float = 0.0  # L C T, fewer with windows
    recomputed: float = 1.0  # r
    gradient_bytes: int = 4  # in which gradients are summed: 4, or 2 in pure 16 bits

    @property
    def tokens(self) -> int:
        """Return the tokens of one GPU in a step."""
        return self.micro_batch * self.micro_batches * self.T

    @property
    def flops_per_token(self) -> float:
        """Return the operations of a token, without recomputation: the numerator of the MFU."""
        return 6.0 * (self.matrices + self.vocabulary * self.width) + 6.0 * self.attention


@dataclass(frozen=True)
class Measured:
    """Seconds of one GPU alone: of a micro-batch, and of an update of all parameters."""

    micro: float
    update: float


@dataclass(frozen=True)
class Step:
    """The predicted seconds of a step, by what they are spent on."""

    computing: float
    communication: float  # hidden or not
    exposed: float  # the part of it for which the GPU waits
    update: float
    stragglers: float
    tokens: int  # of one GPU

    @property
    def seconds(self) -> float:
        """Return the time of the step."""
        return self.computing + self.exposed + self.update + self.stragglers

    @property
    def tokens_per_second(self) -> float:
        """Return the tokens/s of one GPU."""
        return self.tokens / self.seconds


def work_of(model: ModelConfig, train: TrainConfig, T: int, W: int) -> Work:
    """Return the work of one of W GPUs that share the batches of a run."""
    rows = train.batch_size // W
    micro_batch = train.micro_batch or rows
    layers = model.n_layer
    windowed = 0
    if model.window:
        windowed = layers if model.window_layers == "all" else len(set(model.window_layers.split(",")))
    w = min(model.window or T, T)
    # A window of w sees w - w^2 / 2T tokens on average, and a layer without one T / 2.
    lengths = windowed * (2 * w - w * w / T) + (layers - windowed) * T
    return Work(
        layers=layers,
        width=model.n_embd,
        matrices=matrix_parameters(model),
        parameters=get_model_size(model),
        vocabulary=model.vocab_size,
        T=T,
        micro_batch=micro_batch,
        micro_batches=rows // micro_batch,
        attention=model.n_head * model.head_size * lengths,
        recomputed=RECOMPUTED if train.checkpointing else 1.0,
    )


def token_seconds(work: Work, gpu: Gpu) -> float:
    """Return the seconds that one GPU computes for a token, forward and backward, without the update."""
    rate = gpu.flops * gpu.efficiency * work.width / (work.width + HALF_WIDTH)
    blocks = 6 * work.matrices / rate + 7 * work.attention / (gpu.flops * gpu.efficiency * ATTENTION)
    head = 6 * work.vocabulary * work.width / rate
    moved = BLOCK_BYTES * work.layers * work.width * work.recomputed + LOGIT_BYTES * work.vocabulary
    return work.recomputed * blocks + head + moved / gpu.bandwidth


def predict_step(
    work: Work, machine: Machine, W: int, kind: str, *, measured: Measured | None = None, stragglers: bool = True
) -> Step:
    """Predict a step of W GPUs.

    Args:
        kind: "ddp" or "fsdp"; with one GPU neither has an effect.
        measured: seconds of the one GPU, in place of the formula.
        stragglers: add the loss of more than 8 GPUs.
    """
    P, n, gpu = work.parameters, work.micro_batches, machine.gpu
    alone = measured or Measured(
        micro=work.micro_batch * work.T * token_seconds(work, gpu), update=UPDATE_BYTES * P / gpu.bandwidth
    )
    # Bytes of a message of one byte per parameter, each of which passes a ring of W, divided by the speed of a link.
    once = P * (W - 1) / W / (LINK_SHARE * machine.line(W)) if W > 1 else 0.0
    if kind == "fsdp":
        gathers = (2 * 2 + work.gradient_bytes) * once
        communication, exposed = n * gathers, n * max(0.0, gathers - OVERLAP * alone.micro)
        update = alone.update / W
    else:
        # Gradients are summed in the last micro-batch alone.
        communication = DDP_BYTES * once
        exposed = max(DDP_EXPOSED * communication, communication - RULE_SHARE * alone.micro)
        update = alone.update
    seconds = n * alone.micro + exposed + update
    share = STRAGGLERS * math.log2(W / MACHINE_GPUS) if stragglers and W > MACHINE_GPUS else 0.0
    return Step(n * alone.micro, communication, exposed, update, share * seconds, work.tokens)


def tokens_to_hide(flops_reached: float, line: float) -> float:
    """Return the tokens that a GPU must have in a step to hide a sum of all gradients in float32 behind its work.

    A ring moves 8 bytes per parameter, and a token costs 6 operations per parameter, so the model's size cancels.

    Args:
        flops_reached: FLOP/s of one GPU alone.
        line: bytes/s of the slowest link.

    >>> [round(tokens_to_hide(156e12, line), -2) for line in (300e9, 12.5e9)]
    [1400.0, 34600.0]
    """
    return RULE_FACTOR * flops_reached / (RULE_SHARE * RULE_LINK * line)


def needed_tokens(work: Work, machine: Machine, W: int, *, measured: Measured | None = None) -> float:
    """Return `tokens_to_hide` for a run: at the speed of one of its GPUs, and the slowest link between them."""
    micro = measured.micro if measured else work.micro_batch * work.T * token_seconds(work, machine.gpu)
    reached = work.flops_per_token * work.micro_batch * work.T / micro
    return tokens_to_hide(reached, machine.line(W)) if W > 1 else 0.0


def is_too_slow(work: Work, machine: Machine, W: int, *, measured: Measured | None = None) -> bool:
    """Return whether the network is that of laptops, and the GPUs have too few tokens a step to hide it."""
    slow = W > machine.gpus and machine.line(W) <= LAPTOP_LINK
    return slow and work.tokens < needed_tokens(work, machine, W, measured=measured)
