"""Time one engine on one graph, in a process of its own: what `bench/speed.py` runs for every peer.

    python bench/engine_seconds.py glialite|avx2|sse|onnxruntime|openvino|nncf BUNDLE|GRAPH LAYOUT Z,Y,X IMAGE.npy

LAYOUT is native or lowered. Prints the median of the runs after a warm-up, as JSON. Needs numpy and the engine alone.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

RUNS = 7


def glialite_run(bundle: str, image: np.ndarray, kind: str) -> Callable[[], Any]:
    """Return a run of a bundle's INT8 graph as the clinic's commands do it, or in the kernels of older processors."""
    from pathlib import Path

    from glialite_runtime.bundle import read_bundle
    from glialite_runtime.engine import Engine, open_engine
    from glialite_runtime.int8_engine import Int8Engine
    from glialite_runtime.int8_network import read_network

    opened, threads = read_bundle(Path(bundle)), len(os.sched_getaffinity(0))
    engine: Engine = open_engine(opened, threads)
    network = read_network(opened.files[opened.graph("cpu").file])
    if kind != "glialite" and network is not None:
        engine = Int8Engine(opened.graph("cpu"), network, threads, kind)
    return lambda: engine.above(image.transpose(1, 0, 2, 3), (0.0, 0.0, 0.0))


def onnxruntime_run(graph: str, image: np.ndarray) -> Callable[[], Any]:
    """Return a run in onnxruntime, as the clinic's engine sets it up."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = len(os.sched_getaffinity(0))
    options.log_severity_level = 3
    options.enable_mem_pattern = False
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    return lambda: session.run(["logits"], {"image": image})


def openvino_run(graph: str, image: np.ndarray, *, quantise: bool) -> Callable[[], Any]:
    """Return a run in OpenVINO for this very shape, quantised by NNCF on the image when asked for."""
    import openvino

    core = openvino.Core()
    model = core.read_model(graph)
    model.reshape({"image": list(image.shape)})
    if quantise:
        import nncf

        model = nncf.quantize(model, nncf.Dataset([{"image": image}]), subset_size=1)
    settings = {"PERFORMANCE_HINT": "LATENCY", "INFERENCE_NUM_THREADS": len(os.sched_getaffinity(0))}
    request = core.compile_model(model, "CPU", settings).create_infer_request()
    return lambda: request.infer({"image": image})


def main() -> None:
    """Warm up, run, print."""
    engine, graph, layout, shape, image_file = sys.argv[1:]
    image = np.load(image_file)
    if image.shape[1:] != tuple(int(n) for n in shape.split(",")):
        raise SystemExit(f"{image_file} has the shape {image.shape}")
    given = np.ascontiguousarray(image.transpose(1, 0, 2, 3)) if layout == "lowered" else image[None]
    if engine in ("glialite", "avx2", "sse"):
        run = glialite_run(graph, given, engine)
    elif engine == "onnxruntime":
        run = onnxruntime_run(graph, given)
    else:
        run = openvino_run(graph, given, quantise=engine == "nncf")
    run()
    seconds = []
    for _ in range(RUNS):
        started = time.perf_counter()
        run()
        seconds.append(time.perf_counter() - started)
    print(json.dumps({"median_s": round(statistics.median(seconds), 4), "best_s": round(min(seconds), 4)}))


if __name__ == "__main__":
    main()
