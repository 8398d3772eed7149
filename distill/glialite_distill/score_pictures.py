"""Pictures of scores: bar charts by region and metric, Bland-Altman plots, worst cases with both outlines."""

from __future__ import annotations

import io
import math
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from glialite_runtime import nifti
from glialite_runtime.picture import COLOURS, PLANES, draw, largest_slices
from glialite_runtime.sequences import REGION_LABELS, REGIONS
from glialite_runtime.volume import Orientation

from glialite_distill.figures import new_figure, save_figure
from glialite_distill.label_maps import Pair
from glialite_distill.score_tables import SHOWN, agreement, headline
from glialite_distill.scores import ROWS, Score
from glialite_distill.surface_distance import bounding_box

__all__ = ["SEQUENCE_FOR", "find_image", "outline_key", "pixels_of", "write_agreement", "write_bars", "write_case"]

_DPI: Final = 110
_LEAST_ML: Final = 1.0  # height of an axis of volume differences, also where there are none
_MARGIN: Final = 10  # voxels
_UNIT_SCALE: Final = ("Dice", "NSD")
SEQUENCE_FOR: Final = {"WT": ("t2f", "t1c"), "TC": ("t1c", "t2f"), "ET": ("t1c", "t2f")}
"""Region -> the sequences that show it, the best first."""


def write_bars(path: Path, scores: Sequence[Score]) -> None:
    """Draw a panel a metric: bars of the mean by region, models side by side, whiskers of one SD."""
    columns = [c for c in SHOWN if c in scores[0].values and "Volume" not in c]
    models = list(dict.fromkeys(s.model for s in scores))
    across = min(len(columns), 4)
    down = math.ceil(len(columns) / across)
    figure = new_figure(3.4 * across, 2.9 * down + 0.4, _DPI)
    panels = figure.subplots(down, across, squeeze=False).ravel()
    for axes, column in zip(panels, columns, strict=False):
        title = SHOWN[column][0]
        unit = any(word in title for word in _UNIT_SCALE)
        for number, model in enumerate(models):
            known = [
                [v for s in scores if (s.model, s.region) == (model, r) and not math.isnan(v := s.values[column])]
                for r in ROWS
            ]
            means = [statistics.fmean(v) if v else 0.0 for v in known]
            spread = [statistics.stdev(v) if len(v) > 1 else 0.0 for v in known]
            low = [min(m, s) for m, s in zip(means, spread, strict=True)]
            high = [min(s, 1 - m) if unit else s for m, s in zip(means, spread, strict=True)]
            at = np.arange(len(ROWS)) + (number - (len(models) - 1) / 2) * 0.8 / len(models)
            axes.bar(at, means, 0.76 / len(models), yerr=(low, high), capsize=2, ecolor="0.35", label=model)
            for x, mean, values in zip(at, means, known, strict=True):
                text = (f"{mean:.2f}" if unit else f"{mean:.0f}") if values else "no case"
                axes.annotate(
                    text, (x, 0), (0, 3), textcoords="offset points", ha="center", fontsize=7,
                    rotation=90 if len(models) > 2 else 0, bbox={"fc": "white", "ec": "none", "alpha": 0.8, "pad": 0.6},
                )  # fmt: skip
        axes.set_xticks(range(len(ROWS)), ROWS)
        axes.set_title(title, fontsize=10)
        axes.grid(axis="y", alpha=0.3)
        axes.set_axisbelow(True)
        if unit:
            axes.set_ylim(0, 1)
    for axes in panels[len(columns) :]:
        axes.set_visible(False)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=min(len(models), 4))
    save_figure(path, figure)


