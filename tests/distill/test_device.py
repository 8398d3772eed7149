"""Where tensors are computed with, and how precisely."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
import torch
from glialite_distill import device
from glialite_distill.device import mixed_precision

CPU = torch.device("cpu")


def test_a_processor_that_multiplies_bfloat16_trains_in_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """AVX-512 BF16 or AMX turn it on; a processor without computes in FP32."""
    for able, mixed in (({"avx512_bf16": True}, True), ({"amx_bf16": True}, True), ({"avx512_bf16": False}, False)):
        monkeypatch.setattr(device.torch.cpu, "get_capabilities", lambda able=able: able)
        with mixed_precision(CPU, 4):
            assert torch.is_autocast_enabled("cpu") is mixed


def test_deepest_maps_of_two_voxels_are_trained_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """There torch's bfloat16 gradients are not the same twice."""
    monkeypatch.setattr(device.torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    assert isinstance(mixed_precision(CPU, 2), nullcontext)
    assert not isinstance(mixed_precision(CPU, 3), nullcontext)
