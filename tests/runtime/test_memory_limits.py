"""The tightest limit on memory is found, whoever sets it."""

import mmap
import sys
from pathlib import Path

import pytest

from light_llm.runtime import MemoryLimit, memory_limit, resident_memory
from light_llm.text_format import format_bytes
from tests.support.tools import run_child

resource = pytest.importorskip("resource", reason="NOT RUN: Windows has no limits of a process")

GB = 10**9


@pytest.fixture
def proc(tmp_path: Path) -> Path:
    """A machine of 16 GB of which 10 are free, and 1 of swap; this process has a 4,096th of its pages."""
    folder = tmp_path / "proc"
    (folder / "self").mkdir(parents=True)
    gigabytes = {"MemTotal": 16, "MemFree": 1, "MemAvailable": 10, "SwapFree": 1}
    (folder / "meminfo").write_text("".join(f"{name}:  {n * GB // 1024} kB\n" for name, n in gigabytes.items()))
    (folder / "self/statm").write_text("200000 1000 500 1 0 300 0\n")
    return folder


RESIDENT = 1000 * resource.getpagesize()


def test_a_machine_has_what_is_free_and_what_this_process_has(proc: Path, tmp_path: Path) -> None:
    limit = memory_limit("cpu", proc=proc, cgroup=tmp_path)
    assert limit is not None and limit.bytes == pytest.approx(11 * GB + RESIDENT, rel=1e-6)
    assert limit.reason == "free (of 16.0 GB)"


@pytest.mark.parametrize("older", [False, True])
def test_a_container_is_smaller(proc: Path, tmp_path: Path, older: bool) -> None:
    group = tmp_path / "group"
    (group / "memory").mkdir(parents=True)
    file, used = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes")
    file, used = (file, used) if older else ("memory.max", "memory.current")

    def limit() -> MemoryLimit:
        result = memory_limit("cpu", proc=proc, cgroup=group)
        assert result is not None
        return result

    (group / file).write_text(f"{2 * GB}\n")
    (group / used).write_text(f"{GB}\n")
    assert limit() == MemoryLimit(GB + RESIDENT, "left in this container (of 2.00 GB)")
    (group / "memory.stat").write_text(f"anon 5\ninactive_file {GB // 2}\n")  # the page cache is dropped on demand
    assert limit().bytes == GB + GB // 2 + RESIDENT
    (group / file).write_text("max\n" if not older else f"{(1 << 63) - 4096}\n")
    assert limit().bytes > 10 * GB


@pytest.mark.skipif(sys.platform != "linux", reason="NOT RUN: only Linux bounds addresses this way")
def test_a_limit_of_the_shell_is_found() -> None:
    # torch first: the libraries of a CUDA build take more addresses than a fixed limit would allow.
    code = """
import resource
from light_llm.runtime import memory_limit
addresses = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
allowed = addresses + 2 * 10**9
resource.setrlimit(resource.RLIMIT_AS, (allowed, allowed))
limit = memory_limit("cpu")
print(allowed, limit.bytes, limit.reason)
"""
    child = run_child([sys.executable, "-c", code])
    allowed, n, reason = child.stdout.strip().split(" ", 2)
    assert reason == f"left of the {format_bytes(int(allowed))} that ulimit -v allows" and 0 < int(n) < int(allowed)


def test_a_process_knows_what_it_has() -> None:
    before, size = resident_memory(), 200_000_000
    # Pages from the system: a tensor might take what earlier tests have left in the heap.
    with mmap.mmap(-1, size) as block:
        block.write(b"1" * size)
        assert 0 < before and resident_memory() >= before + size // 2
    assert resident_memory(Path("nowhere")) > 0  # then the most it ever had


def test_nothing_is_known_of_a_system_that_says_nothing(tmp_path: Path) -> None:
    limit = memory_limit("cpu", proc=tmp_path, cgroup=tmp_path)
    assert limit is not None and limit.reason == "in this machine"
