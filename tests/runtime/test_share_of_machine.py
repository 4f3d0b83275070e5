"""The threads and the GPU of a process that is one of several on its machine."""

import pytest
import torch

from light_llm.errors import DeviceError
from light_llm.runtime import choose_device, limit_threads, process


@pytest.fixture
def ranks(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """Be the third of four processes on a machine with 8 cores and 4 GPUs."""
    for name, value in {"RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "2", "LOCAL_WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(process, "usable_cores", lambda: 8)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "a GPU")
    return monkeypatch


@pytest.mark.parametrize(
    ("env", "threads"),
    [
        ({}, 2),
        ({"OMP_NUM_THREADS": "3"}, None),
        ({"OMP_NUM_THREADS": "1", "TORCHELASTIC_RUN_ID": "x"}, 2),  # torchrun's own default
        ({"OMP_NUM_THREADS": "2", "TORCHELASTIC_RUN_ID": "x"}, None),
        ({"LOCAL_WORLD_SIZE": "16"}, 1),
    ],
)
def test_ranks_share_the_cores(ranks: pytest.MonkeyPatch, env: dict[str, str], threads: int | None) -> None:
    asked: list[int] = []
    ranks.setattr(torch, "set_num_threads", asked.append)
    ranks.delenv("OMP_NUM_THREADS", raising=False)
    for name, value in env.items():
        ranks.setenv(name, value)
    limit_threads()
    assert asked == ([] if threads is None else [threads])


def test_each_rank_has_a_gpu_of_its_own(ranks: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []
    ranks.setattr(torch.cuda, "set_device", chosen.append)
    assert choose_device("cuda").value == choose_device("auto").value == "cuda" and chosen == [2, 2]
    with pytest.raises(DeviceError, match="cuda:1.* is one GPU, and this run has 4 processes"):
        choose_device("cuda:1")
    with pytest.raises(DeviceError, match="'mps' is one GPU"):
        choose_device("mps")
    ranks.setattr(torch.cuda, "device_count", lambda: 3)
    for asked in ("auto", "cuda"):
        with pytest.raises(DeviceError, match="3 CUDA GPUs for 4 processes"):
            choose_device(asked)
    ranks.setattr(torch.backends.mps, "is_available", lambda: True)
    ranks.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_device("auto").value == "cpu"
    ranks.setenv("LOCAL_WORLD_SIZE", "1")
    assert choose_device("auto").value == "mps"
