"""Soft labels on disk: what comes back is what was written, to a stated error, in few bytes."""

from __future__ import annotations

from pathlib import Path

import blosc2
import numpy as np
import pytest
from glialite_distill.soft_label_store import (
    MAX_DISAGREEMENT_ERROR,
    MAX_ERROR,
    SoftLabelStore,
    soft_label_file,
    write_soft_labels,
)
from glialite_runtime.errors import InputError


def store(folder: Path) -> SoftLabelStore:
    return SoftLabelStore(folder, "key", ("baseline",), ("c1",))


def test_the_stated_errors_hold_for_any_value(tmp_path: Path) -> None:
    """A hundred thousand values between the least and the largest, 0, 0.5 and 1 among them."""
    random = np.random.default_rng(0)
    probabilities = random.random((3, 30, 30, 40), np.float32)
    probabilities[:, 0, 0, :2] = (0, 1)
    doubt = probabilities[::-1] / 2
    write_soft_labels(tmp_path, "c1", probabilities, doubt)
    found, disagreement = store(tmp_path).load("c1"), store(tmp_path).disagreement("c1")
    assert (found.dtype, found.shape) == (disagreement.dtype, disagreement.shape) == (np.float32, probabilities.shape)
    assert 0.9 * MAX_ERROR < np.abs(found - probabilities).max() <= MAX_ERROR + 1e-7
    assert 0.9 * MAX_DISAGREEMENT_ERROR < np.abs(disagreement - doubt).max() <= MAX_DISAGREEMENT_ERROR + 1e-7
    assert (found[:, 0, 0, :2] == (0, 1)).all()


def test_what_is_certain_takes_nearly_nothing(tmp_path: Path) -> None:
    """A sphere of tumour with a soft edge: far under a byte a voxel for all six values."""
    at = np.linalg.norm(np.moveaxis(np.indices((64, 64, 64)), 0, -1) - 32, axis=-1)
    probability = (1 / (1 + np.exp(at - 12))).astype(np.float32)
    write_soft_labels(tmp_path, "c1", np.stack([probability] * 3), np.stack([probability * (1 - probability)] * 3))
    assert 0 < store(tmp_path).bytes_a_voxel() < 0.5
    used = soft_label_file(tmp_path, "c1").stat().st_size
    assert store(tmp_path).bytes_a_voxel() == pytest.approx(used / 64**3)


def test_soft_labels_of_an_older_version_are_refused(tmp_path: Path) -> None:
    """A file without disagreement is not read as if it had one."""
    old = blosc2.asarray(np.zeros((3, 4, 4, 4), np.uint8)).to_cframe()
    soft_label_file(tmp_path, "c1").write_bytes(old)
    with pytest.raises(InputError, match=r"has the shape \(3, 4, 4, 4\)"):
        store(tmp_path).load("c1")
