"""Check on one GPU what a run on several needs: NCCL, DDP, FSDP2 on a mesh of one, and the gated update; then time it:

    python benchmarks/gpu_parallel.py [--device cuda] [--minutes 6]

One process is the only rank, so every message is sent by NCCL, and the weights after some steps must be those of a run
without a wrapper. Prints a line for each check and exits with 1 if one failed. `--device cpu` tries the script itself,
with gloo and tiny models.
"""

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path

# For products with the same result each time; read when CUDA starts.
os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")

import torch
from measure import Row, as_table, save_results
from torch import Tensor

from light_llm.config import ModelConfig, TrainConfig
from light_llm.data import Batch
from light_llm.model import LightLLM
from light_llm.objective import NextTokenLoss
from light_llm.observe.step_metrics import StepMetrics
from light_llm.optim import build_optimizer
from light_llm.parallel import Parallel
from light_llm.parallel.ddp import DataParallel
from light_llm.parallel.fsdp import FullySharded
from light_llm.runtime import World, autocast
from light_llm.runtime.process_group import connect, disconnect
from light_llm.train.step import PendingStep, StepQueue, TrainState

SMALL = ModelConfig(n_layer=4, n_embd=256, n_head=4, n_positions=128, vocab_size=2051)
TINY = ModelConfig(n_layer=2, n_embd=32, n_head=2, n_positions=32, vocab_size=515)
GPT2 = ModelConfig(n_layer=12, n_embd=768, n_head=12)
STEPS = 5
Wrap = Callable[[NextTokenLoss, World, TrainConfig], Parallel]
WRAPS: dict[str, Wrap] = {"one": Parallel, "ddp": DataParallel, "fsdp": FullySharded}


