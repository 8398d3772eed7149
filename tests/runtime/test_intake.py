"""The gate: what must not be segmented is refused in words, before any computing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from glialite_runtime.cases import find_case
from glialite_runtime.errors import IntensityError, MissingSequenceError
from glialite_runtime.intake import Quality, inspect_volume
from glialite_runtime.sequences import SEQUENCES
from glialite_runtime.volume import load_volume

from tests.conftest import save, toy


def gate(folder: Path, accepted: tuple[tuple[str, ...], ...] = (SEQUENCES,)) -> Quality:
    return inspect_volume(load_volume(find_case(folder)), accepted)


def replace(folder: Path, sequence: str, data: np.ndarray) -> None:
    save(folder / f"P01-{sequence}.nii.gz", data, toy().affine)


def test_a_good_case_passes_with_its_brain_volume(case_folder: Path) -> None:
    """The toy's ball of brain is 390 mL, which is small for an adult, and said."""
    quality = gate(case_folder)
    assert quality.brain_ml == pytest.approx(395, abs=10)
    assert quality.verdict == "check"
    assert f"{quality.brain_ml:.0f} mL" in quality.notes[0]


def test_an_already_normalised_image_is_refused_with_its_background(case_folder: Path) -> None:
    """A z-scored file has a background that is not 0."""
    image = toy().images["t1c"].astype(np.float32)
    replace(case_folder, "t1c", (image - image.mean()) / image.std())
    with pytest.raises(IntensityError, match="t1c is already normalised: its background is -"):
        gate(case_folder)


def test_an_image_with_noise_around_the_head_is_not_skull_stripped(case_folder: Path) -> None:
    """A raw scan has noise up to the edge of the image."""
    noisy = toy().images["t2w"] + np.random.default_rng(0).integers(1, 9, toy().labels.shape, np.int16)
    replace(case_folder, "t2w", noisy)
    with pytest.raises(IntensityError, match="t2w is not skull-stripped"):
        gate(case_folder)


def test_a_full_image_is_not_skull_stripped(case_folder: Path) -> None:
    """So has one that fills the image, but for its faces."""
    full = np.zeros_like(toy().images["t2w"])
    full[1:-1, 1:-1, 1:-1] = 100
    replace(case_folder, "t2w", full)
    with pytest.raises(IntensityError, match="not skull-stripped: 90%"):
        gate(case_folder)


def test_empty_and_constant_images_are_refused_together(case_folder: Path) -> None:
    """Every problem is named in one message."""
    replace(case_folder, "t1n", np.zeros_like(toy().images["t1n"]))
    replace(case_folder, "t2f", np.full_like(toy().images["t2f"], 7))
    with pytest.raises(IntensityError, match=r"t1n is empty.*t2f holds one value only"):
        gate(case_folder)


def test_a_missing_sequence_is_named(case_folder: Path) -> None:
    """The message says what the model needs and what is missing."""
    (case_folder / "P01-t2f.nii.gz").unlink()
    with pytest.raises(MissingSequenceError, match=r"needs t1n, t1c, t2w, t2f; missing: t2f"):
        gate(case_folder)


def test_an_accepted_subset_passes(case_folder: Path) -> None:
    """A bundle that was trained without T2 takes a case without T2."""
    (case_folder / "P01-t2w.nii.gz").unlink()
    assert gate(case_folder, (SEQUENCES, ("t1n", "t1c", "t2f"))).brain_ml > 0


def test_small_negative_values_around_the_brain_pass(case_folder: Path) -> None:
    """Spline undershoot of a resampled scan is not a normalised background."""
    image = toy().images["t1n"].copy()
    image[5, 20:40, 20:30] = -3
    replace(case_folder, "t1n", image)
    assert gate(case_folder).verdict == "check"


def test_a_sequence_that_covers_half_the_brain_is_noted(case_folder: Path) -> None:
    """A slab is not refused, but said."""
    image = toy().images["t2w"].copy()
    image[:, :, 24:] = 0
    replace(case_folder, "t2w", image)
    assert any("t2w covers only" in note for note in gate(case_folder).notes)
