"""Cases side by side: results in order, bad input apart, no more at a time than memory allows."""

from __future__ import annotations

import math
import threading
import time

import pytest
from glialite_runtime import batch
from glialite_runtime.batch import plan_workers, run_side_by_side
from glialite_runtime.errors import InputError, OutputError


def test_results_come_in_the_order_of_the_cases() -> None:
    """The slow first one is not overtaken."""

    def work(n: int) -> int:
        time.sleep(0.05 if n == 0 else 0)
        return n * n

    assert list(run_side_by_side([0, 1, 2, 3], work, 2)) == [(0, 0), (1, 1), (2, 4), (3, 9)]


def test_two_are_in_work_at_the_same_time() -> None:
    """Each waits for the other; one after the other would never end."""
    barrier = threading.Barrier(2, timeout=10)
    assert [result for _, result in run_side_by_side([1, 2], lambda _: barrier.wait() >= 0, 2)] == [True, True]


def test_bad_input_does_not_stop_the_others() -> None:
    """It is handed over in the place of a result."""

    def work(n: int) -> int:
        if n == 1:
            raise InputError("broken")
        return n

    outcomes = [outcome for _, outcome in run_side_by_side([0, 1, 2], work, 2)]
    assert isinstance(outcomes[1], InputError)
    assert outcomes[::2] == [0, 2]


def test_a_full_disk_stops_what_has_not_begun() -> None:
    """Trying the other hundred cases would only fail a hundred times."""
    begun = []

    def work(n: int) -> None:
        begun.append(n)
        time.sleep(0.02)
        raise OutputError("disk full")

    with pytest.raises(OutputError):
        list(run_side_by_side(range(100), work, 2))
    assert len(begun) < 10


@pytest.mark.parametrize(
    ("cases", "threads", "free", "low_memory", "workers"),
    [
        (10, 4, math.inf, False, 4),
        (3, 4, math.inf, False, 3),
        (10, 4, 6e8, False, 2),
        (10, 4, 1e6, False, 1),
        (10, 4, math.inf, True, 1),
    ],
)
def test_workers_are_limited_by_cases_threads_and_memory(
    cases: int, threads: int, free: float, low_memory: bool, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The smallest of the three, and always one."""
    monkeypatch.setattr(batch, "available_bytes", lambda: free)
    assert plan_workers(cases, threads, low_memory=low_memory) == workers


def test_raw_cases_need_more_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where two others fit, only one of them does."""
    monkeypatch.setattr(batch, "available_bytes", lambda: 6e8)
    assert plan_workers(10, 4, raw=True) == 1
