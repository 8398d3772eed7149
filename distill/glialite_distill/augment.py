"""Random changes to a batch that leave the truth true: position, intensity, sharpness."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from glialite_runtime.errors import ConfigError
from torch.nn import functional as F

from glialite_distill.patches import Batch, Shape

__all__ = ["Augmentation", "augment", "margin", "move"]


@dataclass(frozen=True, slots=True)
class Augmentation:
    """How often and how much; probabilities are a sample's (position) or a channel's (intensity, sharpness).

    Attributes
    ----------
    flip : float
        Probability of mirroring each axis.
    affine : float
        Probability of a rotation with scaling.
    rotation_deg : float
        Largest angle about each axis.
    zoom : tuple of float
        Smallest and largest magnification, the same along all axes.
    intensity : float
        Probability of a new scale and shift.
    scale, shift : float
        A channel is multiplied by 1 ± scale and moved by ± shift (SD).
    gamma : float
        Probability of a new gamma.
    gammas : tuple of float
        Smallest and largest exponent.
    noise : float
        Probability of Gaussian noise.
    noise_sd : float
        Its largest SD.
    low_resolution : float
        Probability of a coarser channel: along one axis as in thick slices, or along all three.
    coarsest : float
        Largest factor by which the voxels grow.
    dropout : float
        Probability that a sample loses sequences, see `modality_dropout`. Off until its price in Dice is measured; with
        a quarter each smaller subset comes about twice in a hundred samples.

    Notes
    -----
    Source: the selection and probabilities follow nnU-Net's (Isensee et al., Nature Methods 18, 2021), with smaller
    angles and no elastic deformation, which nnU-Net has dropped as well. Thick slices stand for low-field scans.
    """

    flip: float = 0.5
    affine: float = 0.3
    rotation_deg: float = 15.0
    zoom: tuple[float, float] = (0.85, 1.2)
    intensity: float = 0.5
    scale: float = 0.2
    shift: float = 0.2
    gamma: float = 0.2
    gammas: tuple[float, float] = (0.7, 1.5)
    noise: float = 0.15
    noise_sd: float = 0.2
    low_resolution: float = 0.15
    coarsest: float = 2.5
    dropout: float = 0.0

    def shrunk(self, smallest: float | None) -> Augmentation:
        """Return settings that show nearly every patch smaller than life, down to `smallest`; as they are for None.

        For phantoms: real tumours have a finer structure than they do (docs/synthetic.md).

        Raises
        ------
        ConfigError
            `smallest` is not within 0.3 to 1.
        """
        if smallest is None:
            return self
        if not 0.3 <= smallest <= 1:
            raise ConfigError(f"patches can be shown at 0.3 to 1 of their size, not at {smallest}")
        return replace(self, affine=0.9, zoom=(smallest, 1.05))


def margin(settings: Augmentation, shape: Shape) -> Shape:
    """Return the voxels (z, y, x) to cut for a patch, so that what turns or shrinks into it is not emptiness."""
    factor = max(1.25, 1 / settings.zoom[0])
    z, y, x = (2 * round(factor * n / 2) for n in shape)
    return z, y, x


def augment(batch: Batch, shape: Shape, settings: Augmentation, seed: int, iteration: int, view: int = 0) -> Batch:
    """Return a changed copy of a batch, cut down to its middle; a function of seed, iteration and view.

    Parameters
    ----------
    batch : Batch
        Patches at least as large as `shape`: the margin is what a rotation turns in instead of emptiness.
    shape : tuple of int
        Voxels (z, y, x) wanted.
    settings : Augmentation
        How often and how much.
    seed, iteration : int
        What the randomness is drawn from.
    view : int
        Another view of the same iteration lies at the same place and differs in intensity and sharpness alone.

    Returns
    -------
    Batch
        Image, labels, soft labels and doubts moved alike; the image alone changed in intensity and sharpness, and 0
        again outside the brain.
    """
    places, changes = np.random.default_rng((seed, iteration, 2)), np.random.default_rng((seed, iteration, 3, view))
    samples = []
    for index in range(len(batch.image)):
        one = replace(
            batch,
            image=batch.image[index : index + 1],
            labels=batch.labels[index : index + 1],
            soft=batch.soft[index : index + 1],
            doubt=batch.doubt[index : index + 1],
        )
        flips, matrix = _draw_position(settings, places)
        moved = move(one, shape, flips, matrix)
        samples.append(replace(moved, image=_change_intensity(moved.image, settings, changes)))
    return Batch(
        torch.cat([s.image for s in samples]),
        torch.cat([s.labels for s in samples]),
        torch.cat([s.soft for s in samples]),
        torch.cat([s.doubt for s in samples]),
        batch.has_soft,
    )


def _draw_position(
    settings: Augmentation, random: np.random.Generator
) -> tuple[tuple[bool, bool, bool], npt.NDArray[np.float64] | None]:
    z, y, x = (bool(draw < settings.flip) for draw in random.random(3))
    turn = random.random() < settings.affine
    angles = np.radians(random.uniform(-settings.rotation_deg, settings.rotation_deg, 3))
    zoom = math.exp(random.uniform(math.log(settings.zoom[0]), math.log(settings.zoom[1])))
    if not turn:
        return (z, y, x), None
    matrix = np.eye(3)
    for axis, angle in enumerate(angles):
        first, second = [a for a in range(3) if a != axis]
        rotation = np.eye(3)
        rotation[first, first] = rotation[second, second] = math.cos(angle)
        rotation[first, second], rotation[second, first] = -math.sin(angle), math.sin(angle)
        matrix = matrix @ rotation
    return (z, y, x), matrix / zoom


def move(
    batch: Batch, shape: Shape, flips: tuple[bool, bool, bool], matrix: npt.NDArray[np.float64] | None = None
) -> Batch:
    """Cut the middle out of a batch, turned and mirrored; labels to the nearest voxel, all else linearly.

    Parameters
    ----------
    batch : Batch
        Patches (b, ..., Z, Y, X).
    shape : tuple of int
        Voxels (z, y, x) of the result, at most those of the batch.
    flips : tuple of bool
        Whether the result is mirrored along z, y, x.
    matrix : float array (3, 3), optional
        Takes a place of the result to its place in the batch, both in voxels (z, y, x) from the middle. Outside the
        batch everything is 0.
    """
    start = [(have - want) // 2 for have, want in zip(batch.labels.shape[1:], shape, strict=True)]
    z, y, x = (slice(a, a + want) for a, want in zip(start, shape, strict=True))
    grid = None if matrix is None else _grid(matrix, batch.labels.shape[1:], shape, batch.image)
    axes = [axis - 3 for axis, flipped in enumerate(flips) if flipped]

    def moved(values: torch.Tensor, mode: str = "bilinear") -> torch.Tensor:
        if grid is None:
            values = values[..., z, y, x]
        else:
            values = F.grid_sample(values, grid.expand(len(values), *grid.shape[1:]), mode=mode, align_corners=False)
        return values.flip(axes) if axes else values

    labels = moved(batch.labels[:, None].float(), "nearest")[:, 0].to(batch.labels.dtype)
    return replace(batch, image=moved(batch.image), labels=labels, soft=moved(batch.soft), doubt=moved(batch.doubt))


def _grid(
    matrix: npt.NDArray[np.float64], shape_in: tuple[int, ...], shape_out: Shape, like: torch.Tensor
) -> torch.Tensor:
    """Return what `grid_sample` wants: for every voxel of the result (1, z, y, x) its place, as x, y, z in [−1, 1]."""
    half_in, half_out = (np.array(s[::-1], np.float64) / 2 for s in (shape_in, shape_out))
    theta = np.zeros((1, 3, 4))
    theta[0, :, :3] = matrix[::-1, ::-1] * half_out[None, :] / half_in[:, None]
    return F.affine_grid(torch.from_numpy(theta).to(like), [1, 1, *shape_out], align_corners=False)


def _change_intensity(image: torch.Tensor, settings: Augmentation, random: np.random.Generator) -> torch.Tensor:
    brain = (image != 0).any(1)[0]
    channels = []
    for channel in image[0]:
        draws, sizes = random.random(4), random.uniform(-1, 1, 2)
        exponent, sd = random.uniform(*settings.gammas), random.uniform(0, settings.noise_sd)
        factor, axis, seed = random.uniform(1, settings.coarsest), int(random.integers(6)), int(random.integers(2**62))
        out = channel
        if draws[0] < settings.low_resolution:
            out = _coarser(out, factor, axis)
        if draws[1] < settings.noise:
            generator = torch.Generator(out.device).manual_seed(seed)
            out = out + sd * torch.randn(out.shape, generator=generator, device=out.device)
        if draws[2] < settings.gamma:
            out = _gamma(out, brain, float(exponent))
        if draws[3] < settings.intensity:
            out = out * float(1 + sizes[0] * settings.scale) + float(sizes[1] * settings.shift)
        channels.append(out * brain)
    return torch.stack(channels)[None]


def _coarser(channel: torch.Tensor, factor: float, axis: int) -> torch.Tensor:
    """Average onto voxels `factor` larger along one axis (0 to 2) or all (3 to 5), then interpolate back."""
    z, y, x = (max(1, round(n / factor)) if axis in (i, 3, 4, 5) else n for i, n in enumerate(channel.shape))
    coarse = F.adaptive_avg_pool3d(channel[None, None], (z, y, x))
    return F.interpolate(coarse, tuple(channel.shape), mode="trilinear", align_corners=False)[0, 0]


def _gamma(channel: torch.Tensor, brain: torch.Tensor, exponent: float) -> torch.Tensor:
    """Bend the intensities of the brain and give them back their mean and SD; no change without a brain."""
    inside = channel[brain]
    if inside.numel() < 2:
        return channel
    low, span = inside.min(), inside.max() - inside.min() + 1e-6
    bent = ((channel - low) / span).clamp(0, 1) ** exponent
    sd, mean = torch.std_mean(inside)
    bent_sd, bent_mean = torch.std_mean(bent[brain])
    return (bent - bent_mean) / (bent_sd + 1e-6) * sd + mean
