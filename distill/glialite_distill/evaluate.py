"""How well a model does, case by case: label maps and probabilities against the truth."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch
from glialite_calibration.logit_counts import LogitCounts, count_logits, total
from glialite_runtime.bundle import read_bundle
from glialite_runtime.cases import Case
from glialite_runtime.decode import DecisionRule, decode
from glialite_runtime.engine import open_engine
from glialite_runtime.errors import InputError
from glialite_runtime.preprocess import preprocess, restore_logits, uncrop
from glialite_runtime.volume import Volume, load_volume

from glialite_distill.evaluate_folder import FolderSource, load_labels
from glialite_distill.evaluate_scores import (
    SCOPES,
    CaseResult,
    CaseScore,
    Evaluation,
    Labels,
    Triple,
    scopes_of,
    score,
)
from glialite_distill.student import Student
from glialite_distill.student_file import StudentFile, build_student

__all__ = [
    "AnySource",
    "Labels",
    "NetworkSource",
    "ResultStore",
    "Source",
    "bundle_source",
    "evaluate",
    "network_logits",
    "on_device",
    "outlined",
    "student_source",
]

Box = tuple[slice, slice, slice]
Logits = npt.NDArray[np.float32]
Source = Callable[[Case, Volume], Labels]
"""Something that segments: takes a case and its images, gives labels (z, y, x) in LPS of the whole image."""


class ResultStore(Protocol):
    """Where results of earlier evaluations lie; `glialite_distill.evaluate_store.StoredResults` is one."""

    def load(self, source: str, case: Case, subsets: Sequence[tuple[str, ...]]) -> CaseResult | None:
        """Return what a source said of a case, with these subsets of its sequences; None when that is not known."""

    def save(self, source: str, case: Case, result: CaseResult) -> None:
        """Keep what a source says of a case."""


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

    logits: Callable[[Logits], Logits]
    spacing_mm: Triple
    decision: DecisionRule

    def predict(self, volume: Volume) -> tuple[Labels, Logits, Box]:
        """Return labels (z, y, x) of the whole image, logits (3, z, y, x) of the brain's box, and where that box is."""
        image, geometry = preprocess(volume, self.spacing_mm)
        logits = restore_logits(self.logits(image), geometry)
        labels = decode(logits, self.decision, volume.voxel_mm3, has_t1c="t1c" in volume.sequences)
        return uncrop(labels, geometry), logits, geometry.crop


AnySource = NetworkSource | FolderSource | Source


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


def evaluate(
    cases: Sequence[Case],
    sources: Mapping[str, AnySource],
    convention: str = "brats2023",
    subsets: Sequence[tuple[str, ...]] = (),
    progress: Callable[..., Iterable[Any]] = lambda items, **_: items,
    store: ResultStore | None = None,
) -> Evaluation:
    """Score every source on every case.

    Parameters
    ----------
    cases : sequence of Case
        With label maps.
    sources : mapping of str to AnySource
        By the name in the table.
    convention : str
        Of the truth; see `LABEL_CONVENTIONS`.
    subsets : sequence of tuples of str
        Networks segment every case once more with each of these sets of sequences that is smaller than the case's own,
        exactly as if the other files were not there.
    progress : function
        Shows the cases as they are done.
    store : ResultStore, optional
        What lies there is not computed again.

    Raises
    ------
    InputError
        A case has no label map, or a source has no prediction for it.
    """
    labelled = [(case, case.label) for case in cases if case.label is not None]
    if len(labelled) < len(cases):
        unlabelled = ", ".join(case.name for case in cases if case.label is None)
        raise InputError(f"no label map (a file that ends in -seg.nii.gz) for {unlabelled}")
    probable = {n for n, s in sources.items() if isinstance(s, FolderSource) and s.has_probabilities(cases)}
    scores: list[CaseScore] = []
    counts: dict[str, dict[str, LogitCounts]] = {}
    for case, label in progress(labelled, label="evaluate", length=len(labelled)):
        scene = None
        for name, source in sources.items():
            wanted = subsets if isinstance(source, NetworkSource) else ()
            result = None if store is None else store.load(name, case, wanted)
            if result is None:
                scene = scene or _scene(case, label, convention)
                result = _judge(name, source, scene, wanted, probabilities=name in probable)
                if store is not None:
                    store.save(name, case, result)
            scores += result.scores
            for scope, counted in result.counts.items():
                so_far = counts.setdefault(name, dict.fromkeys(SCOPES, total([])))
                so_far[scope] = total([so_far[scope], counted])
    return Evaluation(tuple(scores), counts)


@dataclass(frozen=True, slots=True)
class _Scene:
    """A case and its truth in memory."""

    case: Case
    volume: Volume
    truth: Labels
    scopes: Mapping[str, npt.NDArray[np.bool_]]


def _scene(case: Case, label: Path, convention: str) -> _Scene:
    volume = load_volume(case)
    truth = load_labels(label, volume, convention)
    return _Scene(case, volume, truth, scopes_of(volume, truth))


def _judge(
    name: str, source: AnySource, scene: _Scene, subsets: Sequence[tuple[str, ...]], *, probabilities: bool
) -> CaseResult:
    """Score one source on one case."""
    volume, truth = scene.volume, scene.truth
    labels, logits, box = _answer(source, scene.case, volume)
    if probabilities and isinstance(source, FolderSource):
        logits = source.logits(scene.case, volume)
    scores = [score(name, scene.case.name, labels, truth, volume.voxel_mm3, volume.sequences)]
    counts = {}
    if logits is not None and "t1c" in volume.sequences:
        counts = {s: count_logits(logits, truth[box], inside[box]) for s, inside in scene.scopes.items()}
    if isinstance(source, NetworkSource):
        for subset in (s for s in subsets if set(s) < set(volume.sequences)):
            labels = source.predict(_only(volume, subset))[0]
            less = score(name, scene.case.name, labels, truth, volume.voxel_mm3, subset)
            scores.append(replace(less, withheld=True))
    return CaseResult(tuple(scores), counts)


def _answer(source: AnySource, case: Case, volume: Volume) -> tuple[Labels, Logits | None, Box]:
    """Return what a source outlines, a network's logits, and where in the image these are."""
    if isinstance(source, NetworkSource):
        return source.predict(volume)
    labels = source.labels(case, volume) if isinstance(source, FolderSource) else source(case, volume)
    return labels, None, (slice(None), slice(None), slice(None))


def outlined(source: AnySource, case: Case, convention: str = "brats2023") -> tuple[Volume, Labels, Labels]:
    """Return a case's images, its truth, and what a source outlines, to be shown; `InputError` without a truth."""
    if case.label is None:
        raise InputError(f"no label map (a file that ends in -seg.nii.gz) for {case.name}")
    volume = load_volume(case)
    return volume, load_labels(case.label, volume, convention), _answer(source, case, volume)[0]


def _only(volume: Volume, subset: tuple[str, ...]) -> Volume:
    """Return a volume as if only these sequences had been found."""
    kept = [(s, c) for s, c in zip(volume.sequences, volume.channels, strict=True) if s in subset]
    return replace(volume, sequences=tuple(s for s, _ in kept), channels=tuple(c for _, c in kept))
