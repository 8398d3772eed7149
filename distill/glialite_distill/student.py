"""The compact student: a U-Net shaped so that its exact 2-D lowering runs fast in INT8 on old processors.

Every choice here is one that the CPU graph asks for: a strided 2×2×2 stem (space-to-depth) so that no convolution
works at full resolution, 3×3×3 convolutions with ReLU (which fuses into INT8 kernels; LeakyReLU does not), BatchNorm
(which folds away), widths that are multiples of 8, and a 2×2×2 transposed convolution as head (depth-to-space). One
convolution a stage at half resolution, where they are dear, and two below: `bench/student_shapes.py` found that faster
and, after equal training, no worse than two everywhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

import torch
from glialite_runtime.errors import ConfigError
from glialite_runtime.sequences import REGIONS, SEQUENCES
from torch import nn

__all__ = ["STUDENTS", "Student", "StudentSpec"]


@dataclass(frozen=True, slots=True)
class StudentSpec:
    """Shape of a student.

    Attributes
    ----------
    name : str
        Name on the command line.
    widths : tuple of int
        Channels at 1/2, 1/4, 1/8, … of the input resolution.
    convolutions : int or tuple of int
        3×3×3 convolutions in each encoder and decoder stage; a tuple has a number a width.
    """

    name: str
    widths: tuple[int, ...]
    convolutions: int | tuple[int, ...] = 2

    def __post_init__(self) -> None:
        if not self.widths or min(self.widths) < 1 or len(self.blocks) != len(self.widths) or min(self.blocks) < 1:
            raise ConfigError(
                f"student {self.name}: widths {self.widths} and convolutions {self.convolutions} must be positive, "
                "with one number of convolutions for all stages or one a width"
            )

    @property
    def blocks(self) -> tuple[int, ...]:
        """3×3×3 convolutions of the stages at 1/2, 1/4, … of the input resolution."""
        if isinstance(self.convolutions, int):
            return (self.convolutions,) * len(self.widths)
        return self.convolutions

    @property
    def divisor(self) -> int:
        """Every edge of the input, in voxels, must be a multiple of this."""
        return int(2 ** len(self.widths))


STUDENTS: Final[Mapping[str, StudentSpec]] = MappingProxyType(
    {
        "S": StudentSpec("S", (24, 48, 96, 128), (1, 2, 2, 2)),
        "M": StudentSpec("M", (32, 64, 128, 192), (1, 2, 2, 2)),
    }
)


def _conv(channels_in: int, channels_out: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv3d(channels_in, channels_out, 3, stride, padding=1, bias=False),
        nn.BatchNorm3d(channels_out),
        nn.ReLU(inplace=True),
    )


class Student(nn.Module):
    """Map a normalised case to one logit a region and voxel.

    Input: (batch, 4, z, y, x) float32, channels as in `SEQUENCES`, edges multiples of `spec.divisor`.
    Output: (batch, 3, z, y, x) float32 logits, channels as in `REGIONS`.
    """

    def __init__(self, spec: StudentSpec) -> None:
        super().__init__()
        self.spec = spec
        widths, blocks = spec.widths, spec.blocks
        self.stem = nn.Sequential(
            nn.Conv3d(len(SEQUENCES), widths[0], 2, 2, bias=False), nn.BatchNorm3d(widths[0]), nn.ReLU(inplace=True)
        )
        self.encoder = nn.ModuleList()
        for level, width in enumerate(widths):
            first = _conv(width, width) if level == 0 else _conv(widths[level - 1], width, stride=2)
            self.encoder.append(nn.Sequential(first, *(_conv(width, width) for _ in range(blocks[level] - 1))))
        self.up = nn.ModuleList()
        self.decoder = nn.ModuleList()
        for below, width, n in zip(widths[:0:-1], widths[-2::-1], blocks[-2::-1], strict=True):
            self.up.append(
                nn.Sequential(
                    nn.ConvTranspose3d(below, width, 2, 2, bias=False), nn.BatchNorm3d(width), nn.ReLU(inplace=True)
                )
            )
            self.decoder.append(nn.Sequential(_conv(2 * width, width), *(_conv(width, width) for _ in range(n - 1))))
        self.head = nn.ConvTranspose3d(widths[0], len(REGIONS), 2, 2)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """Return logits, see the class."""
        features = self.stem(image)
        skips: list[torch.Tensor] = []
        for stage in self.encoder:
            features = stage(features)
            skips.append(features)
        skips.pop()
        for up, stage in zip(self.up, self.decoder, strict=True):
            features = stage(torch.cat((up(features), skips.pop()), dim=1))
        logits: torch.Tensor = self.head(features)
        return logits
