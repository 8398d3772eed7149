"""From a built bundle over held-out patients to a report with intervals, by the users' own functions."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from glialite_distill.evaluate_run import EvaluationRequest, run_evaluation
from glialite_export.build import build
from glialite_export.plan import Request, plan_build
from glialite_runtime.cases import find_case
from glialite_runtime.engine import open_engine
from glialite_runtime.predict import outputs_of, segment, write
from glialite_runtime.sequences import SEQUENCES

from tests.conftest import save

from .conftest import toy_case

SHAPE = (48, 56, 52)
LPS_2MM = np.diag([-2.0, -2.0, 2.0, 1.0])


def write_scan(folder: Path, seed: int) -> Path:
    """Write a toy case as a patient's scan: a brain with background around it, the outline of the truth moved a bit."""
    image, labels = toy_case(seed, SHAPE)
    middle = (np.array(SHAPE)[:, None, None, None] - 1) / 2
    brain = (((np.indices(SHAPE) - middle) / (0.45 * np.array(SHAPE)[:, None, None, None])) ** 2).sum(0) < 1
    for sequence, channel in zip(SEQUENCES, image, strict=True):
        stored = np.where(brain, 1000 + 100 * channel, 0).astype(np.int16)
        save(folder / f"{folder.name}-{sequence}.nii.gz", stored.T, LPS_2MM)
    truth = np.roll(labels, seed % 3, axis=2) * brain
    save(folder / f"{folder.name}-seg.nii.gz", truth.T, LPS_2MM)
    return folder


def test_reports_get_intervals_that_were_fitted_on_other_patients(
    student_file: Path, workspace: Path, tmp_path: Path
) -> None:
    """Built, fitted on 19 patients as the clinic runs it, built again in a moment: mL with an interval in the JSON."""
    for number in range(19):
        write_scan(tmp_path / "held-out" / f"P{number:02d}", 100 + number)
    new = write_scan(tmp_path / "new" / "N01", 200)
    request = Request(student_file, workspace, tmp_path / "bundle")
    build(plan_build(request))
    question = EvaluationRequest(
        tmp_path / "new",
        {},
        {},
        {"bundle": request.out},
        fit_on=tmp_path / "held-out",
        csv=tmp_path / "new.csv",
    )
    result, _ = run_evaluation(question, None, torch.device("cpu"))
    bundle = build(plan_build(replace(request, reliability=tmp_path / "new.json")))
    assert bundle.manifest.provenance["reliability"]["of"] == "INT8"
    found = segment(find_case(new), bundle, open_engine(bundle, 1))
    write(found, bundle, tmp_path / "out")
    report = json.loads(outputs_of(find_case(new), tmp_path / "out").report.read_bytes())
    for region, interval in report["volume_intervals_ml"].items():
        fitted = result["fitted"]["bundle"]["volume_intervals"][region]
        around = (report["volumes_ml"][region] + 1) * np.exp([fitted["low"], fitted["high"]]) - 1
        assert [interval["low"], interval["high"]] == [round(ml, 3) for ml in np.maximum(around, 0)]
        assert interval["rate"] == 0.9
    assert set(report["volume_intervals_ml"]) == {"WT", "TC", "ET"}
