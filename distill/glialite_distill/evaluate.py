"""How well a model does, case by case: label maps and probabilities against the truth."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from glialite_calibration.logit_counts import LogitCounts, count_logits, total
from glialite_runtime import nifti
from glialite_runtime.bundle import read_bundle
from glialite_runtime.cases import Case
from glialite_runtime.decode import DecisionRule, decode
from glialite_runtime.engine import open_engine
from glialite_runtime.errors import GeometryError, InputError
from glialite_runtime.measure import volumes_ml
from glialite_runtime.metrics import dice_per_region
from glialite_runtime.preprocess import preprocess, restore_logits, uncrop
from glialite_runtime.sequences import REGIONS, SEQUENCES, to_brats2023
from glialite_runtime.volume import Orientation, Volume, load_volume

from glialite_distill.student import Student
from glialite_distill.student_file import StudentFile, build_student

__all__ = [
    "NEAR_MM",
    "SCOPES",
    "CaseScore",
    "Evaluation",
    "Labels",
    "NetworkSource",
    "Source",
    "bundle_source",
    "evaluate",
    "folder_source",
    "load_labels",
    "network_logits",
    "on_device",
    "score",
    "student_source",
]

Labels = npt.NDArray[np.uint8]
Source = Callable[[Case, Volume], Labels]
"""Something that segments: takes a case and its images, gives labels (z, y, x) in LPS of the whole image."""

NEAR_MM: Final = 10.0
SCOPES: Final = ("brain", "near the tumour")
"""Where probabilities are judged: in every voxel of the brain, and in those of them in the true whole tumour or at most
`NEAR_MM` from it along each axis (in a brain without a tumour, none)."""

Triple = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class CaseScore:
    """One prediction of one case against the truth; tuples in the order of `REGIONS`.

    Attributes
    ----------
    source, case : str
        Whose prediction of what.
    dice : tuple of float
        NaN where neither truth nor prediction has the region, and for TC and ET without t1c.
    true_ml, predicted_ml : tuple of float
        Volumes; `predicted_ml` is NaN for TC and ET without t1c.
    sequences : tuple of str
        What the source was shown.
    withheld : bool
        Whether the case has more sequences than that.
    """

    source: str
    case: str
    dice: Triple
    true_ml: Triple
    predicted_ml: Triple
    sequences: tuple[str, ...] = SEQUENCES
    withheld: bool = False

    @property
    def false_positive_ml(self) -> float:
        """Predicted WT in mL where the truth has no tumour at all; NaN where it has one."""
        return math.nan if self.true_ml[0] else self.predicted_ml[0]


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What was measured.

    Attributes
    ----------
    scores : tuple of CaseScore
        A case after the other, every source on each.
    counts : mapping of str to (mapping of str to LogitCounts)
        Source -> scope -> its logits against the truth, all cases together; networks only, and only cases that have
        t1c, with all the sequences that the case has.
    """

    scores: tuple[CaseScore, ...]
    counts: Mapping[str, Mapping[str, LogitCounts]]


@dataclass(frozen=True, slots=True)
class NetworkSource:
    """A network that is asked for logits, with the runtime's own preprocessing and decoding around it.

    Attributes
    ----------
    logits : function
        Normalised image (4, z, y, x) -> logits (3, z, y, x), float32.
    spacing_mm : tuple of float
        Voxel size (z, y, x) that the network works at.
    decision : DecisionRule
        How its logits become labels.
    """

    logits: Callable[[npt.NDArray[np.float32]], npt.NDArray[np.float32]]
    spacing_mm: Triple
    decision: DecisionRule

    def predict(self, volume: Volume) -> tuple[Labels, npt.NDArray[np.float32], tuple[slice, slice, slice]]:
        """Return labels (z, y, x) of the whole image, logits (3, z, y, x) of the brain's box, and where that box is."""
        image, geometry = preprocess(volume, self.spacing_mm)
        logits = restore_logits(self.logits(image), geometry)
        labels = decode(logits, self.decision, volume.voxel_mm3, has_t1c="t1c" in volume.sequences)
        return uncrop(labels, geometry), logits, geometry.crop


def on_device(network: Student, device: torch.device) -> Student:
    """Move a network to a device, in the memory layout whose 3-D convolutions are fastest there."""
    return network.to(device).to(memory_format=torch.channels_last_3d)  # type: ignore[call-overload] # not in the stubs


def network_logits(network: Student, image: npt.NDArray[np.float32], device: torch.device) -> npt.NDArray[np.float32]:
    """Return logits (3, z, y, x) of a whole normalised case (4, z, y, x), any shape, in FP32.

    The case is padded behind with zeros, the background after z-scoring, to multiples of the student's divisor.
    """
    divisor, shape = network.spec.divisor, image.shape[1:]
    padding = [(0, 0), *((0, -n % divisor) for n in shape)]
    tensor = torch.from_numpy(np.pad(image, padding))[None].to(device)
    with torch.inference_mode():
        logits = network(tensor.contiguous(memory_format=torch.channels_last_3d))[0]
    z, y, x = shape
    return np.ascontiguousarray(logits[:, :z, :y, :x].float().cpu().numpy())


def student_source(file: StudentFile, device: torch.device) -> NetworkSource:
    """Return a student in FP32."""
    network = on_device(build_student(file), device)
    return NetworkSource(lambda image: network_logits(network, image, device), file.spacing_mm, file.decision)


def bundle_source(path: Path) -> NetworkSource:
    """Return the network of a clinic bundle as the clinic runs it; raises what `read_bundle` raises."""
    bundle = read_bundle(path)
    return NetworkSource(open_engine(bundle).logits, bundle.manifest.spacing_mm, bundle.manifest.decision)


