"""The doctor notices: each injected fault is found where it is, and nothing is found on a sound CPU."""

import dataclasses
import math
from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest
import torch

from light_llm.config import TrainConfig
from light_llm.doctor import Diagnosis, check_device, core, full, use_formula, use_plain_update
from light_llm.doctor.examine import CORE, FULL, examine, find
from light_llm.doctor.optimizers import Exact, orthogonal
from light_llm.doctor.subject import Reference, Subject
from light_llm.doctor.tolerance import worst_error
from light_llm.doctor.whole import COMPILE
from light_llm.errors import DeviceError
from light_llm.model import SelfAttention, attend_by_formula
from light_llm.optim import build_optimizer
from tests.support import broken_operations as broken
from tests.support.tools import tiny_model

FaultMaker = Callable[[], AbstractContextManager[object]]


@pytest.fixture(scope="module")
def reference() -> Reference:
    return Reference()


@pytest.fixture(scope="module")
def healthy(reference: Reference) -> Diagnosis:
    return examine("cpu", CORE, reference=reference)


def found_by(reference: Reference, fault: FaultMaker, *names: str) -> Diagnosis:
    """What the named cases find on a broken device."""
    chosen = [case for case in (*FULL, *COMPILE) if case.name in names]
    assert {case.name for case in chosen} == set(names), "a name that is no case"
    with fault():
        return examine("cpu", chosen, reference=reference)


def wrong_ones(diagnosis: Diagnosis) -> set[str]:
    return {f.case for f in diagnosis.findings if f.wrong}


def remedies(diagnosis: Diagnosis) -> list[str]:
    return [remedy.name for remedy in diagnosis.remedies]


def test_a_sound_cpu_passes_in_both_formats(healthy: Diagnosis) -> None:
    assert wrong_ones(healthy) == set() and healthy.safe and healthy.sound and not healthy.remedies
    assert {f.dtype for f in healthy.findings} == {"float32", "bfloat16"}
    assert {case.name for case in CORE} == {f.case for f in healthy.findings}
    assert (healthy.of_format("float32"), healthy.of_format("bfloat16")) == ("right", "right")
    assert (healthy.of_format("float16"), healthy.compiled) == ("not checked", "not checked")


def test_tolerances_leave_a_margin_and_no_more(healthy: Diagnosis) -> None:
    """Sound errors are below half of what is allowed, and above a hundredth: less would be a test of nothing."""
    for f in healthy.findings:
        if f.tolerance and f.case != "greedy":  # an error of exactly 0
            assert f.error is not None and 0.01 < f.error / f.tolerance < 0.5, f


