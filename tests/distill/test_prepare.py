"""Preparing a workspace: what comes out, and that it can be interrupted, repeated and trusted."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
import pytest
from glialite_distill import nnunet
from glialite_distill.input_options import InputOptions, clip_volume
from glialite_distill.prepare import Request, forecast, prepare
from glialite_distill.workspace import Workspace, cohort_file, prepared_folder, splits_file
from glialite_runtime.cases import find_case
from glialite_runtime.errors import ConfigError, InputError
from glialite_runtime.preprocess import preprocess
from glialite_runtime.sequences import SEQUENCES
from glialite_runtime.volume import load_volume

from tests.distill.conftest import SHAPE_XYZ, labels_of, write_case, write_cohort


def test_a_prepared_workspace_says_what_it_holds(prepared: Workspace) -> None:
    """Cases, folds, patients, spacing and patch are those of the cohort and the plan."""
    assert prepared.cases == tuple(f"BraTS-SSA-{n:05d}-000" for n in (1, 2, 3, 4))
    assert [len(s.validation) for s in prepared.splits] == [2, 2]
    assert prepared.patient_of(prepared.cases[0]) == "BraTS-SSA-00001"
    assert (prepared.spacing_mm, prepared.patch_size) == ((2.0, 2.0, 2.0), (32, 32, 32))
    assert len(prepared.cohort_hash) == 64


def test_prepared_images_are_the_clinics_own_preprocessing(prepared: Workspace, cohort: Path) -> None:
    """nnU-Net's files and the runtime's preprocessing agree voxel for voxel."""
    case = prepared.cases[1]
    image, labels = prepared.load(case)
    expected, geometry = preprocess(load_volume(find_case(cohort / case)), prepared.spacing_mm)
    np.testing.assert_allclose(image, expected, atol=2e-5)
    assert np.array_equal(labels, labels_of(2).transpose(2, 1, 0)[geometry.crop])
    assert (image.dtype, labels.dtype, prepared.shape_of(case)) == (np.float32, np.uint8, image.shape[1:])


def test_axes_and_conventions_end_alike(prepared: Workspace, tmp_path: Path) -> None:
    """A cohort stored in RAS with old label values gives the same prepared arrays as one in LPS with today's."""
    for number in (1, 2, 3, 4):
        folder = write_case(tmp_path / "cohort" / f"BraTS-SSA-{number:05d}-000", number, axes="RAS")
        path = folder / f"{folder.name}-seg.nii.gz"
        seg = nibabel.load(path)
        old = np.array([0, 1, 2, 4], np.uint8)[np.asarray(seg.dataobj)]
        nibabel.save(nibabel.Nifti1Image(old, seg.affine), path)
    request = Request((tmp_path / "cohort",), tmp_path / "w", labels="brats2021", plan="tiny", folds=2)
    turned = prepare(request)
    for mine, theirs in zip(turned.load(turned.cases[0]), prepared.load(prepared.cases[0]), strict=True):
        np.testing.assert_allclose(mine, theirs, atol=2e-5)


def test_a_plan_of_another_spacing_resamples(cohort: Path, tmp_path: Path) -> None:
    """2 mm scans prepared with the 1 mm plan have twice the voxels along every axis."""
    workspace = prepare(Request((cohort,), tmp_path / "w", plan="full", folds=2))
    half = np.array(preprocess(load_volume(find_case(cohort / workspace.cases[0])), None)[0].shape[1:])
    assert workspace.shape_of(workspace.cases[0]) == tuple(2 * half)


def test_held_out_cases_are_kept_from_training(cohort: Path, tmp_path: Path) -> None:
    """They are in no fold and not preprocessed, and lie ready as case folders."""
    workspace = prepare(Request((cohort,), tmp_path / "w", plan="tiny", folds=2, held_out=1))
    (held,) = workspace.held_out
    assert held not in workspace.cases
    assert held not in {c for s in workspace.splits for c in s.train + s.validation}
    assert not (workspace.case_folder / f"{held}.b2nd").exists()
    case = find_case(workspace.held_out_folder / held)
    assert (tuple(case.paths), case.label is not None) == (SEQUENCES, True)


