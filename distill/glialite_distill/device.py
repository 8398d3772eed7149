"""Where tensors are computed with."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, Final

import torch
from glialite_runtime.errors import BackendUnavailableError, ConfigError

__all__ = ["mixed_precision", "pick_device"]

_SMALLEST_EDGE: Final = 3


def pick_device(name: str) -> torch.device:
    """Return the device called "auto" (CUDA where there is one), "cpu" or "cuda".

    Raises
    ------
    BackendUnavailableError
        CUDA is asked for and not there.
    ConfigError
        Another name.
    """
    if name not in ("auto", "cpu", "cuda"):
        raise ConfigError(f"unknown device {name!r}; known: auto, cpu, cuda")
    if name == "cuda" and not torch.cuda.is_available():
        raise BackendUnavailableError("CUDA is not available here; use --device cpu, or install torch with CUDA")
    return torch.device("cuda" if name != "cpu" and torch.cuda.is_available() else "cpu")


def mixed_precision(device: torch.device, smallest_edge: int) -> AbstractContextManager[Any]:
    """Return the automatic mixed precision to train with: bfloat16 where the hardware multiplies it, else FP16 on CUDA.

    A processor with AVX-512 BF16 or AMX trains 1.5 to 1.8 times as fast with it (`bench/mixed_precision.py`); one
    without computes in FP32, since emulating bfloat16 is slower.

    Parameters
    ----------
    device : torch.device
        Where the network is.
    smallest_edge : int
        Voxels of the shortest edge of the network's deepest map. Below 3, torch 2.13 on a processor gives weight
        gradients in bfloat16 that differ from run to run and can be NaN; such networks train in FP32 there.
    """
    if device.type == "cuda":
        return torch.autocast("cuda", torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16)
    able = torch.cpu.get_capabilities()
    if device.type == "cpu" and smallest_edge >= _SMALLEST_EDGE and (able.get("avx512_bf16") or able.get("amx_bf16")):
        return torch.autocast("cpu", torch.bfloat16)
    return nullcontext()
