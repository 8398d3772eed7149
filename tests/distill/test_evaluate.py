"""Evaluation: scores by hand, label maps in any orientation, the trivial rule, and results that are kept."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch
from glialite_distill.baseline import fit_flair_threshold, flair_labels, flair_source
from glialite_distill.evaluate import (
    CaseScore,
    csv_text,
    evaluate,
    folder_source,
    load_labels,
    network_logits,
    score,
    scores_json,
    student_source,
    summarise,
    table,
)
from glialite_distill.evaluate_run import EvaluationRequest, run_evaluation
from glialite_distill.student import Student, StudentSpec
from glialite_distill.student_file import StudentFile, save_student
from glialite_runtime.cases import find_case
from glialite_runtime.decode import DecisionRule
from glialite_runtime.errors import ConfigError, GeometryError, InputError
from glialite_runtime.volume import load_volume
from nibabel.orientations import axcodes2ornt, io_orientation, ornt_transform

CPU = torch.device("cpu")
TINY = StudentSpec("tiny", (8, 16), 1)


def line(*labels: int) -> npt.NDArray[np.uint8]:
    """Return a label map of one row (1, 1, n)."""
    return np.array(labels, np.uint8)[None, None]


def student_file(bias: float, spacing_mm: float = 2.0) -> StudentFile:
    """Return a student that says `bias` everywhere."""
    torch.manual_seed(0)
    network = Student(TINY)
    with torch.no_grad():
        network.head.weight.zero_()
        network.head.bias.fill_(bias)
    return StudentFile(TINY, network.state_dict(), (spacing_mm,) * 3, DecisionRule(), {})


def put_prediction(folder: Path, case: Path, change: Callable[[npt.NDArray], npt.NDArray], axes: str = "LPS") -> Path:
    """Write a changed copy of a case's truth as its prediction, stored in some axes."""
    truth = nib.load(case / f"{case.name}-seg.nii.gz")
    image = nib.Nifti1Image(change(np.asarray(truth.dataobj).astype(np.uint8)), truth.affine)
    image.set_qform(truth.affine, 1)
    image = image.as_reoriented(ornt_transform(io_orientation(truth.affine), axcodes2ornt(axes)))
    path = folder / case.name / f"{case.name}-seg.nii.gz"
    path.parent.mkdir(parents=True, exist_ok=True)
    nib.save(image, path)
    return folder


def test_a_score_by_hand() -> None:
    """WT 2·2/(3+2), TC 2·1/(1+2), ET 2·1/(1+1)."""
    got = score("s", "c", line(0, 2, 2, 3), line(1, 0, 2, 3)[..., ::1], 1.0)
    assert got.dice == pytest.approx((2 * 2 / 6, 2 * 1 / 3, 1.0))
    assert math.isnan(got.false_positive_ml)


def test_a_region_absent_from_both_is_no_number() -> None:
    """Neither truth nor prediction has ET: NaN; the prediction alone has TC: 0."""
    got = score("s", "c", line(0, 1), line(0, 2), 1.0)
    assert got.dice[:2] == (1.0, 0.0)
    assert math.isnan(got.dice[2])


def test_a_brain_without_tumour_counts_false_millilitres() -> None:
    """Two voxels of 500 mm³ predicted where there is nothing are 1 mL."""
    assert score("s", "c", line(0, 2, 3), line(0, 0, 0), 500.0).false_positive_ml == pytest.approx(1.0)


NAN = math.nan
SCORES = [
    CaseScore("a", "c1", (0.8, 0.6, NAN), NAN),
    CaseScore("b", "c1", (0.9, 0.9, 0.9), NAN),
    CaseScore("a", "c2", (0.6, NAN, NAN), 3.0),
]


def test_absent_regions_are_left_out_of_the_mean_and_counted() -> None:
    """Source a: WT over two cases, TC over one, ET over none."""
    row = summarise(SCORES)[0]
    assert row["source"] == "a"
    assert row["dice"] == {"WT": pytest.approx(0.7), "TC": 0.6, "ET": None}
    assert row["counted"] == {"WT": 2, "TC": 1, "ET": 0}
    assert row["mean_dice"] == pytest.approx(0.65)
    assert (row["tumour_free_cases"], row["false_positive_ml"]) == (1, 3.0)


def test_the_results_are_plain_json() -> None:
    """No NaN gets into the JSON."""
    value = json.loads(json.dumps(scores_json(SCORES), allow_nan=False))
    assert value["cases"][0] == {
        "case": "c1",
        "source": "a",
        "dice": {"WT": 0.8, "TC": 0.6, "ET": None},
        "false_positive_ml": None,
    }


def test_the_csv_has_a_line_a_case_and_source() -> None:
    """NaN is an empty cell."""
    lines = csv_text(SCORES).splitlines()
    assert lines[0] == "case,source,dice_WT,dice_TC,dice_ET,false_positive_ml"
    assert lines[1] == "c1,a,0.800000,0.600000,,"
    assert lines[3] == "c2,a,0.600000,,,3.000000"


