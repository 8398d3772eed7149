"""Members blended: weights, the variance over mirrorings, bounded memory, agreement with nnU-Net's predictor."""

from __future__ import annotations

import gc
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import torch
from glialite_distill import ensemble, nnunet
from glialite_distill.ensemble import (
    BYTES_PER_VOXEL,
    BYTES_PER_VOXEL_UNCERTAINTY,
    blend,
    teachers_of,
    to_logits,
)
from glialite_distill.member_weights import MemberWeights, equal_weights
from glialite_distill.members import find_members
from glialite_distill.runs import fold_folder
from glialite_distill.teacher_network import Teacher
from glialite_distill.trainers import register_trainers
from glialite_distill.windows import Window
from glialite_distill.workspace import Workspace
from glialite_runtime.cases import find_case
from glialite_runtime.volume import load_volume
from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
from torch import nn

from tests.distill.small_networks import CPU, WINDOW, Constant, Pointwise, Ramp, image_of

SIZE = (16, 16, 16)
TTA = Window(SIZE, tta=True)


def test_probabilities_are_averaged_not_logits() -> None:
    """0.1 and 0.9 and 0.8 make 0.6; their mean logit would make 0.61."""
    teachers = [(Teacher(Constant(p), SIZE), (1 / 3,) * 3) for p in (0.1, 0.9, 0.8)]
    found = blend(teachers, image_of((16, 20, 16)), WINDOW, CPU).probabilities
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
    teachers = teachers_of(trained, find_members(trained, ("baseline",), (0,)), equal_weights(("baseline",)), CPU)
    mine = blend(teachers(), trained.load(case)[0], Window(trained.patch_size, tta=True), CPU).probabilities
    brain = np.zeros(raw.shape[1:], bool)
    brain[raw.any(axis=0)] = True
    box = tuple(slice(int(i.min()), int(i.max()) + 1) for i in np.nonzero(brain))
    inside = brain[box]
    assert np.abs(theirs[(slice(None), *box)] - mine)[:, inside].max() < 2e-3


def test_every_region_has_its_own_weights() -> None:
    """0.2 and 0.8 at 1:0, 3:1 and 0:1 make 0.2, 0.35 and 0.8."""
    teachers = [(Teacher(Constant(0.2), SIZE), (1.0, 0.75, 0.0)), (Teacher(Constant(0.8), SIZE), (0.0, 0.25, 1.0))]
    found = blend(teachers, image_of((16, 20, 16)), WINDOW, CPU)
    for region, expected in enumerate((0.2, 0.35, 0.8)):
        np.testing.assert_allclose(found.probabilities[region], expected, atol=1e-6)
    assert found.variance is None


def test_the_variance_is_that_of_the_probabilities_over_the_mirrorings() -> None:
    """A ramp along x is x in four mirrorings, 15 − x in the others: the variance is a quarter of the squared gap."""
    found = blend([(Teacher(Ramp(), SIZE), (1.0, 1.0, 1.0))], image_of(SIZE), TTA, CPU, uncertainty=True)
    x = np.arange(16)
    gap = 1 / (1 + np.exp(-x)) - 1 / (1 + np.exp(-(15 - x)))
    np.testing.assert_allclose(found.variance, np.broadcast_to(gap**2 / 4, (3, *SIZE)), atol=1e-6)


def test_the_variance_is_averaged_with_the_members_weights() -> None:
    """A member that mirroring does not change halves it at equal weights; it is not how members differ."""
    ramp, alone = Teacher(Ramp(), SIZE), (1.0, 1.0, 1.0)
    own = blend([(ramp, alone)], image_of(SIZE), TTA, CPU, uncertainty=True).variance
    shares = (0.5, 0.25, 1.0)
    others = tuple(1 - s for s in shares)
    found = blend([(ramp, shares), (Teacher(Constant(0.9), SIZE), others)], image_of(SIZE), TTA, CPU, uncertainty=True)
    for region, share in enumerate(shares):
        np.testing.assert_allclose(found.variance[region], share * own[region], atol=1e-6)


