"""On Apple's GPU every operation has a kernel and a number format that exists, and no step waits for the device.

Run on the CPU by `tests/support/mps_audit.py`, which says what such an audit can and cannot tell.
"""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchgen.gen import parse_native_yaml
from torchgen.model import DispatchKey

import light_llm
from light_llm.config import PRESETS, ModelConfig
from light_llm.data.tokenizers import byte_lengths
from light_llm.evaluate import evaluate_loss
from light_llm.generate import Sampling, TextGenerator
from light_llm.generate.decode import decode
from light_llm.layers.attention import should_use_blocks
from light_llm.layers.cross_entropy import vocab_blocks
from light_llm.model import LightLLM
from light_llm.objective import NextTokenLoss
from light_llm.observe.analysis import AdamState, AnalysisConfig, analyze
from light_llm.observe.dynamics import analyze_training_dynamics
from light_llm.observe.probe import make_probe_batch, probe_model
from light_llm.plan import profile
from light_llm.runtime import autocast, can_gate_updates, choose_compile, choose_device, choose_dtype
from light_llm.runtime.machine_cache import cached_measurement, cached_measurements, machine_key
from tests.support.mps_audit import ONLY_ON_MPS, TABLE, Audit, Finding, Kernels, bare_names, fake_mps, kernels
from tests.support.tools import SMALL, Trainer, byte_loader, byte_model, gradients, model_path, some_tokens, tiny_model

FATAL = ("kernel", "format", "mixed", "wrong")  # these end or spoil a program on MPS; a wait only costs time


def wrong(audit: Audit) -> list[str]:
    """Return the operations that would not run, or are known to be wrong."""
    return [str(f) for kind in FATAL for f in audit.of(kind)]


def places(findings: list[Finding]) -> set[str]:
    """Return the functions that the findings are in."""
    return {f.where.rpartition(" in ")[2] for f in findings}


# The audit itself.


def test_the_table_is_read_as_torch_reads_it() -> None:
    parsed = parse_native_yaml(str(TABLE), str(TABLE.with_name("tags.yaml")))
    table, mps = kernels(), parsed.backend_indices[DispatchKey.MPS]
    by_name = {str(f.func.name): f for f in parsed.native_functions}
    assert len(by_name) > 2000
    for f in parsed.native_functions:
        name = str(f.func.name)
        if "generated" in f.tags:
            continue
        own = mps.has_kernel(by_name[str(f.structured_delegate or name)])
        implicit, explicit = f.has_composite_implicit_autograd_kernel, f.has_composite_explicit_autograd_kernel
        composed = implicit or explicit or f.has_composite_explicit_autograd_non_functional_kernel
        assert ((name in table), (name in table.own)) == (own or composed, own), name


def test_the_table_knows_what_is_known() -> None:
    table = kernels()
    assert {"mm", "add.Tensor", "add_.Tensor", "linear", "_fused_adamw_", "native_layer_norm"} <= table.own
    assert {"zeros", "zeros.out", "matmul", "layer_norm", "logsumexp"} <= table.composed
    assert "_scaled_dot_product_flash_attention_for_cpu" not in table and "special_airy_ai" not in table
    assert all(name in table or name in bare_names(table.own) for name in ONLY_ON_MPS)


class Faulty(nn.Linear):
    """A layer that also does something MPS cannot or should not do."""

    def __init__(self, action: Callable[[Tensor], Any]) -> None:
        super().__init__(4, 4)
        self.action = action

    def forward(self, x: Tensor) -> Tensor:
        y = super().forward(x)
        self.action(y.detach())
        return y


FAULTS: dict[str, tuple[Callable[[Tensor], Any], str, str]] = {
    "an operation without a kernel": (torch.special.airy_ai, "kernel", "special_airy_ai"),
    "float64": (lambda y: y.double(), "format", "_to_copy"),
    "float64 on the way": (lambda y: y.cpu().double().to(y.device), "format", "_to_copy"),
    "made as float64": (lambda y: torch.zeros(2, dtype=torch.float64, device=y.device), "format", "zeros"),
    "item": (lambda y: y[0, 0].item(), "wait", "_local_scalar_dense"),
    "an if": (lambda y: 1 if (y > 0).any() else 0, "wait", "_local_scalar_dense"),
    "tolist": (lambda y: y.tolist(), "wait", "tolist"),
    "to the host": (lambda y: y.cpu(), "wait", "_to_copy"),
    "nonzero": (lambda y: y.nonzero(), "wait", "nonzero"),
    "a mask for an index": (lambda y: y[y > 0], "wait", "index.Tensor"),
    "a tensor that stayed behind": (lambda y: y + torch.ones(4), "mixed", "add.Tensor"),
}


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_is_named_with_its_place(name: str) -> None:
    fault, kind, operation = FAULTS[name]
    for action in (lambda y: y + 1, fault):
        with fake_mps() as audit:
            Faulty(action).to("mps")(torch.ones(2, 4, device="mps")).sum().backward()
        assert bool(audit.findings) == (action is fault)
    (finding,) = audit.of(kind)
    assert (finding.name, finding.hot) == (operation, False)
    assert re.search(r"tests/runtime/test_mps\.py:\d+ in ", finding.where)


