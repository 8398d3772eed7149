"""The teachers' extra augmentation against values counted by hand and against what must not change."""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest
import torch
from glialite_distill.teacher_augment import (
    EXTRA_TRANSFORMS,
    LowFieldTransform,
    ModalityDropoutTransform,
    SmallComponentRemovalTransform,
    carvemix,
    thick_slices,
)
from scipy.ndimage import distance_transform_edt, gaussian_filter


def brain_patch(channels: int = 4, size: int = 16) -> torch.Tensor:
    """Return random sequences inside a box and 0 around it, (channels, size, size, size)."""
    image = torch.zeros(channels, size, size, size)
    inside = image[:, 3:-3, 2:-2, 4:-4]
    inside.copy_(torch.randn(inside.shape, generator=torch.Generator().manual_seed(1)) * 1.5 + 0.5)
    return image


def islands() -> torch.Tensor:
    """Return labels (1, 9, 9, 9): islands of 1, 2 and 8 voxels inside, one of 1 at the border, −1 in a corner."""
    labels = torch.zeros(1, 9, 9, 9, dtype=torch.int16)
    labels[0, 1, 1, 1] = 3
    labels[0, 4, 4, 4], labels[0, 5, 5, 5] = 2, 1  # one island: they touch at a corner
    labels[0, 6:8, 1:3, 6:8] = 2
    labels[0, 8, 8, 4] = 3
    labels[0, 0, 0, 8] = -1
    return labels


def test_thick_slices_by_hand() -> None:
    """0 2 4 6 in slices of two: means 1 and 5, and linear between their centres: 1 2 4 5."""
    assert thick_slices(torch.tensor([[0.0, 2.0, 4.0, 6.0]]), 1, 2).tolist() == [[1, 2, 4, 5]]


def test_a_slice_that_is_not_full_repeats_the_last_plane() -> None:
    """0 2 4 in slices of two: means 1 and 4."""
    assert thick_slices(torch.tensor([[0.0], [2.0], [4.0]]), 0, 2)[:, 0].tolist() == pytest.approx([1, 1.75, 3.25])


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_thick_slices_leave_the_other_axes_alone(axis: int) -> None:
    """A volume that varies only along other axes comes back as it was."""
    volume = torch.rand(5, 6, 7).mean(axis, keepdim=True).expand(5, 6, 7)
    torch.testing.assert_close(thick_slices(volume, axis, 4), volume)


def test_noise_lies_in_the_slices() -> None:
    """Two voxels of one slice with nothing beyond get one noise between them."""
    torch.manual_seed(0)
    first, second = thick_slices(torch.zeros(2, 1), 0, 2, 1.0)[:, 0].tolist()
    assert first == second != 0


def test_low_field_keeps_background_mean_and_sd() -> None:
    """0 stays 0, the brain's mean and SD are those of before, and the image is another one."""
    image = brain_patch()
    before = image.clone()
    torch.manual_seed(0)
    out = LowFieldTransform()(image=image)["image"]
    brain = (before != 0).any(0)
    assert torch.equal(image, before)
    assert float(out[:, ~brain].abs().max()) == 0
    for old, new in zip(before[:, brain], out[:, brain], strict=True):
        assert float(new.mean()) == pytest.approx(float(old.mean()), abs=1e-4)
        assert float(new.std()) == pytest.approx(float(old.std()), rel=1e-4)
        assert float((new - old).abs().mean()) > 0.1


def test_a_coils_field_multiplies_signal_by_hand() -> None:
    """−1, 0, 1 lie 0, 1, 2 above the darkest; doubled on the right 0, 1, 4; mean 0 and SD √(2/3) again."""
    image = torch.tensor([-1.0, 0.0, 1.0]).expand(4, 1, 3).clone()
    image[1] = torch.tensor([1.0, 2.0, 3.0])  # or the middle voxel were background
    bias = torch.zeros(4, 3, 3)
    bias[:, :, 2] = math.log(2)
    parameters = {"axis": 0, "thickness": [1] * 4, "noise_sd": [0.0] * 4, "bias": bias}
    out = LowFieldTransform()._apply_to_image(image, **parameters)
    expected = [(v - 5 / 3) / math.sqrt(26 / 9) * math.sqrt(2 / 3) for v in (0, 1, 4)]
    assert out[0, 0].tolist() == pytest.approx(expected, abs=1e-5)


def test_low_field_smooths_one_axis() -> None:
    """Without noise and coils, neighbours across the slices grow alike and the others hardly."""
    parameters = {"axis": 1, "thickness": [4] * 4, "noise_sd": [0.0] * 4, "bias": torch.zeros(4, 3, 3, 3)}
    image = torch.randn(4, 16, 16, 16, generator=torch.Generator().manual_seed(2))
    out = LowFieldTransform()._apply_to_image(image, **parameters)
    steps = [float(out.diff(dim=axis).abs().mean() / image.diff(dim=axis).abs().mean()) for axis in (1, 2, 3)]
    assert steps[1] < 0.5 < min(steps[0], steps[2])


