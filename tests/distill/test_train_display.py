"""What a training shows: curves of blocks, one line where there is no terminal."""

from __future__ import annotations

import io
import sys

import pytest
from glialite_distill.history import HistoryRow
from glialite_distill.train import Progress
from glialite_distill.train_display import Picture, curve, duration, shown_on_stderr

ROW = HistoryRow(4, 0.1, 1, 1, 1, 1, 0, 0, 0, 0.5, 0.25, float("nan"))


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def progress(iteration: int, loss: float = 1.0, row: HistoryRow | None = None) -> Progress:
    return Progress(iteration, 8, loss, 60.0, row)


def test_a_curve_by_hand() -> None:
    """Nothing, half and all of one line."""
    assert curve([0, 1, 2], 10, 1) == [" ▄█"]


def test_a_curve_of_two_lines_fills_the_lower_one_first() -> None:
    """Half of the height is a full lower block."""
    assert curve([1, 2], 10, 2, (0, 2)) == [" █", "██"]


def test_a_long_curve_is_averaged_into_its_width() -> None:
    """Pairs become their means, and nothing is left over."""
    assert curve([0, 0, 2, 2, 1, 1], 3, 1) == [" █▄"]


@pytest.mark.parametrize("values", [[0.0], [2.0, 2.0], [-1.0, -1.0]])
def test_a_flat_curve_is_drawn(values: list[float]) -> None:
    """No division by nothing."""
    assert len(curve(values, 10, 1)[0]) == len(values)


def test_the_picture_holds_losses_and_each_region_that_has_a_dice() -> None:
    """A NaN is left out; the headline says how far it is."""
    picture = Picture()
    picture.add(progress(1, 2.0))
    picture.add(progress(2, 1.0, ROW))
    text = picture.text(progress(2, 1.0, ROW))
    assert "train: 2 of 8, loss 1.000, 1 min 00 s left" in text
    assert "1.000 at best" in text
    assert "Dice WT 0.500" in text
    assert "validation Dice ET" not in text


def test_the_picture_of_a_long_run_does_not_grow() -> None:
    """A hundred thousand iterations are as wide as a hundred, and their mean stays."""
    picture = Picture()
    for iteration in range(100_000):
        picture.add(progress(iteration % 7))
    assert len(picture._losses) < 120
    assert max(len(line) for line in picture.text(progress(1)).splitlines()[2:]) <= 60


def test_without_a_terminal_validations_and_the_end_are_lines(capsys: pytest.CaptureFixture[str]) -> None:
    """Iterations in between are silent for half a minute."""
    with shown_on_stderr() as show:
        for iteration, row in ((1, None), (2, None), (4, ROW), (5, None), (8, None)):
            show(progress(iteration, row=row))
    lines = capsys.readouterr().err.splitlines()
    assert [line.split(",")[0] for line in lines][-2:] == ["train: 4 of 8", "train: 8 of 8"]
    assert len(lines) <= 3


def test_on_a_terminal_curves_are_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """The last picture stays on the screen."""
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    with shown_on_stderr() as show:
        show(progress(4, 0.5, ROW))
        show(progress(8, 0.25))
    assert "validation Dice WT 0.500" in terminal.getvalue()
    assert "train: 8 of 8" in terminal.getvalue()
    assert "█" in terminal.getvalue()


@pytest.mark.parametrize(("seconds", "text"), [(9, "9 s"), (61, "1 min 01 s"), (7 * 3600 + 120, "7 h 02 min")])
def test_durations(seconds: float, text: str) -> None:
    """As a person says them."""
    assert duration(seconds) == text
