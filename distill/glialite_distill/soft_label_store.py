"""Soft labels on disk: a file a case that holds the teachers' probabilities and how far they disagree.

Both are whole numbers of one byte, in 255 and 63 steps, compressed together (blosc2, Zstandard): a probability is off
by at most 0.002, a standard deviation by at most 0.004. A MedNeXt-B after 40 epochs, asked eight times about a phantom
at 2 mm, took 0.23 bytes a voxel for its six values; teachers that are unsure everywhere take more.
`distill soft-labels` says it for what it made.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import blosc2
import numpy as np
import numpy.typing as npt
from glialite_runtime.errors import ConfigError, InputError
from glialite_runtime.files import write_bytes
from glialite_runtime.sequences import REGIONS

from glialite_distill.workspace import Workspace

__all__ = [
    "MAX_DISAGREEMENT_ERROR",
    "MAX_ERROR",
    "SoftLabelStore",
    "label_folder",
    "read_index",
    "soft_label_file",
    "write_soft_labels",
]

Array = npt.NDArray[np.float32]

_LEVELS: Final = 255
_SD_LEVELS: Final = 63  # the noise of a finer disagreement would take more room than the probabilities
_LARGEST_SD: Final = 0.5  # of anything between 0 and 1

MAX_ERROR: Final = 0.5 / _LEVELS
"""Largest rounding error of a stored probability: 0.002."""

MAX_DISAGREEMENT_ERROR: Final = _LARGEST_SD * 0.5 / _SD_LEVELS
"""Largest rounding error of a stored standard deviation: 0.004."""


@dataclass(frozen=True, slots=True)
class SoftLabelStore:
    """Soft labels that were made, read-only.

    Attributes
    ----------
    folder : Path
        Where they lie.
    key : str
        SHA-256 of what made them.
    members : tuple of str
        The recipes that were averaged.
    cases : tuple of str
        Cases that have soft labels, sorted.
    """

    folder: Path
    key: str
    members: tuple[str, ...]
    cases: tuple[str, ...]

    @classmethod
    def open(cls, workspace: Workspace, *, in_fold: bool = False) -> SoftLabelStore:
        """Open the store of a workspace; `in_fold` that of teachers that saw the cases, which comparisons alone need.

        Raises
        ------
        ConfigError
            There is none, it is not complete, or it was made for another cohort.
        """
        folder = label_folder(workspace, in_fold=in_fold)
        index = read_index(folder)
        if index is None:
            raise ConfigError(
                f"{workspace.root} has no soft labels; run distill soft-labels --workspace {workspace.root}"
            )
        if index["cohort_hash"] != workspace.cohort_hash:
            raise ConfigError(f"the soft labels of {workspace.root} were made for another cohort; delete {folder}")
        cases = tuple(index["cases"])
        if missing := [case for case in cases if not soft_label_file(folder, case).is_file()]:
            raise ConfigError(
                f"{len(missing)} of {len(cases)} soft labels of {workspace.root} are not made yet; "
                "run distill soft-labels again to continue"
            )
        return cls(folder, index["key"], tuple(index["members"]), cases)

    def load(self, case: str) -> Array:
        """Read the probabilities of a case.

        Returns
        -------
        float32 array (3, z, y, x)
            Regions as in `REGIONS`, in the geometry of `Workspace.load`, each within `MAX_ERROR` of what was computed;
            0 and 1 occur.

        Raises
        ------
        InputError
            The case has no soft labels, or its file is damaged.
        """
        return self._levels(case)[: len(REGIONS)].astype(np.float32) / np.float32(_LEVELS)

    def disagreement(self, case: str) -> Array:
        """Read the standard deviation of the teachers' probabilities.

        Returns
        -------
        float32 array (3, z, y, x)
            In [0, 0.5], each within `MAX_DISAGREEMENT_ERROR`; 0 everywhere for one teacher without mirroring.

        Raises
        ------
        InputError
            As `load`.
        """
        return self._levels(case)[len(REGIONS) :].astype(np.float32) * np.float32(_LARGEST_SD / _SD_LEVELS)

    def bytes_a_voxel(self) -> float:
        """Return what a voxel of a case takes on disk, both arrays of three regions together."""
        used = voxels = 0
        for case in self.cases:
            used += soft_label_file(self.folder, case).stat().st_size
            voxels += int(np.prod(self._stored(case).shape[1:]))
        return used / voxels

    def _levels(self, case: str) -> npt.NDArray[np.uint8]:
        try:
            return np.asarray(self._stored(case)[:], np.uint8)
        except RuntimeError as error:
            raise self._damaged(case, error) from error

    def _stored(self, case: str) -> blosc2.NDArray:
        """Return the compressed array, whose shape is known without inflating it."""
        if case not in self.cases:
            raise InputError(f"{case} has no soft labels: no teacher was trained without its patient")
        try:
            stored = blosc2.ndarray_from_cframe(soft_label_file(self.folder, case).read_bytes())
        except (RuntimeError, ValueError) as error:
            raise self._damaged(case, error) from error
        if stored.ndim != 4 or len(stored) != 2 * len(REGIONS):
            raise self._damaged(case, f"it has the shape {stored.shape}")
        return stored

    def _damaged(self, case: str, what: object) -> InputError:
        path = soft_label_file(self.folder, case)
        return InputError(f"{path} is damaged ({what}); delete it and run distill soft-labels again")


def label_folder(workspace: Workspace, *, in_fold: bool = False) -> Path:
    """Return the folder of a workspace's soft labels."""
    return workspace.root / ("soft_labels_in_fold" if in_fold else "soft_labels")


def soft_label_file(folder: Path, case: str) -> Path:
    """Return the file of a case."""
    return folder / f"{case}.b2frame"


def read_index(folder: Path) -> dict[str, Any] | None:
    """Return what made the soft labels of a folder, or None where nothing was begun."""
    path = folder / "index.json"
    if not path.is_file():
        return None
    index: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return index


def write_soft_labels(folder: Path, case: str, probabilities: Array, disagreement: Array) -> None:
    """Write the soft labels of a case in one step.

    Parameters
    ----------
    folder, case : Path, str
        Where.
    probabilities, disagreement : float32 arrays (3, z, y, x)
        In [0, 1] and [0, 0.5].

    Raises
    ------
    OutputError
        The file cannot be written.
    """
    both = np.concatenate([probabilities * np.float32(_LEVELS), disagreement * np.float32(_SD_LEVELS / _LARGEST_SD)])
    levels = np.rint(both).astype(np.uint8)
    packed: bytes = blosc2.asarray(levels, cparams={"codec": blosc2.Codec.ZSTD, "clevel": 5}).to_cframe()
    write_bytes(soft_label_file(folder, case), packed)
