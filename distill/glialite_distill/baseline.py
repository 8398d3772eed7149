"""The trivial rule that any network must beat: bright in FLAIR is tumour."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import numpy as np
import numpy.typing as npt
from glialite_runtime.cases import Case
from glialite_runtime.decode import components
from glialite_runtime.errors import ConfigError, InputError
from glialite_runtime.metrics import dice
from glialite_runtime.preprocess import preprocess, uncrop
from glialite_runtime.sequences import ET, NETC, SEQUENCES, SNFH
from glialite_runtime.volume import Volume

from glialite_distill.evaluate import Labels, Source

__all__ = ["DEFAULT_FLAIR_SD", "fit_flair_threshold", "flair_labels", "flair_source"]

DEFAULT_FLAIR_SD: Final = 2.0
"""Threshold to use when there are no training cases to choose one on."""

_FLAIR_SD: Final = tuple(float(t) for t in np.arange(0.75, 3.01, 0.25))
_ENHANCEMENT_SD: Final = 1.0


def flair_labels(image: npt.NDArray[np.float32], threshold_sd: float) -> Labels:
    """Segment by two thresholds, the trivial rule that any network must beat.

    WT is the largest 26-connected component of t2f above `threshold_sd`; ET is what in it is brighter by 1 SD in t1c
    than in t1n; TC is ET closed by two voxels and filled, inside WT.

    Parameters
    ----------
    image : float32 array (4, z, y, x)
        Z-scored, channels as in `SEQUENCES`.
    threshold_sd : float
        In standard deviations of the brain.

    Returns
    -------
    uint8 array (z, y, x)
        BraTS-2023 values; all 0 when nothing is above the threshold.
    """
    from scipy import ndimage  # noqa: PLC0415 - half a second that training need not pay

    channel = dict(zip(SEQUENCES, image, strict=True))
    labelled, count = components(channel["t2f"] > threshold_sd)
    labels = np.zeros(labelled.shape, np.uint8)
    if count == 0:
        return labels
    sizes = np.bincount(labelled.ravel())
    sizes[0] = 0
    wt = labelled == sizes.argmax()
    et = wt & (channel["t1c"] - channel["t1n"] > _ENHANCEMENT_SD)
    closed = ndimage.binary_closing(np.pad(et, 2), iterations=2)[2:-2, 2:-2, 2:-2]
    labels[wt] = SNFH
    labels[wt & (ndimage.binary_fill_holes(closed) | et)] = NETC
    labels[et] = ET
    return labels


def flair_source(threshold_sd: float) -> Source:
    """Return the predictions of `flair_labels` at the case's own voxel size.

    Raises
    ------
    InputError
        When used: the case lacks t2f.
    """

    def predict(case: Case, volume: Volume) -> Labels:
        if "t2f" not in volume.sequences:
            raise InputError(f"case {case.name} has no t2f, which the FLAIR threshold needs")
        image, geometry = preprocess(volume)
        return uncrop(flair_labels(image, threshold_sd), geometry)

    return predict


def fit_flair_threshold(cases: Iterable[tuple[npt.NDArray[np.float32], Labels]]) -> float:
    """Return the threshold, of 0.75 to 3 SD, with the best mean WT Dice.

    Parameters
    ----------
    cases : iterable of (image, labels)
        Training cases: float32 (4, z, y, x) z-scored, uint8 (z, y, x).

    Raises
    ------
    ConfigError
        There is no case with a tumour.
    """
    rows = [
        [dice(flair_labels(image, t) > 0, labels > 0) for t in _FLAIR_SD] for image, labels in cases if labels.any()
    ]
    if not rows:
        raise ConfigError("no training case has a tumour, so no FLAIR threshold can be chosen")
    return _FLAIR_SD[int(np.mean(rows, axis=0).argmax())]
