"""Memory: what is free before something large is made, and the most that was taken."""

from contextlib import suppress

import torch

from ..runtime import memory_room, peak_memory, resident_memory


def free_memory(device: str) -> int | None:
    """Bytes that can still be taken; None where nothing says it."""
    if torch.device(device).type != "cpu":
        with suppress(Exception):  # a backend that does not say
            torch.accelerator.empty_cache()  # what an earlier model left there is free
            return int(torch.accelerator.get_memory_info(torch.device(device))[0])
        return None
    room = memory_room(device)
    return None if room is None else max(0, room.bytes - resident_memory())


def forget_peak(device: str) -> int:
    """Begin anew to look for the most that is taken. Returns what a later peak has to exceed to be known.

    On an accelerator that is nothing; the peak of a process cannot be forgotten.
    """
    if torch.device(device).type == "cpu":
        return peak_memory() or 0
    with suppress(Exception):
        torch.accelerator.reset_peak_memory_stats(torch.device(device))
    return 0


def most_taken(device: str) -> int | None:
    """The most bytes that were taken: on a CPU by the whole process so far. None where that is not known."""
    if torch.device(device).type == "cpu":
        return peak_memory()
    with suppress(Exception):
        return int(torch.accelerator.max_memory_allocated(torch.device(device))) or None
    return None
