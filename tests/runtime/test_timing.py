"""The stopwatch, by a clock that the work itself moves."""

import pytest

from light_llm.runtime.timing import BusyMeter, time_calls


@pytest.mark.parametrize("seconds", [0.25, 1e-3, 0.0999, 0.0])
def test_each_repetition_is_the_time_of_one_call(seconds: float) -> None:
    now, calls = 0.0, 0

    def work() -> None:
        nonlocal now, calls
        calls += 1
        now += 1.0 if calls == 1 else max(seconds, 1e-7)  # the first call is slow, and not counted

    times = time_calls(work, repeats=4, min_seconds=0.1, clock=lambda: now)
    assert times == pytest.approx([max(seconds, 1e-7)] * 4)
    assert now - 1.0 < 4 * (0.11 + seconds) + 0.2, "repetitions longer than needed"
    assert now - 1.0 >= 4 * 0.1


def test_one_short_reading_does_not_make_a_repetition_long() -> None:
    """A clock that stands still at first, as a coarse one does: the number of calls grows tenfold at most."""
    readings = iter([0.0, 0.0, 0.0, 0.0])
    calls = 0

    def work() -> None:
        nonlocal calls
        calls += 1

    time_calls(work, repeats=1, min_seconds=0.1, clock=lambda: next(readings, calls * 0.02))
    assert calls <= 1 + 1 + 10


@pytest.mark.parametrize(("used", "busy"), [(1.0, False), (0.9, False), (0.5, True), (0.0, True)])
def test_a_thread_without_a_processor_means_other_programs(used: float, busy: bool) -> None:
    now = 5.0
    meter = BusyMeter(clock=lambda: now, processor=lambda: 7.0 + used * (now - 5.0))
    now = 7.0
    assert meter.share == pytest.approx(used) and meter.is_busy == busy


def test_clocks_that_were_just_read_tell_nothing() -> None:
    readings = iter([0.0, 1e-6])
    assert BusyMeter(clock=lambda: next(readings), processor=lambda: 0.0).share == 1.0
