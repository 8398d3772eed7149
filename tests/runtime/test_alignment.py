"""Sequences that do not lie on each other are found by their edges."""

from __future__ import annotations

import numpy as np
import pytest
from glialite_runtime.alignment import alignment_notes
from glialite_runtime.sample import sample_volume
from glialite_runtime.sequences import SEQUENCES

from tests.runtime.brain import brain, volume_of, with_channel


def notes(**changed: np.ndarray) -> list[tuple[str, dict[str, str | int | float]]]:
    volume = volume_of(brain())
    for sequence, image in changed.items():
        volume = with_channel(volume, sequence, image)
    return [(n.key, n.values) for n in alignment_notes(sample_volume(volume))]


def test_aligned_sequences_are_silent() -> None:
    """Different contrasts have the same edges."""
    assert notes() == []


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("sequence", ["t1n", "t2f"])
def test_a_shifted_sequence_is_named_with_its_distance(sequence: str, axis: int) -> None:
    """Four voxels of 2 mm are 8 mm."""
    ((key, values),) = notes(**{sequence: np.roll(brain()[sequence], 4, axis)})
    assert (key, values) == ("registration.shift", {"sequence": sequence, "other": "t2w", "mm": 8})


def test_a_mirrored_sequence_is_named() -> None:
    """A file whose header lies about left and right."""
    ((key, values),) = notes(t1c=brain()["t1c"][:, :, ::-1])
    assert (key, values) == ("registration.mirrored", {"sequence": "t1c", "other": "t2w"})


def test_when_t2_itself_is_elsewhere_all_others_are_named() -> None:
    """Who moved cannot be told from pairs; every pair is said."""
    found = notes(t2w=np.roll(brain()["t2w"], 4, 1))
    assert sorted(str(v["sequence"]) for _, v in found) == ["t1c", "t1n", "t2f"]


def test_a_small_or_lone_image_is_not_judged() -> None:
    """Too few voxels, or one sequence, give no note and no error."""
    small = {s: i[:20, :20, :20] for s, i in brain().items()}
    assert alignment_notes(sample_volume(volume_of(small))) == []
    assert alignment_notes(sample_volume(volume_of({"t1n": brain()["t1n"]}))) == []


def test_a_flat_brain_is_not_judged() -> None:
    """A sequence of one value inside has no edges to compare."""
    flat = {s: np.where(i != 0, 500, 0).astype(np.int16) for s, i in brain().items()}
    assert alignment_notes(sample_volume(volume_of(flat))) == []
    assert len(flat) == len(SEQUENCES)