def test_what_an_operation_is_composed_of_is_seen_too() -> None:
    table = kernels()
    with fake_mps(Kernels(table.own - {"amax", "amax.out"}, table.composed)) as audit:
        torch.ones(2, 3, device="mps").logsumexp(0)
    assert [f.name for f in audit.of("kernel")] == ["amax"]


def test_a_fault_in_the_backward_pass_is_seen() -> None:
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, d_y: Tensor) -> Tensor:  # type: ignore[override]
            assert d_y.device.type == "mps", "backward takes the branches for MPS"
            return d_y * d_y.sum().item()

    with fake_mps() as audit:
        Bad.apply(torch.ones(2, device="mps", requires_grad=True)).sum().backward()
    assert [(f.kind, f.name, f.where.rpartition(".")[2]) for f in audit.findings] == [
        ("wait", "_local_scalar_dense", "backward")
    ]


def test_tensors_on_the_host_are_not_recorded() -> None:
    with fake_mps() as audit:
        x = torch.ones(3).double()
        assert x.device.type == "cpu" and x.sum().item() == 3
        assert x.float().to("mps").device.type == "mps" and torch.tensor([1.0], device="mps").device.type == "mps"
    assert not audit.findings and sum(audit.uploads.values()) == 1
    assert not torch.backends.mps.is_available(), "torch is restored afterwards"


# Branches by device.


def test_each_choice_by_device_is_the_one_for_mps() -> None:
    with fake_mps():
        assert choose_device().value == choose_device("mps").value == "mps"
        model = tiny_model(dropout=0.5).to("mps").train()
        q = torch.ones(1, 1, 4, 8, device="mps", requires_grad=True)
        assert not should_use_blocks(q, q)
        (block,) = vocab_blocks(model.head_weight)
        assert block.table.size(0) == 64 and block.n_ids == 61, "whole, and padded"
        assert type(model.drop(torch.ones(8, device="mps")).grad_fn).__name__ != "_DropBackward"
        with autocast("mps", "bfloat16"):
            assert model(some_tokens().to("mps")).dtype == torch.bfloat16
    assert choose_dtype("auto", "mps").value == "float32" and choose_compile("auto", "mps").value == "off"
    assert not can_gate_updates("mps"), "its fused AdamW ignored found_inf in some versions (pytorch/pytorch#186360)"


# Files that branch by device, each covered by a test below; check MPS before adding one.
BRANCHES = {
    *("checkpoint/load.py", "observe/attention.py", "observe/probe.py"),
    *("evaluate/loss.py", "evaluate/windows.py"),
    *("layers/attention.py", "layers/cross_entropy.py", "layers/dropout.py", "layers/norms.py", "layers/tiling.py"),
    *("generate/inference.py", "generate/quantize.py", "objective.py", "train/measure.py"),
}


def test_every_branch_by_device_is_known() -> None:
    package = Path(light_llm.__file__).parent
    asks = re.compile(r"\.is_(cpu|cuda|mps)|device\.type|\.type == \"|\"(cpu|cuda|mps)\"")
    names = ("layers", "optim", "model.py", "objective.py", "evaluate", "observe", "generate", "train", "checkpoint")
    files = [f for name in names for f in sorted((package / name).rglob("*.py")) or [package / name]]
    assert {str(f.relative_to(package)) for f in files if asks.search(f.read_text(encoding="utf-8"))} == BRANCHES


# The program itself.


def rate_is_known(config: ModelConfig) -> None:
    """Cache rates of products and parts, so that a run does not measure them."""
    for dtype in ("float32", "bfloat16"):
        cached_measurement(f"{dtype} products on mps, FLOP/s: {machine_key()}", lambda: 1e12)
        cached_measurements(keys := profile.keys("mps", dtype, config), lambda: [1e-9] * len(keys))


