"""Which shape of student: accuracy after equal training against INT8 milliseconds, as a table and a Pareto plot.

    python bench/student_shapes.py --workspace bench/work/workspace --out bench/results/student_shapes.json

Every shape gets the same batches, the same number of them, and the same schedule. Time is that of its own INT8 graph on
a whole brain of 144×176×144 voxels. Shapes that are in the file already are not trained again.
"""

from __future__ import annotations

import argparse
import json
import re
import time
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import torch
from glialite_calibration.ranges import activation_ranges, collect
from glialite_distill import student as module
from glialite_distill.student import Student, StudentSpec
from glialite_export.int8 import OutputGrid, observed_tensors, quantize, with_outputs
from glialite_export.layers import with_layers
from glialite_export.lower import lower
from glialite_export.onnx_export import export_student
from glialite_runtime.bundle import Graph
from glialite_runtime.files import write_json
from glialite_runtime.int8_engine import Int8Engine
from glialite_runtime.int8_network import read_network

SHAPES = (
    StudentSpec("S: 24-48-96-128, 1-2-2-2", (24, 48, 96, 128), (1, 2, 2, 2)),
    StudentSpec("M: 32-64-128-192, 1-2-2-2", (32, 64, 128, 192), (1, 2, 2, 2)),
    StudentSpec("24-48-96-128, 2-2-2-2", (24, 48, 96, 128)),
    StudentSpec("24-48-96-128, 1-1-1-1", (24, 48, 96, 128), 1),
    StudentSpec("32-64-128-192, 2-2-2-2", (32, 64, 128, 192)),
    StudentSpec("16-48-96-160, 2-2-2-2", (16, 48, 96, 160)),
    StudentSpec("16-32-64-96, 2-2-2-2", (16, 32, 64, 96)),
)
BRAIN = (144, 176, 144)
PATCH = (64, 64, 48)


def multiply_adds(spec: StudentSpec, shape: tuple[int, int, int] = (128, 160, 112)) -> float:
    """Return the multiply-adds, in 10⁹, of one pass over a patch."""
    total = 0

    def count(layer: Any, _: Any, result: torch.Tensor) -> None:
        nonlocal total
        kernel = layer.weight[0, 0].numel()
        if isinstance(layer, torch.nn.ConvTranspose3d):  # each input voxel writes a kernel of its own
            total += result[0].numel() // kernel * layer.in_channels * kernel // layer.groups
        else:
            total += result[0].numel() * layer.in_channels * kernel // layer.groups

    with torch.device("meta"):
        network = Student(spec).eval()
        for layer in network.modules():
            if isinstance(layer, (torch.nn.Conv3d, torch.nn.ConvTranspose3d)):
                layer.register_forward_hook(count)
        network(torch.zeros(1, 4, *shape))
    return total / 1e9


def int8_graph(network: Student) -> bytes:
    """Return the student's INT8 graph with ranges from noise: good for time, not for accuracy."""
    lowered = lower(export_student(network), network.spec.divisor)
    tensors = observed_tensors(lowered)
    noise = np.random.default_rng(0).standard_normal((64, 4, 64, 64), np.float32)
    histograms = collect(with_outputs(lowered, tensors).SerializeToString(), tensors, [noise])
    ranges = activation_ranges(histograms, "min-max")
    return with_layers(quantize(lowered, ranges, OutputGrid((0.0, 0.0, 0.0)))).SerializeToString()