# The fault, the cases that have to find it, cases that have nothing to do with it, and what helps.
FAULTS: list[tuple[FaultMaker, set[str], set[str], list[str]]] = [
    (broken.linear_from_batch_9, {"linear", "logits", "gradients"}, {"layer norm", "long logits"}, ["refuse"]),
    (broken.linear_at_1024, {"linear", "hidden states"}, {"logits", "gradients"}, ["refuse"]),
    (broken.last_position, {"linear", "logits", "hidden states"}, {"softmax", "embedding"}, ["refuse"]),
    (broken.linear_ignores_strides, {"linear, strided"}, {"linear", "products"}, ["refuse"]),
    (broken.lerp_a_little_too_far, {"lerp"}, {"AdamW", "softmax"}, ["adamw"]),
    (broken.stale_second_moment, {"AdamW"}, {"lerp"}, ["plain optimizer"]),
    (lambda: broken.skipped_parameter("_fused_adamw_"), {"AdamW"}, {"lerp", "Muon"}, ["plain optimizer"]),
    (broken.no_division_in_the_update, {"AdamW", "AdamW, plain"}, {"lerp"}, ["refuse"]),
    (broken.biased_draws, {"sampling, top-k"}, {"greedy"}, ["refuse"]),
    (broken.draws_that_are_no_ids, {"sampling", "sampling, top-k"}, {"cache", "greedy"}, ["refuse"]),
    (broken.always_token_0, {"greedy"}, {"cache", "sampling"}, ["refuse"]),
    (broken.forgetful_cache, {"cache", "greedy"}, {"masked attention", "sampling"}, ["refuse"]),
    (broken.shifted_cache, {"cache", "greedy"}, {"masked attention", "sampling"}, ["refuse"]),
    (broken.ignored_mask, {"fused attention", "masked attention"}, {"block attention", "cache"}, ["formula"]),
    (broken.attention_at_1024, {"fused attention"}, {"block attention", "hidden states"}, ["formula"]),
    (broken.blocks_without_scale, {"block attention"}, {"fused attention", "gradients"}, ["formula"]),
    (broken.softmax_along_the_wrong_axis, {"softmax"}, {"fused attention", "layer norm"}, ["refuse"]),
    (broken.softmax_in_half, {"softmax"}, {"fused attention", "linear"}, ["refuse"]),
    (broken.norm_without_eps, {"layer norm"}, {"softmax", "linear"}, ["refuse"]),
    (broken.norm_of_one_fewer, {"layer norm", "logits"}, {"softmax", "linear"}, ["refuse"]),
    (broken.gain_gradient_off, {"layer norm", "gradients"}, {"logits", "linear"}, ["refuse"]),
    (broken.embedding_gradient_without_repeats, {"embedding", "gradients"}, {"logits", "loss"}, ["refuse"]),
    (broken.ids_in_16_bits, {"embedding", "logits"}, {"linear", "cache"}, ["refuse"]),
    (broken.sums_in_bfloat16, {"products, bfloat16"}, {"linear", "logits", "attention, bfloat16"}, ["float32"]),
    (broken.exact_gelu, {"gelu", "logits"}, {"linear", "softmax"}, ["refuse"]),
    (broken.wide_silu, {"gates"}, {"gelu", "RMSNorm", "rotation"}, ["refuse"]),
    (broken.no_root, {"RMSNorm"}, {"gates", "layer norm"}, ["refuse"]),
    (broken.coarse_cosines, {"rotation"}, {"gates", "RMSNorm"}, ["refuse"]),
    (broken.coarse_logsumexp, {"softmax", "loss"}, {"logits", "linear"}, ["refuse"]),
    (broken.lost_bits, {"save and load"}, {"linear"}, ["refuse"]),
    (broken.no_numbers, {"gelu"}, {"linear"}, ["refuse"]),
    (broken.compiled_is_another, {"compiled, float32"}, {"gradients", "loss"}, ["eager"]),
    (broken.not_implemented, {"gelu"}, {"linear"}, ["refuse"]),
]


@pytest.mark.parametrize(("fault", "notice", "others", "help"), FAULTS, ids=[sorted(row[1])[0] for row in FAULTS])
def test_a_fault_is_found_where_it_is(
    fault: FaultMaker, notice: set[str], others: set[str], help: list[str], reference: Reference
) -> None:
    asked = (notice | others) - {"AdamW, plain"}  # which is looked at where AdamW is wrong
    diagnosis = found_by(reference, fault, *asked)
    assert wrong_ones(diagnosis) == notice
    assert remedies(diagnosis) == help
    assert diagnosis.safe == ("refuse" not in help) and not diagnosis.sound


def test_small_faults_are_found_too(reference: Reference) -> None:
    """One part in 100,000 of a product in float32, and 5% in bfloat16, where sound errors are near 0.5%."""
    small = found_by(reference, lambda: broken.linear_off_by(1e-5), "linear", "products, bfloat16")
    assert wrong_ones(small) == {"linear"}
    larger = found_by(reference, lambda: broken.linear_off_by(0.05), "products, bfloat16")
    assert wrong_ones(larger) == {"products, bfloat16"}


def test_faults_leave_the_exact_side_alone() -> None:
    assert broken.untouched_reference()


