"""Pseudo-labels: what the ensemble says about scans that nobody labelled, kept where it is sure of itself.

Noisy labels can hurt more than they help, so a scan counts as labelled only when the ensemble's confidence passes a
threshold. The confidence is the Dice that the ensemble expects of its own outline: of all masks that its probabilities
allow, 2 Σ p ŷ / (Σ p + Σ ŷ) on average, ŷ the outline, and p lowered by the teachers' disagreement in the overlap. It
is the mean over the regions that are outlined; a scan without any outline has the confidence 0.

A scan is done when its record lies there, so an interrupted run continues. The threshold is applied when the scans are
opened: another one computes nothing again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from glialite_runtime.cases import Case, find_cases
from glialite_runtime.decode import DecisionRule, decode
from glialite_runtime.errors import BatchError, ConfigError, InputError
from glialite_runtime.files import replacing, sha256_bytes, sha256_file, write_json
from glialite_runtime.intake import inspect_volume
from glialite_runtime.preprocess import preprocess
from glialite_runtime.sequences import SEQUENCES
from glialite_runtime.volume import load_volume

from glialite_distill.cohort import patient_of
from glialite_distill.device import pick_device
from glialite_distill.ensemble import teachers_of, to_logits
from glialite_distill.member_weights import equal_weights
from glialite_distill.members import Member, sources_of
from glialite_distill.prepare import Progress, without_progress
from glialite_distill.soft_label_store import SoftLabelStore, read_index, write_soft_labels
from glialite_distill.soft_labels import average_and_disagreement
from glialite_distill.windows import Window
from glialite_distill.workspace import Workspace

__all__ = ["CONFIDENT", "PseudoLabels", "confidence", "make_pseudo_labels"]

Array = npt.NDArray[np.float32]

CONFIDENT: Final = 0.8
"""Expected Dice from which a scan counts as labelled."""

_SCHEMA: Final = 1
_RULE: Final = DecisionRule()


@dataclass(frozen=True, slots=True)
class PseudoLabels:
    """Scans without labels and what teachers say about them, read-only.

    Attributes
    ----------
    folder : Path
        Where they lie.
    key : str
        SHA-256 of scans, teachers, settings and threshold.
    confidences : mapping of str to float
        Of each scan.
    soft : SoftLabelStore
        Probabilities and disagreement of the scans that passed.
    """

    folder: Path
    key: str
    confidences: dict[str, float]
    soft: SoftLabelStore

    @classmethod
    def open(cls, workspace: Workspace, threshold: float = CONFIDENT) -> PseudoLabels:
        """Open the scans of a workspace that have no labels.

        Raises
        ------
        ConfigError
            There are none, they are not all done, or the threshold is no Dice.
        """
        if not 0 <= threshold <= 1:
            raise ConfigError(f"--confidence {threshold} is not in 0 to 1")
        folder = _folder(workspace)
        index = read_index(folder)
        if index is None:
            raise ConfigError(
                f"{workspace.root} has no scans without labels; run distill pseudo-labels --workspace {workspace.root}"
            )
        if missing := [case for case in index["cases"] if not _record(folder, case).is_file()]:
            raise ConfigError(
                f"{len(missing)} of {len(index['cases'])} scans of {folder} are not done yet; "
                "run distill pseudo-labels again to continue"
            )
        records = {case: json.loads(_record(folder, case).read_text(encoding="utf-8")) for case in index["cases"]}
        usable = {case: float(r["confidence"]) for case, r in records.items() if r["problem"] is None}
        if not usable:
            raise ConfigError(f"no scan of {folder} can be used")
        kept = tuple(case for case, value in usable.items() if value >= threshold)
        key = sha256_bytes(json.dumps([index["key"], list(usable), kept]).encode())
        return cls(folder, key, usable, SoftLabelStore(folder, key, tuple(index["members"]), kept))

    @property
    def cases(self) -> tuple[str, ...]:
        """All scans that can be used, confident or not."""
        return tuple(self.confidences)

    def load(self, case: str) -> tuple[Array, npt.NDArray[np.uint8]]:
        """Return the normalised image (4, z, y, x), and the teachers' outlines (z, y, x); none where they are unsure.

        Raises
        ------
        InputError
            The files are gone or damaged.
        """
        path = _image(self.folder, case)
        try:
            image = np.load(path).astype(np.float32)
        except (OSError, ValueError) as error:
            raise InputError(f"{path} is damaged ({error}); delete {self.folder} and make it again") from error
        if case not in self.soft.cases:
            return image, np.zeros(image.shape[1:], np.uint8)
        return image, decode(to_logits(self.soft.load(case)), _RULE, 1.0)


def make_pseudo_labels(
    workspace: Workspace,
    members: Sequence[Member],
    scans: Path,
    window: Window,
    device: str = "auto",
    progress: Progress = without_progress,
) -> PseudoLabels:
    """Let teachers label scans, or continue an interrupted labelling.

    Parameters
    ----------
    workspace : Workspace
        Gets the scans, in the folder `unlabelled`.
    members : sequence of Member
        All of them, whatever their fold: none was trained on these patients.
    scans : Path
        Folder of case folders; label maps in them are not read.
    window : Window
        Overlap and mirroring.
    device : str
        "auto", "cpu" or "cuda".
    progress : Progress
        Shows the scans as they are done.

    Raises
    ------
    ConfigError
        A patient is one of the workspace's own, or other scans or settings lie there already.
    BatchError
        Some scans cannot be used; the others are done, and training goes on without these.
    """
    cases, folder = find_cases(scans), _folder(workspace)
    _claim(folder, workspace, members, cases, window)
    waiting = [case for case in cases if not _record(folder, case.name).is_file()]
    if waiting:
        used = pick_device(device)
        teachers = teachers_of(workspace, members, equal_weights(sources_of(members)), used)

        def say(image: Array) -> tuple[Array, Array]:
            return average_and_disagreement(teachers(), image, window, used)

        for case in progress(waiting, label="pseudo-labels", length=len(waiting)):
            write_json(_record(folder, case.name), _label(case, say, workspace, folder))
    problems = {case.name: json.loads(_record(folder, case.name).read_text("utf-8"))["problem"] for case in cases}
    if failed := [f"{name}: {problem}" for name, problem in problems.items() if problem]:
        raise BatchError(f"{len(failed)} of {len(cases)} scans cannot be used:\n  " + "\n  ".join(failed))
    return PseudoLabels.open(workspace)


def _label(
    case: Case, say: Callable[[Array], tuple[Array, Array]], workspace: Workspace, folder: Path
) -> dict[str, Any]:
    """Write the image of a scan and what teachers say about it; return its record."""
    try:
        volume = load_volume(case)
        inspect_volume(volume, [SEQUENCES])
    except InputError as error:
        return {"confidence": 0.0, "problem": str(error)}
    image = np.ascontiguousarray(preprocess(volume, workspace.spacing_mm)[0])
    probabilities, disagreement = say(image)
    with replacing(_image(folder, case.name)) as temporary, temporary.open("wb") as stream:
        np.save(stream, image.astype(np.float16))
    write_soft_labels(folder, case.name, probabilities, disagreement)
    return {"confidence": confidence(probabilities, disagreement), "problem": None}


def confidence(probabilities: Array, disagreement: Array) -> float:
    """Return the Dice that the teachers expect of their own outlines, see the module.

    Parameters
    ----------
    probabilities, disagreement : float32 arrays (3, z, y, x)
        Mean and standard deviation over the teachers.
    """
    expected = []
    for mean, sd in zip(probabilities, disagreement, strict=True):
        outline = mean > 0.5
        if outline.any():
            sure = np.maximum(mean[outline] - sd[outline], 0).sum(dtype=np.float64)
            expected.append(2 * sure / (mean.sum(dtype=np.float64) + np.count_nonzero(outline)))
    return float(np.mean(expected)) if expected else 0.0


def _folder(workspace: Workspace) -> Path:
    return workspace.root / "unlabelled"


def _image(folder: Path, case: str) -> Path:
    return folder / f"{case}-image.npy"


def _record(folder: Path, case: str) -> Path:
    return folder / f"{case}-record.json"


def _claim(
    folder: Path, workspace: Workspace, members: Sequence[Member], cases: Sequence[Case], window: Window
) -> None:
    """Write what makes the labels of a folder, or check that it is the same as before."""
    own = {workspace.patient_of(case) for case in (*workspace.cases, *workspace.held_out)}
    if known := sorted(case.name for case in cases if patient_of(case.name) in own):
        raise ConfigError(
            f"{', '.join(known)}: patients of the workspace itself; take them out of the unlabelled scans"
        )
    made_by = {
        "schema": _SCHEMA,
        "members": sources_of(members),
        "checkpoints": sorted(m.sha256 for m in members),
        "scans": {case.name: [sha256_file(path) for path in case.paths.values()] for case in cases},
        "tta": window.tta,
        "step": window.step,
        "spacing_mm": workspace.spacing_mm,
    }
    key = sha256_bytes(json.dumps(made_by, sort_keys=True).encode())
    index = read_index(folder)
    if index is not None and index["key"] != key:
        raise ConfigError(
            f"{folder} holds other scans, or labels of other teachers or settings; delete it to start anew"
        )
    if index is None:
        names = [case.name for case in cases]
        write_json(folder / "index.json", {"key": key, "members": list(sources_of(members)), "cases": names})
