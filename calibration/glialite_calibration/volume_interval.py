"""Intervals around predicted millilitres that hold the true volume at a stated rate, learnt on unseen cases."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping

import numpy as np
import numpy.typing as npt
from glialite_runtime.errors import CalibrationError, ConfigError
from glialite_runtime.measure import OFFSET_ML, VolumeInterval

__all__ = ["cases_needed", "fit_volume_interval", "independent_cases"]


def cases_needed(rate: float) -> int:
    """Return how many cases an interval of this rate needs at least; 19 for 0.9.

    Raises
    ------
    ConfigError
        The rate is not between 0 and 1.
    """
    if not 0 < rate < 1:
        raise ConfigError(f"the rate {rate} of an interval is not between 0 and 1")
    return math.ceil(round((1 + rate) / (1 - rate), 9))


def fit_volume_interval(
    true_ml: npt.NDArray[np.float64], predicted_ml: npt.NDArray[np.float64], rate: float = 0.9
) -> VolumeInterval:
    """Return the interval of a region: the k-th smallest and k-th largest log ratio of n cases, k = ⌊(n+1)(1−rate)/2⌋.

    A new case that is exchangeable with these lies inside with a probability of at least `rate`, whatever the
    distribution and however few the cases (split conformal prediction, each side by itself, so that a bias shifts the
    interval). It promises this over all cases together, not for each size of tumour, and nothing for other scanners.

    Parameters
    ----------
    true_ml, predicted_ml : float arrays (cases,)
        One case a patient, none of which the network was trained on (see `independent_cases`).
    rate : float
        In (0, 1).

    Raises
    ------
    CalibrationError
        Too few cases for the rate, or a volume that is negative or not finite.
    ConfigError
        The rate is not between 0 and 1.

    Notes
    -----
    Source: Lei et al., Distribution-Free Predictive Inference for Regression (arXiv:1604.04173), section 2.2; each side
    by itself as in Romano et al., Conformalized Quantile Regression (arXiv:1905.03222), theorem 2.
    """
    needed, n = cases_needed(rate), len(true_ml)
    volumes = np.stack([true_ml, predicted_ml])
    if not (np.isfinite(volumes).all() and (volumes >= 0).all()):
        raise CalibrationError("a volume is negative or not finite; volumes in mL are needed")
    if n < needed:
        raise CalibrationError(
            f"volume intervals that hold at {rate:.0%} need {needed} patients that training never saw, there are {n}; "
            "give more, or ask for a lower rate"
        )
    ratios = np.sort(np.log((volumes[0] + OFFSET_ML) / (volumes[1] + OFFSET_ML)))
    k = math.floor(round((n + 1) * (1 - rate) / 2, 9))
    return VolumeInterval(rate, n, float(ratios[k - 1]), float(ratios[n - k]))


def independent_cases(patients: Mapping[str, str], trained_on: Collection[str]) -> tuple[str, ...]:
    """Return the cases that may calibrate: one a patient (the first by name), none of whom training saw.

    Parameters
    ----------
    patients : mapping of str to str
        Case -> patient.
    trained_on : collection of str
        Patients that any network of the comparison was trained on.

    Raises
    ------
    CalibrationError
        Training saw some of them; the message names every one.
    """
    if seen := sorted(case for case, patient in patients.items() if patient in trained_on):
        raise CalibrationError(
            f"training saw the patients of {', '.join(seen)}; errors there say nothing about new patients: fit on "
            "cases that were held out"
        )
    first: dict[str, str] = {}
    for case in sorted(patients):
        first.setdefault(patients[case], case)
    return tuple(sorted(first.values()))
