"""The learning-rate schedule of the long "grokking" run: polynomial decay that stops at a floor."""

from __future__ import annotations

__all__ = ["POWER", "poly_with_floor"]

POWER = 0.9
"""Exponent of nnU-Net's polynomial decay."""


def poly_with_floor(initial: float, epoch: int, epochs: int, floor: float = 0.0) -> float:
    """Return the learning rate of an epoch: ``max(floor, initial · (1 − epoch / epochs) ^ 0.9)``.

    Parameters
    ----------
    initial : float
        Learning rate of epoch 0.
    epoch, epochs : int
        Epoch from 0 and number of epochs of the run; from `epochs` on the result is `floor` (nnU-Net's own scheduler
        would return a complex number there).
    floor : float
        Smallest learning rate; 0 is nnU-Net's own schedule.

    Notes
    -----
    Source: nnU-Net's ``PolyLRScheduler`` (Isensee et al., Nature Methods 18, 2021); the floor is that of the
    3 500-epoch run of Barakat et al., whose rate is re-initialised to its starting value and limited to 1e-4.
    """
    left = max(0.0, 1 - epoch / epochs)
    return float(max(floor, initial * left**POWER))
