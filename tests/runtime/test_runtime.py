"""What is decided about a machine, on machines that are not here: stand-ins for the questions torch is asked."""

import mmap
import platform
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch

from light_llm.config import ModelConfig
from light_llm.errors import ConfigError, DeviceError
from light_llm.runtime import (
    autocast,
    cache_dir,
    choose_compile,
    choose_device,
    choose_dtype,
    device_name,
    is_busy,
    layers_by_window,
    limit_threads,
    machine_cache,
    offline_dir,
    peak_memory,
    preserved_rng,
    rng_state,
    seed_rng,
    set_rng_state,
    stop_after,
    tiktoken_cache_dir,
    versions,
)
from light_llm.runtime import device as device_module
from light_llm.runtime.process import cpu_quota
from light_llm.runtime.timing import BusyMeter


@pytest.fixture
def quiet_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measurements count as undisturbed: on a busy machine they would be kept by the process and not in the cache."""

    def quiet_meter() -> BusyMeter:
        return BusyMeter(clock=lambda: 0.0)

    cached = partial(machine_cache.cached_measurements, make_meter=quiet_meter)
    monkeypatch.setattr(machine_cache, "cached_measurements", cached)
    monkeypatch.setattr(machine_cache, "_disturbed", {})


def machine(monkeypatch: pytest.MonkeyPatch, *, mps: bool, gpus: int, bf16: bool = True) -> None:
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpus > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: gpus)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device=None: "Some GPU")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: bf16)


CHOSEN = [
    *((True, 1, "auto", "mps"), (False, 1, "auto", "cuda"), (False, 0, "auto", "cpu")),
    *((True, 1, "cpu", "cpu"), (True, 2, "cuda:1", "cuda:1"), (True, 0, "mps", "mps")),
]


@pytest.mark.parametrize(("mps", "gpus", "asked", "expected"), CHOSEN)
def test_mps_then_cuda_then_cpu(
    monkeypatch: pytest.MonkeyPatch, mps: bool, gpus: int, asked: str, expected: str
) -> None:
    machine(monkeypatch, mps=mps, gpus=gpus)
    choice = choose_device(asked)
    assert choice.value == expected and choice.reason and device_name(choice.value)


UNAVAILABLE = {  # with the words of the message that help
    "mps": "device 'mps'.*no Apple GPU.*device='auto' or cpu",
    "cuda:2": "device 'cuda:2'.*2 CUDA GPUs",
    "gpu": "device 'gpu'; did you mean cpu.*auto, cpu, cuda, cuda:N or mps",
    "cudaa": "device 'cudaa'; did you mean cuda",
    "cpu:3": "device 'cpu:3'",
    "cuda:x": "device 'cuda:x'",
}


@pytest.mark.parametrize("asked", UNAVAILABLE)
def test_a_device_that_is_not_available(monkeypatch: pytest.MonkeyPatch, asked: str) -> None:
    machine(monkeypatch, mps=False, gpus=2)
    with pytest.raises(DeviceError, match=UNAVAILABLE[asked]):
        choose_device(asked)
    machine(monkeypatch, mps=False, gpus=0)
    with pytest.raises(DeviceError, match="device 'cuda'.*no CUDA GPU"):
        choose_device("cuda")


@pytest.mark.usefixtures("quiet_machine")
def test_the_format_follows_the_machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    machine(monkeypatch, mps=True, gpus=1)
    assert choose_dtype("auto", "mps").value == "float32"
    assert choose_dtype("auto", "cuda").value == "bfloat16"
    machine(monkeypatch, mps=False, gpus=1, bf16=False)
    assert choose_dtype("auto", "cuda").value == "float32"
    assert choose_dtype("bfloat16", "mps").value == "bfloat16"
    for gain, expected in ((3.0, "bfloat16"), (0.4, "float32")):
        monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path / str(gain)))
        monkeypatch.setattr(device_module, "measure_bfloat16_speedup", lambda gain=gain: gain)
        choice = choose_dtype("auto", "cpu")
        assert choice.value == expected and f"{gain:.1f}x" in choice.reason


@pytest.mark.usefixtures("quiet_machine")
def test_the_measurement_is_made_once_and_a_bad_cache_is_measured_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("LIGHT_LLM_CACHE", str(tmp_path))
    calls: list[float] = []
    monkeypatch.setattr(device_module, "measure_bfloat16_speedup", lambda: calls.append(1.0) or 2.0)
    for _ in range(3):
        choose_dtype("auto", "cpu")
    assert len(calls) == 1
    for rubbish in ("{", "[]", '{"a": "b"}'):
        (tmp_path / "measured.json").write_text(rubbish)
        assert choose_dtype("auto", "cpu").value == "bfloat16"
    assert len(calls) == 4


def test_the_measured_speedup_is_the_ratio_of_the_best_times(monkeypatch: pytest.MonkeyPatch) -> None:
    seconds = {torch.float32: iter([0.6, 0.9]), torch.bfloat16: iter([0.5, 0.2])}
    formats: list[torch.dtype] = []

    def timed(work: Callable[[], torch.Tensor], **_: object) -> list[float]:
        formats.append(work().dtype)
        return [next(seconds[formats[-1]])]

    monkeypatch.setattr(device_module, "time_calls", timed)
    assert device_module.measure_bfloat16_speedup() == pytest.approx(3.0)
    assert formats == [torch.float32, torch.bfloat16] * 2, "in turn"


def test_autocast_makes_products_in_the_format() -> None:
    a = torch.randn(4, 4)
    with autocast("cpu", "bfloat16"):
        assert (a @ a).dtype == torch.bfloat16
    with autocast("cpu", "float32"):
        assert (a @ a).dtype == torch.float32


def test_compilation_is_asked_for_and_needs_a_compiler(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.which", lambda name: "/usr/bin/g++" if name == "g++" else None)
    assert (choose_compile("auto", "cpu").value, str(choose_compile("on", "cpu"))) == ("off", "on (asked for)")
    monkeypatch.setattr("shutil.which", lambda name: None)
    assert choose_compile("on", "cuda").value == "on"
    with pytest.raises(DeviceError, match=r"compile='on' needs .*g\+\+, .*compile='off'"):
        choose_compile("on", "cpu")


def test_generators_are_restored() -> None:
    seed_rng(3, "cpu")
    state, first = rng_state("cpu"), torch.rand(3)
    set_rng_state(state, "cpu")
    with preserved_rng("cpu"):
        torch.rand(5)
    assert torch.equal(torch.rand(3), first)


def test_environment_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LIGHT_LLM_OFFLINE_DIR", "x")
    monkeypatch.setenv("LIGHT_LLM_STOP_AFTER", "7")
    assert (offline_dir(), stop_after()) == (Path("x"), 7)
    for wrong in ("0", "-1", "soon", "1.5"):
        monkeypatch.setenv("LIGHT_LLM_STOP_AFTER", wrong)
        with pytest.raises(ConfigError, match="LIGHT_LLM_STOP_AFTER=.* must be a whole number of steps above 0"):
            stop_after()
    for name in ("LIGHT_LLM_OFFLINE_DIR", "LIGHT_LLM_STOP_AFTER", "LIGHT_LLM_CACHE"):
        monkeypatch.setenv(name, "")
    assert offline_dir() is None and stop_after() is None
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("LOCALAPPDATA", str(tmp_path))
    for system, base in (("linux", tmp_path), ("darwin", Path.home() / "Library/Caches"), ("win32", tmp_path)):
        monkeypatch.setattr("sys.platform", system)
        assert cache_dir() == base / "light-llm"
    monkeypatch.setenv("DATA_GYM_CACHE_DIR", "gym")
    assert tiktoken_cache_dir() == Path("gym")


@pytest.mark.parametrize(("text", "cores"), [("250000 100000\n", 2), ("50000 100000\n", 1), ("max 100000\n", None)])
def test_a_container_s_quota_is_whole_cores(tmp_path: Path, text: str, cores: int | None) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert cpu_quota(tmp_path / "cpu.max") == cores
    assert cpu_quota(tmp_path / "no such file") is None


def test_no_more_threads_than_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    limits: list[int] = []
    monkeypatch.setattr(torch, "get_num_threads", lambda: 64)
    monkeypatch.setattr(torch, "set_num_threads", limits.append)
    monkeypatch.setattr("light_llm.runtime.process.usable_cores", lambda: 2)
    limit_threads()
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    limit_threads()
    assert limits == [2]


def test_memory_and_versions_are_told() -> None:
    peak = peak_memory()
    assert peak is not None and 50e6 < peak < 100e9
    assert versions()["torch"] == torch.__version__


def output_of(code: str, *args: str) -> str:
    return subprocess.run([sys.executable, "-c", code, *args], capture_output=True, text=True, check=True).stdout


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="NOT RUN: this system's malloc is not glibc's")
def test_memory_that_is_kept_is_not_cleared_again() -> None:
    """Four blocks of 8 MB, made, written and freed together, ten times over: fresh pages each time, or none."""
    script = """
