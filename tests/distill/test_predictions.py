"""Case folders in, files out: the input's own grid, resumed, never mixed, weights and rules at work."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from glialite_distill.decision import PRESETS
from glialite_distill.member_weights import MemberWeights
from glialite_distill.members import find_members
from glialite_distill.predict_options import PredictOptions
from glialite_distill.predictions import Combination, predict_folder
from glialite_distill.uncertainty import STEP
from glialite_distill.workspace import Workspace
from glialite_runtime.decode import DecisionRule
from glialite_runtime.errors import BatchError, ConfigError

from tests.distill.conftest import write_case


def test_predictions_come_back_on_the_inputs_own_grid(trained: Workspace, tmp_path: Path) -> None:
    """The same head stored in LPS and in RAS gives the same labels at the same places, each in its own axes."""
    lps, ras = write_case(tmp_path / "in" / "P1", 5), write_case(tmp_path / "in" / "P2", 5, axes="RAS")
    options = PredictOptions(tmp_path / "in", tmp_path / "out", probabilities=True, device="cpu")
    members = find_members(trained, ("mednext-b",), (0,))
    assert predict_folder(trained, members, options) == ("P1", "P2")
    found = {}
    for source in (lps, ras):
        written = nibabel.load(tmp_path / "out" / source.name / f"{source.name}-seg.nii.gz")
        given = nibabel.load(source / f"{source.name}-t1n.nii.gz")
        np.testing.assert_array_equal(written.affine, given.affine)
        assert (written.shape, written.get_data_dtype()) == (given.shape, np.uint8)
        found[source.name] = np.asarray(nibabel.as_closest_canonical(written).dataobj)
    assert np.array_equal(found["P1"], found["P2"])
    stored = np.load(tmp_path / "out" / "P1" / "P1-probabilities.npz")
    assert (stored["probabilities"].shape, list(stored["regions"])) == ((3, 40, 48, 44), ["WT", "TC", "ET"])
    assert stored["probabilities"][:, 0].max() == 0


def test_a_second_call_predicts_only_what_is_missing(trained: Workspace, tmp_path: Path) -> None:
    """Finished cases are left alone; the missing one comes out as before."""
    for name in ("P1", "P2"):
        write_case(tmp_path / "in" / name, 6)
    options = PredictOptions(tmp_path / "in", tmp_path / "out", device="cpu")
    members = find_members(trained, ("baseline",), (0,))
    predict_folder(trained, members, options)
    first, second = (tmp_path / "out" / n / f"{n}-seg.nii.gz" for n in ("P1", "P2"))
    content, kept = second.read_bytes(), first.stat().st_mtime_ns
    second.unlink()
    predict_folder(trained, members, options)
    assert (second.read_bytes(), first.stat().st_mtime_ns) == (content, kept)


def test_predictions_of_other_teachers_are_not_mixed(trained: Workspace, tmp_path: Path) -> None:
    """A folder that holds another member's predictions is refused."""
    write_case(tmp_path / "in" / "P1", 6)
    options = PredictOptions(tmp_path / "in", tmp_path / "out", device="cpu")
    predict_folder(trained, find_members(trained, ("baseline",), (0,)), options)
    with pytest.raises(ConfigError, match="holds predictions of other teachers"):
        predict_folder(trained, find_members(trained, ("baseline",), (1,)), options)


def test_one_bad_case_does_not_stop_the_others(trained: Workspace, tmp_path: Path) -> None:
    """It is named at the end, with the exit code for a batch that failed in part."""
    for name in ("P1", "P2"):
        write_case(tmp_path / "in" / name, 6)
    (tmp_path / "in" / "P1" / "P1-t2w.nii.gz").unlink()
    options = PredictOptions(tmp_path / "in", tmp_path / "out", device="cpu")
    with pytest.raises(BatchError, match=r"1 of 2 cases cannot be used:\n  P1: .*t2w"):
        predict_folder(trained, find_members(trained, ("baseline",), (0,)), options)
    assert (tmp_path / "out" / "P2" / "P2-seg.nii.gz").is_file()
    assert not (tmp_path / "out" / "P1" / "P1-seg.nii.gz").exists()


