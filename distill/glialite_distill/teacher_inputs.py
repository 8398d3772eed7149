"""The input options at work in nnU-Net: its normalisation with clipping, its networks with a channel for the brain."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import nnunetv2.preprocessing.normalization.default_normalization_schemes as schemes
import numpy as np
import numpy.typing as npt
import torch
from torch import nn

from glialite_distill.input_options import CLIPPED_NORMALIZATION, MASK_CHANNEL, clip_limits

__all__ = ["ClippedZScoreNormalization", "register_normalization", "wants_mask_channel", "with_mask_channel"]


class ClippedZScoreNormalization(schemes.ZScoreNormalization):
    """nnU-Net's z-score over the brain, after clipping to `input_options.PERCENTILES` there."""

    def run(self, image: npt.NDArray[Any], seg: npt.NDArray[Any] | None = None) -> npt.NDArray[np.float32]:
        """Return the normalised image (z, y, x); `seg` is negative outside the brain."""
        if seg is None:
            raise ValueError("clipping needs the brain mask, which nnU-Net hands over as negative labels")
        brain = seg >= 0
        clipped = image.astype(np.float32)
        if brain.any():
            clipped[brain] = np.clip(clipped[brain], *clip_limits(clipped[brain]))
        normalised: npt.NDArray[np.float32] = super().run(clipped, seg)
        return normalised


def register_normalization() -> None:
    """Let nnU-Net find our normalisation by the name that stands in the plans."""
    setattr(schemes, CLIPPED_NORMALIZATION, ClippedZScoreNormalization)


def wants_mask_channel(configuration: Mapping[str, Any]) -> bool:
    """Return whether the networks of a configuration of the plans take one channel more than the files have."""
    return bool(configuration.get(MASK_CHANNEL))


def with_mask_channel(network: nn.Module) -> nn.Module:
    """Let a network whose first layer takes one channel more see where the brain is, and return it.

    The channel is made of the input itself, 1 where any sequence is not 0: a prepared image is 0 outside the brain and
    hardly anywhere else. Parameters keep their names, and files and loaders their four channels.
    """
    network.register_forward_pre_hook(_append_mask)
    return network


def _append_mask(_: nn.Module, inputs: tuple[torch.Tensor]) -> tuple[torch.Tensor]:
    (image,) = inputs
    mask = (image != 0).any(1, keepdim=True).to(image.dtype)
    return (torch.cat((image, mask), 1),)