def test_the_most_elementary_operation_is_named_first(reference: Reference) -> None:
    """A wrong GELU makes logits and gradients wrong too; it is the GELU that is named."""
    (remedy,) = found_by(reference, broken.exact_gelu, "gelu", "logits", "gradients", "linear").remedies
    assert remedy.because.startswith("GELU is wrong (") and remedy.because.endswith("and 2 more")
    assert "install another version of torch" in remedy.action, "there is no other device than the CPU"


def test_another_device_is_refused_and_sent_to_the_cpu(reference: Reference) -> None:
    diagnosis = dataclasses.replace(found_by(reference, broken.exact_gelu, "gelu"), device="cuda:1")
    with pytest.raises(DeviceError, match=r"device 'cuda:1' computes wrong: GELU is wrong .*use --device cpu"):
        check_device(diagnosis)


def test_a_device_with_a_remedy_is_not_refused(reference: Reference) -> None:
    check_device(found_by(reference, broken.stale_second_moment, "AdamW", "lerp"))


def test_what_is_drawn_is_named_where_it_is_no_id(reference: Reference) -> None:
    (finding,) = found_by(reference, broken.draws_that_are_no_ids, "sampling").findings
    assert finding.wrong and finding.note.startswith("1,000,000,0") and "and there are 16 ids" in finding.note


def test_a_step_without_memory_leaves_nothing_to_the_next(reference: Reference) -> None:
    """Its gradients, half made, are not added to those of the step after it."""
    subject = Subject("cpu", reference)
    step = next(case for case in CORE if case.name == "gradients")
    with broken.raising_below(MemoryError("full"), "embedding_dense_backward"):
        (found,) = find(step, subject)
    assert not found.checked and any(p.grad is not None for p in subject.model.parameters())
    (found,) = find(step, subject)
    assert found.ok


def test_what_a_device_lacks_is_said_in_its_words(reference: Reference) -> None:
    (finding,) = found_by(reference, broken.not_implemented, "gelu").findings
    assert finding.note == "fails: gelu is not implemented for 'Toaster'" and finding.error is None


def test_no_number_is_no_error_of_ours(reference: Reference) -> None:
    (finding,) = found_by(reference, broken.no_numbers, "gelu").findings
    assert finding.error is None and "not a finite number" in finding.note and finding.verdict == "WRONG"


def test_no_memory_is_neither_right_nor_wrong(reference: Reference) -> None:
    diagnosis = found_by(reference, broken.no_memory, "embedding", "linear", "logits, all at once")
    assert [f.verdict for f in diagnosis.findings] == ["right", "not checked", "not checked"]
    assert not diagnosis.remedies and not diagnosis.safe, "it is not known whether the embedding is right"
    large = dataclasses.replace(diagnosis, findings=tuple(f for f in diagnosis.findings if f.case != "embedding"))
    assert large.safe, "more than light-llm ever holds at once"


def test_attention_that_is_wrong_everywhere_has_no_way_round(reference: Reference) -> None:
    def both() -> AbstractContextManager[object]:
        return broken.CombinedOptimizer(broken.ignored_mask(), broken.softmax_along_the_wrong_axis())

    diagnosis = found_by(reference, both, "fused attention")
    assert wrong_ones(diagnosis) == {"fused attention", "attention as written"} and diagnosis.refused


def test_a_twin_that_could_not_be_tried_is_no_way_round(reference: Reference) -> None:
    def both() -> AbstractContextManager[object]:
        return broken.CombinedOptimizer(broken.ignored_mask(), broken.raising(MemoryError("full"), "masked_fill"))

    diagnosis = found_by(reference, both, "fused attention")
    assert [f.verdict for f in diagnosis.findings] == ["WRONG", "not checked"] and diagnosis.refused


def test_an_examination_moves_no_generator_and_changes_no_mode() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    chosen = [case for case in CORE if case.name in ("linear", "AdamW", "Muon", "cache", "sampling", "hidden states")]
    with torch.inference_mode():
        assert examine("cpu", chosen, reference=Reference()).sound
        assert torch.is_inference_mode_enabled() and not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)


