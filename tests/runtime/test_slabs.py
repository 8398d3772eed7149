"""Slabs: every plane once, with its neighbours, and never more at a time than allowed."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
from glialite_runtime.slabs import available_bytes, plan_slabs
from hypothesis import given
from hypothesis import strategies as st


@given(st.integers(1, 200), st.integers(0, 5), st.integers(1, 60))
def test_every_plane_is_kept_once_and_was_read_with_its_neighbours(depth: int, halo: int, most: int) -> None:
    """The kept slices join without gap or overlap; what is read goes `halo` further wherever the axis goes on."""
    slabs = plan_slabs(depth, halo, most)
    assert [place for slab in slabs for place in range(depth)[slab.keep]] == list(range(depth))
    for slab in slabs:
        assert slab.read == slice(max(0, slab.keep.start - halo), min(depth, slab.keep.stop + halo))
        assert range(depth)[slab.read][slab.inner] == range(depth)[slab.keep]
        assert slab.read.stop - slab.read.start <= max(most, 1 + 2 * halo)


def test_a_case_that_fits_is_one_slab() -> None:
    """Nothing is read twice without need."""
    (slab,) = plan_slabs(72, 2, 72)
    assert slab.read == slab.keep == slice(0, 72)


def test_the_pieces_are_as_few_as_possible() -> None:
    """72 planes, at most 28 at a time, 2 of them for the neighbours on either side: three slabs of 24."""
    assert [slab.keep for slab in plan_slabs(72, 2, 28)] == [slice(0, 24), slice(24, 48), slice(48, 72)]


def test_free_memory_is_told_or_unlimited() -> None:
    """A number of bytes above a megabyte, or infinity."""
    assert available_bytes() > 1e6


@pytest.mark.parametrize("text", ["", "MemTotal: 1 kB\n", "MemAvailable: many kB\n"])
def test_a_system_that_does_not_tell_sets_no_limit(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown kernel's /proc/meminfo is no reason to stop."""
    monkeypatch.setattr(Path, "open", lambda self, **_: io.StringIO(text))
    assert available_bytes() == math.inf
