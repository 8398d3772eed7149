"""Scoring label maps: rows, means, and what is refused."""

from __future__ import annotations

import math
from pathlib import Path

import nibabel
import numpy as np
import pytest
from glialite_distill.scores import PlainScore, find_label_maps, plain_scores, summary, write_plain_csv
from glialite_runtime.errors import GeometryError, InputError

BRATS = ("brats2023", "brats2023")


def save(path: Path, labels: np.ndarray) -> None:
    """Write a label map (x, y, z)."""
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(labels.astype(np.uint8), np.diag([-1.0, -1.0, 1.0, 1.0])), path)


def row(*values: int) -> np.ndarray:
    """Return a label map of one line of voxels."""
    return np.array(values).reshape(-1, 1, 1)


def test_dice_by_hand(tmp_path: Path) -> None:
    """Truth 3 3 1 2 against prediction 3 1 1 0: ET 2/3, TC 1, WT 6/7, in the order ET, TC, WT."""
    save(tmp_path / "t" / "P1.nii.gz", row(3, 3, 1, 2, 0))
    save(tmp_path / "p" / "P1" / "P1-seg.nii.gz", row(3, 1, 1, 0, 0))
    scores = plain_scores(tmp_path / "t", tmp_path / "p", BRATS)
    assert [(s.case, s.region) for s in scores] == [("P1", "ET"), ("P1", "TC"), ("P1", "WT")]
    assert [s.dice for s in scores] == pytest.approx([2 / 3, 1, 6 / 7])


def test_an_absent_region_is_left_out_of_the_mean(tmp_path: Path) -> None:
    """Neither truth nor prediction has ET: the cell is empty and the mean counts the other case only."""
    scores = [PlainScore("a", "ET", math.nan), PlainScore("b", "ET", 0.5), PlainScore("c", "ET", 0.7)]
    assert summary(scores)["ET"] == {"mean": pytest.approx(0.6), "sd": pytest.approx(0.1414, abs=1e-4), "cases": 2}
    assert summary(scores)["WT"] == {"mean": None, "sd": None, "cases": 0}
    write_plain_csv(tmp_path / "s.csv", scores)
    assert (tmp_path / "s.csv").read_text() == "case,Labels,Dice\na,ET,\nb,ET,0.500000\nc,ET,0.700000\n"


def test_conventions_are_declared_for_each_side(tmp_path: Path) -> None:
    """An old truth (ET = 4) agrees with a new prediction (ET = 3)."""
    save(tmp_path / "t" / "P1.nii.gz", row(4, 1, 2, 0))
    save(tmp_path / "p" / "P1.nii.gz", row(3, 1, 2, 0))
    assert {s.dice for s in plain_scores(tmp_path / "t", tmp_path / "p", ("brats2021", "brats2023"))} == {1.0}


def test_a_missing_prediction_is_refused(tmp_path: Path) -> None:
    """A mean over fewer cases than the truth has would flatter."""
    for name in ("P1", "P2"):
        save(tmp_path / "t" / f"{name}-seg.nii.gz", row(1))
    save(tmp_path / "p" / "P1.nii.gz", row(1))
    with pytest.raises(InputError, match="no label map for P2"):
        plain_scores(tmp_path / "t", tmp_path / "p", BRATS)


def test_other_shapes_are_refused(tmp_path: Path) -> None:
    """Label maps of different size cannot be compared."""
    save(tmp_path / "t" / "P1.nii.gz", row(1, 0))
    save(tmp_path / "p" / "P1.nii.gz", row(1, 0, 0))
    with pytest.raises(GeometryError, match="shape"):
        plain_scores(tmp_path / "t", tmp_path / "p", BRATS)


def test_two_files_for_one_case_are_refused(tmp_path: Path) -> None:
    """No choice is made between them."""
    save(tmp_path / "P1.nii.gz", row(1))
    save(tmp_path / "P1" / "P1-seg.nii.gz", row(1))
    with pytest.raises(InputError, match="claim to be the label map of P1"):
        find_label_maps(tmp_path)


def test_an_empty_folder_is_refused(tmp_path: Path) -> None:
    """The message says which names are looked for."""
    with pytest.raises(InputError, match=r"-seg\.nii\.gz"):
        find_label_maps(tmp_path)


def test_the_challenges_legacy_dice_comes_out(real_data: Path) -> None:
    """On six real cases our plain Dice equals the official table's Legacy_Dice."""
    import csv

    lesionwise = real_data / "lesionwise"
    with (lesionwise / "golden_2023.csv").open() as stream:
        golden = {(r["case"], r["Labels"]): float(r["Legacy_Dice"]) for r in csv.DictReader(stream)}
    scores = plain_scores(lesionwise / "model_a", lesionwise / "model_b", BRATS)
    compared = [(s.dice, golden[s.case, s.region]) for s in scores if (s.case, s.region) in golden]
    assert len(compared) == 18
    for mine, official in compared:
        assert mine == pytest.approx(official, abs=1e-6)
