"""How a training looks while it runs: live curves on a terminal, else a plain line each half minute."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from glialite_distill.train import Progress

__all__ = ["Picture", "curve", "duration", "shown_on_stderr"]

Show = Callable[["Progress"], None]

_BLOCKS: Final = " ▁▂▃▄▅▆▇█"
_WIDTH: Final = 60  # characters of a curve
_ROWS: Final = 4  # lines of a curve
_REFRESH_S: Final = 0.2
_LINE_S: Final = 30.0


@contextmanager
def shown_on_stderr() -> Iterator[Show]:
    """Yield what shows a `Progress` on stderr: curves that are redrawn on a terminal, lines elsewhere."""
    if not sys.stderr.isatty():
        yield _lines()
        return
    from rich.console import Console  # noqa: PLC0415 - a tenth of a second that a terminal alone needs
    from rich.live import Live  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    picture = Picture()
    with Live(console=Console(stderr=True), auto_refresh=False) as live:
        last = 0.0

        def show(progress: Progress) -> None:
            nonlocal last
            picture.add(progress)
            now = time.monotonic()
            if now - last >= _REFRESH_S or progress.iteration == progress.iterations:
                last = now
                live.update(Text(picture.text(progress), no_wrap=True), refresh=True)

        yield show


class Picture:
    """The curves of a run: the loss, and the mean validation Dice of each validation."""

    def __init__(self) -> None:
        self._losses: list[float] = []
        self._every = 1  # iterations that a value of `_losses` is the mean of
        self._sum, self._count = 0.0, 0  # of the iterations since
        self._dices: list[tuple[float, float, float]] = []

    def add(self, progress: Progress) -> None:
        """Take note of an iteration; the memory that a long run needs does not grow."""
        self._sum, self._count = self._sum + progress.loss, self._count + 1
        if self._count == self._every:
            self._losses.append(self._sum / self._count)
            self._sum, self._count = 0.0, 0
        if len(self._losses) == 2 * _WIDTH:
            self._losses = [sum(pair) / 2 for pair in zip(self._losses[::2], self._losses[1::2], strict=True)]
            self._every *= 2
        if (row := progress.validated) is not None:
            self._dices.append((row.dice_wt, row.dice_tc, row.dice_et))

    def text(self, progress: Progress) -> str:
        """Return everything as lines of text."""
        lines = [_headline(progress), f"loss {min(self._losses, default=progress.loss):.3f} at best"]
        lines += curve(self._losses or [progress.loss], _WIDTH, _ROWS)
        for index, region in enumerate(("WT", "TC", "ET")):
            values = [row[index] for row in self._dices if row[index] == row[index]]  # a NaN is unequal to itself
            if values:
                lines += [f"validation Dice {region} {values[-1]:.3f} {curve(values, _WIDTH, 1, (0.0, 1.0))[0]}"]
        return "\n".join(lines)


def curve(values: Sequence[float], width: int, rows: int, limits: tuple[float, float] | None = None) -> list[str]:
    """Return values as columns of block characters, oldest left.

    Parameters
    ----------
    values : sequence of float
        Finite; at least one.
    width : int
        Most characters a line; more values are averaged.
    rows : int
        Lines.
    limits : tuple of float, optional
        What an empty and a full column mean; without, the smallest and the largest value.
    """
    count = min(width, len(values))
    edges = [round(i * len(values) / count) for i in range(count + 1)]
    means = [sum(values[a:b]) / (b - a) for a, b in pairwise(edges)]
    low, high = limits or (min(means), max(means))
    steps = (len(_BLOCKS) - 1) * rows
    heights = [round(min(1.0, max(0.0, (m - low) / ((high - low) or 1.0))) * steps) for m in means]
    full = len(_BLOCKS) - 1
    return ["".join(_BLOCKS[min(full, max(0, h - row * full))] for h in heights) for row in range(rows - 1, -1, -1)]


def _headline(progress: Progress) -> str:
    done = f"train: {progress.iteration} of {progress.iterations}, loss {progress.loss:.3f}"
    return f"{done}, {duration(progress.seconds_left)} left"


def duration(seconds: float) -> str:
    """Return a length of time as 4 h 07 min, 12 min 30 s or 9 s."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours} h {minutes:02} min" if hours else f"{minutes} min {whole % 60:02} s" if minutes else f"{whole} s"


def _lines() -> Show:
    last = 0.0

    def show(progress: Progress) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < _LINE_S and progress.validated is None and progress.iteration < progress.iterations:
            return
        last = now
        text = _headline(progress)
        if (row := progress.validated) is not None:
            text += f", validation Dice WT {row.dice_wt:.3f} TC {row.dice_tc:.3f} ET {row.dice_et:.3f}"
        print(text, file=sys.stderr)  # noqa: T201 - the line is what the person asked for

    return show
