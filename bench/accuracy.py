"""What INT8 costs in accuracy, on patients that no training and no choice of ranges ever saw.

Also: whether the compiled kernels and onnxruntime give the same labels.

    python bench/accuracy.py --bundle B --student student.pt --cases DIR [DIR ...] --out bench/results/accuracy.json

The student's FP32 graph and the bundle's INT8 graph go through the clinic's own reading, preprocessing and decoding.
"""

from __future__ import annotations

import argparse
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from glialite_distill.student_file import build_student, load_student
from glialite_export.lower import lower
from glialite_export.onnx_export import export_student
from glialite_runtime.bundle import Bundle, Graph, read_bundle
from glialite_runtime.cases import Case, find_cases
from glialite_runtime.command import bar
from glialite_runtime.decode import decode
from glialite_runtime.engine import Engine, OnnxEngine, open_engine
from glialite_runtime.files import write_json
from glialite_runtime.metrics import dice_per_region
from glialite_runtime.nifti import read
from glialite_runtime.preprocess import preprocess, restore_logits, uncrop
from glialite_runtime.sequences import REGION_LABELS, REGIONS
from glialite_runtime.volume import load_volume


def labels_of(case: Case, engines: dict[str, Engine], bundle: Bundle) -> dict[str, np.ndarray]:
    """Return each engine's label map of a case, and the truth."""
    volume = load_volume(case)
    image, geometry = preprocess(volume, bundle.manifest.spacing_mm, 16)
    found = {}
    for name, engine in engines.items():
        logits = restore_logits(engine.logits(image), geometry)
        found[name] = uncrop(decode(logits, bundle.manifest.decision, volume.voxel_mm3), geometry)
    if case.label is None:
        raise SystemExit(f"{case.name} has no label map")
    truth = read(case.label)
    found["truth"] = volume.orientation.to_lps(truth.data).astype(np.uint8)
    return found


def mean_change(rows: list[dict[str, Any]], region: str) -> tuple[float, float, float, int]:
    """Return mean Dice of FP32, of INT8, their difference, and how many cases have the region in truth."""
    pairs = [(r["fp32"][region], r["int8"][region]) for r in rows if r["truth_voxels"][region]]
    one, other = np.mean(pairs, axis=0)
    return float(one), float(other), float(other - one), len(pairs)


def measure(cases: Path, engines: dict[str, Engine], bundle: Bundle) -> dict[str, Any]:
    """Return the figures of one folder of cases."""
    rows = []
    for case in bar(find_cases(cases), label=cases.name):
        found = labels_of(case, engines, bundle)
        dice = {name: dice_per_region(found[name], found["truth"]) for name in ("fp32", "int8")}
        rows.append(
            {
                "case": case.name,
                **{n: {r: _plain(v) for r, v in zip(REGIONS, d, strict=True)} for n, d in dice.items()},
                "truth_voxels": {r: int(np.isin(found["truth"], REGION_LABELS[r]).sum()) for r in REGIONS},
                "differ_int8": float(np.mean(found["int8"] != found["fp32"])),
                "differ_onnxruntime": float(np.mean(found["onnxruntime"] != found["int8"])),
            }
        )
    change = {region: mean_change(rows, region) for region in REGIONS}
    return {
        "cases": len(rows),
        "dice": {
            region: {"fp32": round(a, 4), "int8": round(b, 4), "change": round(c, 5), "cases": n}
            for region, (a, b, c, n) in change.items()
        },
        "voxels_that_differ": {
            "int8 to fp32": float(np.mean([r["differ_int8"] for r in rows])),
            "compiled kernels to onnxruntime, largest": float(np.max([r["differ_onnxruntime"] for r in rows])),
        },
        "rows": rows,
    }


def main() -> None:
    """Measure and write down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("bundle", "student"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--cases", type=Path, nargs="+", required=True)
    parser.add_argument("--out", type=Path, default=Path("bench/results/accuracy.json"))
    given = parser.parse_args()
    bundle, network = read_bundle(given.bundle), build_student(load_student(given.student))
    fp32 = lower(export_student(network), network.spec.divisor).SerializeToString()
    graph = Graph("fp32.onnx", "cpu", "fp32", "depth-as-batch", network.spec.divisor, 17)
    engines = {
        "fp32": OnnxEngine(graph, fp32),
        "int8": open_engine(bundle),
        "onnxruntime": OnnxEngine(bundle.graph("cpu"), bundle.files[bundle.graph("cpu").file]),
    }
    result = {cases.name: measure(cases, engines, bundle) for cases in given.cases}
    write_json(given.out, result)
    print(json.dumps({n: {k: v for k, v in r.items() if k != "rows"} for n, r in result.items()}, indent=2))


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else round(float(value), 5)


if __name__ == "__main__":
    main()
