"""Small labelled cases made of numpy alone, and workspaces prepared from them."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
from glialite_distill import recipes
from glialite_distill.prepare import Request, prepare
from glialite_distill.recipes import TrainingPlan
from glialite_distill.workspace import Workspace
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

SHAPE_XYZ = (44, 48, 40)
LPS_2MM = np.array([[-2.0, 0, 0, 43], [0, -2.0, 0, 47], [0, 0, 2.0, -40], [0, 0, 0, 1]])
SEQUENCES = ("t1n", "t1c", "t2w", "t2f")
MEMBERS = ("baseline", "grokking", "mednext-b")

TINY = TrainingPlan(
    "tiny", (2.0, 2.0, 2.0), (32, 32, 32), 2, (4, 6, 8), ((1, 1, 1), (2, 2, 2), (2, 2, 2)), mednext_filters=2
)


def labels_of(seed: int, shape: tuple[int, int, int] = SHAPE_XYZ) -> np.ndarray:
    """Return a label map (x, y, z): an ET shell around an NETC core inside SNFH, placed by `seed`."""
    rng = np.random.default_rng(seed)
    centre = np.array(shape) / 2 + rng.uniform(-5, 5, 3)
    distance = np.linalg.norm(np.moveaxis(np.indices(shape), 0, -1) - centre, axis=-1)
    labels = np.zeros(shape, np.uint8)
    labels[distance < 8] = 2
    labels[distance < 5.5] = 3
    labels[distance < 3] = 1
    return labels


def brain_of(shape: tuple[int, int, int] = SHAPE_XYZ) -> np.ndarray:
    """Return an ellipsoid (x, y, z) that leaves the image's edge free."""
    grid = [(np.arange(n) - (n - 1) / 2) / (n / 2 - 2) for n in shape]
    x, y, z = np.meshgrid(*grid, indexing="ij")
    return x**2 + y**2 + z**2 < 1


def write_case(
    folder: Path, seed: int, *, affine: np.ndarray = LPS_2MM, axes: str = "LPS", shape: tuple[int, int, int] = SHAPE_XYZ
) -> Path:
    """Write one labelled case as the folder `folder`, stored in `axes`; the anatomy does not depend on `axes`."""
    rng = np.random.default_rng(seed)
    labels, brain = labels_of(seed, shape), brain_of(shape)
    folder.mkdir(parents=True)
    contrast = {"t1n": (0, -20, -10, 0), "t1c": (0, -20, 0, 80), "t2w": (0, 60, 50, 20), "t2f": (0, 20, 70, 50)}
    for name in SEQUENCES:
        image = 100 + np.array(contrast[name])[labels] + rng.normal(0, 5, shape)
        _save(folder / f"{folder.name}-{name}.nii.gz", (image * brain).round().astype(np.int16), affine, axes)
    _save(folder / f"{folder.name}-seg.nii.gz", labels, affine, axes)
    return folder


def _save(path: Path, data: np.ndarray, affine: np.ndarray, axes: str) -> None:
    image = nibabel.Nifti1Image(data, affine)
    image.set_qform(affine, 1)
    turned = image.as_reoriented(ornt_transform(io_orientation(affine), axcodes2ornt(axes)))
    nibabel.save(turned, path)


def write_cohort(folder: Path, patients: int, *, first: int = 1) -> Path:
    """Write one case a patient, named as BraTS does."""
    for number in range(first, first + patients):
        write_case(folder / f"BraTS-SSA-{number:05d}-000", seed=number)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _tiny_plan() -> None:
    """Add a plan that trains in tenths of a second."""
    recipes.PLANS = {**recipes.PLANS, "tiny": TINY}


@pytest.fixture(scope="session")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of four labelled cases of four patients."""
    return write_cohort(tmp_path_factory.mktemp("cohort"), 4)


@pytest.fixture(scope="session")
def prepared(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a workspace of two folds that tests must not change."""
    request = Request((cohort,), tmp_path_factory.mktemp("prepared") / "workspace", plan="tiny", folds=2)
    return prepare(request)


@pytest.fixture(scope="session")
def trained(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a workspace with one-epoch teachers of three recipes on both folds; tests must not change it."""
    from glialite_distill.teachers import RunOptions, run_teachers

    workspace = prepare(Request((cohort,), tmp_path_factory.mktemp("trained") / "workspace", plan="tiny", folds=2))
    run_teachers(workspace, MEMBERS, (0, 1), RunOptions(epochs=1, iterations=1, device="cpu"))
    return workspace