def preset(name: str, **changes: Any) -> LightLLM:
    """Return a preset with its heads, short vectors and a vocabulary of bytes."""
    n_head = ModelConfig.preset(name).n_head
    small = {"vocab_size": 257, "n_positions": 32, "n_embd": 8 * n_head, "n_layer": 2, "n_inner": 0}
    return LightLLM(ModelConfig.preset(name, **(small | changes)))


RUNS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "nano": ({}, {"loss_chunk": 7, "grad_clip": 0.01}),
    "micro": ({"dropout": 0.1}, {"micro_batch": 2, "z_loss": 1e-4}),
    "small": ({"logit_cap": 30.0}, {"on_nonfinite": "skip", "on_spike": "rollback"}),
    "muon": ({"dropout": 0.1}, {"optimizer": "muon", "schedule": "wsd"}),
    "checkpointing": ({"dropout": 0.1, "attn_dropout": 0.1}, {"checkpointing": True, "micro_batch": 2}),
    "llama-nano": ({"qk_norm": True}, {"micro_batch": 2}),
    "llama-micro": ({"dropout": 0.1, "window": 8, "tied_head": False}, {"optimizer": "muon", "dtype": "bfloat16"}),
    "llama-small": ({"mlp": "relu2", "rope_scaling": "llama3", "rope_factor": 2.0}, {"checkpointing": True}),
    "bfloat16": ({"activation": "gelu", "logit_cap": 30.0}, {"dtype": "bfloat16", "z_loss": 1e-4}),
}


@pytest.mark.parametrize("name", RUNS)
def test_a_run_needs_nothing_that_mps_does_not_have(name: str, poem: Path) -> None:
    """Train with clipping, guards, evaluation, samples and checkpoints."""
    shape, changes = RUNS[name]
    steps, pieces = 2, 4 // changes.get("micro_batch", 4)
    settings = SMALL | {"device": "mps", "max_steps": steps, "eval_interval": 2, "probe_interval": 0} | changes
    with fake_mps() as audit:
        model = preset(name if name in PRESETS else "nano", **shape)
        rate_is_known(model.config)
        trainer = Trainer(model, byte_loader(poem), out="run", skip_doctor=True, **(settings | {"sample_interval": 2}))
        assert trainer.train().status == "done"
    assert not wrong(audit)
    assert not audit.of("wait", hot=True), "no wait in the middle of a step"
    assert "PendingStep.read" in places(audit.of("wait")), "the one place that waits, before each update"
    assert "Trainer.train" not in places(audit.of("wait")), "the optimizer does not wait"
    uploads = {place.rpartition(" in ")[2]: n for place, n in audit.uploads.items()}
    assert uploads["Trainer.accumulate"] == 2 * pieces * steps, "tokens and targets alone"
    assert not {"StepMetrics.clip", "StepQueue.push", "NextTokenLoss.forward"} & uploads.keys()
    used = {"_fused_adamw_", "linear_backward", "bmm", "embedding_dense_backward"}
    assert used <= set(audit.operations) and "_scaled_dot_product_flash_attention_for_cpu" not in audit.operations


def test_a_step_is_the_cpus_step() -> None:
    """The branches for other devices, run on the CPU, give the loss and gradients of its own branches."""
    x, y = some_tokens(), some_tokens(seed=6)

    def step(device: str) -> tuple[float, dict[str, Tensor]]:
        model = tiny_model(scale=3, logit_cap=20.0).to(device).train()
        loss = NextTokenLoss(model, chunk=7, z_loss=1e-3)(x.to(device), y.to(device))
        loss.backward()
        return float(loss.detach()), {name: g.cpu() for name, g in gradients(model).items()}

    loss, expected = step("cpu")
    with fake_mps():
        mps_loss, grads = step("mps")
    assert mps_loss == pytest.approx(loss, rel=1e-6)
    for name, g in grads.items():
        torch.testing.assert_close(g, expected[name], rtol=1e-4, atol=1e-5, msg=name)


def gradients_with_dropout(checkpointing: bool) -> dict[str, Tensor]:
    torch.manual_seed(3)
    model = tiny_model(scale=3, dropout=0.3).to("mps").train()
    model.checkpointing = checkpointing
    NextTokenLoss(model)(some_tokens().to("mps"), some_tokens(seed=6).to("mps")).backward()
    return gradients(model)


