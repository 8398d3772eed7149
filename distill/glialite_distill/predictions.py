"""Case folders in, label maps out: what `teacher-train predict` and `ensemble` write, on the scans' own grid."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from glialite_runtime.cases import Case, find_cases
from glialite_runtime.decode import DecisionRule, decode
from glialite_runtime.errors import BatchError, ConfigError, InputError
from glialite_runtime.files import write_bytes, write_json
from glialite_runtime.intake import inspect_volume
from glialite_runtime.nifti import write_labels
from glialite_runtime.preprocess import Geometry, preprocess, restore_logits, uncrop
from glialite_runtime.sequences import REGIONS, SEQUENCES
from glialite_runtime.volume import load_volume

from glialite_distill.decision import PRESETS, rule_json
from glialite_distill.device import pick_device
from glialite_distill.ensemble import Blend, blend, teachers_of, to_logits
from glialite_distill.input_options import clip_volume
from glialite_distill.member_weights import MemberWeights, equal_weights
from glialite_distill.members import Member, sources_of
from glialite_distill.predict_options import PredictOptions
from glialite_distill.prepare import Progress, without_progress
from glialite_distill.uncertainty import uncertainty_files, write_picture, write_variance
from glialite_distill.windows import Window
from glialite_distill.workspace import Workspace

__all__ = ["Combination", "predict_folder"]


@dataclass(frozen=True, slots=True)
class Combination:
    """How members become labels: their weights by region, and the decision rule for what comes out."""

    weights: MemberWeights
    decision: DecisionRule


def predict_folder(
    workspace: Workspace,
    members: tuple[Member, ...],
    options: PredictOptions,
    progress: Progress = without_progress,
    combination: Combination | None = None,
) -> tuple[str, ...]:
    """Segment every case of a folder with the members; cases that are done are skipped.

    Parameters
    ----------
    workspace : Workspace
        That the members belong to: its plan says how cases are prepared.
    members : tuple of Member
        See `find_members`.
    options : PredictOptions
        Folders, what is written, mirroring and overlap.
    progress : Progress
        Shows the cases as they are done.
    combination : Combination, optional
        Weights and decision rule; without, equal weights and thresholds of 0.5.

    Returns
    -------
    tuple of str
        Names of all cases, done now or before.

    Raises
    ------
    ConfigError
        `out` holds predictions of other members or settings.
    BatchError
        Some cases cannot be used; the others were written.
    """
    window = Window(workspace.patch_size, options.step, options.tta)
    cases = find_cases(options.folder)
    used = combination or Combination(equal_weights(sources_of(members)), PRESETS["plain"])
    _claim(options, members, workspace, used)
    device = pick_device(options.device)
    waiting = [case for case in cases if not _is_done(case, options)]
    if not waiting:
        return tuple(case.name for case in cases)
    teachers = teachers_of(workspace, members, used.weights, device)

    def predict(image: npt.NDArray[np.float32]) -> Blend:
        return blend(teachers(), image, window, device, uncertainty=options.uncertainty)

    failed = []
    for case in progress(waiting, label="predict", length=len(waiting)):
        try:
            _predict_case(case, predict, workspace, used.decision, options)
        except InputError as error:
            failed.append(f"{case.name}: {error}")
    if failed:
        raise BatchError(f"{len(failed)} of {len(cases)} cases cannot be used:\n  " + "\n  ".join(failed))
    return tuple(case.name for case in cases)


def _claim(
    options: PredictOptions, members: tuple[Member, ...], workspace: Workspace, combination: Combination
) -> None:
    """Write what makes the predictions of `out`, or check that it is the same as before."""
    made_by: dict[str, Any] = {
        "members": [[m.recipe, m.fold, m.sha256] for m in members],
        "cohort_hash": workspace.cohort_hash,
        "tta": options.tta,
        "step": options.step,
        "weights": combination.weights.to_json(),
        "decision": rule_json(combination.decision),
    }
    path = options.out / "teachers.json"
    if path.is_file():
        if json.loads(path.read_text(encoding="utf-8")) != made_by:
            raise ConfigError(f"{options.out} holds predictions of other teachers or settings; give another --out")
    else:
        write_json(path, made_by)


def _files(case: Case, options: PredictOptions) -> tuple[Path, tuple[Path, ...], Path]:
    """Return where probabilities, variances and labels of a case lie."""
    folder = options.out / case.name
    variances = uncertainty_files(folder, case.name)
    return folder / f"{case.name}-probabilities.npz", variances, folder / f"{case.name}-seg.nii.gz"


def _is_done(case: Case, options: PredictOptions) -> bool:
    probabilities, variances, labels = _files(case, options)
    wanted = [labels, *([probabilities] if options.probabilities else ()), *(variances if options.uncertainty else ())]
    return all(path.is_file() for path in wanted)


def _predict_case(
    case: Case,
    predict: Callable[[npt.NDArray[np.float32]], Blend],
    workspace: Workspace,
    rule: DecisionRule,
    options: PredictOptions,
) -> None:
    volume = load_volume(case)
    inspect_volume(volume, [SEQUENCES])
    shown = clip_volume(volume) if workspace.inputs.clip else volume
    image, geometry = preprocess(shown, workspace.spacing_mm)
    found = predict(image)
    logits = restore_logits(to_logits(found.probabilities), geometry)
    labels = uncrop(decode(logits, rule, volume.voxel_mm3), geometry)
    probabilities_file, variance_files, label_file = _files(case, options)
    if options.probabilities:
        content = io.BytesIO()
        whole = _whole(1 / (1 + np.exp(-logits)), geometry).astype(np.float16)
        np.savez_compressed(content, probabilities=whole, regions=np.array(REGIONS))
        write_bytes(probabilities_file, content.getvalue())
    if found.variance is not None:
        variance = _whole(restore_logits(found.variance, geometry), geometry)
        for path, one in zip(variance_files, variance, strict=True):
            write_variance(path, one, volume)
        write_picture(label_file.with_name(f"{case.name}-uncertainty.png"), variance, labels, volume)
    write_labels(label_file, volume.orientation.from_lps(labels), volume.reference)


def _whole(crop: npt.NDArray[np.floating], geometry: Geometry) -> npt.NDArray[np.float32]:
    """Put an array (3, z, y, x) of the crop into an otherwise empty one of the whole image."""
    whole = np.zeros((len(REGIONS), *geometry.full_shape), np.float32)
    whole[(slice(None), *geometry.crop)] = crop
    return whole
