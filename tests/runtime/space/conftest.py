"""A small head with an atlas of its own: balls within balls, so that a registration takes a fraction of a second."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from glialite_runtime.space.registration import matrix_of
from glialite_runtime.space.transform import brats_affine

from tests.conftest import save

Matrix = npt.NDArray[np.float64]

MIDDLE = np.array([-119.5, 117.0, 74.0])
SEQUENCES = ("t1n", "t1c", "t2w", "t2f")
VALUES = {
    # brain, deep, ventricle, tumour, gap (CSF and bone), scalp
    "t1n": (0.8, 1.0, 0.4, 0.5, 0.1, 1.5),
    "t1c": (0.8, 1.0, 0.4, 1.5, 0.1, 1.5),
    "t2w": (1.3, 1.0, 3.0, 2.0, 0.2, 1.8),
    "t2f": (1.2, 1.0, 0.3, 2.2, 0.2, 1.3),
}


def pose(turn_mm: tuple[float, float, float], shift_mm: tuple[float, float, float]) -> Matrix:
    """Return a rigid motion of BraTS space about the brain's middle."""
    return matrix_of(np.array([*turn_mm, *shift_mm, 0, 0, 0, 0, 0, 0], float), MIDDLE, MIDDLE)


def paint(places: npt.NDArray[np.float64], values: tuple[float, ...], *, skull: bool) -> npt.NDArray[np.float32]:
    """Return the toy head at places (3, …), RAS+ mm of BraTS space."""
    x, y, z = (places[i] - MIDDLE[i] for i in range(3))

    def inside(centre: tuple[float, float, float], radii: tuple[float, float, float]) -> npt.NDArray[np.bool_]:
        return ((x - centre[0]) / radii[0]) ** 2 + ((y - centre[1]) / radii[1]) ** 2 + (
            (z - centre[2]) / radii[2]
        ) ** 2 < 1

    brain, deep, ventricle, tumour, gap, scalp = values
    out = np.zeros(x.shape, np.float32)
    if skull:
        out[inside((0, 0, -2), (82, 101, 80))] = scalp
        out[inside((0, 0, 0), (76, 95, 74))] = gap
    out[inside((0, 0, 0), (66, 85, 64))] = brain
    for at, radii in (((-30, 25, 15), (20, 32, 22)), ((30, 25, 15), (20, 32, 22)), ((0, -45, 5), (40, 22, 26))):
        out[inside(at, radii)] = deep
    for side in (-1, 1):
        out[inside((side * 12, 5, 12), (7, 28, 10))] = ventricle
        out[inside((side * 38, -10, -28), (12, 26, 10))] = ventricle
    out[inside((28, 20, 30), (16, 16, 16))] = tumour
    return out


@dataclass(frozen=True)
class ToySession:
    """Where the files lie and how each scan was moved: sequence -> from mm of BraTS space to mm of the scan."""

    folder: Path
    atlas: Path
    to_scan: dict[str, Matrix]


def write_scan(path: Path, sequence: str, to_scan: Matrix, *, skull: bool = True, slices: int = 34) -> Path:
    """Write one sequence: 3 mm in the plane, slices of 5 mm, axial in the scanner's frame."""
    affine = np.diag([-3.0, -3.0, 5.0, 1.0])
    centre = to_scan[:3, :3] @ MIDDLE + to_scan[:3, 3]
    shape = (66, 76, slices)
    affine[:3, 3] = np.round(centre) - affine[:3, :3] @ ((np.array(shape) - 1) / 2) - (0, 0, 10)
    index = np.indices(shape).reshape(3, -1)
    world = affine[:3, :3] @ index + affine[:3, 3:]
    back = np.linalg.inv(to_scan)
    places = back[:3, :3] @ world + back[:3, 3:]
    image = paint(places, VALUES[sequence], skull=skull).reshape(shape)
    rng = np.random.default_rng(sum(map(ord, sequence)))
    noisy = image + (0.03 * rng.standard_normal(shape) if skull else 0.02 * rng.standard_normal(shape) * (image > 0))
    return save(path, np.clip(np.rint(np.abs(noisy) * 300), 0, 9000).astype(np.int16), affine)


def write_session(folder: Path, *, skull: bool = True, session: tuple[str, ...] = SEQUENCES) -> ToySession:
    """Write a session of a crooked head that moved between its sequences, and its atlas."""
    lies = pose((8, -5, 6), (12, -9, 7))
    moves = {"t1n": pose((0, 2, -1), (2, 1, 0)), "t1c": pose((0, 0, 0), (0, 0, 0)), "t2w": pose((2, 0, 2), (-2, 3, 1)),
             "t2f": pose((-2, 1, 0), (1, -2, 2))}  # fmt: skip
    to_scan = {s: moves[s] @ lies for s in session}
    for sequence, matrix in to_scan.items():
        write_scan(folder / "S1" / f"S1-{sequence}.nii.gz", sequence, matrix, skull=skull)
    affine = brats_affine(2.0)
    index = np.indices((120, 120, 78)).reshape(3, -1)
    places = affine[:3, :3] @ index + affine[:3, 3:]
    plain = (*VALUES["t1n"][:3], 0.8, 0.0, 0.0)
    image = paint(places, plain, skull=False).reshape(120, 120, 78)
    atlas = save(folder / "atlas.nii.gz", np.rint(image * 200).astype(np.uint8), affine)
    return ToySession(folder / "S1", atlas, to_scan)


def mean_error_mm(found: Matrix, true: Matrix) -> float:
    """Return how far the points of a brain lie from where they should."""
    rng = np.random.default_rng(0)
    points = MIDDLE[:, None] + rng.uniform(-60, 60, (3, 500))
    apart = (found - true)[:3]
    return float(np.linalg.norm(apart[:, :3] @ points + apart[:, 3:], axis=0).mean())


@pytest.fixture(scope="session")
def toy_session(tmp_path_factory: pytest.TempPathFactory) -> ToySession:
    """Return a written toy session; not to be changed."""
    return write_session(tmp_path_factory.mktemp("space"))
