"""The doctor names each injected fault, and finds nothing on a sound CPU."""

import dataclasses
import json
import math
import platform
import re
from collections.abc import Iterator
from contextlib import suppress
from functools import cache as cache_results
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from light_llm.doctor import Diagnosis, check_device, full_check, has_cached_check, models, quick_check, runner
from light_llm.doctor.compare import numbers, relative_error, to_device
from light_llm.doctor.runner import ADAMW, COMPILE, EAGER, FLOAT32, FULL, OTHER_TORCH, QUICK, WRONG, run_checks
from light_llm.errors import DeviceError
from light_llm.json_io import dump_with_digest
from tests.support import broken_operations as broken
from tests.support.broken_operations import MakeFault


@pytest.fixture(scope="module", autouse=True)
def exact_gradients_once() -> Iterator[None]:
    """Compute the float64 step, which no fault changes, once for each batch."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(models, "exact_step", cache_results(models.exact_step))
        yield


@pytest.fixture(scope="module")
def healthy() -> Diagnosis:
    return run_checks("cpu", QUICK)


def results_of(fault: MakeFault, *names: str) -> Diagnosis:
    """Run the named checks on a broken device."""
    chosen = [check for check in (*FULL, *COMPILE) if check.name in names]
    assert {check.name for check in chosen} == set(names), "no check has that name"
    with fault():
        return run_checks("cpu", chosen)


def failed(diagnosis: Diagnosis) -> set[str]:
    return {result.case for result in diagnosis.findings if result.verdict == WRONG}


def test_a_sound_cpu_passes_in_both_formats(healthy: Diagnosis) -> None:
    assert {result.verdict for result in healthy.findings} == {"right"} and healthy.safe and not healthy.advice
    assert {check.name for check in QUICK} >= {result.case for result in healthy.findings}
    assert [healthy.verdict(dtype) for dtype in ("float32", "bfloat16", "float16")] == ["right", "right", "not checked"]
    assert healthy.verdict("compile") == "not checked"


def test_tolerances_leave_a_margin_and_no_more(healthy: Diagnosis) -> None:
    """Correct errors are below half of the tolerance, and above a hundredth: a smaller one would test nothing."""
    for result in healthy.findings:
        if result.tolerance:
            assert result.error is not None and 0.01 < result.error / result.tolerance < 0.5, result


# The fault, the checks that have to fail, checks that have to pass, and what is advised.
FAULTS: list[tuple[MakeFault, set[str], set[str], str]] = [
    (broken.linear_from_batch_9, {"linear", "training step"}, {"LayerNorm"}, OTHER_TORCH),
    (broken.linear_at_1024, {"linear", "training step"}, {"cache"}, OTHER_TORCH),
    (broken.last_position, {"linear", "cache"}, {"softmax", "embedding"}, OTHER_TORCH),
    (broken.linear_ignores_strides, {"linear"}, {"softmax"}, OTHER_TORCH),
    (broken.lerp_a_little_too_far, {"lerp"}, {"AdamW", "softmax"}, ADAMW),
    (broken.stale_second_moment, {"AdamW"}, {"lerp"}, OTHER_TORCH),
    (lambda: broken.skipped_parameter("_fused_adamw_"), {"AdamW"}, {"lerp"}, OTHER_TORCH),
    (broken.no_division_in_the_update, {"AdamW"}, {"lerp"}, OTHER_TORCH),
    (broken.biased_draws, {"sampling"}, {"linear"}, OTHER_TORCH),
    (broken.draws_that_are_no_ids, {"sampling"}, {"cache"}, OTHER_TORCH),
    (broken.always_token_0, {"sampling"}, {"cache"}, OTHER_TORCH),
    (broken.forgetful_cache, {"cache"}, {"fused attention", "sampling"}, OTHER_TORCH),
    (broken.shifted_cache, {"cache"}, {"fused attention"}, OTHER_TORCH),
    (broken.ignored_mask, {"fused attention", "cache"}, {"attention"}, OTHER_TORCH),
    (broken.attention_at_1024, {"fused attention"}, {"attention", "cache"}, OTHER_TORCH),
    (broken.blocks_without_scale, {"attention"}, {"fused attention", "cache"}, OTHER_TORCH),
    (broken.softmax_along_the_wrong_axis, {"softmax"}, {"fused attention", "LayerNorm"}, OTHER_TORCH),
    (broken.softmax_in_half, {"softmax"}, {"fused attention", "linear"}, OTHER_TORCH),
    (broken.norm_without_eps, {"LayerNorm"}, {"softmax", "linear"}, OTHER_TORCH),
    (broken.norm_of_one_fewer, {"LayerNorm", "cache"}, {"softmax", "linear"}, OTHER_TORCH),
    (broken.gain_gradient_off, {"LayerNorm", "training step"}, {"cache", "linear"}, OTHER_TORCH),
    (broken.embedding_gradient_without_repeats, {"embedding", "training step"}, {"cache"}, OTHER_TORCH),
    (broken.ids_in_16_bits, {"embedding", "training step"}, {"linear", "cache"}, OTHER_TORCH),
    (broken.sums_in_bfloat16, {"long sums, bfloat16"}, {"linear", "attention, bfloat16"}, FLOAT32),
    (broken.exact_gelu, {"GELU", "cache"}, {"linear", "softmax"}, OTHER_TORCH),
    (broken.wide_silu, {"SiLU"}, {"GELU", "squared ReLU", "RMSNorm", "rotation"}, OTHER_TORCH),
    (broken.no_root, {"RMSNorm"}, {"SiLU", "LayerNorm"}, OTHER_TORCH),
    (broken.coarse_cosines, {"rotation"}, {"SiLU", "RMSNorm"}, OTHER_TORCH),
    (broken.coarse_logsumexp, {"softmax"}, {"cache", "linear"}, OTHER_TORCH),
    (broken.lost_bits, {"save and load"}, {"linear"}, OTHER_TORCH),
    (broken.no_numbers, {"GELU"}, {"linear"}, OTHER_TORCH),
    (broken.compiled_is_another, {"compiled, float32"}, {"linear"}, EAGER),
    (broken.not_implemented, {"GELU"}, {"linear"}, OTHER_TORCH),
]


@pytest.mark.parametrize(("fault", "notice", "others", "advice"), FAULTS, ids=[sorted(row[1])[0] for row in FAULTS])
def test_a_fault_is_found_where_it_is(fault: MakeFault, notice: set[str], others: set[str], advice: str) -> None:
    diagnosis = results_of(fault, *notice, *others)
    assert failed(diagnosis) == notice
    assert [each.action for each in diagnosis.advice] == [advice]
    assert diagnosis.safe == (advice != OTHER_TORCH)


def test_small_faults_are_found_too() -> None:
    """One part in 100,000 of a product in float32, and 5% in bfloat16, where correct errors are near 0.5%."""
    small = results_of(lambda: broken.linear_off_by(1e-5), "linear", "long sums, bfloat16")
    assert failed(small) == {"linear"}
    larger = results_of(lambda: broken.linear_off_by(0.05), "long sums, bfloat16")
    assert failed(larger) == {"long sums, bfloat16"}


def test_faults_change_nothing_in_float64() -> None:
    x, w = torch.randn(9, 1024, 8, dtype=torch.float64), torch.randn(8, 8, dtype=torch.float64)
    with broken.linear_from_batch_9(), broken.linear_at_1024(), broken.last_position():
        assert torch.equal(F.linear(x, w), x @ w.T)


def test_the_most_elementary_operation_is_named_first() -> None:
    """A wrong GELU makes every logit wrong too; it is the GELU that is named."""
    (advice,) = results_of(broken.exact_gelu, "cache", "attention", "GELU").advice
    assert advice.because.startswith("the check of GELU failed (") and advice.because.endswith("and 1 more")
    assert "another version of torch" in advice.action, "there is no other device than the CPU"


def test_another_device_is_sent_to_the_cpu() -> None:
    diagnosis = dataclasses.replace(results_of(broken.exact_gelu, "GELU"), device="cuda:1")
    assert [advice.action for advice in diagnosis.advice] == ["use --device cpu"] and not diagnosis.safe


@pytest.mark.parametrize(
    ("fault", "names", "needs", "flag"),
    [
        (broken.exact_gelu, ("GELU",), {}, "another version of torch"),
        (broken.lerp_a_little_too_far, ("lerp",), {"optimizer": "muon"}, "optimizer=.adamw"),
        (broken.sums_in_bfloat16, ("long sums, bfloat16",), {"dtype": "bfloat16"}, "dtype=.float32"),
    ],
)
def test_a_run_is_refused_only_what_it_needs(
    fault: MakeFault,
    names: tuple[str, ...],
    needs: dict[str, str],
    flag: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "cache"))
    diagnosis = results_of(fault, *names)
    monkeypatch.setattr(runner, "quick_check", lambda device, **_: diagnosis)
    with pytest.raises(DeviceError, match=f"device 'cpu'.*{flag}"):
        check_device("cpu", **needs)
    if needs:
        assert check_device("cpu") == diagnosis


@pytest.mark.parametrize(
    ("fault", "case", "note"),
    [
        (broken.draws_that_are_no_ids, "sampling", r"id 1,000,000,0\d\d of 16"),
        (broken.not_implemented, "GELU", "^error: gelu is not implemented for 'Toaster'$"),
        (broken.no_numbers, "GELU", "not a finite number"),
    ],
)
def test_a_result_without_an_error_is_described(fault: MakeFault, case: str, note: str) -> None:
    (result,) = results_of(fault, case).findings
    assert result.error is None and result.verdict == WRONG and re.search(note, result.note)


def test_a_check_without_memory_is_neither_right_nor_wrong() -> None:
    diagnosis = results_of(broken.no_memory, "embedding", "linear")
    assert [result.verdict for result in diagnosis.findings] == ["right", "not checked"]
    assert not diagnosis.advice and not diagnosis.safe, "nothing is known about the embedding"


def test_checks_leave_generators_and_modes_alone() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    chosen = [check for check in QUICK if check.name in ("linear", "AdamW", "Muon", "cache", "sampling")]
    with torch.inference_mode():
        assert run_checks("cpu", chosen).safe
        assert torch.is_inference_mode_enabled() and not torch.is_grad_enabled()
    assert torch.equal(torch.get_rng_state(), before)


def test_errors_that_are_not_finite_are_infinite() -> None:
    exact = torch.tensor([1.0, -2.0], dtype=torch.float64)
    assert relative_error(torch.tensor([1.0, -1.5]), exact) == 0.25
    for bad in (torch.tensor([1.0, torch.nan]), torch.tensor([torch.inf, -2.0]), torch.zeros(3)):
        assert relative_error(bad, exact) == math.inf
    assert relative_error(torch.zeros(2), exact * 0) == 0.0 and relative_error(torch.ones(2), exact * 0) == math.inf


def test_inputs_keep_their_strides_on_the_device() -> None:
    base = numbers(6, 8, 3)
    for view in (base, base[:, ::2], base[1:, 2:5].transpose(0, 2), base[:1, :1].expand(6, 8, 3)):
        copy = to_device(view, "cpu", torch.bfloat16)
        assert copy.stride() == view.stride() and torch.equal(copy, view.bfloat16())


# Caching. What is cached does not depend on how many checks there are, so a few do.


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    few = [check for check in QUICK if check.name in ("linear", "GELU")]
    monkeypatch.setattr(runner, "quick_check", partial(run_checks, checks=few))
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "doctor"


def is_checked_again() -> bool:
    """Return True if a fault is noticed, and so the cache is not used."""
    with broken.exact_gelu(), suppress(DeviceError):
        check_device("cpu")
        return False
    return True


def test_a_sound_device_is_checked_once(cache: Path) -> None:
    assert is_checked_again() and not has_cached_check("cpu"), "a device that failed may be fixed, and is checked again"
    first = check_device("cpu")
    assert first.safe and has_cached_check("cpu") and not is_checked_again()
    (file,) = cache.iterdir()
    assert platform.node() not in file.read_text()
    assert check_device("cpu") == first


@pytest.mark.parametrize("damage", ["one bit", "half of it", "earlier version", "no file", "a folder"])
def test_a_damaged_cache_costs_the_checks_again(damage: str, cache: Path) -> None:
    check_device("cpu")
    (file,) = cache.iterdir()
    data = bytearray(file.read_bytes())
    file.unlink()
    if damage == "one bit":
        data[data.index(b'"right"') + 1] ^= 1
        file.write_bytes(data)
    elif damage == "half of it":
        file.write_bytes(data[: len(data) // 2])
    elif damage == "earlier version":
        file.write_bytes(dump_with_digest({"device": "cpu", "findings": [{"case": "linear"}]}))
    elif damage == "a folder":
        file.mkdir()
    assert is_checked_again()
    assert check_device("cpu").safe


@pytest.mark.parametrize(("owner", "name", "value"), [(runner, "VERSION", 10**6), (torch, "__version__", "9.9")])
def test_other_checks_or_another_torch_are_checked_again(
    owner: object, name: str, value: object, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_device("cpu")
    monkeypatch.setattr(owner, name, value)
    assert is_checked_again()


def test_a_cache_that_cannot_be_written_only_costs_time(cache: Path) -> None:
    cache.parent.write_text("a file in place of the folder")
    assert check_device("cpu").safe and check_device("cpu").safe


def test_a_diagnosis_survives_json() -> None:
    diagnosis = results_of(broken.no_numbers, "linear", "GELU")
    copy = Diagnosis.from_dict(json.loads(json.dumps(diagnosis.to_dict(), allow_nan=False)))
    assert copy == diagnosis and copy.lines() == diagnosis.lines() and not copy.safe


def test_compiling_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(DeviceError, match="needs a C\\+\\+ compiler"):
        quick_check("cpu", compile=True)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_sound_cpu_passes_everything() -> None:
    progress: list[tuple[int, int]] = []
    diagnosis = full_check("cpu", progress=lambda *now: progress.append(now))
    assert failed(diagnosis) == set() and diagnosis.safe
    assert diagnosis.verdict("float16") == "right"
    assert [done for done, _ in progress] == list(range(len(FULL) + 1))


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_compiled_step_is_the_eager_one() -> None:
    assert run_checks("cpu", COMPILE).verdict("compile") == "right"
