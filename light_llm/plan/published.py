"""Published training speeds, to compare the formula of `cluster.py` with, and to show beside a plan."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cache
from statistics import median

from .cluster import RECOMPUTED, Work, predict_step
from .machine import Machine, load_machine

FOUNDRY = "llm-foundry"  # the source on whose rows of 8 GPUs the constants were fitted
SOURCES = {
    FOUNDRY: "llm-foundry, scripts/train/benchmarking/README.md at 8c8dd48",
    "torchtitan": "torchtitan, benchmarks of December 2024 and June 2025",
    "llm.c": "llm.c, scripts/run_gpt2_*.sh and discussions",
    "nanoGPT": 'nanoGPT, README ("about 4 days" for 600,000 steps)',
    "Romero": "T. Romero, worklog on GPT-2 with two RTX 4090",
    "TinyLlama": "TinyLlama, README",
    "nanochat": "nanochat, dev/LOG.md",
}
LLAMA, GPT2 = 128_256, 50_257  # vocabularies
# torchtitan's selective recomputation: every second product.
SELECTIVE = 1 + (RECOMPUTED - 1) / 2


@dataclass(frozen=True)
class Published:
    """A published speed. Attention is causal, products have 16 bits."""

    model: str
    gpus: int
    gpu: str  # of `published_machine`
    work: Work
    speed: float  # tokens/s of one GPU
    source: str  # of SOURCES
    how: str
    kind: str = "fsdp"
    stated: int = 0  # the error in percent noted when the constants were fitted, before there were stragglers

    def predicted(self, *, stragglers: bool = True) -> float:
        """Return the tokens/s of one GPU by the formula."""
        machine = published_machine(self.gpu)
        return predict_step(self.work, machine, self.gpus, self.kind, stragglers=stragglers).tokens_per_second

    def error(self, *, stragglers: bool = True) -> float:
        """Return the error of the formula as a share of the published speed."""
        return self.predicted(stragglers=stragglers) / self.speed - 1


@cache
def published_machine(gpu: str) -> Machine:
    """Return the machine of a row: those of the package, and A100 with 40 GB."""
    name = {"H100": "h100x8", "A100-80": "a100x8", "A100-40": "a100x8", "RTX 4090": "4090x2"}[gpu]
    machine = load_machine(name)
    if gpu == "A100-40":
        machine = replace(machine, gpu=replace(machine.gpu, bandwidth=1.555e12, memory=40e9))
    return machine


def _mpt(size: str) -> tuple[int, int]:
    """Return layers and width of an MPT model."""
    shapes = {"125m": (12, 768), "350m": (24, 1024), "760m": (24, 1536), "1b": (24, 2048)}
    return (shapes | {"3b": (32, 2560), "7b": (32, 4096), "13b": (40, 5120)})[size]


def _work(L: int, C: int, V: int, T: int, rows: int, pieces: int, *, r: float = 1.0, grad: int = 4) -> Work:
    """Return the work of a model of GPT-2's kind with a tied head, without position embeddings."""
    B = 12 * L * C * C
    return Work(L, C, B, B + V * C, V, T, rows, pieces, attention=L * C * T, recomputed=r, gradient_bytes=grad)


def _llama(L: int, C: int, kv: int, inner: int, V: int, T: int, rows: int, *, r: float = 1.0, grad: int = 4) -> Work:
    """Return the work of a model of the Llama kind, kv the width of its keys."""
    B = L * (2 * C * C + 2 * C * kv + 3 * C * inner)
    return Work(L, C, B, B + 2 * V * C, V, T, rows, attention=L * C * T, recomputed=r, gradient_bytes=grad)


