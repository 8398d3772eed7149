"""Where tensors are computed with."""

from __future__ import annotations

import torch
from glialite_runtime.errors import BackendUnavailableError, ConfigError

__all__ = ["pick_device"]


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