def test_the_table_has_a_line_a_source() -> None:
    """Means with the number of cases behind them; a dash where there is none."""
    head, first, second = table(SCORES).splitlines()
    assert "WT (n)" in head
    assert first.split() == ["a", "0.700", "(2)", "0.600", "(1)", "-", "(0)", "0.650", "3.0", "(1)"]
    assert second.split()[:3] == ["b", "0.900", "(1)"]


@pytest.mark.parametrize("shape", [(5, 8, 11), (4, 4, 4), (1, 9, 2)])
def test_any_shape_goes_through_the_network(shape: tuple[int, int, int]) -> None:
    """The result has the case's shape and equals that of the case padded behind by hand."""
    torch.manual_seed(0)
    network = Student(TINY).eval()
    image = np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
    padded = np.zeros((4, *(-(-n // 4) * 4 for n in shape)), np.float32)
    padded[:, : shape[0], : shape[1], : shape[2]] = image
    with torch.no_grad():
        wanted = network(torch.from_numpy(padded)[None])[0, :, : shape[0], : shape[1], : shape[2]].numpy()
    np.testing.assert_allclose(network_logits(network, image, CPU), wanted, atol=1e-5)


@pytest.mark.parametrize("axes", ["LPS", "RAS", "SLP"])
def test_label_maps_of_any_orientation_agree(case_folder: Path, tmp_path: Path, axes: str) -> None:
    """The same labels stored in other axes have a Dice of 1 with the truth."""
    folder = put_prediction(tmp_path / "out", case_folder, lambda labels: labels, axes)
    got = evaluate([find_case(case_folder)], {"same": folder_source(folder)})
    assert got[0].dice == (1.0, 1.0, 1.0)


def test_predictions_may_lie_flat(case_folder: Path, tmp_path: Path) -> None:
    """`<case>.nii.gz`, as nnU-Net writes it, is found too."""
    name = case_folder.name
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / f"{name}.nii.gz").write_bytes((case_folder / f"{name}-seg.nii.gz").read_bytes())
    got = evaluate([find_case(case_folder)], {"flat": folder_source(tmp_path / "flat")})
    assert got[0].dice[0] == 1


def test_a_missing_prediction_is_named(case_folder: Path, tmp_path: Path) -> None:
    """No prediction is an error, not a Dice of 0."""
    with pytest.raises(InputError, match=f"{case_folder.name} has no prediction"):
        evaluate([find_case(case_folder)], {"none": folder_source(tmp_path / "elsewhere")})


def test_a_label_map_on_another_grid_is_refused(case_folder: Path, tmp_path: Path) -> None:
    """A prediction of another shape is not compared."""
    folder = put_prediction(tmp_path / "out", case_folder, lambda labels: labels[:-1])
    with pytest.raises(GeometryError, match="own grid"):
        evaluate([find_case(case_folder)], {"cut": folder_source(folder)})


def test_the_convention_of_the_truth_is_declared(case_folder: Path) -> None:
    """Read as ssa-paper, the value 1 is ET and 3 is SNFH."""
    case = find_case(case_folder)
    volume = load_volume(case)
    ours = load_labels(case.label, volume)
    theirs = load_labels(case.label, volume, "ssa-paper")
    assert np.array_equal(theirs == 3, ours == 1)
    assert np.array_equal(theirs == 2, ours == 3)


def test_a_case_without_truth_is_named(case_folder: Path) -> None:
    """All cases without a label map are listed before anything runs."""
    case = find_case(case_folder)
    with pytest.raises(InputError, match=f"no label map.*{case.name}"):
        evaluate([case, replace(case, label=None)], {})


@pytest.mark.parametrize("spacing_mm", [2.0, 4.0])
def test_a_student_is_decoded_on_the_input_grid(case_folder: Path, spacing_mm: float) -> None:
    """A student that is sure everywhere fills the brain's box with ET, whatever voxel size it works at."""
    case = find_case(case_folder)
    volume = load_volume(case)
    everywhere = student_source(student_file(9.0, spacing_mm), CPU)(case, volume)
    z, y, x = np.nonzero(np.any([channel != 0 for channel in volume.channels], axis=0))
    box = np.zeros_like(everywhere)
    box[z.min() : z.max() + 1, y.min() : y.max() + 1, x.min() : x.max() + 1] = 3
    np.testing.assert_array_equal(everywhere, box)
    assert not student_source(student_file(-9.0, spacing_mm), CPU)(case, volume).any()


def bright(shape: tuple[int, int, int] = (12, 24, 12)) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
    """Return an image with a tumour of 3 SD in t2f, its enhancing shell and dark core, and a small bright spot."""
    labels = np.zeros(shape, np.uint8)
    labels[2:10, 2:12, 2:10] = 2
    labels[3:8, 3:8, 3:8] = 3
    labels[5, 5, 5] = 1
    image = np.zeros((4, *shape), np.float32)
    image[3] = 3.0 * (labels > 0)
    image[3, 5, 18:20, 5] = 5
    image[1] = 2.0 * (labels == 3)
    image[1, 0, 0, 0] = 9  # bright in t1c, outside the tumour
    return image, labels


def test_the_flair_rule_by_hand() -> None:
    """The largest bright component is WT, what enhances in it ET, what ET encloses TC; the spot is left out."""
    image, labels = bright()
    np.testing.assert_array_equal(flair_labels(image, 2.0), labels)


def test_the_flair_rule_finds_nothing_in_the_dark() -> None:
    """Nothing above the threshold: an empty map."""
    assert not flair_labels(np.zeros((4, 3, 4, 5), np.float32), 2.0).any()


def test_the_flair_threshold_is_fitted() -> None:
    """With the brain at 1.6 SD and the tumour at 2.2 only a threshold between them is right."""
    image, labels = bright()
    image[3] = np.where(labels > 0, 2.2, 1.6)
    assert 1.6 <= fit_flair_threshold([(image, labels)]) < 2.2


def test_the_flair_threshold_needs_a_tumour() -> None:
    """Without one there is nothing to fit on."""
    with pytest.raises(ConfigError, match="no training case has a tumour"):
        fit_flair_threshold([(np.zeros((4, 3, 3, 3), np.float32), np.zeros((3, 3, 3), np.uint8))])


def test_the_flair_rule_needs_flair(case_folder: Path) -> None:
    """A case without t2f is an error that says so."""
    (case_folder / f"{case_folder.name}-t2f.nii.gz").unlink()
    with pytest.raises(InputError, match="no t2f"):
        evaluate([find_case(case_folder)], {"rule": flair_source(2.0)})


@dataclass(frozen=True)
class Split:
    train: tuple[str, ...] = ("c",)
    validation: tuple[str, ...] = ()


@dataclass(frozen=True)
class Data:
    cohort_hash: str = "h"
    held_out: tuple[str, ...] = ()
    spacing_mm: tuple[float, float, float] = (2.0, 2.0, 2.0)
    splits: tuple[Split, ...] = (Split(),)

    def load(self, case: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        return bright()


def request(case_folder: Path, tmp_path: Path) -> EvaluationRequest:
    student = tmp_path / "student.pt"
    save_student(student, student_file(9.0))
    others = put_prediction(tmp_path / "out", case_folder, lambda labels: labels)
    cohort = tmp_path / "cohort"
    cohort.mkdir()
    case_folder.rename(cohort / case_folder.name)
    return EvaluationRequest(cohort, {"student": student}, {"copy": others}, csv=tmp_path / "dice.csv")


def test_an_evaluation_compares_all_sources_and_keeps_the_result(case_folder: Path, tmp_path: Path) -> None:
    """Student, copy and trivial rule are in the table; the second time the files are read; a changed input counts."""
    wanted = request(case_folder, tmp_path)
    first, kept = run_evaluation(wanted, Data(), CPU)
    assert not kept
    assert [row["source"] for row in first["summary"]] == ["student", "copy", "FLAIR > 0.75 SD"]
    assert first["summary"][1]["mean_dice"] == 1.0
    assert (tmp_path / "dice.csv").read_text().count("\n") == 4
    again, kept = run_evaluation(wanted, Data(), CPU)
    assert kept
    assert again == first
    put_prediction(tmp_path / "out", wanted.cohort / case_folder.name, lambda labels: 0 * labels)
    changed, kept = run_evaluation(wanted, Data(), CPU)
    assert not kept
    assert changed["summary"][1]["mean_dice"] == 0
    save_student(wanted.students["student"], student_file(-9.0))
    assert run_evaluation(wanted, Data(), CPU)[0]["summary"][0]["mean_dice"] == 0


def test_a_changed_csv_is_written_again(case_folder: Path, tmp_path: Path) -> None:
    """Files that somebody edited are not taken for the result."""
    wanted = request(case_folder, tmp_path)
    run_evaluation(wanted, None, CPU)
    before = (tmp_path / "dice.csv").read_text()
    (tmp_path / "dice.csv").write_text("edited")
    result, kept = run_evaluation(wanted, None, CPU)
    assert not kept
    assert (tmp_path / "dice.csv").read_text() == before
    assert result["summary"][-1]["source"] == "FLAIR > 2 SD"


def test_two_sources_of_one_name_are_refused(case_folder: Path, tmp_path: Path) -> None:
    """One would hide the other."""
    wanted = request(case_folder, tmp_path)
    with pytest.raises(ConfigError, match="two sources are called student"):
        run_evaluation(replace(wanted, compare={"student": tmp_path}), None, CPU)
