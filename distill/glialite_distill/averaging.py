"""The running average of a network's weights, and BatchNorm statistics that belong to the averaged weights."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import nn

__all__ = ["refresh_batch_norm", "to_training", "update_average"]


def to_training(network: nn.Module, *, fixed: bool) -> nn.Module:
    """Put a network into training mode and return it; with `fixed` its BatchNorm layers stay in evaluation mode."""
    network.train()
    for layer in network.modules():
        if fixed and isinstance(layer, nn.BatchNorm3d):
            layer.eval()
    return network


def update_average(average: nn.Module, network: nn.Module, decay: float, iteration: int) -> None:
    """Move the parameters of `average` towards those of `network`, in place.

    The decay starts small, min(decay, (1 + iteration) / (10 + iteration)), so that the random start is soon forgotten.
    Buffers are left alone: averaged BatchNorm statistics belong to no weights at all, see `refresh_batch_norm`.

    Notes
    -----
    Source: Polyak, Juditsky, SIAM J. Control Optim. 30 (1992); the warm-up is TensorFlow's
    ``ExponentialMovingAverage(num_updates)``.
    """
    share = 1 - min(decay, (1 + iteration) / (10 + iteration))
    with torch.no_grad():
        for mean, value in zip(average.parameters(), network.parameters(), strict=True):
            mean.lerp_(value, share)


def refresh_batch_norm(network: nn.Module, images: Iterable[torch.Tensor]) -> None:
    """Set the BatchNorm statistics of a network, in place, to their mean over some batches; ends in evaluation mode.

    Parameters
    ----------
    network : Module
        With BatchNorm layers; weights are not changed.
    images : iterable of float32 tensors (b, 4, z, y, x)
        Batches like those of training; without any, the statistics stay as they are.

    Notes
    -----
    Source: Izmailov et al., Averaging Weights Leads to Wider Optima, UAI 2018 (arXiv:1803.05407), section 3.2.
    """
    layers = [m for m in network.modules() if isinstance(m, nn.BatchNorm3d)]
    momenta = [layer.momentum for layer in layers]
    batches = iter(images)
    first = next(batches, None)
    if first is not None:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # the plain mean over what follows
        network.train()
        with torch.no_grad():
            network(first)
            for image in batches:
                network(image)
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
    network.eval()
