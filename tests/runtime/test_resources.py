"""Free memory: told by the system, or no limit."""

from __future__ import annotations

import io
import math
from pathlib import Path

import pytest
from glialite_runtime.resources import available_bytes


def test_free_memory_is_told_or_unlimited() -> None:
    """A number of bytes above a megabyte, or infinity."""
    assert available_bytes() > 1e6


@pytest.mark.parametrize("text", ["", "MemTotal: 1 kB\n", "MemAvailable: many kB\n"])
def test_a_system_that_does_not_tell_sets_no_limit(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """An unknown kernel's /proc/meminfo is no reason to stop."""
    monkeypatch.setattr(Path, "open", lambda self, **_: io.StringIO(text))
    assert available_bytes() == math.inf
