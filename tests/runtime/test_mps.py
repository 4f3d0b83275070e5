"""What Apple's GPU would be asked for: it has a kernel for each operation, knows each format, and is not waited for.

Run on the CPU by `tests/support/mps_audit.py`, which says what it can tell and what it cannot.
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
from light_llm.layers.cross_entropy import blocks
from light_llm.model import LightLLM
from light_llm.objective import NextTokenLoss
from light_llm.observe.analysis import AdamState, AnalysisConfig, analyze
from light_llm.observe.dynamics import analyze_training_dynamics
from light_llm.observe.probe import make_probe_batch, probe_model
from light_llm.plan import profile
from light_llm.runtime import autocast, can_gate_updates, choose_compile, choose_device, choose_dtype
from light_llm.runtime.machine_cache import cached_measurement, cached_measurements, machine_key
from tests.support.mps_audit import INSTEAD, TABLE, Finding, Kernels, Seen, kernels, pretence
from tests.support.tools import SMALL, Trainer, byte_loader, byte_model, gradients, model_path, some_tokens, tiny_model

RESULTS = ("kernel", "format", "mixed")  # what ends a program on MPS; a wait only costs time


def wrong(seen: Seen) -> list[str]:
    """What would not run."""
    return [str(f) for kind in RESULTS for f in seen.of(kind)]


def places(findings: list[Finding]) -> set[str]:
    """The functions they are in."""
    return {f.where.rpartition(" in ")[2] for f in findings}


# What the tool itself is worth.


def test_the_table_is_read_as_torch_reads_it() -> None:
    parsed = parse_native_yaml(str(TABLE), str(TABLE.with_name("tags.yaml")))
    table, mps = kernels(), parsed.backend_indices[DispatchKey.MPS]
    by_name = {str(f.func.name): f for f in parsed.native_functions}
    assert len(by_name) > 2000
    for f in parsed.native_functions:
        name = str(f.func.name)
        own = mps.has_kernel(by_name[str(f.structured_delegate or name)])
        composed = (
            f.has_composite_implicit_autograd_kernel
            or f.has_composite_explicit_autograd_kernel
            or f.has_composite_explicit_autograd_non_functional_kernel
        )
        generated = "generated" in f.tags
        assert generated or (name in table) == (own or composed), name
        assert generated or (name in table.own) == own, name


def test_the_table_knows_what_is_known() -> None:
    table = kernels()
    assert {"mm", "add.Tensor", "add_.Tensor", "linear", "_fused_adamw_", "native_layer_norm"} <= table.own
    assert {"zeros", "zeros.out", "matmul", "layer_norm", "logsumexp"} <= table.composed
    assert "_scaled_dot_product_flash_attention_for_cpu" not in table and "special_airy_ai" not in table


def test_what_mps_does_instead_is_in_the_table_too() -> None:
    for name in ("linear", "norm", "dropout"):
        for operation in INSTEAD[name].does.split(", "):
            assert any(operation in (known, known.split(".")[0]) for known in kernels().own | kernels().composed)


class Faulty(nn.Module):
    """A model's part that does one thing too many."""

    def __init__(self, what: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.inner, self.what = nn.Linear(4, 4), what

    def forward(self, x: Tensor) -> Tensor:
        y = self.inner(x)
        self.what(y.detach())
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
    what, kind, operation = FAULTS[name]
    with pretence() as sound:
        part = Faulty(lambda y: y + 1).to("mps")
        part(torch.ones(2, 4, device="mps")).sum().backward()
    assert not sound.findings
    with pretence() as seen:
        part = Faulty(what).to("mps")
        part(torch.ones(2, 4, device="mps")).sum().backward()
    (found,) = seen.of(kind)
    assert found.name == operation and re.search(r"tests/test_mps\.py:\d+ in ", found.where) and not found.hot


def test_what_an_operation_is_composed_of_is_seen_too() -> None:
    table = kernels()
    with pretence(Kernels(table.own - {"amax", "amax.out"}, table.composed)) as seen:
        torch.ones(2, 3, device="mps").logsumexp(0)
    assert [f.name for f in seen.of("kernel")] == ["amax"]


def test_a_fault_in_the_backward_pass_is_seen() -> None:
    class Bad(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, d_y: Tensor) -> Tensor:  # type: ignore[override]
            assert d_y.device.type == "mps", "a branch here is MPS's"
            return d_y * d_y.sum().item()

    with pretence() as seen:
        Bad.apply(torch.ones(2, device="mps", requires_grad=True)).sum().backward()
    assert [(f.kind, f.name, f.where.rpartition(".")[2]) for f in seen.findings] == [
        ("wait", "_local_scalar_dense", "backward")
    ]


def test_tensors_of_the_host_are_nobodys_business() -> None:
    with pretence() as seen:
        x = torch.ones(3).double()
        assert x.device.type == "cpu" and x.sum().item() == 3
        assert x.float().to("mps").device.type == "mps" and torch.tensor([1.0], device="mps").device.type == "mps"
    assert not seen.findings and sum(seen.uploads.values()) == 1
    assert not torch.backends.mps.is_available(), "afterwards all is as it was"


# The branches.


def test_each_choice_by_device_is_the_one_for_mps() -> None:
    with pretence():
        assert choose_device().value == choose_device("mps").value == "mps"
        model = tiny_model(dropout=0.5).to("mps").train()
        q = torch.ones(1, 1, 4, 8, device="mps", requires_grad=True)
        assert not should_use_blocks(q, q)
        (block,) = blocks(model.head_weight)
        assert block.table.size(0) == 64 and block.n_ids == 61, "whole, and padded"
        assert type(model.drop(torch.ones(8, device="mps")).grad_fn).__name__ != "_DropBackward"
        with autocast("mps", "bfloat16"):
            assert model(some_tokens().to("mps")).dtype == torch.bfloat16
    assert choose_dtype("auto", "mps").value == "float32" and choose_compile("auto", "mps").value == "off"
    assert not can_gate_updates("mps"), "its fused AdamW ignored found_inf in some versions (pytorch/pytorch#186360)"


BRANCHES = {  # the files that ask what device it is; a new one is to be looked at, and run in this file
    *("checkpoint/load.py", "evaluate.py", "observe/look.py", "observe/attention.py"),
    *("layers/again.py", "layers/attention.py", "layers/cross_entropy.py", "layers/dropout.py", "layers/formats.py"),
    "layers/norms.py",
    *("checkpoint/model_file.py", "generate/products.py", "generate/quantize.py"),
    *(
        "train/preflight.py",
        "runtime/decision.py",
        "runtime/device.py",
        "runtime/precision.py",
        "runtime/rng.py",
        "runtime/flops.py",
    ),
}


def test_no_file_asks_for_the_device_unseen() -> None:
    package = Path(light_llm.__file__).parent
    asks = re.compile(r"\.is_(cpu|cuda|mps)|device\.type|\.type == \"|\"(cpu|cuda|mps)\"")
    rooms = ("layers", "optim", "model.py", "objective.py", "evaluate.py", "observe", "generate", "train", "checkpoint")
    files = [f for room in rooms for f in sorted((package / room).rglob("*.py")) or [package / room]]
    found = {str(f.relative_to(package)) for f in files if asks.search(f.read_text(encoding="utf-8"))}
    assert found == {name for name in BRANCHES if not name.startswith("runtime/")}


# The program.


def rate_is_known(config: ModelConfig) -> None:
    """The rates of products and parts, which a run would measure first, are no matter here."""
    for dtype in ("float32", "bfloat16"):
        cached_measurement(f"{dtype} products on mps, FLOP/s: {machine_key()}", lambda: 1e12)
        cached_measurements(profile.key("mps", dtype, config), names := profile.names(), lambda: [1e-9] * len(names))


def preset(name: str, **changes: Any) -> LightLLM:
    """A preset's heads with short vectors, over bytes."""
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
def test_a_run_asks_for_nothing_that_mps_has_not(name: str, poem: Path) -> None:
    """Steps, the meter, clipping, guards, evaluation, samples and checkpoints, by the loop itself."""
    shape, how = RUNS[name]
    steps, pieces = 2, 4 // how.get("micro_batch", 4)
    settings = SMALL | {"device": "mps", "max_steps": steps, "eval_interval": 2, "probe_interval": 0} | how
    with pretence() as seen:
        model = preset(name if name in PRESETS else "nano", **shape)
        rate_is_known(model.config)
        trainer = Trainer(model, byte_loader(poem), out="run", skip_doctor=True, **(settings | {"sample_interval": 2}))
        assert trainer.train().status == "done"
    assert not wrong(seen)
    assert not seen.of("wait", hot=True), "in the middle of a step"
    assert "Attempt.proposal" in places(seen.of("wait")), "where it may, and does: once before each update"
    brought = {place.rpartition(" in ")[2]: n for place, n in seen.uploads.items()}
    assert brought["Trainer.accumulate"] == 2 * pieces * steps, "tokens and targets, and nothing else"
    assert not {"StepMetrics.clip", "Update.__call__", "NextTokenLoss.forward"} & set(brought)
    used = {"_fused_adamw_", "linear_backward", "bmm", "embedding_dense_backward"}
    assert used <= set(seen.operations) and "_scaled_dot_product_flash_attention_for_cpu" not in seen.operations


def test_a_step_is_the_cpus_step() -> None:
    """The branches for other devices, computed here: the same loss and gradients as the blocks for the CPU."""
    x, y = some_tokens(), some_tokens(seed=6)

    def step(device: str) -> tuple[float, dict[str, Tensor]]:
        model = tiny_model(scale=3, logit_cap=20.0).to(device).train()
        loss = NextTokenLoss(model, chunk=7, z_loss=1e-3)(x.to(device), y.to(device))
        loss.backward()
        return float(loss.detach()), {name: g.cpu() for name, g in gradients(model).items()}

    loss, expected = step("cpu")
    with pretence():
        found, grads = step("mps")
    assert found == pytest.approx(loss, rel=1e-6)
    for name, g in grads.items():
        torch.testing.assert_close(g, expected[name], rtol=1e-4, atol=1e-5, msg=name)


def gradients_with_dropout(checkpointing: bool) -> dict[str, Tensor]:
    torch.manual_seed(3)
    model = tiny_model(scale=3, dropout=0.3).to("mps").train()
    model.checkpointing = checkpointing
    NextTokenLoss(model)(some_tokens().to("mps"), some_tokens(seed=6).to("mps")).backward()
    return gradients(model)


def test_checkpointing_changes_no_gradient() -> None:
    """MPS draws from a generator of its own, which whoever computes a block again has to put back."""
    with pretence():
        plain, again = gradients_with_dropout(False), gradients_with_dropout(True)
    for name, g in plain.items():
        torch.testing.assert_close(again[name], g, msg=name)


def test_an_evaluation(poem: Path) -> None:
    data = byte_loader(poem).dataset
    for dtype in ("float32", "bfloat16"):
        with pretence() as seen:
            model, lengths = byte_model().to("mps"), torch.tensor(byte_lengths(data.tokenizer)).numpy()
            found = evaluate_loss(model, data.held_out, lengths, context=16, dtype=dtype)
        assert not wrong(seen) and found.tokens == len(data.held_out) - 1
        assert places(seen.of("wait")) == {"_target_nats"}


def test_a_look_inside(poem: Path) -> None:
    batch = make_probe_batch(byte_loader(poem).dataset.held_out, context=16, n_ids=257)
    with pretence() as seen:
        probe_model(byte_model().to("mps"), batch)
    assert not wrong(seen)


def test_training_dynamics(poem: Path) -> None:
    with pretence() as seen:
        analyze_training_dynamics(byte_model().to("mps"), byte_loader(poem), curvature=False)
    assert not wrong(seen)


def test_curvature() -> None:
    effort = AnalysisConfig(
        **{name: 3 for name in AnalysisConfig.__dataclass_fields__ if AnalysisConfig.__annotations__[name] is int}
    )
    with pretence() as seen:
        model = byte_model().to("mps")
        batch = light_llm.data.Batch(some_tokens(4, 8).to("mps"), some_tokens(4, 8, seed=6).to("mps"))
        analyze(model, batch, step=0, optimizer=AdamState(why_not="none"), config=effort)
    assert not wrong(seen)


def test_rows_of_different_lengths_do_not_meet_a_wrong_kernel() -> None:
    with pretence() as seen:
        model = tiny_model(n_embd=128, n_head=2).to("mps")
        list(decode(model, [[1, 2, 3], [4]], sampling=Sampling(), seeds=[1, 2], max_new_tokens=3))
    assert not seen.of("wrong")


def test_an_evaluation_in_16_bits_does_not_see_the_future(poem: Path) -> None:
    data = byte_loader(poem).dataset
    with pretence() as seen:
        lengths = torch.tensor(byte_lengths(data.tokenizer)).numpy()
        evaluate_loss(byte_model().to("mps"), data.held_out, lengths, context=16, dtype="bfloat16")
    assert not seen.of("wrong")


SAMPLINGS = {
    "greedy": Sampling(temperature=0.0),
    "sampled": Sampling(temperature=0.8, top_k=5),
    "all rules": Sampling(top_p=0.9, min_p=0.01, repetition_penalty=1.3),
}


@pytest.mark.parametrize("name", SAMPLINGS)
@pytest.mark.parametrize("use_cache", [True, False])
def test_generation(name: str, use_cache: bool) -> None:
    """Prompts of different lengths, past the end of the window, and an id that ends a text; the ids are the CPU's."""

    def write(device: str) -> list[list[int | None]]:
        model = tiny_model(scale=4).to(device)
        how: dict[str, Any] = {"sampling": SAMPLINGS[name], "max_new_tokens": 12, "context": 8, "use_cache": use_cache}
        return list(decode(model, [[1, 2, 3], [4]], seeds=[1, 2], end=7, n_ids=60, **how))

    with pretence() as seen:
        found = write("mps")
    assert not wrong(seen) and found == write("cpu")


@pytest.mark.parametrize(("dtype", "quantize"), [("auto", "none"), ("bfloat16", "none"), ("auto", "int8")])
def test_writing_from_a_file(dtype: str, quantize: str, tmp_path: Path) -> None:
    path = model_path(tmp_path)
    with pretence() as seen:
        writer = TextGenerator(path, device="mps", dtype=dtype, quantize=quantize)
        assert len(writer.generate_many(["ab", "c"], max_new_tokens=20, seed=1)) == 2
    assert not wrong(seen) and "linear" in seen.operations


# Whole numbers: what MPS had trouble with in int64 (sorting, cumulative sums, products) is asked of the CPU.
TROUBLE = {"sort", "topk", "cumsum", "cumprod", "prod", "bmm", "mm", "addmm", "argsort", "kthvalue", "median"}


def test_ids_are_only_looked_up_and_compared(poem: Path) -> None:
    with pretence() as seen:
        model = byte_model().to("mps").train()
        NextTokenLoss(model)(some_tokens().to("mps"), some_tokens(seed=6).to("mps")).backward()
        list(decode(model.eval(), [[1, 2, 3]], sampling=Sampling(), seeds=[1], max_new_tokens=3))
    assert {"embedding", "index_add_"} <= seen.whole_numbers, "ids were seen"
    assert not {name.split(".")[0] for name in seen.whole_numbers} & TROUBLE
