"""Pictures of an evaluation: the worst cases with truth beside prediction, and Dice by subgroup."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from glialite_runtime.picture import COLOURS, PLANES, draw, largest_slices
from glialite_runtime.sequences import REGION_LABELS, REGIONS
from glialite_runtime.volume import Volume

from glialite_distill.evaluate_groups import Failure, Row, subgroups, worst_cases
from glialite_distill.evaluate_scores import Labels
from glialite_distill.figures import new_figure, save_figure
from glialite_distill.score_pictures import SEQUENCE_FOR, outline_key, pixels_of

__all__ = ["PICTURES", "Look", "write_pictures"]

PICTURES: Final = ("worst", "subgroups")
"""Beside a CSV `unseen.csv` they are called unseen-worst.png and unseen-subgroups.png."""

Look = Callable[[str], tuple[Volume, Labels, Labels]]
"""Name of a case -> its images, the truth and the prediction, both (z, y, x) on their grid."""

_PIXELS_PER_MM: Final = 1.4
_DPI: Final = 100
_GAP: Final = 6
_PAIR_GAP: Final = 18
_HEAD: Final = 34
_CAPTION: Final = 56  # above a strip: a space, two lines of text
_FOOT: Final = 34
_SMALL: Final = 8.5  # points
_LEAST_WIDTH: Final = 1100  # of a picture: captions must fit
_PALETTE: Final = [(v, v, v) for v in np.linspace(0, 255, 24).round().astype(int).tolist()] + [*COLOURS.values()]


@dataclass(frozen=True, slots=True)
class _Strip:
    """A case as it is shown: two lines of text, then for each plane the truth and the prediction."""

    lines: tuple[str, str]
    panels: tuple[npt.NDArray[Any], ...]

    @property
    def height(self) -> int:
        return max(panel.shape[0] for panel in self.panels)


def write_pictures(csv: Path, source: str, rows: Sequence[Row], look: Look) -> list[Path]:
    """Draw the worst cases of a source, and its Dice by subgroup, beside a CSV.

    Parameters
    ----------
    csv : Path
        Its stem begins the names.
    source : str
        Whose rows these are.
    rows : sequence of Row
        Of that source alone.
    look : Look
        Asked for the worst cases, four at most, one after the other.

    Returns
    -------
    list of Path
        What was written; without the worst cases when there is nothing to compare.
    """
    worst, groups = (csv.with_name(f"{csv.stem}-{name}.png") for name in PICTURES)
    written = []
    worst.unlink(missing_ok=True)  # an earlier one may show what is no longer so
    if failures := worst_cases(rows):
        _write_worst(worst, source, [_strip(failure, *look(failure.row["case"])) for failure in failures])
        written.append(worst)
    _write_subgroups(groups, source, subgroups(rows))
    return [*written, groups]


def _strip(failure: Failure, volume: Volume, truth: Labels, prediction: Labels) -> _Strip:
    """Draw a case at the largest extent of its worst region, of what is falsely outlined where the truth lacks it."""
    region, row = failure.region, failure.row
    sequence = next((s for s in SEQUENCE_FOR[region] if s in volume.sequences), volume.sequences[0])
    channel = volume.channels[volume.sequences.index(sequence)]
    true, predicted = (np.isin(labels, REGION_LABELS[region]) for labels in (truth, prediction))
    at = largest_slices(true.astype(np.uint8), predicted)
    panels = tuple(
        pixels_of(draw(channel, labels, plane, at[plane.axis], volume.spacing_mm, _PIXELS_PER_MM))
        for plane in PLANES
        for labels in (truth, prediction)
    )
    figures = "; ".join(_figures(row, r) for r in REGIONS if row["predicted_ml"][r] is not None)
    where = f"true {region}" if true.any() else f"falsely outlined {region}"
    title = f"{failure.title[0].upper()}{failure.title[1:]}: {row['case']}"
    return _Strip((title, f"{figures}. On {sequence}, in the slices with most {where}."), panels)


def _figures(row: Row, region: str) -> str:
    dice, true, predicted = (row[name][region] for name in ("dice", "true_ml", "predicted_ml"))
    shown = "none" if dice is None else f"Dice {dice:.2f}, {true:.1f} mL outlined as {predicted:.1f}"
    return f"{region} {shown}"


def _write_worst(path: Path, source: str, strips: Sequence[_Strip]) -> None:
    """Draw the strips below each other, pixel by pixel, so that no line is blurred."""
    columns = [max(strip.panels[n].shape[1] for strip in strips) for n in range(2 * len(PLANES))]
    gaps = [_PAIR_GAP if n % 2 else _GAP for n in range(len(columns))]
    width = max(_LEAST_WIDTH, sum(columns) + sum(gaps) + _PAIR_GAP)
    height = _HEAD + _FOOT + sum(strip.height + _CAPTION for strip in strips)
    figure = new_figure(width / _DPI, height / _DPI, _DPI)
    figure.set_layout_engine("none")

    def write(x: float, y: float, text: str, **style: Any) -> None:
        figure.text(x / width, 1 - y / height, text, va="top", parse_math=False, **style)

    write(_PAIR_GAP, 12, f"{source}: the worst cases, truth (left) beside prediction (right)", fontsize=12)
    top = _HEAD
    for number, strip in enumerate(strips):
        styles: tuple[dict[str, Any], ...] = {"fontsize": 10, "weight": "bold"}, {"fontsize": _SMALL}
        for line, style in enumerate(styles):
            write(_PAIR_GAP, top + 16 + 18 * line, strip.lines[line], **style)
        left, top = _PAIR_GAP, top + _CAPTION
        for column, panel in enumerate(strip.panels):
            down = (strip.height - panel.shape[0]) // 2
            across = 0 if column % 2 else columns[column] - panel.shape[1]  # the two of a pair touch
            figure.figimage(panel, left + across, height - top - down - panel.shape[0], origin="upper")
            if number == len(strips) - 1:
                name = f"{'prediction' if column % 2 else 'truth'}, {PLANES[column // 2].name}"
                write(left + columns[column] / 2, top + strip.height + 6, name, fontsize=_SMALL, ha="center")
            left += columns[column] + gaps[column]
        top += strip.height
    figure.legend(handles=outline_key(), loc="upper right", ncols=len(REGIONS), fontsize=_SMALL, frameon=False)
    save_figure(path, figure, _PALETTE)


def _write_subgroups(path: Path, source: str, groups: Iterable[tuple[str, Sequence[Row]]]) -> None:
    """Draw a panel a region and a line a subgroup: a dot a case, a bar and a number for the mean."""
    shown = list(groups)
    whole = sum(not rows[0]["withheld"] for _, rows in shown)
    figure = new_figure(11, 1.1 + 0.3 * len(shown), 90)
    panels = figure.subplots(1, len(REGIONS), sharey=True)
    for region, axes in zip(REGIONS, panels, strict=True):
        colour = tuple(0.8 * value / 255 for value in COLOURS[region])  # darker than an outline: the page is white
        for line, (_, rows) in enumerate(shown):
            dice = [row["dice"][region] for row in rows if row["dice"][region] is not None]
            if not dice:
                axes.text(0.5, line, "not reported", ha="center", va="center", fontsize=8, color="0.5")
                continue
            mean = sum(dice) / len(dice)
            axes.scatter(dice, [line] * len(dice), s=16, color=colour, alpha=0.45, linewidths=0, clip_on=False)
            axes.plot((mean, mean), (line - 0.36, line + 0.36), color="0.1", linewidth=2)
            axes.text(1.04, line, f"{mean:.2f}", va="center", fontsize=9)
        axes.set_title(region, fontsize=11)
        axes.set_xlim(0, 1)
        axes.set_xlabel("Dice; bar and number: mean", fontsize=9)
        axes.axhline(whole - 0.5, color="0.6", linewidth=0.8)  # below it, sequences were withheld
        axes.grid(alpha=0.3)
        axes.set_axisbelow(True)
        for side in ("top", "right", "left"):
            axes.spines[side].set_visible(False)
    panels[0].set_yticks(range(len(shown)), [f"{name} ({len(rows)})" for name, rows in shown], fontsize=9)
    panels[0].set_ylim(len(shown) - 0.5, -0.5)
    figure.suptitle(f"{source}: Dice by subgroup (cases)", fontsize=12, parse_math=False)
    save_figure(path, figure)
