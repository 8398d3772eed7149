"""Grey values far from training: their spread is judged, never their scale."""

from __future__ import annotations

import json

import numpy as np
import pytest
from glialite_runtime.errors import ConfigError
from glialite_runtime.intensity import PERCENT, IntensityRange, parse_ranges, quantiles, unlike_training
from glialite_runtime.sample import Sample

NORMAL = (-2.33, -1.64, -0.67, 0.0, 0.67, 1.64, 2.33)
"""Quantiles of a normal distribution."""

LEARNT = {s: IntensityRange(tuple(v - 0.2 for v in NORMAL), tuple(v + 0.2 for v in NORMAL)) for s in ("t1n", "t2w")}


def sample_of(**channels: np.ndarray) -> Sample:
    """Return a sample whose brain is a cube of 20³ in a background of 0."""
    made = np.zeros((len(channels), 24, 24, 24), np.float32)
    made[:, 2:22, 2:22, 2:22] = np.stack([values.reshape(20, 20, 20) for values in channels.values()])
    return Sample(tuple(channels), made, (1, 1, 1), (4.0, 4.0, 4.0))


def brain(seed: int = 0) -> np.ndarray:
    return 100 + 10 * np.random.default_rng(seed).standard_normal(8000)


def test_quantiles_of_a_known_distribution() -> None:
    """0 to 100 in equal steps has mean 50 and SD √850: the quantiles are (percent - 50) / √850."""
    np.testing.assert_allclose(quantiles(np.arange(101.0)), (np.array(PERCENT) - 50) / 850**0.5)


@pytest.mark.parametrize("values", [[], [7.0], [7.0] * 50])
def test_nothing_to_compare(values: list[float]) -> None:
    """No voxel, one, or one value only have no z-score."""
    assert quantiles(np.array(values)) is None


def test_a_scan_like_those_of_training() -> None:
    """Whatever its scale and offset."""
    assert unlike_training(sample_of(t1n=brain(), t2w=1e4 + 300 * brain(1)), LEARNT) == []


@pytest.mark.parametrize(
    "change",
    [
        lambda v: np.minimum(v, np.percentile(v, 60)),
        lambda v: np.clip(v, *np.percentile(v, [30, 70])),
        lambda v: np.where(np.arange(v.size) % 300 == 0, 9 * v, v),
        lambda v: np.exp(v / 8),
    ],
    ids=["bright parts cut", "a narrow window", "bright specks", "another scale of grey"],
)
def test_a_spread_unlike_training_is_named(change) -> None:
    """Only the sequence that differs."""
    assert unlike_training(sample_of(t1n=brain(), t2w=change(brain(1))), LEARNT) == ["t2w"]


def test_a_sequence_that_was_not_learnt_from_is_not_judged() -> None:
    """There is nothing to compare it with."""
    assert unlike_training(sample_of(t1c=np.exp(brain() / 8)), LEARNT) == []


def test_a_small_sample_is_not_judged() -> None:
    """Quantiles of a few hundred voxels tell nothing."""
    sample = sample_of(t2w=np.exp(brain() / 8))
    sample.channels[:, 12:] = 0
    assert unlike_training(sample, LEARNT) == ["t2w"]
    sample.channels[:, 5:] = 0
    assert unlike_training(sample, LEARNT) == []


def test_ranges_survive_a_bundle() -> None:
    """What JSON holds is what was written; older bundles hold none."""
    written = json.loads(json.dumps({s: {"low": r.low, "high": r.high} for s, r in LEARNT.items()}))
    assert parse_ranges(written) == LEARNT
    assert parse_ranges(None) is None


@pytest.mark.parametrize(
    "garbled",
    [
        {"t1n": {"low": [0.0] * 7, "high": [1.0] * 6}},
        {"t1n": {"low": [1.0] * 7, "high": [0.0] * 7}},
        {"t1n": {"low": [0.0] * 7, "high": [float("nan")] * 7}},
        {"t1n": {"low": [0.0] * 7, "high": [1e9] * 7}},
        {"t1n": {"low": [0.0] * 7}},
        {"t1n": {"low": ["a"] * 7, "high": [1.0] * 7}},
        {"t1": {"low": [0.0] * 7, "high": [1.0] * 7}},
        [1, 2],
        {"t1n": 3},
    ],
)
def test_garbled_ranges_are_refused(garbled: object) -> None:
    """Too few, the wrong way round, not numbers, of an unknown sequence."""
    with pytest.raises((ConfigError, KeyError, TypeError, ValueError, AttributeError)):
        parse_ranges(garbled)
