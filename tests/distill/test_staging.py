"""Files in nnU-Net's folders: links where they will do, copies where they will not."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
from glialite_distill.staging import stage
from glialite_distill.workspace import label_file, raw_image_files
from glialite_runtime.cases import find_case

from tests.distill.conftest import labels_of, write_case


def test_files_that_will_do_are_linked(tmp_path: Path) -> None:
    """In LPS with today's labels nothing is copied; what is there already is left alone."""
    case = find_case(write_case(tmp_path / "BraTS-SSA-00001-000", 1))
    for _ in range(2):
        stage(case, tmp_path / "raw", "brats2023")
    for target in (*raw_image_files(case.name), label_file(case.name)):
        assert (tmp_path / "raw" / target).is_symlink()


def test_old_labels_are_copied_in_new_values(tmp_path: Path) -> None:
    """Images are links still; the label map is a file with 3 for 4."""
    case = find_case(write_case(tmp_path / "BraTS-SSA-00001-000", 1))
    assert case.label is not None
    old = np.array([0, 1, 2, 4], np.uint8)[labels_of(1)]
    nibabel.save(nibabel.Nifti1Image(old, nibabel.load(case.label).affine), case.label)
    stage(case, tmp_path / "raw", "brats2021")
    written = tmp_path / "raw" / label_file(case.name)
    assert not written.is_symlink()
    assert np.array_equal(np.asarray(nibabel.load(written).dataobj), labels_of(1))
    assert (tmp_path / "raw" / raw_image_files(case.name)[0]).is_symlink()


def test_a_link_whose_target_is_gone_is_made_anew(tmp_path: Path) -> None:
    """A cohort that moved is found at its new place."""
    first = find_case(write_case(tmp_path / "old" / "BraTS-SSA-00001-000", 1))
    stage(first, tmp_path / "raw", "brats2023")
    (tmp_path / "old").rename(tmp_path / "new")
    stage(find_case(tmp_path / "new" / "BraTS-SSA-00001-000"), tmp_path / "raw", "brats2023")
    assert all((tmp_path / "raw" / path).is_file() for path in raw_image_files(first.name))