def test_low_field_leaves_missing_sequences_and_a_mask_channel_alone() -> None:
    """A sequence of zeros stays one; a fifth channel is no scan."""
    image = brain_patch(5)
    image[2] = 0
    out = LowFieldTransform()(image=image)["image"]
    assert float(out[2].abs().max()) == 0
    assert torch.equal(out[4], image[4])
    assert not torch.equal(out[3], image[3])


@pytest.mark.parametrize("shape", [(4, 6, 6, 6), (4, 9, 7)])
def test_low_field_takes_empty_patches_and_slices(shape: tuple[int, ...]) -> None:
    """A patch without brain stays empty; slices of a 2-D recipe are taken as well."""
    assert float(LowFieldTransform()(image=torch.zeros(shape))["image"].abs().max()) == 0
    out = LowFieldTransform()(image=torch.randn(shape))["image"]
    assert torch.isfinite(out).all()


def test_modality_dropout_draws_every_set_and_never_all() -> None:
    """In 400 draws the 14 sets that lack one to three sequences occur; the rest is untouched, a fifth channel too."""
    torch.manual_seed(0)
    image, seen = torch.ones(5, 2, 2, 2), set()
    for _ in range(400):
        out = ModalityDropoutTransform()(image=image)["image"]
        assert set(out.unique().tolist()) == {0.0, 1.0}
        assert bool((out[4] == 1).all())
        seen.add(tuple(out[:4, 0, 0, 0].int().tolist()))
    assert len(seen) == 14
    assert not seen & {(0, 0, 0, 0), (1, 1, 1, 1)}
    assert bool((image == 1).all())


def test_small_islands_become_background() -> None:
    """Up to two voxels: the islands of 1 and 2 go, the one of 8 stays, so do the one at the border and −1."""
    labels = islands()
    out = SmallComponentRemovalTransform(largest=2)(segmentation=labels.clone())["segmentation"]
    expected = labels.clone()
    expected[0, 1, 1, 1] = expected[0, 4, 4, 4] = expected[0, 5, 5, 5] = 0
    assert torch.equal(out, expected)


def test_small_component_removal_takes_slices_and_empty_labels() -> None:
    """In a slice the 8 neighbours count; labels without tumour come back."""
    labels = torch.zeros(1, 6, 6, dtype=torch.int16)
    remove = SmallComponentRemovalTransform(largest=1)
    assert torch.equal(remove(segmentation=labels)["segmentation"], labels)
    labels[0, 1, 1] = labels[0, 3, 3] = labels[0, 4, 4] = 1
    assert remove(segmentation=labels)["segmentation"][0].nonzero().tolist() == [[3, 3], [4, 4]]


@pytest.mark.parametrize("name", EXTRA_TRANSFORMS)
def test_transforms_are_repeatable_and_keep_shapes(name: str) -> None:
    """The same seed gives the same sample; image and labels keep shape and type, and the background stays 0."""
    image, labels, results = brain_patch(), torch.zeros(1, 16, 16, 16, dtype=torch.int16), []
    labels[0, 5:9, 5:9, 5:9] = 3
    for _ in range(2):
        torch.manual_seed(11)
        transform = EXTRA_TRANSFORMS[name]()
        results.append([transform(image=image.clone(), segmentation=labels.clone()) for _ in range(8)])
    for first, second in zip(*results, strict=True):
        for key, before in (("image", image), ("segmentation", labels)):
            assert torch.equal(first[key], second[key])
            assert (first[key].shape, first[key].dtype) == (before.shape, before.dtype)
        assert float(first["image"][:, (image == 0).all(0)].abs().max()) == 0