def test_checkpointing_changes_no_gradient() -> None:
    """MPS draws from its own generator, which has to be restored before a block is recomputed."""
    with fake_mps():
        plain, again = gradients_with_dropout(False), gradients_with_dropout(True)
    for name, g in plain.items():
        torch.testing.assert_close(again[name], g, msg=name)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_an_evaluation(dtype: str, poem: Path) -> None:
    data = byte_loader(poem).dataset
    lengths = torch.tensor(byte_lengths(data.tokenizer)).numpy()
    with fake_mps() as audit:
        result = evaluate_loss(byte_model().to("mps"), data.held_out, lengths, context=16, dtype=dtype)
    assert not wrong(audit) and result.tokens == len(data.held_out) - 1
    assert places(audit.of("wait")) == {"_target_nats"}


def probe(poem: Path) -> None:
    batch = make_probe_batch(byte_loader(poem).dataset.held_out, context=16, n_ids=257)
    probe_model(byte_model().to("mps"), batch)


def training_dynamics(poem: Path) -> None:
    analyze_training_dynamics(byte_model().to("mps"), byte_loader(poem), curvature=False)


def curvature(poem: Path) -> None:
    counts = {name: 3 for name, kind in AnalysisConfig.__annotations__.items() if kind is int}
    batch = light_llm.data.Batch(some_tokens(4, 8).to("mps"), some_tokens(4, 8, seed=6).to("mps"))
    adam, config = AdamState(why_not="none"), AnalysisConfig(**counts)
    analyze(byte_model().to("mps"), batch, step=0, optimizer=adam, config=config)


def rows_of_different_lengths(poem: Path) -> None:
    model = tiny_model(n_embd=128, n_head=2).to("mps")
    list(decode(model, [[1, 2, 3], [4]], sampling=Sampling(), seeds=[1, 2], max_new_tokens=3))


@pytest.mark.parametrize("program", [probe, training_dynamics, curvature, rows_of_different_lengths])
def test_a_program_needs_nothing_that_mps_does_not_have(program: Callable[[Path], None], poem: Path) -> None:
    with fake_mps() as audit:
        program(poem)
    assert not wrong(audit)


SAMPLINGS = {
    "greedy": Sampling(temperature=0.0),
    "sampled": Sampling(temperature=0.8, top_k=5),
    "all rules": Sampling(top_p=0.9, min_p=0.01, repetition_penalty=1.3),
}


@pytest.mark.parametrize("name", SAMPLINGS)
@pytest.mark.parametrize("use_cache", [True, False])
def test_generation(name: str, use_cache: bool) -> None:
    """Prompts of different lengths, past the end of the window, with an end id: the ids are those of the CPU."""

    def write(device: str) -> list[list[int | None]]:
        model = tiny_model(scale=4).to(device)
        limits = {"max_new_tokens": 12, "context": 8, "end": 7, "n_ids": 60}
        options: dict[str, Any] = limits | {"sampling": SAMPLINGS[name], "use_cache": use_cache}
        return list(decode(model, [[1, 2, 3], [4]], seeds=[1, 2], **options))

    with fake_mps() as audit:
        rows = write("mps")
    assert not wrong(audit) and rows == write("cpu")


@pytest.mark.parametrize(("dtype", "quantize"), [("auto", "none"), ("bfloat16", "none"), ("auto", "int8")])
def test_writing_from_a_file(dtype: str, quantize: str, tmp_path: Path) -> None:
    path = model_path(tmp_path)
    with fake_mps() as audit:
        writer = TextGenerator(path, device="mps", dtype=dtype, quantize=quantize)
        assert len(writer.generate_many(["ab", "c"], max_new_tokens=20, seed=1)) == 2
    assert not wrong(audit) and "linear" in audit.operations


# Operations on int64 that MPS got wrong or did not have in some versions.
UNSAFE_IN_INT64 = {"sort", "topk", "cumsum", "cumprod", "prod", "bmm", "mm", "addmm", "argsort", "kthvalue", "median"}


def test_ids_are_only_looked_up_and_compared(poem: Path) -> None:
    with fake_mps() as audit:
        model = byte_model().to("mps").train()
        NextTokenLoss(model)(some_tokens().to("mps"), some_tokens(seed=6).to("mps")).backward()
        list(decode(model.eval(), [[1, 2, 3]], sampling=Sampling(), seeds=[1], max_new_tokens=3))
    assert {"embedding", "index_add_"} <= audit.whole_numbers, "ids were recorded"
    assert not {name.split(".")[0] for name in audit.whole_numbers} & UNSAFE_IN_INT64
