"""How a workspace's inputs may differ from nnU-Net's own: clipped intensities, a channel that marks the brain."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from glialite_runtime.preprocess import preprocess
from glialite_runtime.volume import Volume

__all__ = ["CLIPPED_NORMALIZATION", "MASK_CHANNEL", "PERCENTILES", "InputOptions", "clip_limits", "clip_volume"]

PERCENTILES: Final = (2, 98)
"""What lies below or above them over the brain becomes equal to them."""

CLIPPED_NORMALIZATION: Final = "ClippedZScoreNormalization"
"""Name of the normalisation in nnU-Net's plans."""

MASK_CHANNEL: Final = "mask_channel"
"""Key in nnU-Net's plans."""


@dataclass(frozen=True, slots=True)
class InputOptions:
    """Options of `teacher-train prepare`; they hold for every teacher of a workspace.

    The clinic's preprocessing knows no clipping, so no student can be trained where teachers see clipped intensities.

    Attributes
    ----------
    clip : bool
        Every sequence is clipped to `PERCENTILES` over the brain before it is z-scored.
    mask_channel : bool
        Networks see a further channel, 1 in the brain and 0 outside; it is made of their input and stored nowhere.
    """

    clip: bool = False
    mask_channel: bool = False

    @classmethod
    def of(cls, record: Mapping[str, Any]) -> InputOptions:
        """Read the options of a workspace's record; what is not there is off."""
        return cls(bool(record.get("clip")), bool(record.get("mask_channel")))

    def to_json(self) -> dict[str, bool]:
        """Return what is on, ready for a workspace's record: older records have neither."""
        return {name: on for name, on in asdict(self).items() if on}

    def in_plans(self, plans: Mapping[str, Any]) -> dict[str, Any]:
        """Return a copy of nnU-Net's plans that state the options in every configuration."""
        configurations = {}
        for name, configuration in plans["configurations"].items():
            stated: dict[str, Any] = {MASK_CHANNEL: True} if self.mask_channel else {}
            if self.clip:
                stated["normalization_schemes"] = [CLIPPED_NORMALIZATION] * len(configuration["normalization_schemes"])
            configurations[name] = {**configuration, **stated}
        return {**plans, "configurations": configurations}


def clip_limits(values: npt.NDArray[Any]) -> tuple[Any, Any]:
    """Return the values at `PERCENTILES`, each one that occurs, so that integers stay integers; `values` not empty."""
    low, high = np.percentile(values, PERCENTILES, method="nearest")
    return low, high


def clip_volume(volume: Volume) -> Volume:
    """Return a case, not empty, whose sequences are clipped over the brain; ready for `preprocess`."""
    image, geometry = preprocess(volume)
    brain = np.zeros(geometry.full_shape, np.bool_)
    brain[geometry.crop] = (image != 0).any(0)
    channels = tuple(np.where(brain, np.clip(c, *clip_limits(c[brain])), c) for c in volume.channels)
    return replace(volume, channels=channels)