class Fixed(np.random.Generator):
    """A generator that draws the given numbers."""

    def __init__(self, *values: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.values = list(values)

    def uniform(self, *_: object, **__: object) -> float:  # type: ignore[override]
        return self.values.pop(0)


def pair() -> tuple[npt.NDArray[np.float32], ...]:
    """Return a case of ones without tumour and one of twos whose middle 5 of 11 voxels in a row are tumour."""
    image, label = np.ones((4, 1, 1, 11), np.float32), np.zeros((1, 1, 1, 11), np.int16)
    other = label.copy()
    other[..., 3:8] = [2, 1, 3, 1, 2]
    return image, label, 2 * image, other


@pytest.mark.parametrize(
    ("share", "partly", "first", "last"),
    [
        (0.0, True, 3, 7),  # λ = 0: the tumour
        (0.99, True, 4, 6),  # depth 2.5, λ = −1.24: the outermost voxels (−0.5) stay behind
        (0.19, False, 3, 7),  # λ = 0.475: the next voxels lie at 0.5
        (0.21, False, 2, 8),  # λ = 0.525
        (0.99, False, 1, 9),  # λ = 2.48: voxels at 0.5 and 1.5 come along
    ],
)
def test_carvemix_by_hand(share: float, partly: bool, first: int, last: int) -> None:
    """What is carved follows from λ; image and labels come from the same case at every voxel."""
    image, label, other_image, other_label = pair()
    out, labels = carvemix(image, label, other_image, other_label, Fixed(share, 0.0 if partly else 1.0))
    carved = np.zeros(11, bool)
    carved[first : last + 1] = True
    assert np.array_equal(out[:, 0, 0], np.where(carved, 2, np.ones((4, 1))))
    assert np.array_equal(labels[0, 0, 0], np.where(carved, other_label[0, 0, 0], 0))
    assert (image.max(), label.max()) == (1, 0)


@pytest.mark.parametrize("seed", range(12))
def test_carvemix_is_what_the_distances_of_the_whole_patch_give(seed: int) -> None:
    """Random blobs, some cut by the border: the same voxels as from distances that are computed everywhere."""
    rng = np.random.default_rng(seed)
    other_label = (gaussian_filter(rng.normal(size=(1, 12, 14, 13)), (0, 1.5, 1.5, 1.5)) > 0.1).astype(np.int16) * 2
    other_image = rng.normal(size=(4, 12, 14, 13)).astype(np.float32)
    image, label = np.ones_like(other_image), np.zeros_like(other_label)
    share, partly = 0.99, seed % 3 == 2
    out, labels = carvemix(image, label, other_image, other_label, Fixed(share, 0.0 if partly else 1.0))
    tumour = other_label[0] > 0
    signed = np.where(tumour, 0.5 - distance_transform_edt(tumour), distance_transform_edt(~tumour) - 0.5)
    carved = signed <= share * (signed.min() / 2 if partly else -signed.min())
    assert np.array_equal(out, np.where(carved, other_image, image))
    assert np.array_equal(labels, np.where(carved, other_label, label))


def test_carvemix_reaches_two_voxels_beyond_a_depth_below_two() -> None:
    """A square of 5 with a notch is √5 − ½ deep; at λ just below that, voxels 1.5 from its surface come along."""
    other_label = np.zeros((1, 1, 11, 11), np.int16)
    other_label[..., 3:8, 3:8] = 2
    other_label[..., 6, 7] = 0
    image = np.ones((4, 1, 11, 11), np.float32)
    out, _ = carvemix(image, np.zeros_like(other_label), 2 * image, other_label, Fixed(0.99, 1.0))
    assert out[0, 0, 5].tolist() == [1, 2, 2, 2, 2, 2, 2, 2, 2, 2, 1]


def test_carvemix_keeps_the_background() -> None:
    """Where either case shows no brain, image and label stay as they were."""
    image, label, other_image, other_label = pair()
    image[..., 4], label[..., 4], other_image[..., 6] = 0, -1, 0
    out, labels = carvemix(image, label, other_image, other_label, Fixed(0.0, 0.0))
    assert out[0, 0, 0].tolist() == [1, 1, 1, 2, 0, 2, 1, 2, 1, 1, 1]
    assert labels[0, 0, 0].tolist() == [0, 0, 0, 2, -1, 3, 0, 2, 0, 0, 0]


@pytest.mark.parametrize("value", [0, 1, -1])
def test_carvemix_of_a_patch_of_one_kind_changes_nothing(value: int) -> None:
    """Without tumour, and with nothing else, there is no surface; the generator is drawn from all the same."""
    image, label, other_image, other_label = pair()
    one, two = (np.random.default_rng(0) for _ in range(2))
    out, labels = carvemix(image, label, other_image, np.full_like(other_label, value), one)
    carvemix(image, label, other_image, other_label, two)
    assert np.array_equal(out, image)
    assert np.array_equal(labels, label)
    assert one.uniform() == two.uniform()


def test_carvemix_carves_parts_and_surroundings_alike_often() -> None:
    """Over seeds, half of the carved shapes are within the tumour and half reach beyond or fill it."""
    blob = np.zeros((1, 15, 15, 15), np.int16)
    blob[0, 4:11, 4:11, 4:11] = 3
    image, label = np.ones((4, 15, 15, 15), np.float32), np.zeros_like(blob)
    sizes = np.array(
        [(carvemix(image, label, 2 * image, blob, np.random.default_rng(s))[0][0] == 2).sum() for s in range(60)]
    )
    assert 0.3 < (sizes <= 7**3).mean() < 0.8
    assert sizes.min() < 7**3 < sizes.max()
    assert sizes.min() > 0
