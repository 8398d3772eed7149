"""The lesion-wise scores against the official ones and against scenes that are counted by hand."""

from __future__ import annotations

import csv
import math
import time
from pathlib import Path

import numpy as np
import pytest
from glialite_distill.label_maps import read_pair
from glialite_distill.lesion_definitions import definition_of
from glialite_distill.lesionwise import LesionwiseScore, lesionwise_scores
from glialite_distill.scores import COLUMNS, Settings, score_pair

CASES = ("00126", "00143", "00158", "00180", "00192", "00218")
SHAPE = (70, 24, 24)


@pytest.mark.parametrize("metric", ["brats-2023", "brats-2024"])
@pytest.mark.parametrize("number", CASES)
def test_official_scores_come_out(metric: str, number: str, real_data: Path) -> None:
    """Every column of every region of a real case to 1e-6, in at most 5 s of one core."""
    folder, case = real_data / "lesionwise", f"BraTS-SSA-{number}-000"
    with (folder / f"golden_{metric[-4:]}.csv").open() as stream:
        golden = {r["Labels"]: r for r in csv.DictReader(stream) if r["case"] == case}
    assert tuple(golden["ET"])[2:] == COLUMNS[metric]
    started = time.process_time()
    pair = read_pair(*(folder / m / f"{case}.nii.gz" for m in ("model_a", "model_b")), ("brats2023",) * 2)
    scores = score_pair("b", case, pair, Settings(metric, "ssa"))
    seconds = time.process_time() - started
    for score in scores:
        expected = {column: float(golden[score.region][column]) for column in COLUMNS[metric]}
        assert dict(score.values) == pytest.approx(expected, rel=0, abs=1e-6)
    assert seconds < 5


def scene(*cubes: tuple[int, int, int]) -> np.ndarray:
    """Return labels of cubes along the first axis, given as (start, size, label)."""
    labels = np.zeros(SHAPE, np.uint8)
    for start, size, label in cubes:
        labels[start : start + size, 8 : 8 + size, 8 : 8 + size] = label
    return labels


def scores(
    reference: np.ndarray, prediction: np.ndarray, metric: str = "brats-2023", challenge: str = "ssa"
) -> dict[str, LesionwiseScore]:
    """Return the scores at 1 mm."""
    return lesionwise_scores(reference, prediction, (1.0, 1.0, 1.0), definition_of(metric, challenge))


def counts(score: LesionwiseScore) -> tuple[int, int, int]:
    """Return hit, invented and missed lesions."""
    return score.true_positives, score.false_positives, score.false_negatives


@pytest.mark.parametrize("metric", ["brats-2023", "brats-2024"])
def test_a_hit_a_miss_and_an_invention(metric: str) -> None:
    """One lesion is met exactly, one missed, one invented: a third of everything, and two penalties."""
    found = scores(scene((5, 4, 2), (30, 4, 2)), scene((5, 4, 2), (55, 4, 2)), metric)["WT"]
    assert counts(found) == (1, 1, 1)
    assert found.lesions.dice == pytest.approx(1 / 3)
    assert found.lesions.hd95_mm == pytest.approx((0 + 374 + 374) / 3)
    assert (found.lesions.nsd_half, found.lesions.nsd_one) == pytest.approx((1 / 3, 1 / 3))
    assert found.whole.dice == pytest.approx(0.5)
    assert found.reference_mm3 == 128


def test_regions_come_in_the_tables_order() -> None:
    """ET, TC, WT; a lesion of NETC is one of TC and of WT, not of ET."""
    found = scores(scene((5, 4, 1)), scene())
    assert list(found) == ["ET", "TC", "WT"]
    assert [counts(s) for s in found.values()] == [(0, 0, 0), (0, 0, 1), (0, 0, 1)]


@pytest.mark.parametrize("metric", ["brats-2023", "brats-2024"])
def test_a_region_that_nobody_has_is_perfect(metric: str) -> None:
    """Dice 1, HD95 0, NSD 1, lesion-wise and whole."""
    for found in scores(scene(), scene(), metric).values():
        for overlap in (found.whole, found.lesions):
            assert (overlap.dice, overlap.hd95_mm, overlap.nsd_half, overlap.nsd_one) == (1, 0, 1, 1)
        assert (found.sensitivity, found.specificity) == (1, 1)


@pytest.mark.parametrize("invented", [True, False])
def test_a_region_that_one_side_has_is_the_worst(invented: bool) -> None:
    """Dice 0, NSD 0 and the penalty, whichever side it is."""
    maps = (scene(), scene((5, 4, 3))) if invented else (scene((5, 4, 3)), scene())
    found = scores(*maps)["ET"]
    assert counts(found) == ((0, 1, 0) if invented else (0, 0, 1))
    for overlap in (found.whole, found.lesions):
        assert (overlap.dice, overlap.hd95_mm, overlap.nsd_half, overlap.nsd_one) == (0, 374, 0, 0)


def box_of(voxels: int) -> np.ndarray:
    """Return a reference with one lesion of so many voxels."""
    labels = np.zeros(SHAPE, np.uint8)
    flat = labels[10:14, 10:14, 10:14].copy().reshape(-1)
    flat[:voxels] = 2
    labels[10:14, 10:14, 10:14] = flat.reshape(4, 4, 4)
    return labels