# Size, T, GPUs and their kind, sequences a GPU and accumulated, how, tokens/s of a GPU, stated error; V is 50,368.
# "bf16" has sums of gradients in 16 bits, "amp" in 32.
FOUNDRY_ROWS = (
    ("125m", 2048, 8, "A100-40", 26, 3, "bf16", 136_334, -1),
    ("125m", 2048, 128, "A100-40", 26, 1, "bf16", 123_936, 8),
    ("350m", 2048, 8, "A100-40", 16, 4, "bf16", 55_995, -4),
    ("350m", 2048, 128, "A100-40", 18, 1, "bf16", 51_934, 4),
    ("760m", 2048, 8, "A100-40", 12, 4, "bf16", 30_173, 1),
    ("760m", 2048, 8, "H100", 24, 2, "amp", 63_147, 9),
    ("1b", 2048, 8, "A100-40", 8, 8, "bf16", 19_271, 3),
    ("1b", 2048, 128, "A100-40", 10, 1, "bf16", 18_647, 6),
    ("1b", 2048, 8, "H100", 14, 1, "amp", 45_455, -2),
    ("1b", 2048, 64, "H100", 20, 1, "amp", 44_402, 1),
    ("1b", 2048, 512, "H100", 12, 1, "amp, gradients and moments", 39_837, 12),
    ("3b", 2048, 8, "A100-40", 5, 8, "bf16", 10_065, 5),
    ("3b", 2048, 128, "A100-40", 6, 1, "bf16", 9_538, 11),
    ("3b", 2048, 64, "H100", 6, 3, "amp", 22_525, 6),
    ("7b", 2048, 8, "A100-40", 12, 4, "bf16, recompute", 3_679, -2),
    ("7b", 2048, 128, "A100-40", 18, 1, "bf16, recompute", 3_623, 0),
    ("7b", 2048, 8, "H100", 6, 1, "amp", 10_643, 2),
    ("7b", 2048, 128, "H100", 6, 1, "amp", 10_475, 4),
    ("7b", 2048, 512, "H100", 6, 1, "amp", 9_670, 12),
    ("7b", 8192, 8, "H100", 8, 2, "amp, recompute", 6_935, -8),
    ("13b", 2048, 128, "A100-40", 16, 1, "bf16, recompute", 1_972, -1),
)


def _foundry() -> Iterator[Published]:
    for size, T, gpus, gpu, rows, pieces, how, speed, stated in FOUNDRY_ROWS:
        r, grad = (RECOMPUTED if "recompute" in how else 1.0), (2 if how.startswith("bf16") else 4)
        work = _work(*_mpt(size), 50_368, T, rows, pieces, r=r, grad=grad)
        yield Published(f"MPT-{size}", gpus, gpu, work, speed, FOUNDRY, f"{how}, sharded", stated=stated)


def _others() -> Iterator[Published]:
    llama = _llama(32, 4096, 1024, 14_336, LLAMA, 8192, 2, r=SELECTIVE)
    recompute = "selective recomputation, sharded"
    for gpus, speed, how, stated in (
        (8, 5_762, recompute, 14),
        (8, 6_667, f"{recompute}, torch.compile", -2),
        (128, 5_605, recompute, 18),
        (128, 6_514, f"{recompute}, torch.compile", 1),
    ):
        yield Published("Llama 3.1 8B", gpus, "H100", llama, speed, "torchtitan", how, stated=stated)
    for size, L, C, gpu, rows, pieces, speed, stated in (
        ("124M", 12, 768, "A100-80", 64, 1, 218_453, -27),
        ("350M", 24, 1024, "A100-80", 64, 1, 79_922, -21),
        ("774M", 36, 1280, "A100-80", 32, 2, 38_551, -18),
        ("1558M", 48, 1600, "H100", 16, 8, 46_811, -21),
    ):
        work = _work(L, C, GPT2, 1024, rows, pieces)
        how = "written in CUDA, moments sharded"
        yield Published(f"GPT-2 {size}", 8, gpu, work, speed, "llm.c", how, "ddp", stated)
    work = _work(12, 768, GPT2, 1024, 12, 5)
    yield Published("GPT-2 124M", 8, "A100-40", work, 107_000, "nanoGPT", "DDP", "ddp", 38)
    work = _work(12, 768, GPT2, 1024, 32, 8)
    yield Published("GPT-2 124M", 2, "RTX 4090", work, 110_350, "Romero", "DDP, torch.compile", "ddp", -25)
    work = _llama(22, 2048, 256, 5632, 32_000, 2048, 8, grad=2)
    yield Published("TinyLlama 1.1B", 16, "A100-40", work, 24_000, "TinyLlama", "fused kernels, sharded", stated=0)
    work = _work(26, 1664, 32_768, 2048, 32, 1)
    yield Published("nanochat d26", 8, "H100", work, 78_750, "nanochat", "Muon, torch.compile", "ddp", -26)


PUBLISHED = (*_foundry(), *_others())


def median_error(*, foundry: bool) -> float:
    """Return the median size of the formula's errors: over llm-foundry's rows, or over all others."""
    return median(abs(row.error()) for row in PUBLISHED if (row.source == FOUNDRY) == foundry)


def nearest_rows(work: Work, gpu_kind: str, W: int, n: int = 3) -> list[Published]:
    """Return the n published rows most like a run: of its kind of GPU first, then by model, GPUs and window."""

    def distance(row: Published) -> tuple[bool, float]:
        other = row.gpu.partition("-")[0] != gpu_kind.partition("-")[0]
        sizes = ((row.work.parameters, work.parameters), (row.gpus, W), (row.work.T, work.T))
        far = sum(weight * abs(math.log(a / b)) for weight, (a, b) in zip((1.0, 0.5, 0.25), sizes, strict=True))
        return other, far

    return sorted(PUBLISHED, key=distance)[:n]
