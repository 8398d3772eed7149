"""The lesion-wise scores of the BraTS challenges: every lesion counts, and every false one costs.

What the challenges publish is reproduced, including what is odd in the 2024 version; see `Definition`.

Source: the definition in the README of github.com/rachitsaluja/BraTS-2023-Metrics and its successor for 2024.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import product
from types import MappingProxyType
from typing import Final

import numpy as np
import numpy.typing as npt
from glialite_runtime.decode import components
from glialite_runtime.metrics import dice
from glialite_runtime.sequences import NETC, REGION_LABELS

from glialite_distill.lesion_definitions import Definition
from glialite_distill.surface_distance import (
    Overlap,
    Surface,
    bounding_box,
    hd95_mm,
    normalised_surface_dice,
    surface_of,
)

__all__ = ["LesionwiseScore", "lesionwise_scores"]

_LABELS: Final = MappingProxyType({"ET": REGION_LABELS["ET"], "TC": REGION_LABELS["TC"], "WT": REGION_LABELS["WT"]})
_NEIGHBOURS18: Final = tuple(o for o in product((-1, 0, 1), repeat=3) if 0 < sum(map(abs, o)) < 3)

Parts = npt.NDArray[np.integer]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class LesionwiseScore:
    """Scores of one region of one case.

    Attributes
    ----------
    true_positives, false_positives, false_negatives : int
        Lesions of the reference that were hit, predicted ones that hit none, lesions of the reference that were missed.
    sensitivity, specificity : float
        See `Definition.joins_prediction` for what they are in 2024.
    whole : Overlap
        Of the whole image, as before there were lesions.
    lesions : Overlap
        Mean over the reference's lesions that count and the invented ones.
    reference_mm3 : float
        Volume of the region in the reference.
    """

    true_positives: int
    false_positives: int
    false_negatives: int
    sensitivity: float
    specificity: float
    whole: Overlap
    lesions: Overlap
    reference_mm3: float


def lesionwise_scores(
    reference: Parts, prediction: Parts, spacing_mm: tuple[float, float, float], definition: Definition
) -> dict[str, LesionwiseScore]:
    """Return region -> scores of a case, regions in the order ET, TC, WT.

    Parameters
    ----------
    reference, prediction : int array, three axes, one shape
        BraTS-2023 labels, in the axes of the file: they number the lesions (see `Definition.joins_prediction`).
    spacing_mm : tuple of float
        Voxel size along the axes.
    definition : Definition
        What counts.

    Returns
    -------
    dict
        A region that is absent on both sides scores Dice 1, HD95 0, NSD 1; one that is absent on one side scores Dice
        0, HD95 `penalty_mm`, NSD 0. A reference of ignored lesions only counts as absent.
    """
    if reference.shape != prediction.shape:
        raise ValueError(f"label maps of different shapes: {reference.shape} and {prediction.shape}")
    box = bounding_box((reference > 0) | (prediction > 0), max(definition.dilation, definition.netc_dilation or 0))
    penalty = definition.penalty_mm if definition.penalty_mm is not None else math.hypot(*reference.shape)
    found = {}
    for region in _LABELS:
        truth = _reference_lesions(reference[box], region, definition)
        predicted = _predicted_lesions(prediction[box], region, definition)
        found[region] = _score(_Pair(truth, predicted, spacing_mm, reference.size), region, definition, penalty)
    return found


def _dilated(mask: Mask, steps: int) -> Mask:
    from scipy import ndimage  # noqa: PLC0415 - half a second that `--help` need not pay

    structure = ndimage.generate_binary_structure(3, 2)
    grown: Mask = ndimage.binary_dilation(mask, structure, iterations=steps)
    return grown


def _joined(mask: Mask, steps: int) -> Parts:
    """Return the lesions of a mask, components that meet when dilated being one; the last axis is numbered first."""
    labelled, _ = components(_dilated(mask, steps))
    return np.where(mask, labelled, 0)


def _without_ignored(lesions: Parts, voxels: int) -> Parts:
    keep = np.bincount(lesions.ravel()) > voxels
    keep[0] = False
    return np.where(keep[lesions], lesions, 0)


def _reference_lesions(labels: Parts, region: str, definition: Definition) -> Parts:
    lesions = _joined(np.isin(labels, _LABELS[region]), definition.dilation)
    if region != "ET" or definition.netc_dilation is None:
        return lesions
    return _joined_by(lesions, _joined(labels == NETC, definition.netc_dilation))


def _predicted_lesions(labels: Parts, region: str, definition: Definition) -> Parts:
    mask = np.isin(labels, _LABELS[region])
    if not definition.joins_prediction:
        return components(mask)[0]
    lesions = _without_ignored(_joined(mask, definition.dilation), definition.ignored[region])
    if region != "ET" or definition.netc_dilation is None:
        return lesions
    netc = _joined(labels == NETC, definition.netc_dilation)
    return _joined_by(lesions, _without_ignored(netc, definition.ignored["NETC"]))


def _joined_by(lesions: Parts, others: Parts) -> Parts:
    """Return lesions of which those whose first touching lesion of the others is the same are one, numbered from 1.

    Those that touch none come first, then the others by the lesion that they touch.
    """
    around = np.pad(others, 1)
    at = np.nonzero(lesions)
    touching: set[tuple[int, int]] = set()
    for offset in _NEIGHBOURS18:
        beside = around[tuple(a + 1 + o for a, o in zip(at, offset, strict=True))]
        hit = beside > 0
        touching |= set(zip(lesions[at][hit].tolist(), beside[hit].tolist(), strict=True))
    highest = int(lesions.max(initial=0))
    numbers = np.arange(highest + 1)
    if len(touching) > 1:
        pairs = sorted(touching)
        rank = {other: highest + 1 + n for n, other in enumerate(dict.fromkeys(other for _, other in pairs))}
        for lesion, other in reversed(pairs):  # the first of a lesion's pairs has the last word
            numbers[lesion] = rank[other]
    present = np.unique(numbers[np.unique(lesions)])
    return np.where(lesions > 0, np.searchsorted(present, numbers[lesions]) + int(present[0] > 0), 0)


@dataclass(frozen=True, slots=True)
class _Pair:
    """Lesion maps of reference and prediction on one crop, of an image of so many voxels."""

    truth: Parts
    predicted: Parts
    spacing_mm: tuple[float, float, float]
    image_voxels: int


def _score(pair: _Pair, region: str, definition: Definition, penalty_mm: float) -> LesionwiseScore:
    surfaces = surface_of(pair.truth, pair.spacing_mm), surface_of(pair.predicted, pair.spacing_mm)
    voxel_mm3 = math.prod(pair.spacing_mm)
    hits = _hits(pair, definition.dilation)
    sizes = np.bincount(pair.truth.ravel(), minlength=len(hits) + 1)
    counted = [n for n in hits if sizes[n] * voxel_mm3 > definition.ignored[region]]
    everything = set(np.unique(pair.predicted[pair.predicted > 0]).tolist())
    invented = len(everything.difference(*hits.values()))
    lesions = [_lesion(pair, surfaces, n, sorted(hits[n])) for n in counted]
    sensitivity, specificity = _rates(pair, definition.joins_prediction)
    return LesionwiseScore(
        sum(bool(hits[n]) for n in counted),
        invented,
        sum(not hits[n] for n in counted),
        sensitivity,
        specificity,
        _whole(pair, surfaces, definition, penalty_mm),
        _mean(lesions, invented, penalty_mm),
        float(np.count_nonzero(pair.truth)) * voxel_mm3,
    )


def _hits(pair: _Pair, steps: int) -> dict[int, set[int]]:
    """Return lesion of the reference -> predicted ones that reach within `steps` of dilation of it."""
    from scipy import ndimage  # noqa: PLC0415

    found = {}
    for lesion, where in enumerate(ndimage.find_objects(pair.truth), 1):
        box = tuple(slice(max(s.start - steps, 0), s.stop + steps) for s in where)
        near = pair.predicted[box][_dilated(pair.truth[box] == lesion, steps)]
        found[lesion] = set(np.unique(near[near > 0]).tolist())
    return found


def _lesion(pair: _Pair, surfaces: tuple[Surface, Surface], lesion: int, hits: list[int]) -> Overlap:
    if not hits:
        return Overlap(0.0, math.inf, 0.0, 0.0)
    truth, predicted = surfaces[0].only([lesion]), surfaces[1].only(hits)
    overlap = dice(pair.truth == lesion, np.isin(pair.predicted, hits))
    return Overlap(overlap, hd95_mm(truth, predicted), *normalised_surface_dice(truth, predicted))


def _mean(lesions: list[Overlap], invented: int, penalty_mm: float) -> Overlap:
    count = len(lesions) + invented
    if not count:
        return Overlap(1.0, 0.0, 1.0, 1.0)
    distances = [o.hd95_mm if math.isfinite(o.hd95_mm) else penalty_mm for o in lesions] + [penalty_mm] * invented
    sums = (
        sum(o.dice for o in lesions),
        sum(distances),
        sum(o.nsd_half for o in lesions),
        sum(o.nsd_one for o in lesions),
    )
    return Overlap(*(value / count for value in sums))


def _whole(pair: _Pair, surfaces: tuple[Surface, Surface], definition: Definition, penalty_mm: float) -> Overlap:
    truth, predicted = pair.truth > 0, pair.predicted > 0
    overlap = dice(truth, predicted)
    if definition.joins_prediction:
        values = (surface_of(p, pair.spacing_mm, numbers_as_values=True) for p in (pair.truth, pair.predicted))
        distance = hd95_mm(*values)
    else:
        distance = hd95_mm(*surfaces)
    return Overlap(
        1.0 if math.isnan(overlap) else overlap,
        distance if math.isfinite(distance) else penalty_mm,
        *normalised_surface_dice(*surfaces),
    )


def _rates(pair: _Pair, numbers: bool) -> tuple[float, float]:
    """Return sensitivity and specificity; with `numbers`, of the lesions' numbers (see `Definition`)."""
    truth, predicted = (p if numbers else (p > 0).astype(np.int64) for p in (pair.truth, pair.predicted))
    true_positives = int(np.count_nonzero((predicted == 1) & (truth == 1)))
    true_negatives = pair.image_voxels - int(np.count_nonzero((predicted == 1) | (truth == 1)))
    positives, predicted_positives = int(truth.sum()), int(predicted.sum())
    sensitivity = true_positives / positives if positives else float(not predicted_positives)
    negatives = true_negatives + predicted_positives - true_positives
    return sensitivity, true_negatives / negatives if negatives else 0.0