class Counting(nn.Module):
    """A network of no size; at one of its calls it notes how many bytes of arrays are alive."""

    def __init__(self, at: int) -> None:
        super().__init__()
        self.at, self.calls, self.found = at, 0, 0

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        logits = image[:, :3] * 0
        self.calls += 1
        if self.calls == self.at:
            self.found = tracemalloc.get_traced_memory()[0] + torch_bytes()
        return logits


def torch_bytes() -> int:
    """Return the bytes of all living tensors that torch itself has memory for (numpy's are traced)."""
    tensors = [t for t in gc.get_objects() if type(t) is torch.Tensor]
    storages = {s.data_ptr(): s.nbytes() for s in (t.untyped_storage() for t in tensors) if s.resizable()}
    return sum(storages.values())


@pytest.mark.parametrize("uncertainty", [False, True])
@pytest.mark.parametrize("members", [1, 3])
def test_memory_is_what_the_docstring_says(members: int, uncertainty: bool) -> None:
    """While the last window of the last mirroring is computed: as many bytes a voxel for one member as for three."""
    image, patch = image_of((96, 64, 64)), (32, 32, 32)
    windows, voxels = 3 * 2 * 2, image[0].size
    network = Counting(members * 8 * windows // 2)
    teachers = [(Teacher(network, patch), (1 / members,) * 3)] * members
    before = torch_bytes()
    tracemalloc.start()
    try:
        blend(teachers, image, Window(patch, 1.0, tta=True), CPU, uncertainty=uncertainty)
    finally:
        tracemalloc.stop()
    assert network.calls == network.at
    two_windows = (2 * (4 + 4 + 3) + 1) * 32**3 * 4  # cut, mirrored, computed; the Gaussian
    a_voxel = (network.found - before - two_windows + image.nbytes) / voxels
    bound = BYTES_PER_VOXEL + (BYTES_PER_VOXEL_UNCERTAINTY if uncertainty else 0)
    assert bound - 12 < a_voxel <= bound


def test_memory_never_rises_between_members() -> None:
    """The highest of what numpy holds at any time: one case's arrays, however many members."""
    image = image_of((64, 48, 48))
    teachers = [(Teacher(Pointwise(), SIZE), (0.25,) * 3)] * 4
    blend(teachers[:1], image, TTA, CPU)  # so that the Gaussian is there
    tracemalloc.start()
    try:
        blend(teachers, image, Window(SIZE, 1.0, tta=True), CPU, uncertainty=True)
        peak = tracemalloc.get_traced_memory()[1] / image[0].size
    finally:
        tracemalloc.stop()
    of_torch = 16 + 16  # the image is the caller's; the logits of a pass and their weights are torch's
    assert peak <= BYTES_PER_VOXEL + BYTES_PER_VOXEL_UNCERTAINTY - of_torch


def test_large_ensembles_hold_one_network_at_a_time(trained: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """Up to five are loaded once; beyond, each is loaded when its turn comes, and gone before the next."""
    members = find_members(trained, ("baseline", "mednext-b"))
    weights = equal_weights(("baseline", "mednext-b"))
    kept = teachers_of(trained, members, weights, CPU)
    assert [t.network for t, _ in kept()] == [t.network for t, _ in kept()]
    monkeypatch.setattr(ensemble, "_KEPT_NETWORKS", 3)
    anew = teachers_of(trained, members, weights, CPU)
    first, second = next(anew())[0].network, next(anew())[0].network
    assert first is not second
    assert [shares for _, shares in anew()] == [(0.25, 0.25, 0.25)] * 4


def test_members_without_weight_are_not_run(trained: Workspace) -> None:
    """A network that counts nowhere costs nothing."""
    members = find_members(trained, ("baseline", "mednext-b"))
    weights = MemberWeights({"baseline": (1.0, 1.0, 1.0), "mednext-b": (0.0, 0.0, 0.0)})
    assert [shares for _, shares in teachers_of(trained, members, weights, CPU)()] == [(0.5, 0.5, 0.5)] * 2
