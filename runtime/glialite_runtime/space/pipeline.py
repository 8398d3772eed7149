"""Raw scans of one session to the model's space, and the label map back onto the original scan."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from glialite_runtime import nifti
from glialite_runtime.cases import Case
from glialite_runtime.errors import GeometryError, InputError
from glialite_runtime.notes import Note, note
from glialite_runtime.sequences import REGION_LABELS, REGIONS
from glialite_runtime.space.atlas import Atlas, AtlasFit, fit_atlas, grow
from glialite_runtime.space.session import measure, refuse_untrusted
from glialite_runtime.space.transform import BRATS_AFFINE, BRATS_SHAPE, Scan, brats_affine, inverse, resample, shrink
from glialite_runtime.volume import Orientation, Volume

__all__ = ["PreparedCase", "back_to_original", "to_brats_space"]

Array = npt.NDArray[np.float32]
Mask = npt.NDArray[np.bool_]
Matrix = npt.NDArray[np.float64]

_COARSE_SHAPE: Final = (78, 120, 120)
_REFERENCE: Final = ("t1c", "t1n", "t2f", "t2w")
_MIN_ATLAS_NMI: Final = 1.015
_STRETCH: Final = (0.8, 1.25)
_MIN_COVERED: Final = 0.75
_WARN_COVERED: Final = 0.95
_GREY_TOP: Final = 4000.0


@dataclass(frozen=True, slots=True)
class PreparedCase:
    """A session in BraTS space.

    Attributes
    ----------
    volume : Volume
        The sequences on the BraTS grid, int16, background 0; its reference has that geometry.
    originals : mapping of str to Image
        Sequence -> geometry of the original scan; the voxels themselves are not kept.
    to_scan : mapping of str to float64 array (4, 4)
        Sequence -> from RAS+ mm of BraTS space to mm of that scan.
    reference : str
        Sequence that all others were laid on.
    mask_source : str
        "atlas" (approximate), "given" or "already skull-stripped".
    similarity : mapping of str to float
        NMI of each sequence with the reference, and of the reference with the atlas under the key "atlas".
    notes : tuple of Note
        For the report; the first says that the result is approximate.
    """

    volume: Volume
    originals: Mapping[str, nifti.Image]
    to_scan: Mapping[str, Matrix]
    reference: str
    mask_source: str
    similarity: Mapping[str, float]
    notes: tuple[Note, ...]

    def to_json(self) -> dict[str, Any]:
        """Return how the scans were brought here, ready for JSON."""
        return {
            "reference": self.reference,
            "brain_mask": self.mask_source,
            "similarity": dict(self.similarity),
            "to_scan_mm": {sequence: matrix.round(6).tolist() for sequence, matrix in self.to_scan.items()},
        }


def to_brats_space(case: Case, atlas: Atlas, mask: Path | None = None) -> PreparedCase:
    """Bring raw scans of one session into BraTS space.

    Parameters
    ----------
    case : Case
        Scans of one session, each with a geometry of its own, with or without skull.
    atlas : Atlas
        What they are laid on.
    mask : Path, optional
        A brain mask drawn on the reference sequence (T1c where it is there); without it the atlas gives one.

    Raises
    ------
    InputError
        A file cannot be read, or two sequences do not show the same head.
    GeometryError
        The head cannot be laid on the atlas, or too little of the brain was scanned.
    """
    with ThreadPoolExecutor(2) as pool:
        images = dict(zip(case.paths, pool.map(nifti.read, case.paths.values()), strict=True))
    reference = next(s for s in _REFERENCE if s in images)
    scans = {sequence: _scan_of(image) for sequence, image in images.items()}
    fit = fit_atlas(atlas, scans[reference])
    _check_fit(fit, images[reference].path)
    inside, source = _brain(atlas, fit, scans[reference], mask)
    to_scan: dict[str, Matrix] = {reference: fit.rigid}
    similarity: dict[str, float] = {"atlas": round(fit.result.nmi, 4)}
    for other in (s for s in _REFERENCE if s in images and s != reference):
        fits = []
        guess = None
        if other == "t2w" and "t2f" in to_scan:  # T2 has more in common with FLAIR than with T1c
            fits.append(measure(scans["t2f"], scans["t2w"], to_scan["t2f"], inside))
            guess = fits[0].to_scan @ to_scan["t2f"] @ inverse(fit.rigid)
        fits.append(measure(scans[reference], scans[other], fit.rigid, inside, guess))
        refuse_untrusted(fits, images[other].path)
        found = fits[-1]
        to_scan[other] = found.to_scan @ fit.rigid
        similarity[other] = round(found.nmi, 4)
    notes = [note(_APPROXIMATE[source])]
    channels = []
    for sequence, image in images.items():
        values, covered = resample(_sharp(scans.pop(sequence)), to_scan[sequence], inside, BRATS_AFFINE)
        share = float(np.count_nonzero(covered)) / max(int(np.count_nonzero(inside)), 1)
        notes += _coverage(sequence, share, image.path)
        channels.append(_stored(values, inside & covered))
    originals = {s: _geometry_only(image) for s, image in images.items()}
    grid = _brats_image(originals[reference].path)
    orientation = Orientation.of(BRATS_AFFINE)
    volume = Volume(tuple(images), tuple(channels), (1.0, 1.0, 1.0), orientation, grid)
    return PreparedCase(volume, originals, to_scan, reference, source, similarity, tuple(notes))


_APPROXIMATE: Final = {
    "atlas": "space.atlas",
    "given": "space.given",
    "already skull-stripped": "space.stripped",
}


def _scan_of(image: nifti.Image) -> Scan:
    orientation = Orientation.of(image.affine)
    return Scan(orientation.to_lps(image.data), orientation.lps_affine(image))


def _sharp(scan: Scan) -> Scan:
    shrunk = shrink(scan, 1.0)
    return Scan(np.ascontiguousarray(shrunk.data), shrunk.affine)


def _check_fit(fit: AtlasFit, path: Path) -> None:
    low, high = fit.stretch[0], fit.stretch[2]
    if fit.result.nmi < _MIN_ATLAS_NMI or low < _STRETCH[0] or high > _STRETCH[1]:
        raise GeometryError(
            f"{path} could not be laid on the atlas (similarity {fit.result.nmi:.3f}, at least {_MIN_ATLAS_NMI} is "
            f"needed; size {low:.2f} to {high:.2f} of it, {_STRETCH[0]} to {_STRETCH[1]} is plausible): "
            "is it a whole adult head? Align and skull-strip the case with another tool"
        )


def _brain(atlas: Atlas, fit: AtlasFit, scan: Scan, mask: Path | None) -> tuple[Mask, str]:
    """Return the brain on the BraTS grid, and where it comes from."""
    coarse = brats_affine(2.0)
    everywhere = np.ones(_COARSE_SHAPE, np.bool_)
    image, _ = resample(_sharp(shrink(scan, 2.0)), fit.rigid, everywhere, coarse)
    if mask is not None:
        given = nifti.read(mask)
        inside, _ = resample(_sharp(_scan_of(given)), fit.rigid, everywhere, coarse)
        if not (inside > 0).any():
            raise GeometryError(f"{mask} marks nothing inside the head; draw it on the T1c scan and keep that geometry")
        found, source = inside > 0.5 * float(inside.max()), "given"
    else:
        brain = Scan(atlas.brain.astype(np.float32), atlas.scan.affine)
        expected = resample(brain, inverse(fit.affine) @ fit.rigid, everywhere, coarse)[0] > 0.5
        around = _ring(expected)
        if float(np.count_nonzero(image[around])) < 0.05 * np.count_nonzero(around):
            found, source = image > 0, "already skull-stripped"
        else:
            found, source = expected, "atlas"
    wanted = np.repeat(np.repeat(np.repeat(grow(found, corners=True), 2, 0), 2, 1), 2, 2)[: BRATS_SHAPE[0]]
    soft, _ = resample(Scan(found.astype(np.float32), coarse), np.eye(4), wanted, BRATS_AFFINE)
    return soft > 0.5, source


def _ring(mask: Mask) -> Mask:
    """Return what lies 8 to 14 mm outside a mask on voxels of 2 mm, where a head has bone and scalp."""
    near = mask
    for step in range(4):
        near = grow(near, corners=step % 2 == 1)
    far = near
    for step in range(3):
        far = grow(far, corners=step % 2 == 1)
    return far & ~near


def _coverage(sequence: str, share: float, path: Path) -> list[Note]:
    if share < _MIN_COVERED:
        raise GeometryError(
            f"{path} shows only {share:.0%} of the brain, at least {_MIN_COVERED:.0%} is needed; "
            f"leave {sequence} out or scan again"
        )
    if share < _WARN_COVERED:
        return [note("space.coverage", sequence=sequence, percent=round(100 * share))]
    return []


def _stored(values: Array, inside: Mask) -> npt.NDArray[np.int16]:
    """Return grey values as int16, at least 1 in the brain and 0 outside, so that the network sees an ordinary case."""
    out = np.zeros(values.shape, np.int16)
    brain = values[inside]
    if brain.size:
        top = max(float(brain.max()), 1e-6)
        out[inside] = np.clip(np.rint(brain * np.float32(_GREY_TOP / top)), 1, _GREY_TOP).astype(np.int16)
    return out


def _geometry_only(image: nifti.Image) -> nifti.Image:
    empty: npt.NDArray[Any] = np.broadcast_to(np.uint8(0), image.data.shape)
    return nifti.Image(empty, image.affine, image.header, image.path)


def _brats_image(path: Path) -> nifti.Image:
    header = nifti.load_nibabel().Nifti1Header()
    header.set_data_shape(BRATS_SHAPE[::-1])
    header.set_data_dtype(np.int16)
    header.set_qform(BRATS_AFFINE, 1)
    header.set_sform(BRATS_AFFINE, 1)
    header.set_xyzt_units("mm")
    return nifti.Image(np.broadcast_to(np.int16(0), BRATS_SHAPE[::-1]), BRATS_AFFINE, header, path)


def back_to_original(
    labels: npt.NDArray[np.uint8], prepared: PreparedCase, sequence: str | None = None
) -> tuple[npt.NDArray[np.uint8], nifti.Image]:
    """Bring a label map from BraTS space onto an original scan.

    A voxel gets a region when at least half of it does: regions are interpolated linearly and averaged over the voxel,
    so that a thick slice is judged as a whole; ET stays in TC, TC in WT.

    Parameters
    ----------
    labels : uint8 array (z, y, x)
        BraTS-2023 labels on the BraTS grid.
    prepared : PreparedCase
        Of `to_brats_space`.
    sequence : str, optional
        Which scan; the reference without it.

    Returns
    -------
    uint8 array (i, j, k)
        Labels in the stored axes of that scan.
    Image
        Its geometry, for `nifti.write_labels`.

    Raises
    ------
    InputError
        There is no such scan.
    """
    name = sequence or prepared.reference
    if name not in prepared.originals:
        raise InputError(f"there is no {name} scan in this case; it has {', '.join(prepared.originals)}")
    image = prepared.originals[name]
    orientation = Orientation.of(image.affine)
    affine = orientation.lps_affine(image)
    shape = orientation.to_lps(image.data).shape
    to_brats = inverse(prepared.to_scan[name])
    where = _reached(labels, affine, to_brats, shape)
    share = {}
    for region in REGIONS:
        member = Scan(np.isin(labels, REGION_LABELS[region]).astype(np.float32), BRATS_AFFINE)
        share[region] = _averaged(member, to_brats, where, affine) >= 0.5
    out = np.zeros(shape, np.uint8)
    out[share["WT"]] = 2
    out[share["TC"] & share["WT"]] = 1
    out[share["ET"] & share["TC"] & share["WT"]] = 3
    return np.ascontiguousarray(orientation.from_lps(out)), image


def _averaged(member: Scan, to_brats: Matrix, where: Mask, affine: Matrix) -> Array:
    spacing = np.sqrt((affine[:3, :3] ** 2).sum(0))
    parts = [max(1, round(float(mm))) for mm in spacing]
    total = np.zeros(where.shape, np.float32)
    for index in np.ndindex(*parts):
        shifted = affine.copy()
        offset = [(i + 0.5) / n - 0.5 for i, n in zip(index, parts, strict=True)]
        shifted[:3, 3] += affine[:3, :3] @ np.array(offset)
        total += resample(member, to_brats, where, shifted)[0]
    return total / np.float32(np.prod(parts))


def _reached(labels: npt.NDArray[np.uint8], affine: Matrix, to_brats: Matrix, shape: tuple[int, ...]) -> Mask:
    """Return the box of voxels of the scan that any label can fall on, with two voxels to spare."""
    where = np.zeros(shape, np.bool_)
    found = np.argwhere(labels)
    if not len(found):
        return where
    corners = np.array(np.meshgrid(*zip(found.min(0) - 1, found.max(0) + 1, strict=True))).reshape(3, -1)[::-1]
    to_index = inverse(affine) @ inverse(to_brats) @ BRATS_AFFINE
    at = (to_index[:3, :3] @ corners + to_index[:3, 3:])[::-1]
    low = np.clip(np.floor(at.min(1)) - 2, 0, shape).astype(int)
    high = np.clip(np.ceil(at.max(1)) + 3, 0, shape).astype(int)
    where[tuple(slice(a, b) for a, b in zip(low, high, strict=True))] = True
    return where
