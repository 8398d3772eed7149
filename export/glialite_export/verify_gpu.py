"""Check a GPU bundle on a computer without a GPU: TensorRT's rules, and the golden crop by onnxruntime."""

from __future__ import annotations

import time
from typing import Any

import onnx
from glialite_runtime.bundle import Bundle
from glialite_runtime.engine import OnnxEngine
from glialite_runtime.errors import CheckFailedError
from glialite_runtime.tensorrt_engine import golden_difference, golden_tolerance

from glialite_export.tensorrt_rules import check

__all__ = ["verify_gpu"]


def verify_gpu(bundle: Bundle, threads: int = 0) -> dict[str, Any]:
    """Hold each GPU graph of a bundle against TensorRT's rules and against its golden crop.

    Parameters
    ----------
    bundle : Bundle
        Holds GPU graphs.
    threads : int
        Threads of onnxruntime; 0: one a core.

    Returns
    -------
    dict
        Ready for JSON: `golden_difference` by graph (see `golden_difference`), all within tolerance, and seconds.

    Raises
    ------
    CheckFailedError
        A graph breaks a rule, or its golden crop comes out differently; the message names every one.
    BundleIntegrityError
        The bundle has no golden crop or tolerance, or a graph cannot be loaded.
    """
    image, expected = bundle.golden()
    started = time.perf_counter()
    differences, problems = {}, []
    for graph in (graph for graph in bundle.manifest.graphs if graph.target == "gpu"):
        content = bundle.files[graph.file]
        rules = sorted({finding.rule for finding in check(onnx.load_from_string(content))})
        if rules:
            problems.append(f"{graph.file} breaks TensorRT's rules {', '.join(rules)}")
        off = golden_difference(expected, OnnxEngine(graph, content, threads).logits(image))
        if not off <= (most := golden_tolerance(bundle, graph)):
            problems.append(f"the golden crop of {graph.file} is off by {off:.3g}, at most {most:.3g} is allowed")
        differences[graph.file] = off
    if problems:
        raise CheckFailedError(f"{bundle.manifest.name}: {'; '.join(problems)}; build the bundle again")
    return {
        "bundle": bundle.manifest.name,
        "golden_difference": differences,
        "seconds": round(time.perf_counter() - started, 3),
    }