def milliseconds(graph: bytes, divisor: int, runs: int = 9) -> float:
    """Return the median time of a run on a brain, two threads, after a warm-up."""
    network = read_network(graph)
    if network is None:
        raise SystemExit("the compiled kernels do not know this shape")
    engine = Int8Engine(Graph("int8", "cpu", "int8", "depth-as-batch", divisor, 17), network, 2)
    edges = [-(-n // divisor) * divisor for n in BRAIN]
    image = np.random.default_rng(0).standard_normal((edges[0], 4, *edges[1:]), np.float32).transpose(1, 0, 2, 3)
    engine.above(image, (0.0, 0.0, 0.0))
    seconds = []
    for _ in range(runs):
        started = time.perf_counter()
        engine.above(image, (0.0, 0.0, 0.0))
        seconds.append(time.perf_counter() - started)
    return 1000 * float(np.median(seconds))


def trained(spec: StudentSpec, workspace: Path, iterations: int, work: Path) -> dict[str, float]:
    """Return Dice a region on the validation cases after training on the truth alone."""
    from glialite_distill.train import RunSettings, train
    from glialite_distill.train_options import TrainOptions
    from glialite_distill.workspace import Workspace

    options = TrainOptions(student=spec.name, iterations=iterations, patch=PATCH, soft_weight=0, validations=1)
    run = RunSettings(
        work / re.sub(r"\W+", "-", spec.name), workspace / "students" / "cache", report=_progress(spec.name)
    )
    last = train(Workspace.open(workspace), None, options, run).provenance["last"]
    return {region: last[f"dice_{region.lower()}"] for region in ("WT", "TC", "ET")}


def _progress(name: str) -> Any:
    def show(progress: Any) -> None:
        if progress.iteration % 50 == 0:
            print(f"{name}: {progress.iteration} of {progress.iterations}, loss {progress.loss:.3f}", flush=True)

    return show


def plot(rows: list[dict[str, Any]], out: Path) -> None:
    """Draw mean Dice against INT8 milliseconds, the shapes that nothing beats joined by a line."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(7, 4.5), layout="constrained")
    ranked = sorted(rows, key=lambda row: row["int8_ms"])
    front = [r for n, r in enumerate(ranked) if all(r["mean_dice"] > other["mean_dice"] for other in ranked[:n])]
    axes.plot([r["int8_ms"] for r in front], [r["mean_dice"] for r in front], color="0.6", zorder=1)
    axes.scatter([r["int8_ms"] for r in rows], [r["mean_dice"] for r in rows], color="#1f6f8b", zorder=2)
    for row in rows:
        at, right = (row["int8_ms"], row["mean_dice"]), row["int8_ms"] > 0.7 * ranked[-1]["int8_ms"]
        side = {"xytext": (-6 if right else 6, -11), "ha": "right" if right else "left"}
        axes.annotate(row["name"], at, textcoords="offset points", fontsize=9, **side)
    axes.set_xlabel(f"INT8, {'×'.join(map(str, BRAIN))} voxels, two threads: milliseconds")
    axes.set_ylabel(f"mean Dice (WT, TC, ET) after {rows[0]['iterations']} iterations")
    axes.margins(0.12)
    axes.grid(alpha=0.3)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, dpi=120)


def main() -> None:
    """Measure every shape that is not in the file yet, then time them all again in one go, and draw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workspace", type=Path, required=True)
    parser.add_argument("--out", type=Path, default=Path("bench/results/student_shapes.json"))
    parser.add_argument("--plot", type=Path, default=Path("docs/images/student-shapes.png"))
    parser.add_argument("--iterations", type=int, default=400)
    arguments = parser.parse_args()
    # The command line knows S and M; the search trains shapes that have no name there.
    module.STUDENTS = MappingProxyType({**module.STUDENTS, **{spec.name: spec for spec in SHAPES}})
    kept = json.loads(arguments.out.read_text())["shapes"] if arguments.out.is_file() else []
    dice = {row["name"]: row["dice"] for row in kept if row["iterations"] == arguments.iterations}
    rows: list[dict[str, Any]] = []
    for spec in SHAPES:
        if spec.name not in dice:
            work = arguments.workspace / "shapes"
            dice[spec.name] = trained(spec, arguments.workspace, arguments.iterations, work)
        network = Student(spec).eval()
        graph = int8_graph(network)
        rows.append(
            {
                "name": spec.name,
                "widths": spec.widths,
                "convolutions": spec.blocks,
                "iterations": arguments.iterations,
                "parameters": sum(p.numel() for p in network.parameters()),
                "gmac": round(multiply_adds(spec), 1),
                "graph_mb": round(len(graph) / 1e6, 2),
                "int8_ms": round(milliseconds(graph, spec.divisor), 1),
                "dice": dice[spec.name],
                "mean_dice": round(float(np.mean(list(dice[spec.name].values()))), 4),
            }
        )
        write_json(arguments.out, {"patch": PATCH, "brain": BRAIN, "shapes": rows})
    plot(rows, arguments.plot)
    for row in sorted(rows, key=lambda row: row["int8_ms"]):
        print(f"{row['name']:27} {row['int8_ms']:7.1f} ms  {row['gmac']:5.1f} GMAC  {row['mean_dice']:.3f}")


if __name__ == "__main__":
    main()
