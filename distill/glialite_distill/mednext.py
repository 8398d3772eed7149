"""MedNeXt with the official expansion ratios.

MONAI's down block *i* uses the expansion ratio of stage *i*; the authors' own code uses that of stage *i + 1*.
Rebuilding the down blocks gives the published parameter counts (5.55 / 10.53 / 17.55 / 61.78 M for S / B / M / L;
4 channels in, 3 out, kernel 3).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from monai.networks.blocks.mednext_block import MedNeXtDownBlock
from monai.networks.nets.mednext import MedNeXt
from torch import nn

__all__ = ["MEDNEXT_STAGES", "SHAPES", "MedNeXtShape", "build_mednext"]

MEDNEXT_STAGES: Final = 5
"""Resolutions of the network: the patch must be divisible by 2 ** (stages − 1), and it has as many outputs."""


@dataclass(frozen=True, slots=True)
class MedNeXtShape:
    """Blocks and expansion ratio of each stage, from full resolution to the bottleneck; the decoder mirrors them."""

    blocks: tuple[int, int, int, int, int]
    expansions: tuple[int, int, int, int, int]


SHAPES: Final[Mapping[str, MedNeXtShape]] = MappingProxyType(
    {
        "mednext-s": MedNeXtShape((2, 2, 2, 2, 2), (2, 2, 2, 2, 2)),
        "mednext-b": MedNeXtShape((2, 2, 2, 2, 2), (2, 3, 4, 4, 4)),
        "mednext-m": MedNeXtShape((3, 4, 4, 4, 4), (2, 3, 4, 4, 4)),
        "mednext-l": MedNeXtShape((3, 4, 8, 8, 8), (3, 4, 8, 8, 8)),
    }
)


def build_mednext(size: str, filters: int, kernel_size: int, channels: tuple[int, int]) -> nn.Module:
    """Return a MedNeXt with GroupNorm and deep supervision.

    Parameters
    ----------
    size : str
        A key of `SHAPES`.
    filters : int
        Channels at full resolution; 32 is the published width.
    kernel_size : int
        Edge of the depthwise kernels, voxels.
    channels : tuple of int
        Channels in and out.

    Returns
    -------
    nn.Module
        Image (n, in, z, y, x) -> logits. In training mode a tuple over five scales, full resolution first; in
        evaluation mode the full-resolution tensor.

    Notes
    -----
    Source: Roy et al., MedNeXt, arXiv:2303.09975.
    """
    shape = SHAPES[size]
    encoder, decoder = shape.expansions[:-1], shape.expansions[-2::-1]
    network = MedNeXt(
        spatial_dims=3,
        init_filters=filters,
        in_channels=channels[0],
        out_channels=channels[1],
        encoder_expansion_ratio=encoder,
        decoder_expansion_ratio=decoder,
        bottleneck_expansion_ratio=shape.expansions[-1],
        kernel_size=kernel_size,
        deep_supervision=True,
        use_residual_connection=True,
        blocks_down=shape.blocks[:-1],
        blocks_bottleneck=shape.blocks[-1],
        blocks_up=shape.blocks[-2::-1],
        norm_type="group",
    )
    network.down_blocks = nn.ModuleList(
        MedNeXtDownBlock(
            in_channels=filters * 2**stage,
            out_channels=filters * 2 ** (stage + 1),
            expansion_ratio=shape.expansions[stage + 1],
            kernel_size=kernel_size,
            use_residual_connection=True,
            norm_type="group",
        )
        for stage in range(MEDNEXT_STAGES - 1)
    )
    module: nn.Module = network
    return module
