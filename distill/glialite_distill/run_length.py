"""Run-length encoding of label maps, as Kaggle's segmentation competitions take submissions.

Voxels are numbered from 1 in the order of the file: along its first axis, then the second, then the third (Kaggle's
"down, then right" is the same for an array of two axes). A code is `start length start length …`.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import numpy as np
import numpy.typing as npt
from glialite_runtime import nifti
from glialite_runtime.errors import InputError
from glialite_runtime.files import write_bytes
from glialite_runtime.sequences import ET, NETC, SNFH, to_brats2023

__all__ = ["decode_runs", "encode_runs", "write_submission"]

_VALUES: Final = (NETC, SNFH, ET)


def encode_runs(mask: npt.NDArray[np.bool_]) -> str:
    """Return the code of a mask (i, j, k); an empty mask is an empty text."""
    flat = np.concatenate([[0], mask.ravel(order="F").view(np.uint8), [0]])
    turns = np.flatnonzero(np.diff(flat.astype(np.int8))) + 1
    turns[1::2] -= turns[::2]
    return " ".join(map(str, turns.tolist()))


def decode_runs(code: str, shape: tuple[int, int, int]) -> npt.NDArray[np.bool_]:
    """Return the mask (i, j, k) of a code.

    Raises
    ------
    InputError
        The code is no list of pairs of positive numbers, or reaches beyond the shape.
    """
    words = code.split()
    if len(words) % 2 or not all(word.isdecimal() for word in words):
        raise InputError(f"a run-length code holds pairs of numbers, found {code[:40]!r}")
    flat = np.zeros(int(np.prod(shape)), bool)
    for start, length in zip(map(int, words[::2]), map(int, words[1::2]), strict=True):
        if start < 1 or length < 1 or start - 1 + length > flat.size:
            raise InputError(f"the run {start} {length} does not fit {flat.size} voxels, numbered from 1")
        flat[start - 1 : start - 1 + length] = True
    return flat.reshape(shape, order="F")


def write_submission(path: Path, label_maps: Mapping[str, Path], convention: str) -> None:
    """Write `id,rle`: one row a case and BraTS-2023 label value (1 NETC, 2 SNFH, 3 ET), the id being `<case>_<value>`.

    Raises
    ------
    InputError
        Label maps cannot be read; the message lists all of them, and nothing is written.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["id", "rle"])
    problems = []
    for case in sorted(label_maps):
        try:
            labels = to_brats2023(nifti.read(label_maps[case]).data, convention)
        except InputError as error:
            problems.append(f"{case}: {error}")
            continue
        writer.writerows([f"{case}_{value}", encode_runs(labels == value)] for value in _VALUES)
    if problems:
        raise InputError("no submission was written:\n  " + "\n  ".join(problems))
    write_bytes(path, text.getvalue().encode())
