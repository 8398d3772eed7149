"""What guides a student beside truth and stored soft labels: a larger, trained student, and scans without labels.

The teacher-assistant chain: a student of a size between ensemble and student is trained first, then guides the smaller
one. It predicts on the fly, on the patch as it was augmented and before sequences are dropped, so that what it tells
about four sequences reaches a student that sees fewer.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
import numpy.typing as npt
import torch
from glialite_runtime.errors import ConfigError
from torch import nn
from torch.nn import functional as F

from glialite_distill.cohort import patient_of
from glialite_distill.evaluate import on_device
from glialite_distill.patches import SoftLabels, TrainingData
from glialite_distill.student import Student
from glialite_distill.student_file import StudentFile, build_student, trained_on
from glialite_distill.train_options import validation_part

__all__ = [
    "Guidance",
    "UnlabelledScans",
    "assistant_on",
    "feature_loss",
    "ramp",
    "refuse_leaks",
    "weights_digest",
    "with_features",
]

_RAMP: Final = 0.5
"""Share of a training over which the agreement with the averaged student is asked for more and more."""


class UnlabelledScans(Protocol):
    """What training reads of scans without labels; `glialite_distill.pseudo_labels.PseudoLabels` is one."""

    @property
    def key(self) -> str:
        """Changes with the scans, with what labelled them, and with which labels were kept."""

    @property
    def cases(self) -> tuple[str, ...]:
        """All scans."""

    @property
    def soft(self) -> SoftLabels:
        """The teachers' probabilities for the scans on which they were confident."""

    def load(self, case: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        """Return the normalised image (4, z, y, x), and where the teachers see what (z, y, x), values 0 to 3."""


@dataclass(frozen=True, slots=True)
class Guidance:
    """Optional helpers of a training.

    Attributes
    ----------
    assistant : StudentFile, optional
        A trained student of the same voxel size.
    unlabelled : UnlabelledScans, optional
        Scans without labels.
    """

    assistant: StudentFile | None = None
    unlabelled: UnlabelledScans | None = None

    def identity(self, data: TrainingData, fold: int) -> dict[str, Any]:
        """Return, JSON-able, which helpers these are.

        Raises
        ------
        ConfigError
            The assistant works at another voxel size than `data`, it or a student before it was trained on patients
            who validate this fold or are held out, or a scan that is said to be without labels is a case of the
            workspace.
        """
        found: dict[str, Any] = {"assistant": None, "unlabelled": None}
        if self.assistant is not None:
            if self.assistant.spacing_mm != data.spacing_mm:
                raise ConfigError(
                    f"the assistant works at {self.assistant.spacing_mm} mm, the workspace at {data.spacing_mm} mm; "
                    "give one that was trained at this voxel size"
                )
            refuse_leaks("the assistant", self.assistant, data, fold)
            found["assistant"] = weights_digest(self.assistant.state)
        if self.unlabelled is not None:
            known = {*data.held_out, *(c for split in data.splits for c in (*split.train, *split.validation))}
            if both := sorted(known & set(self.unlabelled.cases)):
                raise ConfigError(
                    f"{', '.join(both)} have labels in the workspace or are held out; take them out of the scans "
                    "without labels"
                )
            found["unlabelled"] = self.unlabelled.key
        return found


def refuse_leaks(role: str, file: StudentFile, data: TrainingData, fold: int) -> None:
    """Refuse to train from or with a student that was trained, as far as is known, on what is kept back.

    Raises
    ------
    ConfigError
        It, or a student before it in its chain, was trained on patients who validate the fold or are held out.
    """
    met = {patient_of(case) for case in trained_on(file.provenance)}
    kept_back = {*data.held_out, *validation_part(data.splits[fold])}
    if leaked := sorted(case for case in kept_back if patient_of(case) in met):
        raise ConfigError(
            f"{role} was trained on {', '.join(leaked)}, which validate fold {fold} or are held out; "
            "give one that was trained on the same fold"
        )


def weights_digest(state: Mapping[str, torch.Tensor]) -> str:
    """Return the SHA-256 of a student's weights."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(state[name].contiguous().numpy().tobytes())
    return digest.hexdigest()


def assistant_on(guidance: Guidance, device: torch.device) -> Student | None:
    """Return the assistant's network in evaluation mode, or None without one."""
    if guidance.assistant is None:
        return None
    return on_device(build_student(guidance.assistant), device).requires_grad_(False)


def with_features(network: Student, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return logits (b, 3, z, y, x) and the deepest encoder stage's features (b, c, z/d, y/d, x/d)."""
    seen: list[torch.Tensor] = []
    handle = network.encoder[-1].register_forward_hook(lambda *parts: seen.append(parts[2]))
    try:
        logits = network(image)
    finally:
        handle.remove()
    return logits, seen[0]


def feature_loss(projection: nn.Module, features: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
    """Return the mean over voxels of 1 − cosine between projected features and the assistant's (scalar, 0 to 2).

    Parameters
    ----------
    projection : Module
        Pointwise, from the student's channels to the assistant's.
    features, wanted : float tensor (b, c, z, y, x)
        Of student and assistant at the same scale; of other sizes when the networks halve a different number of times:
        then the student's are brought to the assistant's grid.

    Notes
    -----
    Source: Romero et al., FitNets: Hints for Thin Deep Nets, ICLR 2015 (arXiv:1412.6550), with the angle in place of
    the distance, which no scale of weights can shrink.
    """
    projected = projection(features.float())
    if projected.shape[2:] != wanted.shape[2:]:
        projected = F.interpolate(projected, wanted.shape[2:], mode="trilinear", align_corners=False)
    return (1 - F.cosine_similarity(projected, wanted.float(), dim=1)).mean()


def ramp(iteration: int, iterations: int) -> float:
    """Return exp(−5 (1 − t)²), t the share of the ramp that is done: 0.007 at the start, 1 from the middle on.

    Source: Laine, Aila, Temporal Ensembling for Semi-Supervised Learning, ICLR 2017 (arXiv:1610.02242), section 2.
    """
    done = min(1.0, iteration / (_RAMP * iterations))
    return math.exp(-5 * (1 - done) ** 2)
