"""What bfloat16 brings to training on this processor: seconds a step in FP32 and in mixed precision, one thread.

python bench/mixed_precision.py
"""

from __future__ import annotations

import time
from contextlib import nullcontext

import torch
from dynamic_network_architectures.architectures.unet import PlainConvUNet
from glialite_distill.device import mixed_precision
from glialite_distill.mednext import build_mednext
from glialite_distill.recipes import find_plan
from glialite_distill.student import STUDENTS, Student
from torch import nn

CPU, SHAPE = torch.device("cpu"), (2, 4, 64, 80, 64)


def seconds(network: nn.Module, *, mixed: bool) -> float:
    """Return the seconds of the fastest of four training steps after the first."""
    network.to(memory_format=torch.channels_last_3d)
    image = torch.randn(SHAPE).contiguous(memory_format=torch.channels_last_3d)
    truth = (torch.rand(SHAPE[0], 3, *SHAPE[2:]) > 0.5).float()
    optimizer = torch.optim.AdamW(network.parameters(), 1e-3)
    taken = []
    for _ in range(5):
        began = time.perf_counter()
        with mixed_precision(CPU, 4) if mixed else nullcontext():
            found = network(image)
        logits = (found[0] if isinstance(found, (list, tuple)) else found)[:, :3].float()
        loss = nn.functional.binary_cross_entropy_with_logits(logits, truth)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        taken.append(time.perf_counter() - began)
    return min(taken[1:])


def nnunet() -> nn.Module:
    """Return nnU-Net's network as the plan `small` has it."""
    plan = find_plan("small")
    return PlainConvUNet(
        4, len(plan.widths), list(plan.widths), nn.Conv3d, 3, list(plan.strides), 2, 3, [2] * (len(plan.widths) - 1),
        conv_bias=True, norm_op=nn.InstanceNorm3d, norm_op_kwargs={"affine": True}, nonlin=nn.LeakyReLU,
    )  # fmt: skip


def main() -> None:
    """Print a line a network."""
    torch.set_num_threads(1)
    networks = {name: lambda spec=spec: Student(spec) for name, spec in STUDENTS.items()}
    networks["nnU-Net, plan small"] = nnunet
    networks["MedNeXt-B, 6 filters"] = lambda: build_mednext("mednext-b", 6, 3, (4, 3))
    for name, build in networks.items():
        full, mixed = (seconds(build(), mixed=mixed) for mixed in (False, True))
        print(f"{name}: FP32 {full:.2f} s, mixed {mixed:.2f} s, {full / mixed:.2f} times")


if __name__ == "__main__":
    main()
