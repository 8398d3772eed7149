"""Augmentation: truth and image move together, the background stays 0."""

from __future__ import annotations

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from glialite_distill.augment import Augmentation, augment, margin, move
from glialite_distill.patches import Batch
from glialite_runtime.errors import ConfigError

NOTHING = Augmentation(flip=0, affine=0, intensity=0, gamma=0, noise=0, low_resolution=0)
QUARTER = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # result (z, y, x) is taken from (z, −x, y)


def blob_batch(size: int = 24, samples: int = 1) -> Batch:
    """Return a brain with a box of tumour off its middle; channel 0 and the soft labels repeat the labels."""
    labels = torch.zeros(samples, size, size, size, dtype=torch.uint8)
    labels[:, 8:14, 10:20, 5:12] = 2
    labels[:, 9:12, 12:16, 6:9] = 3
    regions = torch.stack([labels > 0, labels == 3, labels == 3], 1).float()
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(samples, 4, size, size, size, generator=generator) + 3
    image[:, 0] = 1 + regions[:, 0]
    image[..., :3] = 0  # outside the brain
    return Batch(image, labels, regions, regions / 2, torch.ones(samples, dtype=torch.bool))


def test_without_any_change_the_middle_comes_back() -> None:
    """All probabilities 0: the centre of the patch, bit for bit."""
    batch = blob_batch()
    out = augment(batch, (16, 20, 12), NOTHING, seed=1, iteration=2)
    assert torch.equal(out.image, batch.image[..., 4:20, 2:22, 6:18])
    assert torch.equal(out.labels, batch.labels[..., 4:20, 2:22, 6:18])
    assert torch.equal(out.soft, batch.soft[..., 4:20, 2:22, 6:18])
    assert torch.equal(out.doubt, batch.doubt[..., 4:20, 2:22, 6:18])


def test_a_quarter_turn_takes_every_voxel_to_its_place() -> None:
    """A turn by 90° about z equals index arithmetic: result[z, y, x] = input[z, n−1−x, y], in all four arrays."""
    batch = blob_batch()
    out = move(batch, (24, 24, 24), (False, False, False), QUARTER)
    for got, had in [(getattr(out, part), getattr(batch, part)) for part in ("image", "labels", "soft", "doubt")]:
        wanted = had.flip(-2).transpose(-1, -2)
        torch.testing.assert_close(got.float(), wanted.float(), atol=1e-4, rtol=0)


def test_a_flip_mirrors_the_named_axis() -> None:
    """A flip along y is a flip along y of all three arrays, and not along another."""
    batch = blob_batch()
    out = move(batch, (24, 24, 24), (False, True, False))
    assert torch.equal(out.image, batch.image.flip(-2))
    assert torch.equal(out.labels, batch.labels.flip(-2))
    assert torch.equal(out.soft, batch.soft.flip(-2))


def test_magnification_doubles_a_box() -> None:
    """A matrix of one half doubles every edge of the tumour about the middle."""
    labels = torch.zeros(1, 16, 16, 16, dtype=torch.uint8)
    labels[0, 6:10, 7:9, 8:10] = 2
    batch = Batch(torch.ones(1, 4, 16, 16, 16), labels, *torch.zeros(2, 1, 3, 16, 16, 16), torch.tensor([True]))
    out = move(batch, (16, 16, 16), (False,) * 3, np.eye(3) / 2)
    box = [(int(v.min()), int(v.max()) + 1) for v in torch.nonzero(out.labels[0]).T]
    assert box == [(4, 12), (6, 10), (8, 12)]


def test_the_margin_is_turned_in() -> None:
    """After a turn, a patch cut from a larger one has no empty corner."""
    batch = blob_batch()
    batch = replace(batch, image=torch.ones_like(batch.image))
    tilt = np.radians(15)
    matrix = np.array([[1, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]])
    assert (move(batch, (16, 16, 16), (False,) * 3, matrix).image > 0.99).all()
    assert (move(batch, (24, 24, 24), (False,) * 3, matrix).image == 0).any()


def test_random_positions_keep_image_labels_and_soft_labels_together() -> None:
    """After random turns, zooms and flips, channel 0 still says where the tumour is, and so do the soft labels."""
    always = replace(NOTHING, flip=0.5, affine=1.0)
    batch = blob_batch(samples=4)
    shifted = 0
    for iteration in range(5):
        out = augment(batch, (20, 20, 20), always, seed=3, iteration=iteration)
        sure = (out.soft[:, 0] - 0.5).abs() > 0.45  # away from the blurred edge
        brain = out.image[:, 1] != 0
        assert torch.equal((out.soft[:, 0] > 0.5)[sure], (out.labels > 0)[sure])
        inner = sure & brain & (out.image[:, 0] > 0.99)
        torch.testing.assert_close(out.image[:, 0][inner] - 1, out.soft[:, 0][inner], atol=0.06, rtol=0)
        assert int((out.labels > 0).sum()) > 500
        shifted += int(not torch.equal(out.labels, batch.labels[..., 2:22, 2:22, 2:22]))
    assert shifted == 5


def test_labels_stay_labels() -> None:
    """Nearest-neighbour sampling makes no new values."""
    out = augment(blob_batch(), (20, 20, 20), replace(NOTHING, affine=1.0), 0, 0)
    assert set(out.labels.unique().tolist()) == {0, 2, 3}
    assert out.labels.dtype == torch.uint8


