"""MedNeXt: the official sizes and outputs."""

from __future__ import annotations

import pytest
import torch
from glialite_distill.mednext import MEDNEXT_STAGES, SHAPES, build_mednext


@pytest.mark.parametrize(
    ("size", "millions"), [("mednext-s", 5.55), ("mednext-b", 10.53), ("mednext-m", 17.55), ("mednext-l", 61.78)]
)
def test_official_parameter_counts(size: str, millions: float) -> None:
    """S, B, M and L have the parameters that the authors report, which MONAI's own B, M and L have not."""
    with torch.device("meta"):
        network = build_mednext(size, 32, 3, (4, 3))
    assert round(sum(p.numel() for p in network.parameters()) / 1e6, 2) == millions


def test_training_gives_five_scales_and_evaluation_one() -> None:
    """Full resolution first, then halves."""
    network = build_mednext("mednext-b", 2, 3, (4, 3))
    image = torch.zeros(1, 4, 16, 32, 16)
    outputs = network.train()(image)
    assert [tuple(o.shape) for o in outputs] == [(1, 3, 16 >> i, 32 >> i, 16 >> i) for i in range(MEDNEXT_STAGES)]
    assert network.eval()(image).shape == (1, 3, 16, 32, 16)


def test_both_modes_compute_the_same() -> None:
    """GroupNorm has no running statistics, so validating in training mode is honest."""
    torch.manual_seed(0)
    network = build_mednext("mednext-b", 2, 3, (4, 3))
    image = torch.randn(1, 4, 32, 16, 16)
    with torch.no_grad():
        assert torch.equal(network.train()(image)[0], network.eval()(image))


def test_the_width_is_the_plans() -> None:
    """Filters scale the channels and leave blocks and expansions alone."""
    shapes = [[tuple(p.shape) for p in build_mednext("mednext-m", f, 3, (4, 3)).parameters()] for f in (2, 4)]
    assert len(shapes[0]) == len(shapes[1])
    assert SHAPES["mednext-m"].blocks == (3, 4, 4, 4, 4)
    assert shapes[0][0] == (2, 4, 1, 1, 1)
    assert shapes[1][0] == (4, 4, 1, 1, 1)
