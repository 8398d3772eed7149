"""What a teacher's batches may have on top of nnU-Net's augmentation: low field, missing sequences, mixed cases."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from batchgeneratorsv2.transforms.base.basic_transform import BasicTransform, ImageOnlyTransform, SegOnlyTransform
from batchgeneratorsv2.transforms.utils.random import RandomTransform
from glialite_runtime.decode import components
from glialite_runtime.sequences import SEQUENCES
from scipy.ndimage import distance_transform_edt, find_objects
from torch.nn import functional as F

__all__ = [
    "EXTRA_TRANSFORMS",
    "LowFieldTransform",
    "ModalityDropoutTransform",
    "SmallComponentRemovalTransform",
    "carvemix",
    "thick_slices",
]

_SEQUENCES: Final = len(SEQUENCES)  # further channels (a brain mask) are no scans and stay as they are
_MODES: Final = {2: "bilinear", 3: "trilinear"}
_BIAS_NODES: Final = 3  # of the coarse grid that a coil's sensitivity is drawn on, along each axis


def thick_slices(volume: torch.Tensor, axis: int, thickness: int, noise_sd: float = 0.0) -> torch.Tensor:
    """Return what a scanner that averages slices of `thickness` voxels leaves, interpolated back to every voxel.

    Parameters
    ----------
    volume : float tensor (z, y, x) or (y, x)
    axis : int
        Axis across the slices.
    thickness : int
        Voxels; the last slice repeats the volume's last plane where it is not full.
    noise_sd : float
        Of Gaussian noise on each voxel of the thick slices.

    Returns
    -------
    float tensor of the same shape
        Linear between the slices' centres, constant beyond the outermost.
    """
    moved = volume.movedim(axis, -1)
    length = moved.shape[-1]
    lines = F.pad(moved.reshape(1, -1, length), (0, -length % thickness), mode="replicate")
    slices = F.avg_pool1d(lines, thickness)
    if noise_sd > 0:
        slices = slices + noise_sd * torch.randn(slices.shape)
    back = F.interpolate(slices, size=lines.shape[-1], mode="linear")[..., :length]
    return back.reshape(moved.shape).movedim(-1, axis)


class LowFieldTransform(ImageOnlyTransform):
    """A scan as a low-field scanner would have made it: thick slices, noise, uneven coils.

    The axis is the sample's, thickness, noise and coil field are each sequence's own. Everything happens above the
    darkest voxel of the sequence, where a z-scored image is proportional to signal; afterwards the brain has its mean
    and SD back, as z-scoring would give them. Voxels that are 0 in all sequences stay 0.

    Parameters
    ----------
    thickness : tuple of int
        Fewest and most voxels of a slice.
    noise_sd : tuple of float
        Least and most noise in a thick slice, in SD of the image.
    bias : float
        Largest logarithm of a coil's sensitivity.

    Notes
    -----
    The ranges are ours: scans from Sub-Saharan Africa are described as low in resolution and contrast (Adewole et al.,
    arXiv:2305.19369), without numbers for a simulation.
    """

    def __init__(
        self, thickness: tuple[int, int] = (2, 5), noise_sd: tuple[float, float] = (0.05, 0.25), bias: float = 0.3
    ) -> None:
        super().__init__()
        self.thickness = thickness
        self.noise_sd = noise_sd
        self.bias = bias

    def get_parameters(self, **data_dict: Any) -> dict[str, Any]:
        """Draw what the sample and its sequences get."""
        axes = data_dict["image"].ndim - 1
        least, most = self.noise_sd
        return {
            "axis": int(torch.randint(axes, ())),
            "thickness": torch.randint(self.thickness[0], self.thickness[1] + 1, (_SEQUENCES,)).tolist(),
            "noise_sd": (least + (most - least) * torch.rand(_SEQUENCES)).tolist(),
            "bias": self.bias * (2 * torch.rand(_SEQUENCES, *[_BIAS_NODES] * axes) - 1),
        }

    def _apply_to_image(self, img: torch.Tensor, **params: Any) -> torch.Tensor:
        out = img.clone()
        brain = (img[:_SEQUENCES] != 0).any(0)
        for channel, bias in enumerate(params["bias"]):
            inside = img[channel][brain]
            if inside.numel() == 0 or float(inside.std(correction=0)) == 0:
                continue  # no brain here, or a sequence that is missing
            field = F.interpolate(bias[None, None], size=brain.shape, mode=_MODES[brain.ndim], align_corners=True)[0, 0]
            signal = torch.where(brain, img[channel] - inside.min(), 0.0) * field.exp()
            scan = thick_slices(signal, params["axis"], params["thickness"][channel], params["noise_sd"][channel])
            scan = (scan - scan[brain].mean()) / scan[brain].std(correction=0).clamp_min(1e-6)
            scan = scan * inside.std(correction=0) + inside.mean()
            out[channel] = torch.where(brain, scan, 0.0)
        return out


class ModalityDropoutTransform(ImageOnlyTransform):
    """Some of the sequences are missing: 0 everywhere, as in a clinic that did not scan them.

    Which remain is drawn evenly from the 14 sets that lack one to three.

    Notes
    -----
    Source: Eijgelaar et al., Robust Deep Learning-based Segmentation of Glioblastoma on Routine Clinical MRI Scans
    Using Sparsified Training, Radiology: Artificial Intelligence 2 (2020).
    """

    def get_parameters(self, **data_dict: Any) -> dict[str, Any]:  # noqa: ARG002 - the base class's signature
        """Draw the sequences that remain, as the bits of a number."""
        kept = int(torch.randint(1, 2**_SEQUENCES - 1, ()))
        return {"missing": [channel for channel in range(_SEQUENCES) if not kept >> channel & 1]}

    def _apply_to_image(self, img: torch.Tensor, **params: Any) -> torch.Tensor:
        out = img.clone()
        out[params["missing"]] = 0
        return out


class SmallComponentRemovalTransform(SegOnlyTransform):
    """Islands of tumour, all labels together, of up to `largest` voxels become background.

    An island that touches the border of the patch may be the tip of a large one and stays, and so do values below 0.

    Parameters
    ----------
    largest : int
        Voxels of the largest island that is removed (26-connected); the default is what BraTS-Africa's lesion-wise
        score ignores.
    """

    def __init__(self, largest: int = 50) -> None:
        super().__init__()
        self.largest = largest

    def _apply_to_segmentation(self, segmentation: torch.Tensor, **_: Any) -> torch.Tensor:
        labels = segmentation[0].numpy()
        labelled, count = components(labels[None] > 0 if labels.ndim == 2 else labels > 0)
        labelled = labelled.reshape(labels.shape)
        remove = np.bincount(labelled.ravel(), minlength=count + 1) <= self.largest
        remove[0] = False
        for axis in range(labels.ndim):
            remove[np.take(labelled, [0, -1], axis).ravel()] = False
        out = segmentation.clone()
        out[0][torch.from_numpy(remove[labelled])] = 0
        return out


def carvemix(
    image: npt.NDArray[np.float32],
    label: npt.NDArray[np.integer],
    other_image: npt.NDArray[np.float32],
    other_label: npt.NDArray[np.integer],
    rng: np.random.Generator,
) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.integer]]:
    """Carve the other case's tumour out, with a margin drawn at random, and put it into this case at the same place.

    D is the signed distance to the tumour's surface, negative inside, and d its largest depth. Carved is D ≤ λ; λ is
    drawn evenly from (−d/2, 0), a part of the tumour, or from (0, d), the tumour with its surroundings, half the time
    each. Where one of the two images shows no brain nothing is changed, so that the background stays 0.

    Parameters
    ----------
    image, other_image : float32 arrays (c, z, y, x)
        z-scored patches of equal shape, 0 outside the brain; anatomy should lie alike in both.
    label, other_label : integer arrays (1, z, y, x)
        Their label maps; everything above 0 is tumour.
    rng : numpy Generator
        The only source of randomness; it is drawn from whether or not the other case shows tumour.

    Returns
    -------
    image, label
        New arrays; copies of the first two arguments when the other patch is without tumour, or all tumour.

    Notes
    -----
    Source: Zhang et al., CarveMix, MICCAI 2021 (arXiv:2108.06883). That nothing is carved outside the brain is ours:
    the paper mixes whole images.
    """
    share, partly = rng.uniform(), rng.uniform() < 0.5
    image, label = image.copy(), label.copy()
    tumour = other_label[0] > 0
    if not tumour.any() or tumour.all():
        return image, label
    # The surface lies half a voxel from the centres on both sides of it.
    depth = float(distance_transform_edt(tumour[_box(tumour, 1)]).max()) - 0.5
    threshold = -share * depth / 2 if partly else share * depth
    near = (slice(None), *_box(tumour, int(depth) + 1))  # λ reaches no farther
    inside = tumour[near[1:]]
    signed = np.where(inside, 0.5 - distance_transform_edt(inside), distance_transform_edt(~inside) - 0.5)
    carved = (signed <= threshold) & (image[near] != 0).any(0) & (other_image[near] != 0).any(0)
    image[near] = np.where(carved, other_image[near], image[near])
    label[near] = np.where(carved, other_label[near], label[near])
    return image, label


def _box(mask: npt.NDArray[np.bool_], margin: int) -> tuple[slice, ...]:
    """Return the box of the true voxels, at least one, with a margin where the array has one."""
    (box,) = find_objects(mask.astype(np.int8))
    return tuple(slice(max(0, side.start - margin), side.stop + margin) for side in box)


EXTRA_TRANSFORMS: Final[Mapping[str, Callable[[], BasicTransform]]] = MappingProxyType(
    {
        "low-field": lambda: RandomTransform(LowFieldTransform(), apply_probability=0.2),
        "modality-dropout": lambda: RandomTransform(ModalityDropoutTransform(), apply_probability=0.3),
        "small-component-removal": lambda: RandomTransform(SmallComponentRemovalTransform(), apply_probability=0.1),
    }
)
"""Name -> what builds the transform, with how often it is applied (ours: nothing is published).

Their place is after all other changes of position and intensity, in this order, and before nnU-Net's masking: a new
brightness would give a sequence that is missing a value again.
"""
