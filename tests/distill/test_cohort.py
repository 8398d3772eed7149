"""Cohorts: what a case is, what is refused, and how cases are divided."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from glialite_distill.cohort import (
    check_splits,
    cohort_hash,
    find_cohort,
    hold_out,
    make_folds,
    patient_of,
    read_labelled,
    site_of,
    validate,
)
from glialite_runtime.cases import find_case
from glialite_runtime.errors import ConfigError, InputError
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.distill.conftest import LPS_2MM, labels_of, write_case, write_cohort


@pytest.mark.parametrize(
    ("case", "patient", "site"),
    [
        ("BraTS-SSA-00002-000", "BraTS-SSA-00002", "SSA"),
        ("BraTS-GLI-00002-101", "BraTS-GLI-00002", "GLI"),
        ("TCGA-DU-7294", "TCGA-DU-7294", None),
        ("case-001", "case-001", None),
    ],
)
def test_patient_and_site_are_read_from_brats_names(case: str, patient: str, site: str | None) -> None:
    """Only a BraTS name says which patient and site; any other case is a patient of its own."""
    assert (patient_of(case), site_of(case)) == (patient, site)


@settings(max_examples=40, deadline=None)
@given(
    visits=st.lists(st.integers(1, 4), min_size=5, max_size=25), seed=st.integers(0, 99), folds=st.sampled_from([2, 5])
)
def test_folds_divide_cases_by_patient(visits: list[int], seed: int, folds: int) -> None:
    """Every case validates exactly once and no patient is on both sides of a fold."""
    cases = [f"BraTS-SSA-{p:05d}-{t:03d}" for p, count in enumerate(visits) for t in range(count)]
    splits = make_folds(cases, folds, seed)
    assert sorted(c for s in splits for c in s.validation) == sorted(cases)
    for split in splits:
        assert split.train
        assert sorted(split.train + split.validation) == sorted(cases)
        assert not {patient_of(c) for c in split.train} & {patient_of(c) for c in split.validation}


def test_folds_spread_sites_evenly() -> None:
    """Ten patients of two sites in five folds: one of each site validates in every fold."""
    cases = [f"BraTS-{site}-{n:05d}-000" for site in ("SSA", "GLI") for n in range(5)]
    for split in make_folds(cases, 5, 3):
        assert sorted(site_of(c) or "" for c in split.validation) == ["GLI", "SSA"]


def test_folds_depend_on_the_seed_alone() -> None:
    """The order in which cases are listed does not matter; the seed does."""
    cases = [f"BraTS-SSA-{n:05d}-000" for n in range(20)]
    assert make_folds(cases, 5, 1) == make_folds(cases[::-1], 5, 1)
    assert make_folds(cases, 5, 1) != make_folds(cases, 5, 2)


def test_too_few_patients_for_the_folds_are_refused() -> None:
    """Time points do not make up for patients, and the message says how many folds would do."""
    cases = [f"BraTS-SSA-{p:05d}-{t:03d}" for p in range(3) for t in range(4)]
    with pytest.raises(ConfigError, match=r"3 patients cannot fill 5 folds.*--folds 3"):
        make_folds(cases, 5, 1)


def test_hold_out_takes_whole_patients() -> None:
    """Exactly as many cases as asked, and never half a patient."""
    cases = [f"BraTS-SSA-{p:05d}-{t:03d}" for p in range(6) for t in range(1 + p % 2)]
    held = hold_out(cases, 3, seed=5)
    assert len(held) == 3
    assert not {patient_of(c) for c in held} & {patient_of(c) for c in set(cases) - set(held)}


def test_a_hold_out_that_would_divide_a_patient_is_refused() -> None:
    """Patients of two time points cannot make an odd number."""
    cases = [f"BraTS-SSA-{p:05d}-{t:03d}" for p in range(4) for t in range(2)]
    with pytest.raises(ConfigError, match="never divided"):
        hold_out(cases, 3, seed=1)


def test_brought_splits_report_every_problem() -> None:
    """Unknown cases, an empty side and a divided patient come in one message."""
    cases = ["BraTS-SSA-00001-000", "BraTS-SSA-00001-001", "BraTS-SSA-00002-000"]
    splits = [{"train": [cases[0], "nobody"], "val": [cases[1]]}, {"train": [], "val": [cases[2]]}]
    with pytest.raises(ConfigError) as caught:
        check_splits(splits, cases)
    for part in ("nobody", "same patient: BraTS-SSA-00001", "fold 1 has an empty side"):
        assert part in str(caught.value)


def test_every_problem_of_a_cohort_is_reported_at_once(tmp_path: Path) -> None:
    """A missing sequence, a missing label map and a foreign label value are all in one message."""
    folder = write_cohort(tmp_path, 3)
    names = [f"BraTS-SSA-{n:05d}-000" for n in (1, 2, 3)]
    (folder / names[0] / f"{names[0]}-t2f.nii.gz").unlink()
    (folder / names[1] / f"{names[1]}-seg.nii.gz").unlink()
    with pytest.raises(InputError) as caught:
        validate(find_cohort([folder]), "brats2021")
    for part in (f"{names[0]}: lacks t2f", f"{names[1]}: lacks seg", f"{names[2]}: label value 3", "3 problem(s)"):
        assert part in str(caught.value)


def test_a_label_map_of_another_shape_is_refused(tmp_path: Path) -> None:
    """A label map on another grid cannot be trained on."""
    first = write_case(tmp_path / "P1", 1)
    second = write_case(tmp_path / "P2", 1, shape=(44, 48, 42))
    shutil.copy(second / "P2-seg.nii.gz", first / "P1-seg.nii.gz")
    with pytest.raises(InputError, match="has the shape"):
        validate([find_case(first)], "brats2023")


def test_a_foreign_origin_of_the_label_map_is_accepted(tmp_path: Path) -> None:
    """Published label maps often carry another origin although their voxels agree."""
    moved = LPS_2MM.copy()
    moved[:3, 3] += 30
    first, second = write_case(tmp_path / "P1", 1), write_case(tmp_path / "P2", 1, affine=moved)
    shutil.copy(second / "P2-seg.nii.gz", first / "P1-seg.nii.gz")
    _, labels = read_labelled(find_case(first), "brats2023")
    assert np.array_equal(labels, labels_of(1).transpose(2, 1, 0))


def test_stored_axes_do_not_matter(tmp_path: Path) -> None:
    """The same head stored in LPS and in RAS reads as the same arrays."""
    lps = read_labelled(find_case(write_case(tmp_path / "P1", 4)), "brats2023")
    ras = read_labelled(find_case(write_case(tmp_path / "P2", 4, axes="RAS")), "brats2023")
    assert np.array_equal(lps[1], ras[1])
    assert all(np.array_equal(a, b) for a, b in zip(lps[0].channels, ras[0].channels, strict=True))


def test_a_cohort_without_any_tumour_is_refused(tmp_path: Path) -> None:
    """Nothing could be learnt from it, and nnU-Net would fail later with less clear words."""
    folder = write_case(tmp_path / "P1", 1)
    empty = write_case(tmp_path / "P2", 1, shape=(44, 48, 40))
    import nibabel

    path = folder / "P1-seg.nii.gz"
    image = nibabel.load(path)
    nibabel.save(nibabel.Nifti1Image(np.zeros(image.shape, np.uint8), image.affine), path)
    assert validate([find_case(empty)], "brats2023")
    with pytest.raises(InputError, match="no case of the cohort has a tumour"):
        validate([find_case(folder)], "brats2023")


def test_a_case_in_two_folders_is_refused(tmp_path: Path) -> None:
    """Two cohorts may not bring the same case name."""
    one, two = write_cohort(tmp_path / "a", 1), write_cohort(tmp_path / "b", 1)
    with pytest.raises(InputError, match="BraTS-SSA-00001-000: is in two cohort folders"):
        find_cohort([one, two])


def test_the_hash_follows_content_and_convention(tmp_path: Path) -> None:
    """One changed byte of one file, or another convention, makes another cohort."""
    folder = write_cohort(tmp_path, 2)
    before = validate(find_cohort([folder]), "brats2023")
    assert cohort_hash(before, "brats2023") == cohort_hash(before[::-1], "brats2023")
    shutil.rmtree(folder / "BraTS-SSA-00002-000")
    write_case(folder / "BraTS-SSA-00002-000", seed=7)
    after = validate(find_cohort([folder]), "brats2023")
    hashes = {cohort_hash(before, "brats2023"), cohort_hash(after, "brats2023"), cohort_hash(before, "ssa-paper")}
    assert len(hashes) == 3


def test_an_unknown_convention_is_refused() -> None:
    """Label values are declared, never guessed."""
    with pytest.raises(ConfigError, match="unknown label convention 'brats2099'"):
        validate([], "brats2099")
