"""Colour tables as 3D Slicer and ITK-SNAP read them, and a NIfTI that says it holds labels."""

from __future__ import annotations

import re
from pathlib import Path

import nibabel as nib
import numpy as np
from glialite_runtime.label_files import itk_snap_labels, slicer_colours, write_label_map
from glialite_runtime.nifti import read

from tests.conftest import save


def test_slicer_reads_six_fields_a_line() -> None:
    """Value, name without spaces, red, green, blue, opacity; comments on top."""
    lines = [line for line in slicer_colours().splitlines() if not line.startswith("#")]
    assert [int(line.split()[0]) for line in lines] == [0, 1, 2, 3]
    assert all(len(line.split()) == 6 for line in lines)
    assert lines[0].endswith(" 0 0 0 0")


def test_itk_snap_reads_eight_fields_a_line() -> None:
    """Value, red, green, blue, opacity, two flags, name in quotes."""
    lines = [line for line in itk_snap_labels().splitlines() if not line.startswith("#")]
    assert all(re.fullmatch(r'\s+\d(\s+\d+){3}\s+[01](\s+[01]){2}\s+"[^"]+"', line) for line in lines)
    assert [int(line.split()[0]) for line in lines] == [0, 1, 2, 3]


def test_both_tables_have_the_same_colours() -> None:
    """One source."""
    slicer = [line.split()[2:5] for line in slicer_colours().splitlines()[3:]]
    snap = [line.split()[1:4] for line in itk_snap_labels().splitlines() if line.startswith("    ")][1:]
    assert slicer == snap


def test_the_label_map_has_the_intent_label(tmp_path: Path) -> None:
    """Viewers then interpolate by nearest neighbour; geometry and the scan's own header stay as they were."""
    like = read(save(tmp_path / "t1n.nii.gz", np.ones((4, 5, 6), np.int16), np.diag([-1.0, -2.0, 3.0, 1.0])))
    write_label_map(tmp_path / "seg.nii.gz", np.full((4, 5, 6), 3, np.uint8), like)
    written = nib.load(tmp_path / "seg.nii.gz")
    assert written.header.get_intent()[0] == "label"
    np.testing.assert_array_equal(written.affine, like.affine)
    assert like.header.get_intent()[0] == "none"
