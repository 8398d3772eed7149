"""Predictions that lie in a folder: label maps, and the teachers' probabilities where they were kept."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from glialite_runtime import nifti
from glialite_runtime.cases import Case
from glialite_runtime.errors import GeometryError, InputError
from glialite_runtime.sequences import REGIONS, to_brats2023
from glialite_runtime.volume import Orientation, Volume

from glialite_distill.evaluate_scores import Labels

__all__ = ["FolderSource", "load_labels"]

_LEAST: Final = 1e-6
_MOST: Final = 1 - 2.0**-12
"""Probabilities are kept between these two when they become logits. They lie there as float16, in which everything
above `_MOST` is 1."""


@dataclass(frozen=True, slots=True)
class FolderSource:
    """Predictions that lie in a folder, `<case>/<case>-seg.nii.gz` or `<case>.nii.gz`.

    Probabilities count where `<case>/<case>-probabilities.npz` lies there for every case, as `teacher-train ensemble
    --probabilities` writes it.
    """

    folder: Path

    def files_of(self, case: Case) -> tuple[Path, ...]:
        """Return the files that are there for a case."""
        possible = (*self._label_files(case), self._probability_file(case))
        return tuple(path for path in possible if path.is_file())

    def has_probabilities(self, cases: Iterable[Case]) -> bool:
        """Return whether there are probabilities for every one of the cases."""
        return all(self._probability_file(case).is_file() for case in cases)

    def labels(self, case: Case, volume: Volume) -> Labels:
        """Return the label map of a case (z, y, x) in LPS; `InputError` when there is none, or it is none."""
        candidates = self._label_files(case)
        found = [path for path in candidates if path.is_file()]
        if not found:
            raise InputError(f"case {case.name} has no prediction: neither {candidates[0]} nor {candidates[1]} exists")
        return load_labels(found[0], volume)

    def logits(self, case: Case, volume: Volume) -> npt.NDArray[np.float32]:
        """Return logits (3, z, y, x) of the whole image.

        Raises
        ------
        InputError
            The file is damaged, or its content no probabilities of WT, TC and ET on the images' own grid.
        """
        path = self._probability_file(case)
        wanted = (len(REGIONS), *volume.channels[0].shape)
        try:
            with np.load(path, allow_pickle=False) as content:
                regions, found = tuple(content["regions"]), content["probabilities"]
                if regions != REGIONS or found.shape != wanted or not ((found >= 0) & (found <= 1)).all():
                    raise ValueError(f"{found.shape} of {', '.join(map(str, regions))}")
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise InputError(
                f"{path} holds no probabilities {wanted} of {', '.join(REGIONS)}: {error}; delete it, and predict "
                f"{case.name} again"
            ) from error
        p = np.clip(found.astype(np.float32), np.float32(_LEAST), np.float32(_MOST))
        return np.log(p / (1 - p))

    def _label_files(self, case: Case) -> tuple[Path, Path]:
        return self.folder / case.name / f"{case.name}-seg.nii.gz", self.folder / f"{case.name}.nii.gz"

    def _probability_file(self, case: Case) -> Path:
        return self.folder / case.name / f"{case.name}-probabilities.npz"


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