class Run:
    """A model under training by hand, on the only rank of a world."""

    def __init__(self, kind: str, world: World, model: ModelConfig, config: TrainConfig) -> None:
        self.config, self.device = config, config.device
        self.model = LightLLM(model, seed=1).to(config.device).train()
        self.model.checkpointing = config.checkpointing
        self.parallel = WRAPS[kind](NextTokenLoss(self.model, 512), world, config)
        # Two ranks, so that Muon has owners.
        self.optimizer = build_optimizer(self.model, config, 1 if kind == "one" else 2)
        self.metrics = StepMetrics(self.model, self.optimizer, self.parallel)
        self.generator = torch.Generator().manual_seed(2)

    def gradients(self) -> Tensor:
        """Compute the gradients of a random batch, in two micro-batches. Returns the loss, ()."""
        T, B = self.model.config.n_positions, self.config.batch_size
        ids = torch.randint(0, self.model.config.vocab_size, (B, T + 1), generator=self.generator).to(self.device)
        loss = torch.zeros((), device=self.device)
        for i, rows in enumerate(ids.split(max(1, B // 2))):
            with self.parallel.micro_batch(last=i == 1 or B == 1):
                with autocast(self.device, self.config.dtype):
                    nats = self.parallel.module(rows[:, :-1], rows[:, 1:]) / (B * T)
                nats.backward()
            loss += nats.detach()
        return loss

    def step(self) -> None:
        """Make one step of training."""
        self.gradients()
        self.metrics.clip(1.0)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)

    def weights(self) -> dict[str, Tensor]:
        """Return copies of the whole weights."""
        return {name: self.parallel.gather(w).clone() for name, w in self.model.state_dict().items()}


def difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """Return the largest difference of any weight."""
    return max(float((a[name] - b[name]).abs().max()) for name in a)


def check_messages(world: World, device: str) -> str:
    """Sum, broadcast and gather tensors and values."""
    x = torch.arange(6.0, device=device)
    assert torch.equal(world.sum(x.clone()), x) and torch.equal(world.broadcast(x.clone()), x)
    assert world.gather({"rank": 0}) == [{"rank": 0}] and world.agree(a=3) == {"a": 3}
    return "equal"


def check_steps(kind: str, world: World, model: ModelConfig, config: TrainConfig) -> str:
    """Train without a wrapper, again, and with one: the wrapper may change no more than a second try does."""
    runs = [Run(name, world, model, config) for name in ("one", "one", kind)]
    for run in runs:
        for _ in range(STEPS):
            run.step()
    first, second, wrapped = (run.weights() for run in runs)
    noise, found = difference(first, second), difference(first, wrapped)
    # Clipping multiplies by the norm, which is added up in another order.
    assert found <= 4 * noise + (0.0 if kind == "ddp" else 1e-5), f"{found:.2g}, and {noise:.2g} between equal runs"
    return f"{found:.2g} off, and {noise:.2g} between equal runs"


def check_shards(world: World, model: ModelConfig, config: TrainConfig) -> str:
    """Gather each parameter, and shard the result."""
    run = Run("fsdp", world, model, config)
    for parameter in run.model.parameters():
        again = run.parallel.shard(run.parallel.gather(parameter).cpu(), parameter)
        assert torch.equal(run.parallel.local(again), run.parallel.local(parameter))
    return "equal"


def check_found_inf(world: World, model: ModelConfig, config: TrainConfig) -> str:
    """Fused AdamW on shards changes nothing where `found_inf` is 1."""
    run = Run("fsdp", world, model, config)
    run.step()
    changes = []
    for flag in (1.0, 0.0):
        before = run.weights()
        run.gradients()
        run.optimizer.found_inf = torch.full((), flag, device=run.device)  # type: ignore[attr-defined]
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        changes.append(difference(before, run.weights()))
    assert changes[0] == 0.0 < changes[1], changes
    return f"{changes[0]:.2g} with it, {changes[1]:.2g} without"


def check_gate(world: World, model: ModelConfig, config: TrainConfig) -> str:
    """A loss that is not finite closes the gate until the steps behind it are discarded."""
    run = Run("fsdp", world, model, config)
    queue = StepQueue(run.optimizer, config, deferrable=True)
    # On a CPU there is no gate, because there is nothing to wait for.
    queue.gated = queue.gated or run.device == "cpu"
    assert queue.gated
    changes = []
    for bad in (0.0, float("nan"), 0.0):
        before = run.weights()
        loss = run.gradients() + bad
        norm = run.metrics.clip(1.0)
        batch = Batch(torch.zeros(1, 1), torch.zeros(1, 1))
        queue.push(PendingStep(TrainState(), batch, 1.0, 0.1, loss, norm, run.metrics.current, (0.0, 0.0, 0.0)))
        run.optimizer.step()
        run.optimizer.zero_grad(set_to_none=True)
        changes.append(difference(before, run.weights()))
    queue.discard()
    run.optimizer.found_inf = queue.found_inf  # type: ignore[attr-defined]
    before = run.weights()
    run.step()
    changes.append(difference(before, run.weights()))
    assert changes[0] > 0 == changes[1] == changes[2] < changes[3], changes
    return "closed by the NaN, opened by discard"


def checks(world: World, model: ModelConfig, config: TrainConfig) -> Iterator[tuple[str, Callable[[], str]]]:
    """Yield each check and its name."""
    yield "messages", partial(check_messages, world, config.device)
    for kind in ("ddp", "fsdp"):
        for dtype in ("float32", "bfloat16"):
            for optimizer in ("adamw", "muon"):
                case = replace(config, dtype=dtype, optimizer=optimizer)
                yield f"{kind} {dtype} {optimizer}", partial(check_steps, kind, world, model, case)
    recomputed = replace(config, dtype="bfloat16", checkpointing=True)
    yield "fsdp bfloat16, recomputed", partial(check_steps, "fsdp", world, model, recomputed)
    yield "gather and shard", partial(check_shards, world, model, config)
    yield "found_inf of shards", partial(check_found_inf, world, model, config)
    yield "gated update of shards", partial(check_gate, world, model, config)


def speeds(world: World, config: TrainConfig, n: int = 10) -> Iterator[Row]:
    """Time steps of GPT-2 with 124 M parameters, eager and compiled; the plain ones have no wrapper."""
    for compiled in ("off", "on"):
        milliseconds, peaks = {}, {}
        for kind in ("one", "ddp", "fsdp"):
            torch.cuda.reset_peak_memory_stats()
            run = Run(kind, world, GPT2, replace(config, dtype="bfloat16", compile=compiled, batch_size=16))
            for i in range(n + 3):
                if i == 3:
                    torch.cuda.synchronize()
                    start = time.perf_counter()
                run.step()
            torch.cuda.synchronize()
            milliseconds[kind] = 1e3 * (time.perf_counter() - start) / n
            peaks[kind] = torch.cuda.max_memory_allocated() / 1e9
            del run
            torch.cuda.empty_cache()
        for kind in ("ddp", "fsdp"):
            name = f"{kind}, {'compiled' if compiled == 'on' else 'eager'}"
            yield Row(f"step, {name}", "ms", milliseconds[kind], milliseconds["one"], note="no wrapper")
            yield Row(f"peak, {name}", "GB", peaks[kind], peaks["one"], note="no wrapper")


@contextmanager
def only_rank(device: str) -> Iterator[World]:
    """Connect this process as the only rank of a world, with real messages."""
    with tempfile.TemporaryDirectory() as folder:
        os.environ["LIGHT_LLM_STORE"] = str(Path(folder) / "store")
        try:
            yield connect(World(), device, 60.0)
        finally:
            disconnect()


def main(argv: list[str] | None = None) -> int:
    """Run the checks, then the timings while there is time. Returns the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", choices=("cuda", "cpu"))
    parser.add_argument("--minutes", type=float, default=6.0)
    asked = parser.parse_args(argv)
    if asked.device == "cuda" and not torch.cuda.is_available():
        print(f"this machine has no GPU that torch {torch.__version__} can use; --device cpu tries the script")
        return 2
    end, failed = time.perf_counter() + 60 * asked.minutes, 0
    torch.use_deterministic_algorithms(True, warn_only=True)
    if asked.device == "cpu":
        torch.set_num_threads(1)  # the models are tiny
    config = TrainConfig(batch_size=4, lr=1e-3, device=asked.device, dtype="float32", compile="off", parallel="fsdp")
    with only_rank(asked.device) as world:
        for name, check in checks(world, TINY if asked.device == "cpu" else SMALL, config):
            try:
                result = f"ok      {check()}"
            except Exception as error:
                result, failed = f"FAILED  {type(error).__name__}: {error}", failed + 1
            print(f"{name:28}{result}", flush=True)
        torch.use_deterministic_algorithms(False)
        if asked.device == "cuda" and time.perf_counter() < end - 150:
            rows = list(speeds(world, config))
            save_results("gpu_parallel", rows)
            print(as_table(rows))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
