"""The averaged weights, and BatchNorm statistics that fit them."""

from __future__ import annotations

import pytest
import torch
from glialite_distill.averaging import refresh_batch_norm, to_training, update_average
from torch import nn


def test_the_average_starts_fast_and_ends_slow() -> None:
    """From 0 towards 1: nine tenths of the way at iteration 0 whatever the decay, a hundredth late."""
    average, network = nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False)
    nn.init.zeros_(average.weight)
    nn.init.ones_(network.weight)
    update_average(average, network, 0.99, 0)
    assert average.weight.item() == pytest.approx(0.9)
    update_average(average, network, 0.99, 10**6)
    assert average.weight.item() == pytest.approx(0.9 + 0.1 * 0.01)


def test_batch_norm_statistics_are_the_mean_over_the_batches() -> None:
    """Two batches of the means 1 and 3: the running mean is 2, the momentum is as before, the mode is evaluation."""
    layer = nn.BatchNorm3d(1)
    layer(torch.tensor([70.0, 80.0])[None, None, None, None])  # what it saw before does not count
    batches = [torch.tensor([0.0, 2.0]), torch.tensor([2.0, 4.0])]
    refresh_batch_norm(layer, (b[None, None, None, None] for b in batches))
    assert layer.running_mean.item() == pytest.approx(2)
    assert layer.running_var.item() == pytest.approx(2)  # of the sample: (1 + 1) / (2 − 1)
    assert layer.momentum == pytest.approx(0.1)
    assert not layer.training


def test_batch_norm_statistics_without_batches_stay() -> None:
    """Nothing to average: nothing is reset."""
    layer = nn.BatchNorm3d(1)
    layer.running_mean = torch.tensor([77.0])
    refresh_batch_norm(layer, [])
    assert layer.running_mean.item() == 77


def test_fixed_statistics_stay_while_the_rest_trains() -> None:
    """Dropout drops, a batch changes no statistics; without `fixed` it does."""
    network = nn.Sequential(nn.BatchNorm3d(1), nn.Dropout(0.5))
    image = torch.full((1, 1, 4, 4, 4), 9.0)
    assert (to_training(network, fixed=True)(image) == 0).any()
    assert network[0].running_mean.item() == 0
    to_training(network, fixed=False)(image)
    assert network[0].running_mean.item() == pytest.approx(0.9)
