"""A teacher over a whole case: windows that overlap, weighted with a Gaussian, one mirroring after the other."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import torch
from glialite_runtime.errors import ConfigError
from glialite_runtime.sequences import REGIONS
from nnunetv2.inference.sliding_window_prediction import compute_gaussian, compute_steps_for_sliding_window
from torch import nn

__all__ = ["MIRRORINGS", "Window", "mirrored_logits", "sliding_window"]

Logits = npt.NDArray[np.float32]

MIRRORINGS: Final = tuple(axes for n in range(4) for axes in itertools.combinations((2, 3, 4), n))
"""The axes of (n, c, z, y, x) that each of the eight mirrorings turns round; the first turns none."""

_WINDOWS_AT_ONCE: Final = 2  # with a batch of one and one thread, torch takes a convolution that is five times slower


@dataclass(frozen=True, slots=True)
class Window:
    """How a teacher runs over a case.

    Attributes
    ----------
    patch_size : tuple of int
        Voxels (z, y, x).
    step : float
        Step between windows as a share of the patch: 0.5 is 50 % overlap.
    tta : bool
        Average the logits of all eight mirrorings.

    Raises
    ------
    ConfigError
        The step is not in (0, 1].
    """

    patch_size: tuple[int, int, int]
    step: float = 0.5
    tta: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.step <= 1:
            raise ConfigError(f"--step {self.step} is not in (0, 1]")


def sliding_window(network: nn.Module, image: npt.NDArray[np.float32], window: Window, device: torch.device) -> Logits:
    """Run a network over a case, Gaussian-weighted, accumulating in FP32.

    nnU-Net's predictor does the same but adds up in FP16, where a sixth of its Gaussian is subnormal: up to 0.12 off
    in the corners of a case.

    Parameters
    ----------
    network : nn.Module
        (n, 4, z, y, x) -> (n, 3, z, y, x) logits; every sample must be computed by itself (no BatchNorm statistics).
    image : float32 array (4, z, y, x)
        A prepared case of any size; it is padded with zeros up to the patch.
    window : Window
        Patch, step and mirroring.
    device : torch.device
        Where the network is; CUDA computes in automatic mixed precision, as in training.

    Returns
    -------
    float32 array (3, z, y, x)
        Logits, regions as in `REGIONS`, averaged over the mirrorings.
    """
    total = np.zeros((len(REGIONS), *image.shape[1:]), np.float32)
    for logits in mirrored_logits(network, image, window, device):
        total += logits
        del logits  # or it would still be there while the next one is computed
    total /= len(MIRRORINGS) if window.tta else 1
    return total


def mirrored_logits(
    network: nn.Module, image: npt.NDArray[np.float32], window: Window, device: torch.device
) -> Iterator[Logits]:
    """Yield the logits (3, z, y, x) of a case as each mirroring of `MIRRORINGS` gives them, turned back.

    Parameters as in `sliding_window`; without `window.tta` only the first, which mirrors nothing.
    """
    shape, patch = image.shape[1:], window.patch_size
    before = [max(0, p - n) // 2 for n, p in zip(shape, patch, strict=True)]
    padding = [(0, 0), *((b, max(0, p - n) - b) for n, p, b in zip(shape, patch, before, strict=True))]
    padded = torch.from_numpy(np.pad(image, padding)).to(device)
    crop = tuple(slice(b, b + n) for b, n in zip(before, shape, strict=True))
    for axes in MIRRORINGS if window.tta else MIRRORINGS[:1]:
        yield np.ascontiguousarray(_one_pass(network, padded, window, axes)[(slice(None), *crop)].cpu().numpy())


@torch.inference_mode()
def _one_pass(network: nn.Module, padded: torch.Tensor, window: Window, axes: tuple[int, ...]) -> torch.Tensor:
    patch, device = window.patch_size, padded.device
    weight = compute_gaussian(patch, sigma_scale=1 / 8, value_scaling_factor=10, dtype=torch.float32, device=device)
    total = torch.zeros((len(REGIONS), *padded.shape[1:]), device=device)
    weights = torch.zeros(padded.shape[1:], device=device)
    steps = compute_steps_for_sliding_window(tuple(padded.shape[1:]), patch, window.step)
    places = [tuple(slice(s, s + p) for s, p in zip(at, patch, strict=True)) for at in itertools.product(*steps)]
    for first in range(0, len(places), _WINDOWS_AT_ONCE):
        chunk = places[first : first + _WINDOWS_AT_ONCE]
        patches = torch.stack([padded[(slice(None), *at)] for at in chunk])
        with torch.autocast(device.type, enabled=device.type == "cuda"):
            logits = torch.flip(network(torch.flip(patches, axes)), axes).float()
        for at, found in zip(chunk, logits, strict=True):
            total[(slice(None), *at)] += found * weight
            weights[at] += weight
    return total.div_(weights)
