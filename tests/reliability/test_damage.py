"""The damage that the proofs do: repeatable, and really damage."""

from __future__ import annotations

import gzip

import pytest

from bench.reliability.damage import BYTES, NIFTI, damaged
from tests.conftest import toy


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    from tests.conftest import save

    case = toy((24, 24, 24))
    return save(tmp_path_factory.mktemp("good") / "a.nii.gz", case.images["t1n"], case.affine).read_bytes()


@pytest.mark.parametrize("kinds", [BYTES, NIFTI])
def test_a_trial_is_the_same_every_time_and_the_next_is_another(good: bytes, kinds: dict) -> None:
    """A fault that was found can be looked at again."""
    assert damaged(good, kinds, 5) == damaged(good, kinds, 5)
    assert damaged(good, kinds, 5) != damaged(good, kinds, 5 + len(kinds))


def test_every_kind_damages(good: bytes) -> None:
    """No trial hands on the file as it was."""
    for kinds in (BYTES, NIFTI):
        for number, name in enumerate(kinds):
            kind, content = damaged(good, kinds, number)
            assert kind == name
            assert content != good


def test_damage_inside_the_compression_leaves_the_compression_whole(good: bytes) -> None:
    """A lying header comes in a gzip file that is in order, so that the reader gets as far as the header."""
    for number, name in enumerate(NIFTI):
        if name in ("header bits", "header numbers", "dimensions", "voxel type", "NaN", "noise"):
            raw = gzip.decompress(damaged(good, NIFTI, number)[1])
            assert len(raw) >= len(gzip.decompress(good))
