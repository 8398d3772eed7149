"""Pictures of an evaluation: what is in them, and names that try to break them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from glialite_distill.evaluate_pictures import write_pictures
from glialite_runtime.cases import find_case
from glialite_runtime.picture import COLOURS
from glialite_runtime.volume import Volume, load_volume
from matplotlib.image import imread

from .test_evaluate_groups import row

Labels = np.ndarray
NOTHING = (0.0, 0.0, 0.0)


@pytest.fixture
def volume(case_folder: Path) -> Volume:
    """Return the images of a toy case."""
    return load_volume(find_case(case_folder))


def ball(volume: Volume, radius: float) -> Labels:
    """Return a label map (z, y, x): a ball of enhancing tumour in the middle; radius in voxels."""
    at = np.indices(volume.channels[0].shape)
    middle = np.array(at.shape[1:])[:, None, None, None] / 2
    return np.where(((at - middle) ** 2).sum(0) < radius**2, 3, 0).astype(np.uint8)


def coloured(path: Path, region: str, columns: slice = slice(None)) -> int:
    """Return how many pixels of a picture, below its key, have the colour of a region's outline."""
    pixels = imread(path)[40:, columns, :3]
    return int((np.abs(pixels - np.array(COLOURS[region]) / 255).max(axis=-1) < 0.02).sum())


def test_truth_lies_beside_the_prediction(volume: Volume, tmp_path: Path) -> None:
    """A prediction of nothing leaves outlines in the left half of each pair alone; each case is looked at once."""
    asked: list[str] = []

    def look(case: str) -> tuple[Volume, Labels, Labels]:
        asked.append(case)
        return volume, ball(volume, 9), ball(volume, 0)

    rows = [row(case, (0.0, 0.0, 0.0), (25, 25, 25), NOTHING) for case in "abcdef"]
    worst, groups = write_pictures(tmp_path / "x.csv", "it", rows, look)
    assert (worst.name, groups.name) == ("x-worst.png", "x-subgroups.png")
    assert len(asked) == len(set(asked)) == 4
    assert coloured(worst, "ET") > 500
    across = np.flatnonzero((np.abs(imread(worst)[40:, :, :3] - np.array(COLOURS["ET"]) / 255).max(-1) < 0.02).any(0))
    assert 1 + int((np.diff(across) > 60).sum()) == 3  # an outline a plane
    both, _ = write_pictures(tmp_path / "y.csv", "it", rows, lambda case: (volume, ball(volume, 9), ball(volume, 9)))
    assert coloured(both, "ET") == pytest.approx(2 * coloured(worst, "ET"), rel=0.02)


def test_pictures_are_small(volume: Volume, tmp_path: Path) -> None:
    """A byte a pixel, and white paper around; they travel with a bundle."""
    written = write_pictures(
        tmp_path / "x.csv",
        "it",
        [row(c, (0.5, 0.5, 0.5)) for c in "abcd"],
        lambda case: (volume, *[ball(volume, 9)] * 2),
    )
    assert all(path.stat().st_size < 300_000 for path in written)
    assert written[0].read_bytes()[24:26] == b"\x08\x03"  # eight bits, palette
    assert all((imread(path)[-1, :, :3] == 1).all() for path in written)


def test_what_is_falsely_outlined_is_shown(volume: Volume, tmp_path: Path) -> None:
    """In a brain without a tumour the slices are those of the prediction's largest extent."""
    false = np.roll(ball(volume, 5), 12, axis=0)
    rows = [row("healthy", (0.0, 0.0, 0.0), NOTHING, (4, 4, 4))]
    worst, _ = write_pictures(tmp_path / "x.csv", "it", rows, lambda case: (volume, 0 * false, false))
    assert coloured(worst, "ET") > 50


def test_without_a_failure_there_are_only_subgroups(tmp_path: Path) -> None:
    """Nothing to compare: no case is looked at, and the other picture says that nothing is reported."""
    rows = [row("healthy", (None, None, None), NOTHING)]
    (tmp_path / "x-worst.png").write_bytes(b"of an earlier evaluation")
    written = write_pictures(tmp_path / "x.csv", "it", rows, lambda case: pytest.fail("looked"))
    assert [path.name for path in written] == ["x-subgroups.png"]
    assert list(tmp_path.glob("x-*")) == written


def test_names_are_text_and_nothing_else(volume: Volume, tmp_path: Path) -> None:
    """What looks like a formula is neither set as one nor the end of the evaluation."""
    name = r"$\frac{" + "a" * 300
    look = lambda case: (volume, ball(volume, 9), ball(volume, 6))  # noqa: E731
    written = write_pictures(tmp_path / "x.csv", name, [row(name, (0.5, None, None), (9, 0, 0))], look)
    assert len(written) == 2


def test_a_case_without_t1c_is_shown_on_what_it_has(volume: Volume, tmp_path: Path) -> None:
    """Volumes that are not reported are left out of the caption."""
    only = replace(volume, sequences=("t1n",), channels=volume.channels[:1])
    rows = [row("blind", (0.5, None, None), (9, 3, 3), (8, None, None))]
    worst, _ = write_pictures(tmp_path / "x.csv", "it", rows, lambda case: (only, ball(volume, 9), ball(volume, 6)))
    assert coloured(worst, "ET") > 100
