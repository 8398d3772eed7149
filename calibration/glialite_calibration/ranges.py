"""Activation ranges for INT8: what values each tensor of a network takes over the calibration cases.

Every tensor is summed up in one histogram, so one pass over the cases serves every method, and memory does not depend
on how many cases there are.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from glialite_runtime.errors import CalibrationError

from glialite_calibration import range_methods
from glialite_calibration.histogram import Histogram, observe

__all__ = ["METHODS", "Range", "activation_ranges", "collect"]


@dataclass(frozen=True, slots=True)
class Range:
    """The values that a tensor is quantised over, `low` ≤ 0 ≤ `high`."""

    low: float
    high: float


METHODS: Final[Mapping[str, range_methods.Method]] = MappingProxyType(
    {
        "min-max-doubled": range_methods.min_max_doubled,
        "min-max": range_methods.min_max,
        "percentile-99.999": partial(range_methods.percentile, share=0.99999),
        "percentile-99.99": partial(range_methods.percentile, share=0.9999),
        "mse": range_methods.mse,
        "entropy": range_methods.entropy,
    }
)
"""The ways to choose a tensor's range from its histogram, the widest first."""


def activation_ranges(histograms: Mapping[str, Histogram], method: str) -> dict[str, Range]:
    """Return the range of each tensor.

    Parameters
    ----------
    histograms : mapping of str to Histogram
        By tensor name.
    method : str
        A key of `METHODS`.

    Returns
    -------
    dict
        Tensor name -> range. A range always holds 0, which padding and background need; a tensor that never was
        anything else has the range (0, 0).

    Raises
    ------
    CalibrationError
        The method is unknown.
    """
    if method not in METHODS:
        raise CalibrationError(f"unknown method {method!r} for activation ranges; known: {', '.join(METHODS)}")
    spans = {name: METHODS[method](histogram) for name, histogram in histograms.items()}
    return {name: Range(min(low, 0.0), max(high, 0.0)) for name, (low, high) in spans.items()}


def collect(graph: bytes, tensors: Sequence[str], images: Iterable[npt.NDArray[np.float32]]) -> dict[str, Histogram]:
    """Run an FP32 graph over images and sum up what its tensors were.

    Parameters
    ----------
    graph : bytes
        ONNX graph with one input; every tensor asked for is the input or one of its outputs.
    tensors : sequence of str
        Names.
    images : iterable of float32 arrays
        In the layout that the graph takes.

    Returns
    -------
    dict
        Tensor name -> histogram, in the order of `tensors`.

    Raises
    ------
    CalibrationError
        There is no image, a tensor is not there, or a value is not finite.
    """
    import onnxruntime  # noqa: PLC0415 - 0.2 s

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    entry = session.get_inputs()[0].name
    asked = [name for name in tensors if name != entry]
    missing = sorted(set(asked) - {output.name for output in session.get_outputs()})
    if missing:
        raise CalibrationError(f"the graph gives no tensor {', '.join(missing)}")
    seen: dict[str, Histogram] = {}
    for image in images:
        found: dict[str, npt.NDArray[Any]] = {entry: image}
        if asked:
            found.update(zip(asked, session.run(asked, {entry: image}), strict=True))
        for name in tensors:
            seen[name] = observe(seen.get(name), found.pop(name))
    if not seen:
        raise CalibrationError("no calibration case was given; at least one is needed")
    return seen
