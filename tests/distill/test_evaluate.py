"""Evaluation of cases: scores by hand, label maps in any orientation, withheld sequences, the trivial rule."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import nibabel as nib
import numpy as np
import numpy.typing as npt
import pytest
import torch
from glialite_calibration.reliability import reliability
from glialite_distill.baseline import fit_flair_threshold, flair_labels, flair_source
from glialite_distill.evaluate import NetworkSource, bundle_source, evaluate, network_logits, student_source
from glialite_distill.evaluate_folder import FolderSource, load_labels
from glialite_distill.evaluate_scores import SCOPES, score
from glialite_distill.student import Student, StudentSpec
from glialite_distill.student_file import StudentFile
from glialite_runtime.cases import find_case
from glialite_runtime.decode import DecisionRule
from glialite_runtime.errors import ConfigError, GeometryError, InputError
from glialite_runtime.sequences import REGIONS
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


def test_volumes_are_those_of_the_regions() -> None:
    """Voxels of 500 mm³: the truth has 1.5, 1 and 0.5 mL of WT, TC and ET, the prediction 0.5 of WT alone."""
    got = score("s", "c", line(0, 2, 0, 0), line(1, 2, 3, 0), 500.0)
    assert got.true_ml == (1.5, 1.0, 0.5)
    assert got.predicted_ml == (0.5, 0.0, 0.0)


def test_core_and_enhancement_are_not_scored_without_t1c() -> None:
    """What cannot be told apart is no number, and no Dice of 0 either."""
    got = score("s", "c", line(0, 2, 2), line(0, 2, 3), 1.0, ("t1n", "t2w", "t2f"))
    assert got.dice[0] == 1
    assert all(math.isnan(value) for value in (*got.dice[1:], *got.predicted_ml[1:]))


def test_a_brain_without_tumour_counts_false_millilitres() -> None:
    """Two voxels of 500 mm³ predicted where there is nothing are 1 mL."""
    assert score("s", "c", line(0, 2, 3), line(0, 0, 0), 500.0).false_positive_ml == pytest.approx(1.0)


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
    got = evaluate([find_case(case_folder)], {"same": FolderSource(folder)})
    assert got.scores[0].dice == (1.0, 1.0, 1.0)


def test_predictions_may_lie_flat(case_folder: Path, tmp_path: Path) -> None:
    """`<case>.nii.gz`, as nnU-Net writes it, is found too."""
    name = case_folder.name
    (tmp_path / "flat").mkdir()
    (tmp_path / "flat" / f"{name}.nii.gz").write_bytes((case_folder / f"{name}-seg.nii.gz").read_bytes())
    got = evaluate([find_case(case_folder)], {"flat": FolderSource(tmp_path / "flat")})
    assert got.scores[0].dice[0] == 1


def test_a_missing_prediction_is_named(case_folder: Path, tmp_path: Path) -> None:
    """No prediction is an error, not a Dice of 0."""
    with pytest.raises(InputError, match=f"{case_folder.name} has no prediction"):
        evaluate([find_case(case_folder)], {"none": FolderSource(tmp_path / "elsewhere")})


def test_a_label_map_on_another_grid_is_refused(case_folder: Path, tmp_path: Path) -> None:
    """A prediction of another shape is not compared."""
    folder = put_prediction(tmp_path / "out", case_folder, lambda labels: labels[:-1])
    with pytest.raises(GeometryError, match="own grid"):
        evaluate([find_case(case_folder)], {"cut": FolderSource(folder)})


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
    everywhere = student_source(student_file(9.0, spacing_mm), CPU).predict(volume)[0]
    z, y, x = np.nonzero(np.any([channel != 0 for channel in volume.channels], axis=0))
    box = np.zeros_like(everywhere)
    box[z.min() : z.max() + 1, y.min() : y.max() + 1, x.min() : x.max() + 1] = 3
    np.testing.assert_array_equal(everywhere, box)
    assert not student_source(student_file(-9.0, spacing_mm), CPU).predict(volume)[0].any()


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


def threshold(image: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Return logits that follow t2f for WT and t1c for TC and ET."""
    return np.stack([image[3] - 1.5, image[1] - 2, image[1] - 3])


NETWORK = NetworkSource(threshold, (2.0, 2.0, 2.0), DecisionRule())


def test_withheld_sequences_are_as_if_they_were_not_there(case_folder: Path) -> None:
    """The score without t1n and t2w is that of a folder without the two files; without t1c only WT is scored."""
    subsets = [("t1c", "t2f"), ("t2f",)]
    everything, two, flair = evaluate([find_case(case_folder)], {"n": NETWORK}, subsets=subsets).scores
    assert (everything.withheld, two.withheld, flair.withheld) == (False, True, True)
    assert (two.sequences, flair.sequences) == (("t1c", "t2f"), ("t2f",))
    assert math.isnan(flair.dice[1])
    for sequence in ("t1n", "t2w"):
        (case_folder / f"{case_folder.name}-{sequence}.nii.gz").unlink()
    (alone, less) = evaluate([find_case(case_folder)], {"n": NETWORK}, subsets=subsets).scores
    assert alone == replace(two, withheld=False)
    assert less == flair


def test_label_maps_are_not_asked_again_for_subsets(case_folder: Path, tmp_path: Path) -> None:
    """A folder was made with all sequences: one score."""
    folder = put_prediction(tmp_path / "out", case_folder, lambda labels: labels)
    got = evaluate([find_case(case_folder)], {"f": FolderSource(folder)}, subsets=[("t2f",)])
    assert len(got.scores) == 1
    assert not got.counts