def test_lesions_of_fifty_voxels_do_not_count() -> None:
    """50 are ignored whether hit or not, 51 count."""
    assert counts(scores(box_of(50), scene())["WT"]) == (0, 0, 0)
    assert scores(box_of(50), scene())["WT"].lesions.dice == 1
    assert counts(scores(box_of(51), scene())["WT"]) == (0, 0, 1)


def test_a_small_invention_costs_in_2023_and_not_in_2024() -> None:
    """2024 drops predicted lesions of ignored size first, from the whole-image scores too."""
    reference, prediction = scene((5, 4, 2)), scene((5, 4, 2), (40, 3, 2))
    assert counts(scores(reference, prediction)["WT"]) == (1, 1, 0)
    found = scores(reference, prediction, "brats-2024")["WT"]
    assert counts(found) == (1, 0, 0)
    assert found.whole.dice == 1


@pytest.mark.parametrize(("gap", "lesions"), [(6, 1), (7, 2)])
def test_components_within_dilation_are_one_lesion(gap: int, lesions: int) -> None:
    """Three steps from either side bridge six voxels, not seven."""
    reference = scene((5, 4, 2), (9 + gap, 4, 2))
    assert counts(scores(reference, scene())["WT"]) == (0, 0, lesions)


def test_predicted_components_are_joined_in_2024_only() -> None:
    """Two near inventions are two in 2023 and one in 2024."""
    prediction = scene((5, 4, 2), (12, 4, 2))
    assert counts(scores(scene(), prediction)["WT"]) == (0, 2, 0)
    assert counts(scores(scene(), prediction, "brats-2024")["WT"]) == (0, 1, 0)


@pytest.mark.parametrize(("gap", "hit"), [(3, True), (4, False)])
def test_a_prediction_beside_a_lesion_hits_it(gap: int, hit: bool) -> None:
    """Within three steps it counts as hit, though with Dice 0; beyond as a miss and an invention."""
    found = scores(scene((5, 4, 2)), scene((9 + gap - 1, 4, 2)))["WT"]
    assert counts(found) == ((1, 0, 0) if hit else (0, 1, 1))
    assert found.lesions.dice == 0
    assert (found.lesions.hd95_mm < 374) == hit


@pytest.mark.parametrize(("below", "hit"), [(0, True), (3, False)])
def test_dilation_goes_across_edges_not_corners(below: int, hit: bool) -> None:
    """Three steps reach three voxels along two axes at once, and not along all three (18 neighbours)."""
    prediction = np.zeros(SHAPE, np.uint8)
    below_start = 11 + below if below else 8
    prediction[11:15, 14:18, below_start : below_start + 4] = 2
    reference = np.zeros(SHAPE, np.uint8)
    reference[5:9, 8:12, 8:12] = 2
    assert counts(scores(reference, prediction)["WT"]) == ((1, 0, 0) if hit else (0, 1, 1))


@pytest.mark.parametrize(("voxels", "invented"), [(50, 0), (51, 1)])
def test_predictions_of_fifty_voxels_are_dropped_in_2024(voxels: int, invented: int) -> None:
    """50 go, 51 stay."""
    assert counts(scores(scene(), box_of(voxels), "brats-2024")["WT"]) == (0, invented, 0)


def test_enhancing_lesions_of_one_core_are_one_in_2024() -> None:
    """Two ET lesions far apart at the ends of one NETC bar."""
    reference = scene((5, 4, 3), (30, 4, 3))
    reference[9:30, 8:10, 8:10] = 1
    assert counts(scores(reference, scene())["ET"]) == (0, 0, 2)
    assert counts(scores(reference, scene(), "brats-2024")["ET"]) == (0, 0, 1)
    assert counts(scores(reference, scene(), "brats-2024", "ped")["ET"]) == (0, 0, 2)


def test_the_penalty_is_the_challenges() -> None:
    """GLI 2024 takes 337, MET 2024 the image's diagonal."""
    reference = scene((5, 4, 2))
    assert scores(reference, scene(), "brats-2024", "gli")["WT"].lesions.hd95_mm == 337
    diagonal = math.sqrt(70**2 + 24**2 + 24**2)
    assert scores(reference, scene(), "brats-2024", "met")["WT"].lesions.hd95_mm == pytest.approx(diagonal)


def test_2024_takes_lesion_numbers_for_voxels() -> None:
    """Two lesions of 64, met exactly: sensitivity is 64 / (64 · 1 + 64 · 2), as upstream has it; 2023 says 1."""
    both = scene((5, 4, 2), (40, 4, 2))
    assert scores(both, both, "brats-2024")["WT"].sensitivity == pytest.approx(1 / 3)
    assert scores(both, both)["WT"].sensitivity == 1


def test_voxels_of_other_sizes_weigh_by_volume() -> None:
    """27 voxels of 8 mm³ are a lesion of 216 mm³, which counts; HD95 is in mm."""
    reference, prediction = scene((5, 3, 2)), scene((6, 3, 2))
    found = lesionwise_scores(reference, prediction, (2.0, 2.0, 2.0), definition_of("brats-2023", "ssa"))["WT"]
    assert counts(found) == (1, 0, 0)
    assert found.reference_mm3 == 216
    assert found.lesions.hd95_mm == 2


def test_other_shapes_are_an_error() -> None:
    """Broadcasting would give a number that means nothing."""
    with pytest.raises(ValueError, match="shapes"):
        scores(scene(), scene()[:-1])
