"""The one preprocessing is nnU-Net's: a golden test against its own preprocessor, and properties of the way back."""

from __future__ import annotations

import tracemalloc
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from glialite_runtime.cases import find_case
from glialite_runtime.preprocess import normalise, preprocess, restore_logits, uncrop
from glialite_runtime.volume import Volume, load_volume
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import save, toy, write_case

REAL = ["BraTS-GLI-00001-000", "TCGA-DU-7294", "BraTS-MET-00110-000"]


def nnunet(volume: Volume, spacing_mm: tuple[float, float, float]) -> np.ndarray:
    """Return what nnU-Net's own preprocessor makes of the same voxels."""
    from nnunetv2.preprocessing.preprocessors.default_preprocessor import DefaultPreprocessor
    from nnunetv2.preprocessing.resampling.default_resampling import resample_data_or_seg_to_shape

    def resample(data, new_shape, current, new):  # nnU-Net's defaults for images and for labels
        order = 3 if data.dtype == np.float32 else 1
        return resample_data_or_seg_to_shape(data, new_shape, current, new, is_seg=order == 1, order=order, order_z=0)

    configuration = SimpleNamespace(
        spacing=list(spacing_mm),
        normalization_schemes=["ZScoreNormalization"] * 4,
        use_mask_for_norm=[True] * 4,
        resampling_fn_data=resample,
        resampling_fn_seg=resample,
    )
    plans = SimpleNamespace(
        transpose_forward=[0, 1, 2],
        foreground_intensity_properties_per_channel={str(i): {} for i in range(4)},
    )
    data = np.stack(volume.channels).astype(np.float32)
    properties = {"spacing": list(volume.spacing_mm)}
    out, _, _ = DefaultPreprocessor(verbose=False).run_case_npy(data, None, properties, plans, configuration, {})
    return np.asarray(out)


@pytest.mark.parametrize("name", REAL)
def test_real_scans_equal_nnunet(real_data: Path, name: str) -> None:
    """Crop and z-score of the real scans are nnU-Net's to 1e-5."""
    volume = load_volume(find_case(real_data / name))
    ours, _ = preprocess(volume)
    np.testing.assert_allclose(ours, nnunet(volume, volume.spacing_mm), atol=1e-5)


def test_phantoms_equal_nnunet(tmp_path: Path) -> None:
    """So are those of a phantom in the demo's format."""
    from glialite_distill.phantom import write_cohort

    write_cohort(tmp_path, patients=1, seed=5, spacing_mm=2)
    for folder in sorted(p for p in tmp_path.iterdir() if p.is_dir()):
        volume = load_volume(find_case(folder))
        np.testing.assert_allclose(preprocess(volume)[0], nnunet(volume, volume.spacing_mm), atol=1e-5)