def write_agreement(path: Path, scores: Sequence[Score]) -> None:
    """Draw Bland-Altman plots of the volumes: a row a model, a column a region."""
    models = list(dict.fromkeys(s.model for s in scores))
    figure = new_figure(11, 3.2 * len(models), _DPI)
    panels = figure.subplots(len(models), len(ROWS), squeeze=False)
    for model, line in zip(models, panels, strict=True):
        for region, axes in zip(ROWS, line, strict=True):
            found = agreement(s for s in scores if (s.model, s.region) == (model, region))
            axes.scatter(found.means_ml, found.differences_ml, s=14, alpha=0.7)
            for value, style in ((found.bias_ml, "-"), (found.low_ml, "--"), (found.high_ml, "--")):
                if not math.isnan(value):
                    axes.axhline(value, color="0.25", linestyle=style, linewidth=1)
                    axes.annotate(
                        f"{value:+.1f}", (1, value), (-2, 2), xycoords=("axes fraction", "data"),
                        textcoords="offset points", ha="right", fontsize=8,
                    )  # fmt: skip
            axes.set_title(f"{model}: {region}" if len(models) > 1 else region, fontsize=10)
            axes.set_xlabel("mean of true and predicted (mL)", fontsize=8)
            axes.grid(alpha=0.3)
            axes.margins(y=0.15)
            if found.differences_ml and np.ptp(axes.get_ylim()) < _LEAST_ML:
                axes.set_ylim(found.bias_ml - _LEAST_ML / 2, found.bias_ml + _LEAST_ML / 2)
        line[0].set_ylabel("predicted − true (mL)", fontsize=8)
    save_figure(path, figure)


def find_image(label_map: Path, case: str, region: str) -> Path | None:
    """Return the sequence beside a label map that shows a region best (FLAIR for WT, else T1c), or None."""
    candidates = (label_map.with_name(f"{case}-{sequence}.nii.gz") for sequence in SEQUENCE_FOR[region])
    return next((path for path in candidates if path.is_file()), None)


def write_case(path: Path, score: Score, pair: Pair, image: Path | None) -> None:
    """Draw a case: above the reference, below the prediction, three planes at the largest extent of its worst region.

    Parameters
    ----------
    path : Path
        PNG to write.
    score : Score
        Of the worst region; where the reference lacks it, the prediction's extent counts.
    pair : Pair
        Its label maps.
    image : Path or None
        Scan to draw on; without one the background is black.
    """
    reference, prediction = (pair.orientation.to_lps(labels) for labels in (pair.reference, pair.prediction))
    spacing = tuple(pair.spacing_mm[axis] for axis in pair.orientation.order)[::-1]
    channel = _channel(image, (reference > 0) | (prediction > 0))
    true, predicted = (np.isin(labels, REGION_LABELS[score.region]) for labels in (reference, prediction))
    at = largest_slices(true.astype(np.uint8), predicted)
    rows = []
    for labels in (reference, prediction):
        content = (draw(channel, np.ascontiguousarray(labels), p, at[p.axis], spacing) for p in PLANES)  # type: ignore[arg-type]  # three axes
        rows.append([pixels_of(png) for png in content])
    figure = new_figure(11, 7.6, _DPI)
    panels = figure.subplots(2, 3)
    for line, pictures, name in zip(panels, rows, ("reference", "prediction"), strict=True):
        for axes, picture, plane in zip(line, pictures, PLANES, strict=True):
            axes.imshow(picture)
            axes.set_title(f"{name}, {plane.name}", fontsize=9)
            axes.axis("off")
    shown = f"{SHOWN[headline(score)][0]} {score.region} {score.values[headline(score)]:.3f}"
    volumes = f"true {score.reference_ml:.1f} mL, predicted {score.predicted_ml:.1f} mL"
    figure.suptitle(f"{score.case} by {score.model}: {shown}; {volumes}", fontsize=11)
    figure.legend(handles=outline_key(), loc="outside lower center", ncols=len(REGIONS))
    save_figure(path, figure)


def _channel(image: Path | None, tumour: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
    """Return an image in LPS; where none lies on the label maps' grid, a black box around the tumour."""
    if image is not None:
        found = nifti.read(image)
        channel = Orientation.of(found.affine).to_lps(found.data)
        if channel.shape == tumour.shape:
            return channel
    black = np.zeros(tumour.shape, np.uint8)
    black[bounding_box(tumour, _MARGIN)] = 1  # of one value: drawn black, and cropped to
    return black


def outline_key() -> list[Any]:
    """Return what a legend needs to say which outline is which region's."""
    from matplotlib.lines import Line2D  # noqa: PLC0415

    styles = zip(REGIONS, ("-", "--", ":"), strict=True)
    return [Line2D([], [], color="#{:02x}{:02x}{:02x}".format(*COLOURS[r]), ls=s, lw=2, label=r) for r, s in styles]


def pixels_of(png: bytes) -> npt.NDArray[Any]:
    """Return the pixels (row, column, colour) of a picture that `draw` made, from 0 to 1."""
    from matplotlib.image import imread  # noqa: PLC0415

    pixels: npt.NDArray[Any] = imread(io.BytesIO(png), format="png")
    return pixels