import ctypes, resource
from light_llm.runtime import configure_malloc
libc = ctypes.CDLL(None)
libc.malloc.restype, libc.malloc.argtypes = ctypes.c_void_p, [ctypes.c_size_t]
libc.free.argtypes = [ctypes.c_void_p]
def blocks():
    made = [libc.malloc(8 << 20) for _ in range(4)]
    for block in made:
        ctypes.memset(block, 1, 8 << 20)
    for block in made:
        libc.free(block)
def faults():
    blocks()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        blocks()
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before
print(faults(), configure_malloc() and faults())
"""
    given_back, kept = map(int, output_of(script).split())
    pages = 10 * 4 * (8 << 20) // mmap.PAGESIZE
    assert kept < pages / 10 < pages / 2 < given_back


def test_a_small_process_does_not_have_the_peak_of_its_large_parent() -> None:
    code = """
import subprocess, sys
block = bytearray(b"x") * (1 << 30)
child = [sys.executable, "-c", "from light_llm.runtime.memory import peak_memory; print(peak_memory())"]
print(int(subprocess.run(child, capture_output=True, text=True, check=True).stdout) >> 20)
"""
    assert 0 < int(output_of(code)) < 1024  # torch itself has 250 to 530 MB, by build


def test_where_the_system_keeps_no_mark_the_resources_say_it(tmp_path: Path) -> None:
    assert peak_memory(tmp_path / "none") == pytest.approx(peak_memory(), rel=0.5)


@pytest.mark.parametrize(("slowest", "busy"), [(125.0, False), (125.1, True)])
def test_repetitions_more_than_a_quarter_apart_show_other_work(slowest: float, busy: bool) -> None:
    assert is_busy([100.0, slowest, 110.0]) == is_busy([slowest, 100.0]) == busy


@pytest.mark.parametrize("layers", ["all", "0", "3", "5", "0,1,2", "1,3", "0,1,2,3,4,5"])
@pytest.mark.parametrize("window", [0, 64])
def test_layers_are_counted_by_their_window(layers: str, window: int) -> None:
    config = ModelConfig.micro(window=window, window_layers=layers if window else "all")
    counted = Counter({config.window_size(layer): n for layer, n in layers_by_window(config)})
    assert counted == Counter(config.window_size(layer) for layer in range(config.n_layer))
