"""Locks of folders: who holds them, and until when."""

import multiprocessing
import os
from pathlib import Path

import pytest

from light_llm.runtime import lock_folder, unlock


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no processes are forked here")
def test_a_forked_child_does_not_hold_the_lock_of_its_parent(tmp_path: Path) -> None:
    """The workers of torch's DataLoader live as long as the loader is read, and a run may end before."""
    handle = lock_folder(tmp_path)
    fork = multiprocessing.get_context("fork")
    started, end = fork.Event(), fork.Event()
    child = fork.Process(target=lambda: (started.set(), end.wait(10)))
    child.start()
    try:
        assert started.wait(10)
        with pytest.raises(BlockingIOError):
            lock_folder(tmp_path)
        unlock(handle)
        unlock(lock_folder(tmp_path))
    finally:
        end.set()
        child.join()
