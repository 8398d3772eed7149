"""A student's decision rule for scans unlike those it was trained on, fitted on labelled cases from elsewhere."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import torch
from glialite_runtime.cases import find_cases
from glialite_runtime.errors import ConfigError
from glialite_runtime.volume import load_volume

from glialite_distill.decision import Labelled, fit_decision
from glialite_distill.evaluate import student_source
from glialite_distill.evaluate_folder import load_labels
from glialite_distill.evaluate_guard import record_of, refuse_seen
from glialite_distill.student_file import StudentFile, load_student, save_student

__all__ = ["decide_elsewhere"]


def decide_elsewhere(
    path: Path, folders: Sequence[Path], device: torch.device, labels: str = "brats2023"
) -> StudentFile:
    """Fit a student's thresholds and smallest sizes on cases of another hospital, into its file.

    Parameters
    ----------
    path : Path
        The student.pt; replaced in one step.
    folders : sequence of Path
        Of labelled case folders, all of one voxel size, whose patients the student never met.
    device : torch.device
        Where it runs.
    labels : str
        Label convention of the cases.

    Raises
    ------
    ConfigError
        There is no labelled case, the student has met a patient, or voxel sizes differ.
    InputError
        A case cannot be read.
    """
    file = load_student(path)
    names = ", ".join(map(str, folders))
    found = [case for folder in folders for case in find_cases(folder)]
    cases = [(case, case.label) for case in found if case.label is not None]
    if not cases:
        raise ConfigError(f"{names}: no case with a label map to fit thresholds on")
    made = {key: value for key, value in file.provenance.items() if key != "decision_cases"}
    refuse_seen([case for case, _ in cases], {str(path): record_of(replace(file, provenance=made))})
    source = student_source(file, device)
    sizes: set[float] = set()

    def outlined() -> Iterator[Labelled]:
        for case, label in cases:
            volume = load_volume(case)
            sizes.add(round(volume.voxel_mm3, 3))
            if len(sizes) > 1:
                raise ConfigError(f"{names}: voxels of {min(sizes)} and of {max(sizes)} mm³; one size is needed")
            _, logits, box = source.predict(volume)
            yield logits, load_labels(label, volume, labels)[box]

    first = load_volume(cases[0][0]).voxel_mm3
    rule = fit_decision(outlined, first, elsewhere=True)
    decided = replace(file, decision=rule, provenance={**made, "decision_cases": [case.name for case, _ in cases]})
    save_student(path, decided)
    return decided
