"""Networks whose answers are known by hand."""

from __future__ import annotations

import numpy as np
import torch
from glialite_distill.windows import Window
from torch import nn

CPU = torch.device("cpu")
WINDOW = Window((16, 16, 16))


class Pointwise(nn.Module):
    """A network without context: three channels of the input, so that windows must not show."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, :3] * 2


class Ramp(nn.Module):
    """A network that sees where it is in its window: not symmetric under mirroring."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        ramp = torch.arange(image.shape[-1], dtype=torch.float32)
        return image[:, :3] * 0 + ramp


class Constant(nn.Module):
    """A network that always says the same probability."""

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.logit = float(np.log(probability / (1 - probability)))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image[:, :3] * 0 + self.logit


def image_of(shape: tuple[int, int, int]) -> np.ndarray:
    """Return noise (4, z, y, x)."""
    return np.random.default_rng(0).normal(size=(4, *shape)).astype(np.float32)
