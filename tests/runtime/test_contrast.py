"""Sequences under wrong names are recognised by what fluid, grey and white matter and vessels look like in them."""

from __future__ import annotations

import numpy as np
import pytest
from glialite_runtime.contrast import duplicates, looks_swapped, not_t2w
from glialite_runtime.sample import Sample, sample_volume

from tests.conftest import toy
from tests.runtime.brain import brain, volume_of


def sample(**changed: str) -> Sample:
    """Return the sample of a brain; ``t2w="t2f"`` puts FLAIR in the place of T2."""
    images = brain()
    return sample_volume(volume_of({s: images[changed.get(s, s)] for s in images}))


def swapped(first: str, second: str) -> Sample:
    return sample(**{first: second, second: first})


def test_a_right_assignment_is_silent() -> None:
    """Nothing is said of four sequences under their own names."""
    right = sample()
    assert duplicates(right) == []
    assert not_t2w(right) is None
    assert looks_swapped(right) == []


@pytest.mark.parametrize("other", ["t1n", "t1c", "t2f"])
def test_t2_under_another_name_is_found(other: str) -> None:
    """Fluid is bright in T2 alone."""
    assert not_t2w(swapped("t2w", other)) == other


@pytest.mark.parametrize(("first", "second"), [("t1n", "t2f"), ("t1c", "t2f"), ("t1n", "t1c")])
def test_other_swaps_are_noted_with_both_names(first: str, second: str) -> None:
    """Grey is darker than white matter in T1 and not in FLAIR; vessels are bright with contrast."""
    (note,) = looks_swapped(swapped(first, second))
    assert note.key == "swapped.pair"
    assert note.values == {"first": first, "second": second}


def test_one_picture_twice_is_found_whatever_its_scale() -> None:
    """A copy of T1 that another program has scaled is still T1."""
    images = brain()
    images["t1c"] = (images["t1n"].astype(np.int32) * 3).astype(np.int16)
    assert duplicates(sample_volume(volume_of(images))) == [("t1n", "t1c")]


def test_two_sequences_without_t2_are_not_judged() -> None:
    """Where the rule has nothing to go by it says nothing."""
    images = brain()
    two = sample_volume(volume_of({"t1c": images["t2w"], "t2f": images["t2f"]}))
    assert not_t2w(two) is None
    assert looks_swapped(two) == []


def test_a_brain_without_fluid_is_not_judged() -> None:
    """The toy brain is of one tissue: no rule speaks, whatever the names."""
    images = {s: np.ascontiguousarray(i.transpose(2, 1, 0)) for s, i in toy().images.items()}
    images["t2w"], images["t1n"] = images["t1n"], images["t2w"]
    assert not_t2w(sample_volume(volume_of(images))) is None
