"""Patches: the same place in every array, the same patches for the same seed."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from glialite_distill.patches import CachedCase, PatchSampler, cache_case, cut
from glialite_runtime.errors import ConfigError
from hypothesis import given, settings
from hypothesis import strategies as st

SHAPE = (20, 22, 18)


@dataclass
class Data:
    """Cases whose every array says where in the case it is."""

    shape: tuple[int, int, int] = SHAPE
    loads: list[str] = field(default_factory=list)
    key: str = "k"
    members: tuple[str, ...] = ("teacher",)
    cases: tuple[str, ...] = ("a", "b")
    cohort_hash: str = "h"
    held_out: tuple[str, ...] = ()
    spacing_mm: tuple[float, float, float] = (1.0, 1.0, 1.0)
    splits: tuple = ()

    def load(self, case: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        self.loads.append(case)
        z, y, x = np.indices(self.shape)
        image = np.stack([z, y, x, np.full(self.shape, 1 + ord(case) - ord("a"))]).astype(np.float32)
        labels = np.zeros(self.shape, np.uint8)
        labels[3:6, 4:7, 5:8] = 2
        labels[4, 5, 6] = 3
        return image, labels


class Soft(Data):
    """Soft labels that are a function of the place, for case a alone."""

    def load(self, case: str) -> npt.NDArray[np.float32]:  # type: ignore[override]
        z, y, x = np.indices(self.shape)
        return (np.stack([z, y, x]) / 32).astype(np.float32)

    def disagreement(self, case: str) -> npt.NDArray[np.float32]:
        return self.load(case) / 2


def cached(folder: Path, data: Data | None = None) -> tuple[CachedCase, ...]:
    data = data or Data()
    soft = Soft(data.shape, cases=("a",))
    return tuple(cache_case(data, soft, case, folder) for case in ("a", "b"))


def sampler(folder: Path, **changes: object) -> PatchSampler:
    return replace(PatchSampler(cached(folder), (8, 10, 6), 2, 0.5, 7), **changes)


@settings(max_examples=60, deadline=None)
@given(st.tuples(*[st.integers(-3, 5)] * 3), st.tuples(*[st.integers(1, 8)] * 3))
def test_cut_equals_indexing_a_padded_array(start: tuple[int, int, int], shape: tuple[int, int, int]) -> None:
    """Inside the array its values come, outside zeros, wherever the box lies."""
    array = np.arange(2 * 5 * 6 * 4).reshape(2, 5, 6, 4) + 1
    padded = np.pad(array, [(0, 0)] + [(20, 20)] * 3)
    z, y, x = (slice(20 + a, 20 + a + n) for a, n in zip(start, shape, strict=True))
    np.testing.assert_array_equal(cut(array, start, shape), padded[:, z, y, x])


def test_a_cut_does_not_share_memory() -> None:
    """Writing to a patch leaves the case alone."""
    array = np.ones((4, 4, 4))
    cut(array, (0, 0, 0), (4, 4, 4))[:] = 0
    assert array.all()


def test_a_cached_case_holds_what_was_loaded(tmp_path: Path) -> None:
    """Image, labels and soft labels come back; a case without soft labels has none."""
    first, second = cached(tmp_path)
    image, labels = Data().load("a")
    np.testing.assert_array_equal(first.image, image)
    np.testing.assert_array_equal(first.labels, labels)
    np.testing.assert_array_equal(first.soft, Soft().load("a"))
    assert second.soft is None


def test_a_cached_case_is_not_loaded_again(tmp_path: Path) -> None:
    """The second opening reads the cache alone."""
    cached(tmp_path)
    data = Data()
    cached(tmp_path, data)
    assert data.loads == []


def test_an_interrupted_caching_is_repeated(tmp_path: Path) -> None:
    """Without the labels, which are written last, the case is loaded again."""
    cached(tmp_path)
    (tmp_path / "a-labels.npy").unlink()
    data = Data()
    cached(tmp_path, data)
    assert data.loads == ["a"]


def test_soft_labels_of_another_shape_are_refused(tmp_path: Path) -> None:
    """Soft labels of another workspace are not cut at the wrong places."""
    with pytest.raises(ConfigError, match="case a: the soft labels have the shape"):
        cache_case(Data(), Soft((20, 22, 17)), "a", tmp_path)


def test_image_labels_and_soft_labels_are_cut_alike(tmp_path: Path) -> None:
    """What the image says about the place agrees with labels and soft labels in every voxel of many patches."""
    _, truth = Data().load("a")
    for iteration in range(8):
        batch = sampler(tmp_path).batch(iteration)
        for image, labels, soft, has in zip(batch.image, batch.labels, batch.soft, batch.has_soft, strict=True):
            inside = image[3] > 0
            z, y, x = (image[axis][inside].long().numpy() for axis in range(3))
            np.testing.assert_array_equal(labels[inside].numpy(), truth[z, y, x])
            assert bool(has) == bool(image[3].max() == 1)  # case a has soft labels, case b has none
            if has:
                torch.testing.assert_close(soft[0][inside].float() * 32, image[0][inside].float())
            else:
                assert not soft.any()


def test_a_batch_is_a_function_of_seed_and_iteration(tmp_path: Path) -> None:
    """The same again for the same numbers, whatever was drawn before; another one for others."""
    one, other = sampler(tmp_path), sampler(tmp_path)
    other.batch(0)
    assert torch.equal(one.batch(3).image, other.batch(3).image)
    assert not torch.equal(one.batch(3).image, one.batch(4).image)
    assert not torch.equal(one.batch(3).image, sampler(tmp_path, seed=8).batch(3).image)


def test_every_case_comes_once_a_round(tmp_path: Path) -> None:
    """Two cases in batches of one: each pair of iterations holds both."""
    one = sampler(tmp_path, batch_size=1)
    marks = [float(one.batch(i).image[0, 3].max()) for i in range(32)]
    assert [sorted(marks[i : i + 2]) for i in range(0, 32, 2)] == [[1, 2]] * 16


def test_foreground_patches_hold_tumour(tmp_path: Path) -> None:
    """With the probability 1 every patch holds a labelled voxel; with 0 some do not."""
    always, never = sampler(tmp_path, foreground=1.0), sampler(tmp_path, foreground=0.0)
    held = [[bool(s.batch(i).labels.flatten(1).any(1).all()) for i in range(25)] for s in (always, never)]
    assert all(held[0])
    assert not all(held[1])


def test_rare_labels_are_picked_as_often_as_common_ones(tmp_path: Path) -> None:
    """The single enhancing voxel is in most patches, though it is a 27th of the tumour."""
    one = sampler(tmp_path, foreground=1.0, shape=(2, 2, 2), batch_size=1)
    share = np.mean([bool((one.batch(i).labels == 3).any()) for i in range(60)])
    assert 0.3 < share < 0.9


def test_a_patch_larger_than_the_case_holds_all_of_it(tmp_path: Path) -> None:
    """The whole case is in the patch, zeros around it."""
    batch = sampler(tmp_path, shape=(32, 22, 24)).batch(0)
    voxels = (batch.image[:, 3] > 0).flatten(1).sum(1)
    assert voxels.tolist() == [20 * 22 * 18] * 2


def test_a_case_without_tumour_is_cut_anywhere(tmp_path: Path) -> None:
    """Foreground oversampling does not fail where there is no foreground."""
    first, _ = cached(tmp_path)
    healthy = replace(first, labels=np.zeros_like(first.labels), foreground=())
    assert not sampler(tmp_path, cases=(healthy,), foreground=1.0).batch(0).labels.any()


def test_moving_to_a_device_gives_single_precision(tmp_path: Path) -> None:
    """Patches are kept in half precision and computed with in single."""
    batch = sampler(tmp_path).batch(0).to(torch.device("cpu"))
    assert (batch.image.dtype, batch.soft.dtype, batch.labels.dtype) == (torch.float32, torch.float32, torch.uint8)
