"""The gate: what must not be segmented is refused in words, before any computing."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from glialite_runtime.cases import find_case
from glialite_runtime.errors import IntensityError, MissingSequenceError
from glialite_runtime.intake import Quality, inspect_volume
from glialite_runtime.intensity import IntensityRange, quantiles
from glialite_runtime.sample import sample_volume
from glialite_runtime.sequences import SEQUENCES
from glialite_runtime.volume import Volume, load_volume

from tests.conftest import save, toy
from tests.runtime.brain import AFFINE, brain, volume_of, with_channel


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


def keys(volume: Volume) -> list[str]:
    return [finding.key for finding in inspect_volume(volume, [SEQUENCES]).findings]


def test_a_whole_brain_passes_without_a_note() -> None:
    """Nothing is said when nothing is wrong."""
    quality = inspect_volume(volume_of(brain()), [SEQUENCES])
    assert (quality.verdict, quality.notes, quality.findings) == ("good", (), ())


def test_notes_are_sentences_and_findings_are_their_keys(case_folder: Path) -> None:
    """The sentences stay readable where they always were; keys and values stand beside them."""
    quality = gate(case_folder)
    assert quality.notes == tuple(finding.text for finding in quality.findings)
    assert quality.findings[0].key == "brain.small"
    assert asdict(quality)["findings"][0]["values"]["low_ml"] == 500


def test_t2_and_flair_swapped_are_refused() -> None:
    """What a clinic does when it renames files by hand."""
    images = brain()
    images["t2w"], images["t2f"] = images["t2f"], images["t2w"]
    with pytest.raises(IntensityError, match="t2w and t2f look swapped"):
        inspect_volume(volume_of(images), [SEQUENCES])


def test_the_same_file_twice_is_refused() -> None:
    """T1 given as T1 and as contrast T1."""
    images = brain()
    with pytest.raises(IntensityError, match="t1n and t1c are one picture"):
        inspect_volume(volume_of({**images, "t1c": images["t1n"]}), [SEQUENCES])


def test_a_label_map_in_place_of_a_sequence_is_refused() -> None:
    """Two values are no MRI."""
    mask = (brain()["t2f"] > 0).astype(np.int16)
    with pytest.raises(IntensityError, match="t2f holds 1 different values only"):
        inspect_volume(with_channel(volume_of(brain()), "t2f", mask), [SEQUENCES])


@pytest.mark.parametrize("part", [(36, 45, 41), slice(None)])
def test_enormous_voxels_are_refused_be_they_one_or_all(part: tuple[int, ...] | slice) -> None:
    """One voxel of 3e38 would make the z-score of all others the same."""
    image = brain()["t2f"].astype(np.float32)
    image[part] *= np.float32(1e35)
    with pytest.raises(IntensityError, match=r"t2f holds values up to [\d.]+e\+37"):
        inspect_volume(with_channel(volume_of(brain()), "t2f", image), [SEQUENCES])


def test_a_head_of_four_litres_is_not_skull_stripped() -> None:
    """A scan whose background is 0 and whose skull is there."""
    with pytest.raises(IntensityError, match=r"measures \d{4} mL.*skull-stripped"):
        inspect_volume(volume_of(brain(), AFFINE * [[1.6], [1.6], [1.6], [1]]), [SEQUENCES])


def test_grey_values_unlike_those_of_training_are_noted() -> None:
    """Never refused; without ranges, as in older bundles, not a word."""
    usual = sample_volume(volume_of(brain()))
    at = {s: quantiles(c[usual.brain]) for s, c in zip(usual.sequences, usual.channels, strict=True)}
    learnt = {s: IntensityRange(tuple(found - 0.2), tuple(found + 0.2)) for s, found in at.items() if found is not None}
    assert inspect_volume(volume_of(brain()), [SEQUENCES], learnt).findings == ()
    image = brain()["t2f"]
    odd = with_channel(volume_of(brain()), "t2f", np.where(image > 0, np.exp(image / 30), 0).astype(np.float32))
    assert [n.key for n in inspect_volume(odd, [SEQUENCES], learnt).findings] == ["intensity.unusual"]
    assert inspect_volume(odd, [SEQUENCES]).findings == ()


def test_a_saturated_sequence_is_noted() -> None:
    """The brightest tenth of T1c cut off, as a wrong conversion to 8 bits does."""
    image = brain()["t1c"]
    assert keys(with_channel(volume_of(brain()), "t1c", np.minimum(image, 312))) == ["intensity.saturated"]


@pytest.mark.parametrize(
    ("part", "key"),
    [
        ((slice(None, 40), slice(None), slice(None)), "coverage.top"),
        ((slice(32, None), slice(None), slice(None)), "coverage.bottom"),
        ((slice(None), slice(None), slice(36, None)), "coverage.side"),
    ],
)
def test_a_brain_that_is_cut_off_is_noted(part: tuple[slice, slice, slice], key: str) -> None:
    """The field of view ends in the middle of the brain."""
    cut = {s: np.ascontiguousarray(i[part]) for s, i in brain().items()}
    assert key in keys(volume_of(cut))


def test_thick_slices_are_noted() -> None:
    """5 mm between slices."""
    thick = {s: i[::3] for s, i in brain().items()}
    assert "geometry.thick" in keys(volume_of(thick, np.diag([-2.0, -2.0, 6.0, 1.0])))


def test_a_tilted_image_is_noted_with_its_angle() -> None:
    """20 degrees about the left-right axis."""
    turn = np.eye(4)
    c, s = np.cos(np.radians(20)), np.sin(np.radians(20))
    turn[1:3, 1:3] = [[c, -s], [s, c]]
    (finding,) = inspect_volume(volume_of(brain(), turn @ AFFINE), [SEQUENCES]).findings
    assert (finding.key, finding.values) == ("geometry.oblique", {"degrees": 20})


def test_two_positions_in_one_header_are_noted() -> None:
    """A sform that another program has moved by 12 mm."""
    volume = volume_of(brain())
    moved = AFFINE.copy()
    moved[2, 3] += 12
    volume.reference.header.set_qform(moved, 1)
    (finding,) = inspect_volume(volume, [SEQUENCES]).findings
    assert (finding.key, finding.values) == ("geometry.forms", {"sequence": "t1n", "degrees": 0, "mm": 12})


def test_a_shifted_sequence_is_noted() -> None:
    """Sequences must lie on each other, whatever their headers say."""
    shifted = np.where(brain()["t1n"] != 0, np.roll(brain()["t2f"], 2, 0), 0).astype(np.int16)
    assert keys(with_channel(volume_of(brain()), "t2f", shifted)) == ["registration.shift"]