def put_probabilities(folder: Path, case: Path, values: npt.NDArray, **changes: object) -> Path:
    """Write probabilities (3, z, y, x) of a case as `teacher-train ensemble --probabilities` does."""
    path = folder / case.name / f"{case.name}-probabilities.npz"
    path.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(path, **{"probabilities": values.astype(np.float16), "regions": np.array(REGIONS), **changes})
    return path


def test_probabilities_in_a_folder_are_counted_as_a_networks(case_folder: Path, tmp_path: Path) -> None:
    """As float16 they give nearly the network's own calibration error and, where logits are moderate, its counts."""
    case = find_case(case_folder)
    volume = load_volume(case)
    labels, logits, box = NETWORK.predict(volume)
    whole = np.zeros((3, *labels.shape))
    whole[(slice(None), *box)] = 1 / (1 + np.exp(-logits.astype(float)))
    folder = put_prediction(tmp_path / "out", case_folder, lambda labels: labels)
    put_probabilities(folder, case_folder, whole)
    counts = evaluate([case], {"folder": FolderSource(folder), "network": NETWORK}).counts
    for scope in SCOPES:
        ours, theirs = (reliability(counts[name][scope]) for name in ("folder", "network"))
        for one, other in zip(ours, theirs, strict=True):
            assert one.voxels == other.voxels
            assert one.ece == pytest.approx(other.ece, abs=5e-4)


def test_probabilities_count_where_all_cases_have_them(case_folder: Path, tmp_path: Path) -> None:
    """A mean over some of the cases would not compare with anything."""
    folder = put_prediction(tmp_path / "out", case_folder, lambda labels: labels)
    other = case_folder.with_name("P02")
    shutil.copytree(case_folder, other)
    for path in sorted(other.iterdir()):
        path.rename(other / path.name.replace("P01", "P02"))
    put_prediction(folder, other, lambda labels: labels)
    shape = load_volume(find_case(case_folder)).channels[0].shape
    put_probabilities(folder, case_folder, np.full((3, *shape), 0.5))
    cases = [find_case(case_folder), find_case(other)]
    assert not evaluate(cases, {"f": FolderSource(folder)}).counts
    put_probabilities(folder, other, np.full((3, *shape), 0.5))
    assert evaluate(cases, {"f": FolderSource(folder)}).counts


@pytest.mark.parametrize(
    "changes",
    [
        {"regions": np.array(["ET", "TC", "WT"])},
        {"probabilities": np.full((3, 2, 2, 2), 0.5)},
        {"probabilities": np.array(["a"])},
        {"probabilities": np.array([{}])},
    ],
)
def test_probabilities_that_are_none_are_refused(
    case_folder: Path, tmp_path: Path, changes: dict[str, npt.NDArray]
) -> None:
    """Regions in another order, another grid, words, or a pickle: one sentence that names the file."""
    folder = put_prediction(tmp_path / "out", case_folder, lambda labels: labels)
    shape = load_volume(find_case(case_folder)).channels[0].shape
    put_probabilities(folder, case_folder, np.full((3, *shape), 0.5), **changes)
    with pytest.raises(InputError, match=r"P01-probabilities\.npz holds no probabilities"):
        evaluate([find_case(case_folder)], {"f": FolderSource(folder)})


@pytest.mark.parametrize("value", [np.nan, 1.5, -0.1])
def test_numbers_that_are_no_probabilities_are_refused(case_folder: Path, tmp_path: Path, value: float) -> None:
    """One voxel is enough; also a file that is cut off."""
    folder = put_prediction(tmp_path / "out", case_folder, lambda labels: labels)
    wrong = np.full((3, *load_volume(find_case(case_folder)).channels[0].shape), 0.5)
    wrong[1, 2, 3, 4] = value
    path = put_probabilities(folder, case_folder, wrong)
    with pytest.raises(InputError, match="holds no probabilities"):
        evaluate([find_case(case_folder)], {"f": FolderSource(folder)})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="holds no probabilities"):
        evaluate([find_case(case_folder)], {"f": FolderSource(folder)})


def test_probabilities_are_counted_in_the_brain_and_near_the_tumour(case_folder: Path) -> None:
    """Every brain voxel once; near, those within five voxels of 2 mm along each axis of the true tumour."""
    case = find_case(case_folder)
    volume = load_volume(case)
    truth = load_labels(case.label, volume) > 0
    brain = np.any([channel != 0 for channel in volume.channels], axis=0)
    near = np.zeros_like(brain)
    for z, y, x in np.argwhere(truth):
        near[max(z - 5, 0) : z + 6, max(y - 5, 0) : y + 6, max(x - 5, 0) : x + 6] = True
    counts = evaluate([case], {"n": NETWORK}).counts["n"]
    assert [int(counts[scope].voxels[0].sum()) for scope in SCOPES] == [brain.sum(), (brain & near).sum()]
    assert [int(counts[scope].positives[0].sum()) for scope in SCOPES] == [truth.sum(), truth.sum()]


def test_cases_without_t1c_say_nothing_about_probabilities(case_folder: Path) -> None:
    """Their TC and ET are not reported, so their logits do not count."""
    (case_folder / f"{case_folder.name}-t1c.nii.gz").unlink()
    assert not evaluate([find_case(case_folder)], {"n": NETWORK}).counts


def test_a_bundle_is_run_as_the_clinic_runs_it(case_folder: Path, make_bundle: Callable[..., Path]) -> None:
    """Its labels are those of the runtime's own segmentation."""
    from glialite_runtime.bundle import read_bundle
    from glialite_runtime.engine import open_engine
    from glialite_runtime.predict import segment

    case, path = find_case(case_folder), make_bundle()
    bundle = read_bundle(path)
    wanted = segment(case, bundle, open_engine(bundle)).labels
    assert wanted.any()
    np.testing.assert_array_equal(bundle_source(path).predict(load_volume(case))[0], wanted)
