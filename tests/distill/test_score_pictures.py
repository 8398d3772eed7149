"""Pictures of scores: they are written, and show what is in the data."""

from __future__ import annotations

import math
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest
from glialite_distill.label_maps import Pair, read_pair
from glialite_distill.score_pictures import find_image, write_agreement, write_bars, write_case
from glialite_distill.scores import Score
from matplotlib.image import imread

from tests.conftest import save, toy
from tests.conftest import write_case as write_toy

GREEN = np.array([64, 224, 96]) / 255


def scores(models: tuple[str, ...] = ("first", "second")) -> list[Score]:
    """Return scores of two cases; the region ET has none."""
    values = {"ET": math.nan, "TC": 0.4, "WT": 0.8}
    return [
        Score(m, c, r, 10.0, 12.0, MappingProxyType({"Dice": d, "HD95": 5.0, "Volume_Error_mL": 2.0}))
        for m in models for c in ("a", "b") for r, d in values.items()
    ]  # fmt: skip


@pytest.mark.parametrize("count", [1, 2, 4])
def test_bars_are_drawn_for_any_number_of_models(count: int, tmp_path: Path) -> None:
    """Also where a region has no score and where every case scores the same."""
    write_bars(tmp_path / "bars.png", scores(tuple("abcd"[:count])))
    picture = imread(tmp_path / "bars.png")
    assert picture.shape[0] > 200
    assert len(np.unique(picture.reshape(-1, picture.shape[2]), axis=0)) > 10


def test_agreement_is_drawn_without_spread_and_without_cases(tmp_path: Path) -> None:
    """One case, no spread, no case: no limits, and still a picture."""
    few = [s for s in scores(("m",)) if s.region != "ET"][:3]
    write_agreement(tmp_path / "a.png", few)
    assert imread(tmp_path / "a.png").shape[1] > 600


def pair_of(folder: Path) -> Pair:
    """Return a toy case against itself without its enhancing tumour."""
    write_toy(folder / "P1", toy())
    case = toy()
    other = save(folder / "p" / "P1.nii.gz", np.where(case.labels == 3, 2, case.labels).astype(np.uint8), case.affine)
    return read_pair(folder / "P1" / "P1-seg.nii.gz", other, ("brats2023", "brats2023"))


def outline(picture: np.ndarray) -> int:
    """Return how many pixels have the colour of WT's outline."""
    return int((np.abs(picture[..., :3] - GREEN).max(axis=-1) < 0.02).sum())


def greys(picture: np.ndarray) -> int:
    """Return how many pixels are neither coloured nor nearly black or white."""
    red, green, blue = (picture[..., n] for n in range(3))
    return int(((red == green) & (green == blue) & (red > 0.1) & (red < 0.9)).sum())


def test_a_case_is_drawn_on_its_scan(tmp_path: Path) -> None:
    """Outlines are there, and grey values of the scan: more of them than on a black background."""
    pair, score = pair_of(tmp_path), scores()[2]
    image = find_image(tmp_path / "P1" / "P1-seg.nii.gz", "P1", "WT")
    assert image is not None
    assert image.name == "P1-t2f.nii.gz"
    write_case(tmp_path / "scan.png", score, pair, image)
    write_case(tmp_path / "black.png", score, pair, None)
    scan, black = imread(tmp_path / "scan.png"), imread(tmp_path / "black.png")
    assert outline(scan) > 100
    assert outline(black) > 100
    assert greys(scan) > 3 * greys(black)  # the letters and the edges of the outlines are grey on both


def test_a_scan_of_another_shape_is_not_drawn_on(tmp_path: Path) -> None:
    """The background stays black rather than wrong."""
    pair, score = pair_of(tmp_path), scores()[2]
    other = save(tmp_path / "other.nii.gz", np.ones((4, 4, 4), np.int16), toy().affine)
    write_case(tmp_path / "a.png", score, pair, other)
    write_case(tmp_path / "b.png", score, pair, None)
    np.testing.assert_array_equal(imread(tmp_path / "a.png"), imread(tmp_path / "b.png"))


def test_the_core_is_shown_on_contrast(tmp_path: Path) -> None:
    """T1c for TC and ET; without any scan there is none."""
    pair_of(tmp_path)
    label_map = tmp_path / "P1" / "P1-seg.nii.gz"
    found = find_image(label_map, "P1", "ET")
    assert found is not None
    assert found.name == "P1-t1c.nii.gz"
    assert find_image(tmp_path / "p" / "P1.nii.gz", "P1", "ET") is None
