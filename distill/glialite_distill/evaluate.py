"""How well a student does: Dice by region against the truth, beside other predictions."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from glialite_runtime import nifti
from glialite_runtime.cases import Case
from glialite_runtime.decode import decode
from glialite_runtime.errors import GeometryError, InputError
from glialite_runtime.metrics import dice_per_region, region_masks
from glialite_runtime.preprocess import preprocess, restore_logits, uncrop
from glialite_runtime.sequences import REGIONS, to_brats2023
from glialite_runtime.volume import Orientation, Volume, load_volume

from glialite_distill.student import Student
from glialite_distill.student_file import StudentFile, build_student

__all__ = [
    "CaseScore",
    "Source",
    "csv_text",
    "evaluate",
    "folder_source",
    "load_labels",
    "network_logits",
    "on_device",
    "score",
    "scores_json",
    "student_source",
    "summarise",
    "table",
]

Labels = npt.NDArray[np.uint8]
Source = Callable[[Case, Volume], Labels]
"""Something that segments: takes a case and its images, gives labels (z, y, x) in LPS of the whole image."""


@dataclass(frozen=True, slots=True)
class CaseScore:
    """One prediction of one case against the truth.

    Attributes
    ----------
    source, case : str
        Whose prediction of what.
    dice : tuple of float
        In the order of `REGIONS`; NaN where neither truth nor prediction has the region.
    false_positive_ml : float
        Predicted WT in mL where the truth has no tumour at all; NaN where it has one.
    """

    source: str
    case: str
    dice: tuple[float, float, float]
    false_positive_ml: float


def on_device(network: Student, device: torch.device) -> Student:
    """Move a network to a device, in the memory layout whose 3-D convolutions are fastest there."""
    return network.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload] # not in the stubs


def network_logits(network: Student, image: npt.NDArray[np.float32], device: torch.device) -> npt.NDArray[np.float32]:
    """Return logits (3, z, y, x) of a whole normalised case (4, z, y, x), any shape, in FP32.

    The case is padded behind with zeros, the background after z-scoring, to multiples of the student's divisor.
    """
    divisor, shape = network.spec.divisor, image.shape[1:]
    padding = [(0, 0), *((0, -n % divisor) for n in shape)]
    tensor = torch.from_numpy(np.pad(image, padding))[None].to(device)
    with torch.inference_mode():
        logits = network(tensor.contiguous(memory_format=torch.channels_last_3d))[0]
    z, y, x = shape
    return np.ascontiguousarray(logits[:, :z, :y, :x].float().cpu().numpy())


def student_source(file: StudentFile, device: torch.device) -> Source:
    """Return the predictions of a student in FP32, through the runtime's own preprocessing and decoding."""
    network = on_device(build_student(file), device)

    def predict(case: Case, volume: Volume) -> Labels:
        del case
        image, geometry = preprocess(volume, file.spacing_mm)
        logits = restore_logits(network_logits(network, image, device), geometry)
        has_t1c = "t1c" in volume.sequences
        return uncrop(decode(logits, file.decision, volume.voxel_mm3, has_t1c=has_t1c), geometry)

    return predict


def folder_source(folder: Path) -> Source:
    """Return predictions that lie in a folder, as `<case>/<case>-seg.nii.gz` or `<case>.nii.gz`.

    Raises
    ------
    InputError
        When used: a case has no file there, or it is not a label map.
    """

    def predict(case: Case, volume: Volume) -> Labels:
        candidates = [folder / case.name / f"{case.name}-seg.nii.gz", folder / f"{case.name}.nii.gz"]
        found = [path for path in candidates if path.is_file()]
        if not found:
            raise InputError(f"case {case.name} has no prediction: neither {candidates[0]} nor {candidates[1]} exists")
        return load_labels(found[0], volume)

    return predict


def load_labels(path: Path, volume: Volume, convention: str = "brats2023") -> Labels:
    """Return a label map (z, y, x) in LPS with BraTS-2023 values.

    The voxels must match those of the images; the origin in the header need not (label maps often carry a foreign one).

    Raises
    ------
    GeometryError
        The shape is not that of the images.
    InputError
        A value that the convention does not have.
    """
    image = nifti.read(path)
    labels = Orientation.of(image.affine).to_lps(image.data)
    if labels.shape != volume.channels[0].shape:
        raise GeometryError(
            f"{path} has the shape {labels.shape} (z, y, x), the images have {volume.channels[0].shape}; "
            "give a label map on the images' own grid"
        )
    return to_brats2023(labels, convention)