def test_a_finished_preparation_touches_nothing(cohort: Path, tmp_path: Path) -> None:
    """Running it again writes no file."""
    request = Request((cohort,), tmp_path / "w", plan="tiny", folds=2)
    prepare(request)
    before = {p: p.lstat().st_mtime_ns for p in request.workspace.rglob("*")}
    prepare(request)
    assert {p: p.lstat().st_mtime_ns for p in request.workspace.rglob("*")} == before


def test_an_interrupted_preparation_continues(
    cohort: Path, tmp_path: Path, prepared: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a stop at the third case the workspace does not open; running again makes only what is missing."""
    request = Request((cohort,), tmp_path / "w", plan="tiny", folds=2)
    genuine = nnunet.preprocess_case

    def stop(root: Path, plan: object, case: str) -> None:
        if case == prepared.cases[2]:
            raise KeyboardInterrupt
        genuine(root, plan, case)  # type: ignore[arg-type]

    monkeypatch.setattr(nnunet, "preprocess_case", stop)
    with pytest.raises(KeyboardInterrupt):
        prepare(request)
    with pytest.raises(ConfigError, match="is not finished"):
        Workspace.open(request.workspace)
    monkeypatch.undo()
    done = prepared_folder(request.workspace) / "GliaLiteTinyPlans_3d_fullres" / f"{prepared.cases[0]}.b2nd"
    before = done.stat().st_mtime_ns
    workspace = prepare(request)
    assert done.stat().st_mtime_ns == before
    assert np.array_equal(workspace.load(prepared.cases[2])[0], prepared.load(prepared.cases[2])[0])


def test_a_half_written_case_is_made_again(cohort: Path, tmp_path: Path) -> None:
    """A case without its last file is not complete, whatever else lies there."""
    request = Request((cohort,), tmp_path / "w", plan="tiny", folds=2)
    workspace = prepare(request)
    case = workspace.cases[0]
    expected = workspace.load(case)[0]
    (workspace.case_folder / f"{case}.pkl").unlink()
    (workspace.case_folder / f"{case}.b2nd").write_bytes(b"half")
    splits_file(request.workspace).unlink()
    assert np.array_equal(prepare(request).load(case)[0], expected)


def test_other_options_are_refused(cohort: Path, tmp_path: Path) -> None:
    """A workspace is never quietly mixed from two requests; the message says what changed."""
    request = Request((cohort,), tmp_path / "w", plan="tiny", folds=2)
    prepare(request)
    with pytest.raises(ConfigError, match="folds: 2 is now 4"):
        prepare(replace(request, folds=4))


def test_another_cohort_is_refused(tmp_path: Path) -> None:
    """Teachers of one cohort never meet the files of another."""
    folder = write_cohort(tmp_path / "cohort", 3)
    request = Request((folder,), tmp_path / "w", plan="tiny", folds=2)
    prepare(request)
    write_case(folder / "BraTS-SSA-00009-000", 9)
    with pytest.raises(ConfigError, match=r"another cohort \(3 cases, now 4"):
        prepare(request)


def test_a_touched_but_equal_cohort_is_accepted(tmp_path: Path) -> None:
    """New modification times alone, as after a copy, do not make another cohort."""
    folder = write_cohort(tmp_path / "cohort", 2)
    request = Request((folder,), tmp_path / "w", plan="tiny", folds=2)
    first = prepare(request)
    for path in folder.rglob("*.nii.gz"):
        path.touch()
    assert prepare(request).cohort_hash == first.cohort_hash


def test_brought_splits_are_used(cohort: Path, tmp_path: Path) -> None:
    """nnU-Net's own file of folds is taken over as it is."""
    names = [f"BraTS-SSA-{n:05d}-000" for n in (1, 2, 3, 4)]
    path = tmp_path / "splits_final.json"
    path.write_text(json.dumps([{"train": names[:3], "val": names[3:]}]))
    workspace = prepare(Request((cohort,), tmp_path / "w", plan="tiny", splits=path))
    assert [(s.train, s.validation) for s in workspace.splits] == [(tuple(names[:3]), tuple(names[3:]))]


def test_brought_splits_report_every_problem_at_once(cohort: Path, tmp_path: Path) -> None:
    """An unknown case, an empty side and a patient on both sides stand in one message, by fold; nothing is written."""
    names = [f"BraTS-SSA-{n:05d}-000" for n in (1, 2, 3, 4)]
    path = tmp_path / "splits_final.json"
    folds = [
        {"train": [*names[:3], "BraTS-SSA-00099-000"], "val": names[3:]},
        {"train": [], "val": names},
        {"train": names, "val": names[:1]},
    ]
    path.write_text(json.dumps(folds))
    with pytest.raises(ConfigError) as caught:
        prepare(Request((cohort,), tmp_path / "w", plan="tiny", splits=path))
    for problem in (
        "fold 0 names cases that are not in training: BraTS-SSA-00099",
        "fold 1 has an empty",
        "fold 2 tra",
    ):
        assert problem in str(caught.value)
    assert not cohort_file(tmp_path / "w").exists()


@pytest.mark.parametrize(
    "content",
    ["{", "{}", "[1]", '[{"train": "a", "val": ["b"]}]', '[{"train": ["a"]}]', '[{"train": [1], "val": [2]}]'],
)
def test_a_file_that_holds_no_splits_is_refused(content: str, cohort: Path, tmp_path: Path) -> None:
    """The message names the file, and nothing is written."""
    path = tmp_path / "splits_final.json"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"splits_final\.json"):
        prepare(Request((cohort,), tmp_path / "w", plan="tiny", splits=path))
    with pytest.raises(ConfigError, match="is not a file"):
        prepare(Request((cohort,), tmp_path / "w", plan="tiny", splits=tmp_path))
    assert not (tmp_path / "w").exists()