@pytest.mark.parametrize("dtype", [np.int16, np.uint8, np.float32, np.float64])
def test_every_stored_type_equals_nnunet(tmp_path: Path, dtype: type) -> None:
    """Integers go the exact way, floats the ordinary one; both agree with nnU-Net."""
    case = toy()
    for sequence, image in case.images.items():
        scaled = (image // 4 if dtype is np.uint8 else image).astype(dtype)
        save(tmp_path / "P" / f"P-{sequence}.nii.gz", scaled, case.affine)
    volume = load_volume(find_case(tmp_path / "P"))
    np.testing.assert_allclose(preprocess(volume)[0], nnunet(volume, volume.spacing_mm), atol=1e-5)


def test_resampling_equals_nnunet(case_folder: Path) -> None:
    """A scan of another voxel size is interpolated as nnU-Net does it."""
    volume = load_volume(find_case(case_folder))
    ours, geometry = preprocess(volume, (3.0, 3.0, 3.0))
    theirs = nnunet(volume, (3.0, 3.0, 3.0))
    assert ours.shape == theirs.shape == (4, *geometry.network_shape)
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_holes_belong_to_the_mask(tmp_path: Path) -> None:
    """A zero voxel inside the brain counts for mean and SD and is normalised; one outside stays 0."""
    block = np.zeros((12, 12, 12), np.int16)
    block[2:10, 2:10, 2:10] = np.random.default_rng(0).integers(50, 150, (8, 8, 8))
    block[5, 5, 5] = 0
    for sequence in ("t1n", "t1c", "t2w", "t2f"):
        save(tmp_path / "P" / f"P-{sequence}.nii.gz", block, np.diag([-1.0, -1.0, 1.0, 1.0]))
    volume = load_volume(find_case(tmp_path / "P"))
    image, geometry = preprocess(volume)
    assert geometry.start == (2, 2, 2)
    assert image[0, 3, 3, 3] < -2
    np.testing.assert_allclose(image.mean(axis=(1, 2, 3)), 0, atol=1e-5)
    np.testing.assert_allclose(image.std(axis=(1, 2, 3)), 1, atol=1e-5)


def test_a_missing_sequence_is_all_zeros(case_folder: Path) -> None:
    """The channel is there, and empty."""
    (case_folder / "P01-t2w.nii.gz").unlink()
    image, _ = preprocess(load_volume(find_case(case_folder)))
    assert image.shape[0] == 4
    assert not image[2].any()
    assert image[3].any()


def test_a_constant_channel_becomes_zeros() -> None:
    """SD 0 does not divide."""
    out = np.ones((3, 3, 3), np.float32)
    normalise(np.full((3, 3, 3), 7, np.int16), np.ones((3, 3, 3), bool), out)
    assert not out.any()


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 1000), spacing=st.sampled_from([1.0, 1.5, 2.0, 3.1]))
def test_the_way_back_keeps_the_geometry(tmp_path_factory: pytest.TempPathFactory, seed: int, spacing: float) -> None:
    """Whatever the crop and the spacing, logits come back on the input's own grid."""
    rng = np.random.default_rng(seed)
    shape = tuple(int(n) for n in rng.integers(8, 24, 3))
    data = np.zeros(shape, np.int16)
    low = [int(rng.integers(0, n - 4)) for n in shape]
    data[tuple(slice(a, n - 1) for a, n in zip(low, shape, strict=True))] = 9
    folder = tmp_path_factory.mktemp("case") / "P"
    for sequence in ("t1n", "t1c"):
        save(folder / f"P-{sequence}.nii.gz", data, np.diag([-2.0, -2.0, 2.0, 1.0]))
    volume = load_volume(find_case(folder))
    image, geometry = preprocess(volume, (spacing,) * 3)
    logits = np.ones((3, *image.shape[1:]), np.float32)
    labels = uncrop((restore_logits(logits, geometry)[0] > 0).astype(np.uint8), geometry)
    np.testing.assert_array_equal(labels, volume.channels[0] != 0)


def test_orientation_does_not_change_the_input_of_the_network(tmp_path: Path) -> None:
    """The same head stored in RAS and in LPS gives the same numbers."""
    import nibabel as nib

    straight = write_case(tmp_path / "A", toy())
    turned = tmp_path / "B"
    for path in straight.glob("*.nii.gz"):
        turned.mkdir(exist_ok=True)
        nib.save(nib.as_closest_canonical(nib.load(path)), turned / path.name.replace("A-", "B-"))
    first = preprocess(load_volume(find_case(straight)))[0]
    second = preprocess(load_volume(find_case(turned)))[0]
    np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("dtype", [np.int16, np.float32])
def test_no_full_size_copy_is_made(tmp_path: Path, dtype: type) -> None:
    """Beside the result (4 × 4 bytes a voxel) it never needs as much as one float64 array of the image."""
    case = toy((96, 112, 96))
    images = {sequence: image.astype(dtype) for sequence, image in case.images.items()}
    volume = load_volume(find_case(write_case(tmp_path / "case", replace(case, images=images))))
    tracemalloc.start()
    image, _ = preprocess(volume)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - image.nbytes < 8 * volume.channels[0].size
