"""Choose the INT8 graph: activation ranges by what each method does to selection cases, then wide layers."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import onnx
from glialite_calibration.histogram import Histogram
from glialite_calibration.ranges import METHODS, activation_ranges

from glialite_export.int8 import OutputGrid, activation_grids, quantize
from glialite_export.judge import Judge, Score, pick
from glialite_export.parity import Network
from glialite_export.sensitivity import LayerCost, layer_costs, over_their_share

__all__ = ["AUTO", "Bench", "Choice", "Material", "choose", "methods_for"]

AUTO: Final = "auto"
"""The method that tries all of them."""

_SHARE: Final = 0.25
"""A layer whose weights alone cost more than this of the sum over all layers may become wide."""

_MAX_WIDE: Final = 3
_HELPS: Final = 0.9
"""A wide layer stays when it takes a tenth off the squared error, or more."""

_HARMS_DICE: Final = 0.001


def methods_for(asked: str) -> tuple[str, ...]:
    """Return the methods that are tried: all for `AUTO`."""
    return tuple(METHODS) if asked == AUTO else (asked,)


@dataclass(frozen=True, slots=True)
class Material:
    """What an INT8 graph is made from.

    Attributes
    ----------
    lowered : onnx.ModelProto
        The FP32 graph.
    histograms : mapping of str to Histogram
        What its tensors were over the range cases.
    output : OutputGrid
        Where the levels of the output lie.
    names : mapping of str to str
        See `layer_names`.
    """

    lowered: onnx.ModelProto
    histograms: Mapping[str, Histogram]
    output: OutputGrid
    names: Mapping[str, str]

    def graph(self, method: str, wide: Collection[str] = ()) -> onnx.ModelProto:
        """Return the INT8 graph with ranges by a method."""
        return quantize(self.lowered, activation_ranges(self.histograms, method), self.output, wide)


@dataclass(frozen=True, slots=True)
class Bench:
    """What graphs are tried on.

    Attributes
    ----------
    judge : Judge
        The selection cases.
    compare : function
        See `compare_on`.
    network : function
        Makes a graph runnable.
    """

    judge: Judge
    compare: Callable[[onnx.ModelProto], float]
    network: Callable[[onnx.ModelProto], Network]

    def score(self, graph: onnx.ModelProto) -> Score:
        """Return what a graph costs on the selection cases."""
        return self.judge.score(self.network(graph))


@dataclass(frozen=True, slots=True)
class Choice:
    """The chosen INT8 graph, and for the bundle's provenance how it was chosen."""

    graph: onnx.ModelProto
    report: dict[str, Any]


def choose(material: Material, bench: Bench, methods: Iterable[str]) -> Choice:
    """Try every method, measure every layer, and make wide what costs more than its share.

    Parameters
    ----------
    material : Material
        What to quantise.
    bench : Bench
        What to try it on.
    methods : iterable of str
        Keys of `METHODS`; where scores are equal, the first one wins.

    Returns
    -------
    Choice
        Its report holds the chosen method, each method's score, each layer's cost, and the wide layers.
    """
    scores = {method: bench.score(material.graph(method)) for method in methods}
    chosen = pick(scores)
    spans = activation_ranges(material.histograms, chosen)
    grids = activation_grids(material.lowered, spans, material.output)
    costs = layer_costs(material.lowered, grids, material.names, bench.compare)
    wide, tried = _widened(material, bench, chosen, scores[chosen], over_their_share(costs, _SHARE, _MAX_WIDE))
    report = {
        "method": chosen,
        "methods": {method: score.record() for method, score in scores.items()},
        "sensitivity": {
            cost.layer: {"weights": _short(cost.weights), "activations": _short(cost.activations)} for cost in costs
        },
        "wide_layers": tried,
    }
    return Choice(material.graph(chosen, wide), report)


def _widened(
    material: Material, bench: Bench, method: str, score: Score, candidates: Sequence[LayerCost]
) -> tuple[tuple[str, ...], dict[str, Any]]:
    """Make one layer after the other wide; keep what helps. Return what was kept, and each attempt by layer."""
    wide: tuple[str, ...] = ()
    tried: dict[str, Any] = {}
    for cost in candidates:
        attempt = (*wide, cost.convolution)
        found = bench.score(material.graph(method, attempt))
        helps = found.squared_error <= _HELPS * score.squared_error and found.worst >= score.worst - _HARMS_DICE
        tried[cost.layer] = {**found.record(), "kept": helps}
        if helps:
            wide, score = attempt, found
    return wide, tried


def _short(value: float) -> float:
    return float(f"{value:.3g}")
