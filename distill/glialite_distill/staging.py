"""A cohort's files as nnU-Net wants them: links where a file is as needed, else copies in LPS with our labels."""

from __future__ import annotations

import gzip
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from glialite_runtime import nifti
from glialite_runtime.cases import Case
from glialite_runtime.files import write_bytes
from glialite_runtime.sequences import to_brats2023
from glialite_runtime.volume import Orientation

from glialite_distill.workspace import label_file, prepared_folder, raw_folder, raw_image_files

__all__ = ["copy_labels", "stage", "stage_held_out"]

_AS_STORED: Final = Orientation((0, 1, 2), (False, False, False))


def stage(case: Case, raw: Path, convention: str) -> None:
    """Put a case into nnU-Net's raw folder: links where the file is as needed, else copies in LPS."""
    for path, target in zip(case.paths.values(), raw_image_files(case.name), strict=True):
        _stage_image(path, raw / target)
    if case.label is not None:
        _stage_label(case.label, raw / label_file(case.name), convention)


def stage_held_out(case: Case, folder: Path, convention: str) -> None:
    """Put a case into a case folder of its own, likewise."""
    for sequence, path in case.paths.items():
        _stage_image(path, folder / f"{case.name}-{sequence}.nii.gz")
    if case.label is not None:
        _stage_label(case.label, folder / f"{case.name}-seg.nii.gz", convention)


def _stage_image(source: Path, target: Path) -> None:
    if target.exists():
        return
    _, _, affine = nifti.read_header(source)
    if Orientation.of(affine) == _AS_STORED and source.name.endswith(".nii.gz"):
        _link(source, target)
        return
    image = nifti.read(source)
    _write_lps(target, image, image.data)


def _stage_label(source: Path, target: Path, convention: str) -> None:
    if target.exists():
        return
    _, _, affine = nifti.read_header(source)
    if Orientation.of(affine) == _AS_STORED and convention == "brats2023" and source.name.endswith(".nii.gz"):
        _link(source, target)
        return
    image = nifti.read(source)
    _write_lps(target, image, to_brats2023(image.data, convention))


def _link(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    target.unlink(missing_ok=True)  # a link whose target is gone
    try:
        target.symlink_to(source.resolve())
    except OSError:  # file systems and accounts without links
        write_bytes(target, source.read_bytes())


def _write_lps(target: Path, image: nifti.Image, stored: npt.NDArray[Any]) -> None:
    """Write voxels in stored axes as a NIfTI image whose axes run L, P, S."""
    import nibabel  # noqa: PLC0415 - only cohorts in other axes need it

    orientation = Orientation.of(image.affine)
    small = stored if stored.dtype.itemsize <= 4 else stored.astype(np.float32)
    turned = nibabel.Nifti1Image(orientation.to_lps(small).transpose(2, 1, 0), orientation.lps_affine(image))
    write_bytes(target, gzip.compress(turned.to_bytes(), compresslevel=3, mtime=0))


def copy_labels(root: Path, training: Sequence[str]) -> None:
    """Keep the label maps beside the preprocessed cases, where nnU-Net's own validation looks for them."""
    for name in training:
        target = prepared_folder(root) / "gt_segmentations" / f"{name}.nii.gz"
        if not target.exists():
            write_bytes(target, (raw_folder(root) / label_file(name)).read_bytes())
