"""Label maps to compare: which files belong together, read and checked on one grid."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from glialite_runtime.cases import sequence_of
from glialite_runtime.errors import ConfigError, GeometryError, InputError
from glialite_runtime.volume import Orientation

from glialite_distill.cohort import read_labels

__all__ = ["Model", "Pair", "find_label_maps", "find_pairs", "parse_models", "read_pair"]

_NAME: Final = re.compile(r"[\w.\-]+")
_MAX_AXIS_MM: Final = 0.001
_SPACING_DECIMALS: Final = 4  # 1.0000001 mm would put a neighbour beyond a tolerance of 1 mm


@dataclass(frozen=True, slots=True)
class Model:
    """Predictions of one model: a name for the tables and the folder that they lie in."""

    name: str
    folder: Path


@dataclass(frozen=True, slots=True)
class Pair:
    """Reference and prediction of one case.

    Attributes
    ----------
    reference, prediction : uint8 array (i, j, k)
        BraTS-2023 labels, both in the stored axes of the reference.
    spacing_mm : tuple of float
        Voxel size along those axes.
    orientation : Orientation
        Of the reference.
    """

    reference: npt.NDArray[np.uint8]
    prediction: npt.NDArray[np.uint8]
    spacing_mm: tuple[float, float, float]
    orientation: Orientation

    @property
    def voxel_mm3(self) -> float:
        """Volume of a voxel in mm³."""
        return math.prod(self.spacing_mm)


def parse_models(texts: Sequence[str]) -> tuple[Model, ...]:
    """Return the models of `DIR` or `NAME=DIR` options; a folder without a name is called by its own.

    Raises
    ------
    ConfigError
        None is given, two have one name, or a name cannot be part of a file name.
    """
    models = []
    for text in texts:
        name, equals, folder = text.partition("=")
        plain = Path(text)
        named = equals and name and not plain.is_dir()
        models.append(Model(name, Path(folder)) if named else Model(plain.resolve().name, plain))
    names = [m.name for m in models]
    if not models or len(set(names)) < len(names) or not all(map(_NAME.fullmatch, names)):
        raise ConfigError(
            f"predictions need one name each (letters, digits, '-', '_', '.'), got {names}; write --prediction NAME=DIR"
        )
    return tuple(models)


def find_label_maps(folder: Path) -> dict[str, Path]:
    """Return case -> label map of a folder of `<case>/<case>-seg.nii.gz`, `<case>-seg.nii.gz` or `<case>.nii.gz`.

    Hidden files (`.DS_Store`, `._<case>.nii.gz`) and files named after an MRI sequence are passed over.

    Raises
    ------
    InputError
        There is none, or two files claim to be the same case.
    """
    if not folder.is_dir():
        raise InputError(f"{folder} is not a folder; give one that holds label maps")
    found: dict[str, Path] = {}
    problems = []
    for path in sorted(folder.glob("*.nii.gz")) + sorted(folder.glob("*/*-seg.nii.gz")):
        case = path.name.removesuffix(".nii.gz").removesuffix("-seg")
        if path.name.startswith(".") or path.parent.name == "__MACOSX" or sequence_of(path) is not None:
            continue
        if case in found:
            problems.append(f"both {found[case]} and {path} claim to be the label map of {case}")
        found[case] = path
    if problems:
        raise InputError("; ".join(problems))
    if not found:
        raise InputError(f"{folder} holds no label map (<case>/<case>-seg.nii.gz or <case>.nii.gz)")
    return found


def find_pairs(reference: Path, models: Sequence[Model]) -> tuple[list[tuple[Model, str, Path, Path]], list[str]]:
    """Return (model, case, reference, prediction) for every case of the reference, and what is missing, in words.

    Models come in their order. Predictions of cases without a reference are left alone.

    Raises
    ------
    InputError
        A folder holds no label maps, or two for one case.
    """
    truths = find_label_maps(reference)
    pairs, problems = [], []
    for model in models:
        predictions = find_label_maps(model.folder)
        if missing := sorted(set(truths) - set(predictions)):
            problems.append(f"{model.folder} has no label map for {', '.join(missing)}")
        pairs += [(model, case, truths[case], predictions[case]) for case in sorted(set(truths) & set(predictions))]
    return pairs, problems


def read_pair(reference: Path, prediction: Path, conventions: tuple[str, str]) -> Pair:
    """Read the two label maps of a case.

    Parameters
    ----------
    reference, prediction : Path
        Files; both are brought to the same axes by their headers.
    conventions : tuple of str
        Label conventions of the two.

    Raises
    ------
    InputError
        A file cannot be read or holds a label that its convention does not have.
    GeometryError
        Shape, axes or voxel size differ. The origins may: published label maps often carry a foreign one, and their
        voxels agree.
    """
    image, labels = read_labels(reference, conventions[0])
    other, predicted = read_labels(prediction, conventions[1])
    if labels.shape != predicted.shape:
        raise GeometryError(
            f"{prediction} has the shape {predicted.shape[::-1]} (x, y, z in LPS), its reference {labels.shape[::-1]}"
        )
    orientation = Orientation.of(image.affine)
    axes = orientation.lps_affine(image)[:3, :3], Orientation.of(other.affine).lps_affine(other)[:3, :3]
    if not np.allclose(*axes, atol=_MAX_AXIS_MM):
        raise GeometryError(f"{prediction} has other axes or voxel sizes than its reference; resample it first")
    x_mm, y_mm, z_mm = (round(float(v), _SPACING_DECIMALS) for v in np.linalg.norm(image.affine[:3, :3], axis=0))
    stored = orientation.from_lps(labels), orientation.from_lps(predicted)
    return Pair(*stored, (x_mm, y_mm, z_mm), orientation)