def test_the_variance_lies_on_the_inputs_grid_with_a_picture(trained: Workspace, tmp_path: Path) -> None:
    """One file a region, variances in [0, 0.25], the input's own axes, nothing outside the brain."""
    case = write_case(tmp_path / "in" / "P1", 5, axes="RAS")
    members = find_members(trained, ("baseline",), (0,))
    options = PredictOptions(tmp_path / "in", tmp_path / "out", uncertainty=True, tta=True, device="cpu")
    predict_folder(trained, members, options)
    folder = tmp_path / "out" / "P1"
    for region in ("WT", "TC", "ET"):
        image = nibabel.load(folder / f"P1-uncertainty-{region}.nii.gz")
        given = nibabel.load(case / "P1-t1n.nii.gz")
        np.testing.assert_array_equal(image.affine, given.affine)
        assert (image.shape, image.get_data_dtype()) == (given.shape, np.uint16)
        variance = np.asarray(image.dataobj)
        assert 0 < variance.max() <= 0.25
        assert variance[0].max() == 0
        assert (variance / STEP == np.rint(variance / STEP)).all()
    assert (folder / "P1-uncertainty.png").read_bytes().startswith(b"\x89PNG")


def test_weights_choose_the_member_region_by_region(trained: Workspace, tmp_path: Path) -> None:
    """All weight of a region on one member gives that member's probabilities there, the other's elsewhere."""
    write_case(tmp_path / "in" / "P1", 6)
    members = find_members(trained, ("baseline", "mednext-b"), (0,))
    weights = MemberWeights({"baseline": (1.0, 0.0, 0.0), "mednext-b": (0.0, 1.0, 1.0)})
    found = {}
    for name, those, combination in (
        ("both", members, Combination(weights, PRESETS["plain"])),
        ("baseline", members[:1], None),
        ("mednext-b", members[1:], None),
    ):
        options = PredictOptions(tmp_path / "in", tmp_path / name, probabilities=True, device="cpu")
        predict_folder(trained, those, options, combination=combination)
        found[name] = np.load(tmp_path / name / "P1" / "P1-probabilities.npz")["probabilities"]
    assert not np.array_equal(found["baseline"], found["mednext-b"])
    np.testing.assert_array_equal(found["both"][0], found["baseline"][0])
    np.testing.assert_array_equal(found["both"][1:], found["mednext-b"][1:])


def test_the_decision_rule_decides(trained: Workspace, tmp_path: Path) -> None:
    """With thresholds that nothing passes there is no label; what decided is written beside the predictions."""
    write_case(tmp_path / "in" / "P1", 6)
    members = find_members(trained, ("baseline",), (0,))
    for name, threshold in (("none", 0.999), ("all", 0.001)):
        rule = DecisionRule((threshold, threshold, threshold))
        options = PredictOptions(tmp_path / "in", tmp_path / name, device="cpu")
        predict_folder(
            trained, members, options, combination=Combination(MemberWeights({"baseline": (1.0, 1.0, 1.0)}), rule)
        )
        labels = np.asarray(nibabel.load(tmp_path / name / "P1" / "P1-seg.nii.gz").dataobj)
        assert labels.any() == (name == "all")
        made_by = json.loads((tmp_path / name / "teachers.json").read_text())
        assert made_by["decision"]["thresholds"] == {"WT": threshold, "TC": threshold, "ET": threshold}


def test_predictions_of_another_rule_are_not_mixed(trained: Workspace, tmp_path: Path) -> None:
    """The same members with another threshold need another folder."""
    write_case(tmp_path / "in" / "P1", 6)
    members = find_members(trained, ("baseline",), (0,))
    options, weights = PredictOptions(tmp_path / "in", tmp_path / "out"), MemberWeights({"baseline": (1.0, 1.0, 1.0)})
    predict_folder(trained, members, options, combination=Combination(weights, PRESETS["plain"]))
    with pytest.raises(ConfigError, match="other teachers or settings"):
        predict_folder(trained, members, options, combination=Combination(weights, PRESETS["ssa"]))