def score(source: str, case: str, prediction: Labels, truth: Labels, voxel_mm3: float) -> CaseScore:
    """Compare a prediction with the truth, both (z, y, x) on one grid; voxels of `voxel_mm3`."""
    predicted_ml = float(np.count_nonzero(region_masks(prediction)[0])) * voxel_mm3 / 1000
    return CaseScore(source, case, dice_per_region(prediction, truth), math.nan if truth.any() else predicted_ml)


def evaluate(cases: Sequence[Case], sources: Mapping[str, Source], convention: str = "brats2023") -> list[CaseScore]:
    """Score every source on every case.

    Parameters
    ----------
    cases : sequence of Case
        With label maps.
    sources : mapping of str to Source
        By the name in the table.
    convention : str
        Of the truth; see `LABEL_CONVENTIONS`.

    Raises
    ------
    InputError
        A case has no label map, or a source has no prediction for it.
    """
    labelled = [(case, case.label) for case in cases if case.label is not None]
    if len(labelled) < len(cases):
        unlabelled = ", ".join(case.name for case in cases if case.label is None)
        raise InputError(f"no label map (a file that ends in -seg.nii.gz) for {unlabelled}")
    scores = []
    for case, label in labelled:
        volume = load_volume(case)
        truth = load_labels(label, volume, convention)
        for name, source in sources.items():
            scores.append(score(name, case.name, source(case, volume), truth, volume.voxel_mm3))
    return scores


def _mean(values: Iterable[float]) -> tuple[float | None, int]:
    known = [v for v in values if not math.isnan(v)]
    return (sum(known) / len(known) if known else None), len(known)


def summarise(scores: Sequence[CaseScore]) -> list[dict[str, Any]]:
    """Return a row a source, ready for JSON: mean Dice by region, over how many cases, and false positives.

    A region absent in truth and prediction is left out of the mean (and of `counted`); None where nothing is left.
    """
    rows = []
    for source in dict.fromkeys(s.source for s in scores):
        own = [s for s in scores if s.source == source]
        means = {region: _mean(s.dice[i] for s in own) for i, region in enumerate(REGIONS)}
        false_ml, tumour_free = _mean(s.false_positive_ml for s in own)
        rows.append(
            {
                "source": source,
                "cases": len(own),
                "dice": {region: mean for region, (mean, _) in means.items()},
                "counted": {region: count for region, (_, count) in means.items()},
                "mean_dice": _mean(math.nan if m is None else m for m, _ in means.values())[0],
                "tumour_free_cases": tumour_free,
                "false_positive_ml": false_ml,
            }
        )
    return rows


def scores_json(scores: Sequence[CaseScore]) -> dict[str, Any]:
    """Return `summary` and `cases` ready for JSON; NaN is None."""
    cases = [
        {
            "case": s.case,
            "source": s.source,
            "dice": {r: None if math.isnan(d) else d for r, d in zip(REGIONS, s.dice, strict=True)},
            "false_positive_ml": None if math.isnan(s.false_positive_ml) else s.false_positive_ml,
        }
        for s in scores
    ]
    return {"summary": summarise(scores), "cases": cases}


def table(scores: Sequence[CaseScore]) -> str:
    """Return the summary as text for people: one line a source."""

    def cell(value: float | None, count: int) -> str:
        return f"{'-' if value is None else f'{value:.3f}':>7} ({count})"

    rows = summarise(scores)
    width = max([6, *(len(row["source"]) for row in rows)])
    lines = [f"{'Dice':<{width}}  " + "  ".join(f"{r:>7} (n)" for r in REGIONS) + "     mean  false mL (n)"]
    for row in rows:
        cells = "  ".join(cell(row["dice"][r], row["counted"][r]) for r in REGIONS)
        mean = "-" if row["mean_dice"] is None else f"{row['mean_dice']:.3f}"
        false_ml = "-" if row["false_positive_ml"] is None else f"{row['false_positive_ml']:.1f}"
        lines.append(f"{row['source']:<{width}}  {cells}  {mean:>7}  {false_ml:>8} ({row['tumour_free_cases']})")
    return "\n".join(lines)


def csv_text(scores: Sequence[CaseScore]) -> str:
    """Return a line a case and source: case, source, dice_WT, dice_TC, dice_ET, false_positive_ml; NaN is empty."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(["case", "source", *(f"dice_{r}" for r in REGIONS), "false_positive_ml"])
    for s in scores:
        values = (*s.dice, s.false_positive_ml)
        writer.writerow([s.case, s.source, *("" if math.isnan(v) else f"{v:.6f}" for v in values)])
    return stream.getvalue()
