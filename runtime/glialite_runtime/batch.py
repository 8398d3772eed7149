"""Many cases: as many at a time as the computer has cores and memory for, each on one thread.

A case alone leaves cores idle while it is read and written; side by side, one case is read and another written while a
third is in the network.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, TypeVar

from glialite_runtime.cases import Case
from glialite_runtime.clinic.arrivals import Arrival, open_arrival
from glialite_runtime.errors import GliaLiteError, InputError, OutputError
from glialite_runtime.resources import available_bytes, usable_cores

__all__ = ["plan_workers", "run_side_by_side", "work_on_arrival"]

_CASE_BYTES: Final = 270e6
"""Memory of a case of 240×240×155 voxels in work, libraries left out, measured by `bench/speed.py`."""

_RAW_CASE_BYTES: Final = 390e6
"""Largest memory of `glialite segment --raw` with a synthetic head (`bench/synthetic_heads.py`), by GNU time."""

T = TypeVar("T")
R = TypeVar("R")


def plan_workers(cases: int, threads: int = 0, *, low_memory: bool = False, raw: bool = False) -> int:
    """Return how many cases are worked on at a time: one a thread, as far as free memory goes; at least one.

    Parameters
    ----------
    cases : int
        How many there are.
    threads : int
        Most threads; 0: one a core that this process may use.
    low_memory : bool
        One at a time.
    raw : bool
        They are aligned first, which takes more memory.
    """
    if low_memory:
        return 1
    room = available_bytes() // (_RAW_CASE_BYTES if raw else _CASE_BYTES)
    return int(max(1, min(threads or usable_cores(), cases, room)))


def run_side_by_side(items: Sequence[T], work: Callable[[T], R], workers: int) -> Iterator[tuple[T, R | InputError]]:
    """Yield each item with what `work` made of it, in the order of `items`.

    An `InputError` is yielded in place of a result, and the others go on. Any other error stops what has not begun and
    is raised when those before it have been yielded.
    """
    with ThreadPoolExecutor(workers) as pool:
        pending = [pool.submit(work, item) for item in items]
        try:
            for item, future in zip(items, pending, strict=True):
                try:
                    yield item, future.result()
                except InputError as error:
                    yield item, error
        except (GliaLiteError, OSError, KeyboardInterrupt, GeneratorExit):
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def work_on_arrival(arrival: Arrival, out: Path, channel_order: Sequence[str] | None, work: Callable[[Case], R]) -> R:
    """Return what `work` makes of an arrival; what is unpacked or converted lies beside the results until the end.

    Raises
    ------
    InputError
        The arrival cannot be taken.
    OutputError
        The folder for what is unpacked cannot be made.
    """
    if not arrival.needs_room:
        return work(open_arrival(arrival, out, channel_order))
    try:
        out.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(prefix=".glialite-", dir=out, ignore_cleanup_errors=True)
    except OSError as error:
        raise OutputError(f"cannot write into {out}: {error.strerror or error}; free space") from error
    with made as scratch:
        return work(open_arrival(arrival, Path(scratch), channel_order))