@pytest.mark.parametrize("change", ["intensity", "gamma", "noise", "low_resolution"])
def test_intensity_changes_touch_the_brain_of_the_image_alone(change: str) -> None:
    """Each change alters the image, keeps the background exactly 0 and leaves labels and soft labels alone."""
    batch = blob_batch()
    out = augment(batch, (24, 24, 24), replace(NOTHING, **{change: 1.0}), 5, 6)
    assert not torch.equal(out.image, batch.image)
    assert torch.equal(out.image == 0, batch.image == 0)
    assert torch.equal(out.labels, batch.labels)
    assert torch.equal(out.soft, batch.soft)


def test_gamma_keeps_mean_and_sd_of_the_brain() -> None:
    """Only the shape of the histogram changes."""
    batch = blob_batch()
    out = augment(batch, (24, 24, 24), replace(NOTHING, gamma=1.0), 5, 6)
    brain = batch.image[0, 1] != 0
    for channel in range(1, 4):
        for moment in (torch.mean, torch.std):
            had, got = moment(batch.image[0, channel][brain]), moment(out.image[0, channel][brain])
            assert got.item() == pytest.approx(had.item(), abs=1e-3)


def test_coarser_voxels_remove_detail() -> None:
    """White noise loses at least a fifth of its SD and keeps its mean."""
    batch = blob_batch()
    strong = replace(NOTHING, low_resolution=1.0, coarsest=4.0)
    brain = batch.image[0, 1] != 0
    kept = []
    for iteration in range(6):
        inside = augment(batch, (24, 24, 24), strong, 5, iteration).image[0, 1][brain]
        assert inside.mean().item() == pytest.approx(batch.image[0, 1][brain].mean().item(), abs=0.3)
        kept.append(inside.std().item() / batch.image[0, 1][brain].std().item())
    assert np.mean(kept) < 0.8


def test_the_result_is_a_function_of_seed_and_iteration() -> None:
    """The same numbers give the same batch; another iteration or seed another one."""
    often = Augmentation(**{f.name: 1.0 for f in fields(Augmentation) if f.name in ("affine", "noise", "intensity")})
    batch = blob_batch()
    first = augment(batch, (20, 20, 20), often, 1, 2).image
    assert torch.equal(first, augment(batch, (20, 20, 20), often, 1, 2).image)
    assert not torch.equal(first, augment(batch, (20, 20, 20), often, 1, 3).image)
    assert not torch.equal(first, augment(batch, (20, 20, 20), often, 2, 2).image)


def test_the_batch_given_is_not_changed() -> None:
    """Augmentation works on a copy."""
    batch = blob_batch()
    before = batch.image.clone()
    augment(batch, (24, 24, 24), Augmentation(**dict.fromkeys(("flip", "affine", "noise", "gamma"), 1.0)), 0, 0)
    assert torch.equal(batch.image, before)


def test_a_patch_without_brain_stays_empty() -> None:
    """All zeros in, all zeros out, no NaN."""
    batch = replace(blob_batch(), image=torch.zeros(1, 4, 24, 24, 24))
    out = augment(batch, (16, 16, 16), Augmentation(**dict.fromkeys(("intensity", "gamma", "noise"), 1.0)), 0, 0)
    assert not out.image.any()


def test_another_view_lies_at_the_same_place() -> None:
    """Labels, soft labels and doubts of two views are equal, turned and all; the images differ in intensity."""
    batch = blob_batch(samples=2)
    one, other = (
        augment(batch, (16, 16, 16), replace(Augmentation(), affine=1.0, intensity=1.0), 0, 0, view) for view in (0, 1)
    )
    for part in ("labels", "soft", "doubt"):
        assert torch.equal(getattr(one, part), getattr(other, part))
    assert torch.equal(one.image != 0, other.image != 0)
    assert not torch.equal(one.image, other.image)


def test_shrunk_patches_show_everything_smaller_and_no_emptiness() -> None:
    """Down to 0.5: a ball of 12 voxels has at most its volume, down to an eighth, and the margin fills the corners."""
    settings = replace(NOTHING.shrunk(0.5), rotation_deg=0.0)
    cut = margin(settings, (16, 16, 16))
    assert cut == (32, 32, 32)
    assert margin(Augmentation(), (64, 80, 48)) == (80, 100, 60)
    inside = torch.from_numpy(((np.indices(cut) - 15.5) ** 2).sum(0) < 36)
    labels = inside[None].to(torch.uint8)
    image = torch.ones(1, 4, *cut)
    nothing = torch.zeros(1, 3, *cut)
    batch = Batch(image, labels, nothing, nothing, torch.zeros(1, dtype=torch.bool))
    sizes = []
    for iteration in range(30):
        out = augment(batch, (16, 16, 16), settings, 0, iteration)
        sizes.append(float(out.labels.sum()) / float(inside.sum()))
        assert (out.image > 0.999).all()
    assert 0.1 < min(sizes) < 0.25
    assert 0.7 < max(sizes) < 1.2


def test_a_size_that_no_patch_can_have_is_refused() -> None:
    """Larger than life is not smaller, and next to nothing shows nothing; None changes nothing."""
    for size in (1.5, 0.1):
        with pytest.raises(ConfigError, match=r"0\.3 to 1"):
            Augmentation().shrunk(size)
    assert Augmentation().shrunk(None) == Augmentation()
