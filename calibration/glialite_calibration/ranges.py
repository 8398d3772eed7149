"""Activation ranges for INT8: what values each tensor of a network takes over the calibration cases.

Every tensor is summed up in a histogram of fixed size that grows by doubling, so one pass over the cases serves every
method, and memory does not depend on how many cases there are.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from glialite_runtime.errors import CalibrationError

__all__ = ["METHODS", "Histogram", "Range", "activation_ranges", "collect", "observe"]

_BINS: Final = 1 << 14


@dataclass(frozen=True, slots=True)
class Range:
    """The values that a tensor is quantised over, `low` ≤ 0 ≤ `high`."""

    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Histogram:
    """How often a tensor took which values.

    Attributes
    ----------
    low, high : float
        Smallest and largest value seen.
    radius : float
        A power of two that no value exceeds in magnitude.
    counts : int64 array (bins,)
        Values in equal bins from -radius to +radius.
    """

    low: float
    high: float
    radius: float
    counts: npt.NDArray[np.int64]


def observe(seen: Histogram | None, values: npt.NDArray[np.float32]) -> Histogram:
    """Return the histogram with `values` added.

    Parameters
    ----------
    seen : Histogram or None
        What was seen before; None at the start.
    values : float32 array of any shape
        At least one value, all finite.

    Raises
    ------
    CalibrationError
        There is no value, or one is not finite.
    """
    low, high = (float(values.min()), float(values.max())) if values.size else (math.nan, math.nan)
    if not (math.isfinite(low) and math.isfinite(high)):
        raise CalibrationError(
            f"a tensor with values from {low} to {high} cannot be calibrated; finite ones are needed"
        )
    largest = max(-low, high)
    radius = max(2.0 ** math.ceil(math.log2(largest)) if largest > 0 else 0.0, 2.0**-20)
    if seen is not None:
        radius, low, high = max(radius, seen.radius), min(low, seen.low), max(high, seen.high)
    bins = ((values.ravel() + np.float32(radius)) * np.float32(_BINS / (2 * radius))).astype(np.int32)
    counts = np.bincount(np.minimum(bins, _BINS - 1), minlength=_BINS).astype(np.int64)
    if seen is not None:
        counts += _widened(seen, radius)
    return Histogram(low, high, radius, counts)


def _widened(histogram: Histogram, radius: float) -> npt.NDArray[np.int64]:
    """Return the counts over a range that is a power of two times as wide: pairs of bins merge towards the middle."""
    counts, quarter = histogram.counts, _BINS // 4
    for _ in range(round(math.log2(radius / histogram.radius))):
        wide = np.zeros_like(counts)
        wide[quarter:-quarter] = counts.reshape(-1, 2).sum(axis=1)
        counts = wide
    return counts


def _quantile(histogram: Histogram, share: float) -> tuple[float, float]:
    """Return the smallest value range that leaves at most `1 - share` of the values above it, and as many below."""
    running = np.cumsum(histogram.counts)
    total, width = int(running[-1]), 2 * histogram.radius / _BINS
    above = int(np.searchsorted(running, share * total))
    below = int(np.searchsorted(running, (1 - share) * total, side="right"))
    low, high = below * width - histogram.radius, (above + 1) * width - histogram.radius
    return max(low, histogram.low), min(high, histogram.high)


METHODS: Final[Mapping[str, float]] = MappingProxyType(
    {"min-max": 1.0, "percentile-99.999": 0.99999, "percentile-99.99": 0.9999, "percentile-99.9": 0.999}
)
"""Method -> share of a tensor's values that its range holds at either end."""


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
    out = {}
    for name, histogram in histograms.items():
        whole = METHODS[method] >= 1
        low, high = (histogram.low, histogram.high) if whole else _quantile(histogram, METHODS[method])
        out[name] = Range(min(low, 0.0), max(high, 0.0))
    return out


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