def folder_source(folder: Path) -> Source:
    """Return predictions that lie in a folder, as `<case>/<case>-seg.nii.gz` or `<case>.nii.gz`.

    Raises
    ------
    InputError
        When used: a case has no file there, or it is not a label map.
    """

    def predict(case: Case, volume: Volume) -> Labels:
        candidates = [folder / case.name / f"{case.name}-seg.nii.gz", folder / f"{case.name}.nii.gz"]
        found = [path for path in candidates if path.is_file()]
        if not found:
            raise InputError(f"case {case.name} has no prediction: neither {candidates[0]} nor {candidates[1]} exists")
        return load_labels(found[0], volume)

    return predict


def load_labels(path: Path, volume: Volume, convention: str = "brats2023") -> Labels:
    """Return a label map (z, y, x) in LPS with BraTS-2023 values.

    The voxels must match those of the images; the origin in the header need not (label maps often carry a foreign one).

    Raises
    ------
    GeometryError
        The shape is not that of the images.
    InputError
        A value that the convention does not have.
    """
    image = nifti.read(path)
    labels = Orientation.of(image.affine).to_lps(image.data)
    if labels.shape != volume.channels[0].shape:
        raise GeometryError(
            f"{path} has the shape {labels.shape} (z, y, x), the images have {volume.channels[0].shape}; "
            "give a label map on the images' own grid"
        )
    return to_brats2023(labels, convention)


def score(
    source: str,
    case: str,
    prediction: Labels,
    truth: Labels,
    voxel_mm3: float,
    sequences: tuple[str, ...] = SEQUENCES,
) -> CaseScore:
    """Compare a prediction with the truth, both (z, y, x) on one grid; voxels of `voxel_mm3`.

    Without t1c among the sequences that the source was shown, TC and ET are not compared.
    """
    has_t1c = "t1c" in sequences
    wt, tc, et = dice_per_region(prediction, truth)
    return CaseScore(
        source,
        case,
        (wt, tc, et) if has_t1c else (wt, math.nan, math.nan),
        _triple(volumes_ml(truth, voxel_mm3)),
        _triple(volumes_ml(prediction, voxel_mm3, has_t1c=has_t1c)),
        sequences,
    )


def _triple(by_region: Mapping[str, float | None]) -> Triple:
    wt, tc, et = (math.nan if (ml := by_region[region]) is None else ml for region in REGIONS)
    return wt, tc, et


def evaluate(
    cases: Sequence[Case],
    sources: Mapping[str, Source | NetworkSource],
    convention: str = "brats2023",
    subsets: Sequence[tuple[str, ...]] = (),
    progress: Callable[..., Iterable[Any]] = lambda items, **_: items,
) -> Evaluation:
    """Score every source on every case.

    Parameters
    ----------
    cases : sequence of Case
        With label maps.
    sources : mapping of str to (Source or NetworkSource)
        By the name in the table.
    convention : str
        Of the truth; see `LABEL_CONVENTIONS`.
    subsets : sequence of tuples of str
        Networks segment every case once more with each of these sets of sequences that is smaller than the case's own,
        exactly as if the other files were not there.
    progress : function
        Shows the cases as they are done.

    Raises
    ------
    InputError
        A case has no label map, or a source has no prediction for it.
    """
    labelled = [(case, case.label) for case in cases if case.label is not None]
    if len(labelled) < len(cases):
        unlabelled = ", ".join(case.name for case in cases if case.label is None)
        raise InputError(f"no label map (a file that ends in -seg.nii.gz) for {unlabelled}")
    scores: list[CaseScore] = []
    counts: dict[str, dict[str, LogitCounts]] = {}
    for case, label in progress(labelled, label="evaluate", length=len(labelled)):
        volume = load_volume(case)
        truth = load_labels(label, volume, convention)
        scopes = _scopes(volume, truth)
        for name, source in sources.items():
            if not isinstance(source, NetworkSource):
                labels = source(case, volume)
                scores.append(score(name, case.name, labels, truth, volume.voxel_mm3, volume.sequences))
                continue
            labels, logits, box = source.predict(volume)
            scores.append(score(name, case.name, labels, truth, volume.voxel_mm3, volume.sequences))
            if "t1c" in volume.sequences:
                counted = counts.setdefault(name, dict.fromkeys(SCOPES, total([])))
                for scope, inside in scopes.items():
                    counted[scope] = total([counted[scope], count_logits(logits, truth[box], inside[box])])
            for subset in (s for s in subsets if set(s) < set(volume.sequences)):
                labels = source.predict(_only(volume, subset))[0]
                less = score(name, case.name, labels, truth, volume.voxel_mm3, subset)
                scores.append(replace(less, withheld=True))
    return Evaluation(tuple(scores), counts)


def _only(volume: Volume, subset: tuple[str, ...]) -> Volume:
    """Return a volume as if only these sequences had been found."""
    kept = [(s, c) for s, c in zip(volume.sequences, volume.channels, strict=True) if s in subset]
    return replace(volume, sequences=tuple(s for s, _ in kept), channels=tuple(c for _, c in kept))


def _scopes(volume: Volume, truth: Labels) -> dict[str, npt.NDArray[np.bool_]]:
    """Return the masks (z, y, x) of `SCOPES`."""
    from scipy.ndimage import maximum_filter  # noqa: PLC0415 - half a second that training need not pay

    brain = np.any([channel != 0 for channel in volume.channels], axis=0)
    size = [2 * round(NEAR_MM / mm) + 1 for mm in volume.spacing_mm]
    near = maximum_filter((truth > 0).astype(np.uint8), size=size, mode="constant") > 0
    return dict(zip(SCOPES, (brain, brain & near), strict=True))
