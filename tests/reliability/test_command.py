"""How a run of the command is judged."""

from __future__ import annotations

import pytest

from bench.reliability.command import Ending, glialite


@pytest.mark.parametrize(
    ("ending", "fault"),
    [
        (Ending(0, "", 1.0, 300), ""),
        (Ending(3, "error: it is damaged", 1.0, 300), ""),
        (Ending(7, "error: the disk is full", 1.0, 300), ""),
        (Ending(1, "Traceback", 1.0, 300), "exit code 1"),
        (Ending(-11, "", 1.0, 300), "exit code -11"),
        (Ending(3, "", 6.0, 300), "took 6.0 s"),
        (Ending(3, "", 1.0, 900), "900 MB"),
    ],
)
def test_a_crash_a_hang_and_a_glutton_are_faults(ending: Ending, fault: str) -> None:
    """Done, refused and cannot-write are endings that are promised; all else is a fault."""
    assert (fault in ending.fault) if fault else ending.fault == ""


def test_the_command_is_really_run() -> None:
    """Its exit code and what it says come back."""
    ended = glialite("segment", "/nowhere", "--out", "/nowhere", "--bundle", "/nowhere")
    assert ended.code == 3
    assert "/nowhere" in ended.said
    assert ended.seconds > 0
