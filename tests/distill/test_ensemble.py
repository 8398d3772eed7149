"""Teachers at work: the sliding window, the averaging, the files."""

from __future__ import annotations

from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from glialite_distill import nnunet
from glialite_distill.ensemble import (
    PredictOptions,
    Window,
    average_probabilities,
    find_members,
    load_teacher,
    predict_folder,
    sliding_window,
    to_logits,
)
from glialite_distill.runs import fold_folder
from glialite_distill.trainers import register_trainers
from glialite_distill.workspace import Workspace
from glialite_runtime.cases import find_case
from glialite_runtime.errors import BatchError, ConfigError
from glialite_runtime.volume import load_volume
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from nnunetv2.inference.sliding_window_prediction import compute_gaussian
from torch import nn

from tests.distill.conftest import write_case

CPU = torch.device("cpu")
WINDOW = Window((16, 16, 16))


class Pointwise(nn.Module):
    """A network without context: three channels of the input, so that windows must not show."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, :3] * 2


class Ramp(nn.Module):
    """A network that sees where it is in its window: not symmetric under mirroring."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        ramp = torch.arange(image.shape[-1], dtype=torch.float32)
        return image[:, :3] * 0 + ramp


class Constant(nn.Module):
    """A network that always says the same probability."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.logit = float(np.log(probability / (1 - probability)))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, :3] * 0 + self.logit


def image_of(shape: tuple[int, int, int]) -> np.ndarray:
    """Return noise (4, z, y, x)."""
    return np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)


@pytest.mark.parametrize("shape", [(16, 16, 16), (33, 20, 47), (9, 16, 30)])
@pytest.mark.parametrize("step", [0.5, 0.3])
def test_windows_leave_no_trace(shape: tuple[int, int, int], step: float) -> None:
    """A network without context gives the same with and without windows, also when the case is smaller than one."""
    image = image_of(shape)
    logits = sliding_window(Pointwise(), image, Window((16, 16, 16), step), CPU)
    np.testing.assert_allclose(logits, image[:3] * 2, atol=1e-5)


def test_windows_are_weighted_in_full_precision() -> None:
    """Where two windows overlap in a corner, weights of 1e-6 still decide; in FP16 they would all be equal."""
    logits = sliding_window(Ramp(), image_of((16, 16, 24)), WINDOW, CPU)
    weight = compute_gaussian((16, 16, 16), 1 / 8, 10, torch.float64, CPU).numpy()
    total, weights = np.zeros((16, 16, 24)), np.zeros((16, 16, 24))
    for start in (0, 8):
        total[..., start : start + 16] += weight * np.arange(16)
        weights[..., start : start + 16] += weight
    np.testing.assert_allclose(logits[0], total / weights, atol=1e-3)


def test_mirroring_averages_both_directions() -> None:
    """A ramp and its mirror image make a constant."""
    image = image_of((16, 16, 16))
    logits = sliding_window(Ramp(), image, Window((16, 16, 16), tta=True), CPU)
    np.testing.assert_allclose(logits, 7.5, atol=1e-5)
    assert np.ptp(sliding_window(Ramp(), image, WINDOW, CPU)) == pytest.approx(15)


def test_probabilities_are_averaged_not_logits() -> None:
    """0.1 and 0.9 and 0.8 make 0.6; their mean logit would make 0.61."""
    networks = [Constant(p) for p in (0.1, 0.9, 0.8)]
    found = average_probabilities(networks, image_of((16, 20, 16)), WINDOW, CPU)
    np.testing.assert_allclose(found, 0.6, atol=1e-6)


def test_logits_of_certain_probabilities_are_finite() -> None:
    """0 and 1 become large numbers, 0.5 becomes 0."""
    logits = to_logits(np.array([0, 0.5, 1], np.float32))
    assert logits[1] == 0
    assert np.isfinite(logits).all()
    assert logits[0] == -logits[2]


def test_the_window_agrees_with_nnunets_predictor(trained: Workspace, cohort: Path) -> None:
    """On a whole case, nnU-Net's own predictor finds our trainer and gives our probabilities inside the brain."""
    case = trained.cases[0]
    register_trainers()
    with nnunet.quiet():
        predictor = nnUNetPredictor(use_mirroring=True, device=CPU, allow_tqdm=False)
        folder = fold_folder(trained, "baseline", 0).parent
        predictor.initialize_from_trained_model_folder(str(folder), (0,), "checkpoint_final.pth")
        volume = load_volume(find_case(cohort / case))
        raw = np.stack(volume.channels).astype(np.float32)
        _, theirs = predictor.predict_single_npy_array(raw, {"spacing": volume.spacing_mm}, None, None, True)
    network = load_teacher(trained, "baseline", 0, CPU)
    mine = average_probabilities([network], trained.load(case)[0], Window(trained.patch_size, tta=True), CPU)
    brain = np.zeros(raw.shape[1:], bool)
    brain[raw.any(axis=0)] = True
    box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(brain))
    inside = brain[box]
    assert np.abs(theirs[(slice(None), *box)] - mine)[:, inside].max() < 2e-3


def test_members_are_all_finished_folds_or_the_ones_asked_for(trained: Workspace) -> None:
    """Each with the hash of its checkpoint; unfinished ones are refused by name."""
    members = find_members(trained, ("baseline", "mednext-b"))
    assert [(m.recipe, m.fold) for m in members] == [
        ("baseline", 0),
        ("baseline", 1),
        ("mednext-b", 0),
        ("mednext-b", 1),
    ]
    assert len({m.sha256 for m in members}) == 4
    with pytest.raises(ConfigError, match="mednext-m has no finished teacher of fold any"):
        find_members(trained, ("baseline", "mednext-m"))
    with pytest.raises(ConfigError, match="baseline has no finished teacher of fold 3"):
        find_members(trained, ("baseline",), (1, 3))


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