def test_the_formula_is_put_into_every_layer() -> None:
    model = use_formula(tiny_model())
    assert {m.attend for m in model.modules() if isinstance(m, SelfAttention)} == {attend_by_formula}


@pytest.mark.parametrize("name", ["adamw", "muon"])
def test_a_plain_update_goes_on_from_the_fused_one(name: str) -> None:
    """Three steps fused, three plain, are six fused ones to a few roundings: also of AdamW within Muon."""
    start, ends = weights(tiny_model()), []
    for change in (False, True):
        model = tiny_model()
        optimizer = build_optimizer(model, TrainConfig(optimizer=name, lr=0.01))
        for step in range(6):
            if step == 3 and change:
                use_plain_update(optimizer)
                assert not any(group.get("fused") for group in optimizer.param_groups)
            for i, p in enumerate(model.parameters()):
                p.grad = torch.randn(p.shape, generator=torch.Generator().manual_seed(100 * step + i))
            optimizer.step()
        ends.append(weights(model))
    assert (ends[0] - start).abs().mean() > 0.005
    torch.testing.assert_close(ends[0], ends[1], rtol=1e-5, atol=1e-6)


def weights(model: torch.nn.Module) -> torch.Tensor:
    return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_the_papers_equations_are_torchs_in_float64() -> None:
    """The exact side of AdamW, beside an implementation that is not ours."""
    start = {"matrix": torch.randn(7, 5, dtype=torch.float64), "vector": torch.randn(5, dtype=torch.float64)}
    config = TrainConfig(weight_decay=0.1)
    ours = Exact(start, set(), {"vector"}, config)
    theirs = {name: torch.nn.Parameter(weight.clone()) for name, weight in start.items()}
    groups = [
        {"params": [theirs["matrix"]], "weight_decay": 0.1},
        {"params": [theirs["vector"]], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=0.01, betas=(config.beta1, config.beta2), eps=config.eps, foreach=False)
    for step in range(1, 6):
        for name, p in theirs.items():
            p.grad = torch.randn_like(p)
            ours.update(name, p.grad, step, 0.01)
        adamw.step()
    for name, p in theirs.items():
        torch.testing.assert_close(ours.weights[name], p.detach(), rtol=1e-12, atol=1e-12)


def test_the_polynomial_makes_singular_values_alike() -> None:
    """They come into 0.68 to 1.13 (Jordan et al., 2024), and the directions stay as they are."""
    for shape in ((24, 96), (96, 24), (30, 30)):
        matrix = torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(4))
        u, s, vt = torch.linalg.svd(matrix, full_matrices=False)
        inner = u.T @ orthogonal(matrix) @ vt.T
        large = s / s.norm() > 0.02  # smaller ones need more steps
        assert ((inner.diag() > 0.65) & (inner.diag() < 1.15))[large].all()
        assert (inner - inner.diag().diag()).abs().max() < 1e-12


def test_an_error_that_is_no_number_is_infinite() -> None:
    exact = torch.tensor([1.0, -2.0], dtype=torch.float64)
    assert worst_error(torch.tensor([1.0, -1.5]), exact) == 0.25
    for bad in (torch.tensor([1.0, torch.nan]), torch.tensor([torch.inf, -2.0]), torch.zeros(3)):
        assert worst_error(bad, exact) == math.inf
    assert worst_error(torch.zeros(2), exact * 0) == 0.0 and worst_error(torch.ones(2), exact * 0) == math.inf


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sound_cpu_passes_everything() -> None:
    seen: list[tuple[int, int, str]] = []
    diagnosis = full("cpu", progress=lambda *now: seen.append(now))
    assert wrong_ones(diagnosis) == set() and diagnosis.safe
    assert diagnosis.of_format("float16") == "right"
    assert [done for done, _, _ in seen] == list(range(len(FULL) + 1))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_compiled_step_is_the_plain_one() -> None:
    diagnosis = core("cpu", compile=True)
    assert diagnosis.compiled == "right" and diagnosis.sound
