"""The workspace: where prepared cases, teachers, soft labels and students of one cohort lie, and how to read them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from glialite_runtime.errors import ConfigError, InputError
from glialite_runtime.sequences import SEQUENCES

from glialite_distill.cohort import Split
from glialite_distill.input_options import InputOptions
from glialite_distill.recipes import TrainingPlan, find_plan

__all__ = [
    "CONFIGURATION",
    "DATASET",
    "Split",
    "Workspace",
    "cohort_file",
    "label_file",
    "plans_name",
    "prepared_folder",
    "raw_folder",
    "raw_image_files",
    "results_folder",
    "splits_file",
]

DATASET: Final = "Dataset501_GliaLite"
CONFIGURATION: Final = "3d_fullres"


def cohort_file(root: Path) -> Path:
    """Return the record of the cohort: cases, patients, sites, hashes, held-out cases, options."""
    return root / "cohort.json"


def plans_name(plan: TrainingPlan) -> str:
    """Return the name of our nnU-Net plans file, without `.json`."""
    return f"GliaLite{plan.name.title()}Plans"


def prepared_folder(root: Path) -> Path:
    """Return nnU-Net's folder of fingerprint, plans, splits and preprocessed cases."""
    return root / "nnUNet_preprocessed" / DATASET


def raw_folder(root: Path) -> Path:
    """Return nnU-Net's raw dataset folder of a workspace."""
    return root / "nnUNet_raw" / DATASET


def raw_image_files(case: str) -> tuple[Path, ...]:
    """Return where a case's sequences lie, relative to the raw dataset folder."""
    return tuple(Path("imagesTr") / f"{case}_{channel:04d}.nii.gz" for channel in range(len(SEQUENCES)))


def label_file(case: str) -> Path:
    """Return where a case's label map lies, relative to the raw dataset folder."""
    return Path("labelsTr") / f"{case}.nii.gz"


def results_folder(root: Path) -> Path:
    """Return nnU-Net's folder of trained teachers."""
    return root / "nnUNet_results" / DATASET


def splits_file(root: Path) -> Path:
    """Return nnU-Net's file of folds; it is written last, so its presence says that preparation is complete."""
    return prepared_folder(root) / "splits_final.json"


@dataclass(frozen=True, slots=True)
class Workspace:
    """A prepared cohort, read-only.

    Attributes
    ----------
    root : Path
        The folder.
    cases : tuple of str
        Training cases, sorted.
    held_out : tuple of str
        Cases that no training sees, sorted.
    cohort_hash : str
        SHA-256 over the hashes of all files of the cohort.
    plan : TrainingPlan
        Spacing, patch and network widths.
    splits : tuple of Split
        The folds.
    patients : mapping of str to str
        Case -> patient.
    sites : mapping of str to (str or None)
        Case -> cohort code.
    inputs : InputOptions
        How the prepared images differ from nnU-Net's own.
    """

    root: Path
    cases: tuple[str, ...]
    held_out: tuple[str, ...]
    cohort_hash: str
    plan: TrainingPlan
    splits: tuple[Split, ...]
    patients: Mapping[str, str]
    sites: Mapping[str, str | None]
    inputs: InputOptions

    @classmethod
    def open(cls, root: Path) -> Workspace:
        """Open a workspace.

        Raises
        ------
        ConfigError
            `teacher-train prepare` has not been run there, or did not finish.
        """
        record, splits = cohort_file(root), splits_file(root)
        if not record.is_file() or not splits.is_file():
            state = "is not finished" if record.is_file() else "has not been run there"
            raise ConfigError(
                f"{root} is not a prepared workspace: `teacher-train prepare` {state}; "
                f"run teacher-train prepare --cohort DIR --workspace {root}"
            )
        cohort: dict[str, Any] = json.loads(record.read_text(encoding="utf-8"))
        held_out = tuple(cohort["held_out"])
        folds = json.loads(splits.read_text(encoding="utf-8"))
        return cls(
            root=root,
            cases=tuple(sorted(set(cohort["cases"]) - set(held_out))),
            held_out=held_out,
            cohort_hash=cohort["hash"],
            plan=find_plan(cohort["options"]["plan"]),
            splits=tuple(Split(tuple(f["train"]), tuple(f["val"])) for f in folds),
            patients=MappingProxyType({name: case["patient"] for name, case in cohort["cases"].items()}),
            sites=MappingProxyType({name: case["site"] for name, case in cohort["cases"].items()}),
            inputs=InputOptions.of(cohort["options"]),
        )

    def for_students(self) -> Workspace:
        """Return the workspace itself; a `ConfigError` where its images are not what the clinic will show a student."""
        if self.inputs.clip:
            raise ConfigError(
                f"{self.root} was prepared with --clip, which the clinic's preprocessing does not do; "
                "prepare another --workspace without it for soft labels, students and bundles"
            )
        return self

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Voxel size (z, y, x) of every prepared case."""
        return self.plan.spacing_mm

    @property
    def patch_size(self) -> tuple[int, int, int]:
        """Voxels (z, y, x) of a training patch."""
        return self.plan.patch_size

    @property
    def case_folder(self) -> Path:
        """Folder of the preprocessed cases."""
        return prepared_folder(self.root) / f"{plans_name(self.plan)}_{CONFIGURATION}"

    @property
    def held_out_folder(self) -> Path:
        """Folder of the held-out cases, one case folder each, labels in BraTS-2023 values."""
        return self.root / "held_out"

    def patient_of(self, case: str) -> str:
        """Return the patient of a case; an unknown case is a `KeyError`."""
        return self.patients[case]

    def shape_of(self, case: str) -> tuple[int, int, int]:
        """Return the shape (z, y, x) of a prepared case without reading its voxels."""
        _, z, y, x = self._open(case, "").shape
        return int(z), int(y), int(x)

    def load(self, case: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Read a prepared training case.

        Returns
        -------
        float32 array (4, z, y, x)
            The sequences in the order of `SEQUENCES`, cropped to the brain, z-scored, at `spacing_mm`, in LPS.
        uint8 array (z, y, x)
            BraTS-2023 labels.

        Raises
        ------
        InputError
            The case is not one of `cases`, or its files are gone.
        """
        image = np.asarray(self._open(case, "")[:], np.float32)
        segmentation = np.asarray(self._open(case, "_seg")[:])[0]
        return image, np.maximum(segmentation, 0).astype(np.uint8)  # −1 marks "outside the brain" in nnU-Net's files

    def _open(self, case: str, suffix: str) -> Any:
        import blosc2  # noqa: PLC0415 - opening a workspace to list it need not pay for it

        path = self.case_folder / f"{case}{suffix}.b2nd"
        if case not in self.cases or not path.is_file():
            raise InputError(f"{case} is not a prepared training case of {self.root}; run teacher-train prepare again")
        return blosc2.open(urlpath=str(path), mode="r")