def test_clipped_images_are_the_same_case_clipped(cohort: Path, tmp_path: Path, prepared: Workspace) -> None:
    """nnU-Net's files agree with clipping the scan first; the bright rim of the phantom comes down."""
    workspace = prepare(Request((cohort,), tmp_path / "w", plan="tiny", folds=2, inputs=InputOptions(clip=True)))
    case = workspace.cases[1]
    image, _ = workspace.load(case)
    expected, _ = preprocess(clip_volume(load_volume(find_case(cohort / case))), workspace.spacing_mm)
    np.testing.assert_allclose(image, expected, atol=2e-5)
    assert image[1].max() < prepared.load(case)[0][1].max() - 1


def test_input_options_are_recorded_and_not_mixed(cohort: Path, tmp_path: Path) -> None:
    """The plans say so, and the same folder prepared without them, or with others, is refused."""
    request = Request((cohort,), tmp_path / "w", plan="tiny", folds=2, inputs=InputOptions(mask_channel=True))
    workspace = prepare(request)
    plans, _ = nnunet.plans_and_dataset(workspace.root, workspace.plan)
    assert all(c["mask_channel"] for c in plans["configurations"].values())
    assert prepare(request) == workspace
    with pytest.raises(ConfigError, match="mask_channel: True is now None"):
        prepare(replace(request, inputs=InputOptions()))
    with pytest.raises(ConfigError, match="clip: None is now True"):
        prepare(replace(request, inputs=InputOptions(True, True)))


def test_a_bad_cohort_leaves_no_record(tmp_path: Path) -> None:
    """What was refused can be repaired and prepared into the same folder."""
    folder = write_cohort(tmp_path / "cohort", 2)
    (folder / "BraTS-SSA-00001-000" / "BraTS-SSA-00001-000-t1n.nii.gz").unlink()
    with pytest.raises(InputError):
        prepare(Request((folder,), tmp_path / "w", plan="tiny", folds=2))
    assert not cohort_file(tmp_path / "w").exists()


def test_the_forecast_counts_voxels_and_writes_nothing(cohort: Path, tmp_path: Path) -> None:
    """Disk and time grow with the number of voxels of the cohort."""
    cost = forecast(Request((cohort,), tmp_path / "w", plan="tiny"))
    assert cost.cases == 4
    assert 0 < cost.disk_bytes <= 4 * np.prod(SHAPE_XYZ) * 18
    assert not (tmp_path / "w").exists()


def test_an_unprepared_folder_says_what_to_run(tmp_path: Path) -> None:
    """The message names the command."""
    with pytest.raises(ConfigError, match="run teacher-train prepare"):
        Workspace.open(tmp_path)


def test_a_case_of_another_workspace_is_refused(prepared: Workspace) -> None:
    """Asking for a case that is not a training case is an error, not an empty array."""
    with pytest.raises(InputError, match="nobody is not a prepared training case"):
        prepared.load("nobody")
