"""Write docs/benchmarks.md and its picture from what the other scripts measured.

python bench/tables.py
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from glialite_runtime.files import write_bytes

RESULTS = Path(__file__).parent / "results"
PAGE = Path("docs/benchmarks.md")
PICTURE = Path("docs/images/benchmarks.png")

NAMES = {
    "nnunet": "nnU-Net 2.8.1: its own predict command, 3d_fullres, one fold, no mirroring, untrained weights",
    "glialite": "`glialite segment`",
    "low_memory": "`glialite segment --low-memory`",
    "batch": "`glialite batch`, all cases together",
}
SETS = {"unseen": "unseen phantoms", "held-out": "phantoms of another world"}
OURS = "GliaLite INT8"


def load(name: str) -> dict[str, Any]:
    """Return a result, which must be there."""
    path = RESULTS / f"{name}.json"
    if not path.is_file():
        raise SystemExit(f"{path} is missing; `make bench` measures it")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def goals(speed: dict[str, Any], accuracy: dict[str, Any]) -> list[tuple[str, str, str, bool]]:
    """Return a row a goal: figure, goal, measured, whether it holds."""
    whole, alone, peak = speed["whole_case"], speed["network_alone"], speed["highest_peak_mb"]
    theirs = whole["nnunet"]["wall_s"]
    ours = alone[OURS]["seconds"]
    native = alone["onnxruntime FP32, native Conv3d"]["seconds"]
    openvino = [v["seconds"] for name, v in alone.items() if name.startswith("OpenVINO INT8")]
    stages = speed["stages_s"]
    total = sum(stages.values())
    other = {stage: s / total for stage, s in stages.items() if stage not in ("network", "start")}
    largest = max(other, key=lambda stage: other[stage])
    other_bits = max(
        found["voxels_that_differ"]["compiled kernels to onnxruntime, largest"] for found in accuracy.values()
    )
    rows = [
        _ratio("whole case, fresh process, report included, against nnU-Net", 40, theirs / whole["glialite"]["wall_s"]),
        _ratio("a case of `glialite batch` (10 cases) against the same", 60, theirs / speed["batch_per_case_s"]),
        _ratio("network alone: INT8 against onnxruntime on native Conv3d in FP32", 4, native / ours),
    ]
    if openvino:
        rows.append(_ratio("against OpenVINO INT8, the better of native and lowered", 1, min(openvino) / ours))
    rows += [
        (
            "largest share of a stage but network and start",
            "≤ 20 %",
            f"{100 * other[largest]:.0f} % ({largest})",
            other[largest] <= 0.2,
        ),
        ("peak memory", "≤ 700 MB", f"{peak['glialite']:.0f} MB", peak["glialite"] <= 700),
        ("peak memory with `--low-memory`", "≤ 400 MB", f"{peak['low_memory']:.0f} MB", peak["low_memory"] <= 400),
        (
            "voxels whose label differs between `--low-memory` and without, or the compiled kernels and onnxruntime",
            "≤ 0.1 %",
            f"{100 * max(other_bits, speed['low_memory_differs']):.3f} %",
            max(other_bits, speed["low_memory_differs"]) <= 0.001,
        ),
        ("clinic bundle", "≤ 5 MB", f"{speed['bundle_mb']:.2f} MB", speed["bundle_mb"] <= 5),
    ]
    for name, found in accuracy.items():
        rows += [
            (
                f"Dice {region}, INT8 − FP32, {d['cases']} {SETS[name]}",
                "≥ −0.003",
                f"{d['change']:+.4f}",
                d["change"] >= -0.003,
            )
            for region, d in found["dice"].items()
        ]
    return rows


def _ratio(figure: str, goal: float, measured: float) -> tuple[str, str, str, bool]:
    return figure, f"≥ {goal} ×", f"{measured:.1f} ×", measured >= goal


def table(head: list[str], rows: list[list[str]]) -> str:
    """Return a Markdown table."""
    lines = [f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    return "\n".join([*lines, *(f"| {' | '.join(row)} |" for row in rows)])


def draw(speed: dict[str, Any]) -> None:
    """Draw seconds a case and seconds a network pass, on logarithmic axes."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    whole = speed["whole_case"]
    cases = {
        "nnU-Net, one fold, no mirroring": whole["nnunet"]["wall_s"],
        "glialite segment --low-memory": whole["low_memory"]["wall_s"],
        "glialite segment": whole["glialite"]["wall_s"],
        "glialite batch, a case": speed["batch_per_case_s"],
    }
    networks = {name: found["seconds"] for name, found in speed["network_alone"].items()}
    figure, both = pyplot.subplots(2, 1, figsize=(8, 5.6), layout="constrained", height_ratios=(4, 7))
    for axes, values, title in zip(both, (cases, networks), ("whole case", "network alone"), strict=True):
        ordered = dict(sorted(values.items(), key=lambda item: -item[1]))
        colours = ["#1f6f8b" if name.lower().startswith("glialite") else "0.65" for name in ordered]
        bars = axes.barh(list(ordered), list(ordered.values()), color=colours)
        axes.bar_label(bars, [f"{s:.2f} s" for s in ordered.values()], padding=3, fontsize=9)
        if max(values.values()) > 20 * min(values.values()):
            axes.set_xscale("log")
        axes.set_xlabel(f"{title}, seconds on {speed['machine']['cores']} cores")
        axes.margins(x=0.2)
        axes.spines[["top", "right"]].set_visible(False)
    PICTURE.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(PICTURE, dpi=120)


def head(speed: dict[str, Any]) -> list[str]:
    """Return title and setting."""
    machine = speed["machine"]
    return [
        "# Benchmarks",
        "Made by `make bench`: a student trained on phantoms, the same bundle for speed and for Dice, all in one run "
        f"on {machine['cores']} cores, {machine['processor']} ({', '.join(machine['instructions'])}), onnxruntime "
        f"{machine['onnxruntime']}, torch {machine['torch']}. Read ratios rather than seconds. Cases are phantoms of "
        "240×240×155 voxels; every program had both cores.",
        "![Seconds by program](images/benchmarks.png)",
    ]


def whole_cases(speed: dict[str, Any]) -> list[str]:
    """Return the part on whole cases."""
    whole, stages = speed["whole_case"], speed["stages_s"]
    total = sum(stages.values())
    costs = [
        [name, f"{whole[k]['wall_s']:.2f}", f"{whole[k]['cpu_s']:.2f}", f"{whole[k]['peak_mb']:.0f}"]
        for k, name in NAMES.items()
    ]
    shares = [[stage, f"{s:.3f}", f"{100 * s / total:.0f} %"] for stage, s in stages.items()]
    return [
        "## Whole cases",
        "Fresh processes with a warm page cache, from four NIfTI files to a label map (ours: and the report) on disk; "
        f"medians. The batch has {speed['cases']} cases.",
        table(["program", "seconds", "processor seconds", "peak MB"], costs),
        "Where a cold `glialite segment` spends its time (start: interpreter, imports, bundle and engine):",
        table(["stage", "seconds", "share"], shares),
        "No published CPU figure for glioma segmentation from four sequences known to us comes near: Raidionics "
        "states 16 to 54 s (tumour only), the BraTS-Africa 2025 winner about two hours.",
    ]


def network(speed: dict[str, Any]) -> list[str]:
    """Return the part on the network alone."""
    alone = speed["network_alone"]
    ranked = sorted(alone.items(), key=lambda item: item[1]["seconds"])
    rows = [[n, f"{v['seconds']:.3f}", f"{v['seconds'] / alone[OURS]['seconds']:.2f} ×"] for n, v in ranked]
    return [
        "## The network alone",
        f"One student, 144×176×144 voxels, {speed['machine']['cores']} threads, median of three turns of 7 runs; each "
        "engine in a process of its own; for OpenVINO fixed shapes, quantised by NNCF from the FP32 graph.",
        table(["engine", "seconds", "of ours"], rows),
    ]


def cost_of_int8(accuracy: dict[str, Any]) -> list[str]:
    """Return the part on accuracy."""
    rows = [
        [SETS[name], r, str(d["cases"]), f"{d['fp32']:.4f}", f"{d['int8']:.4f}", f"{d['change']:+.4f}"]
        for name, found in accuracy.items()
        for r, d in found["dice"].items()
    ]
    other_bits = max(
        found["voxels_that_differ"]["compiled kernels to onnxruntime, largest"] for found in accuracy.values()
    )
    differ = "; ".join(
        f"{SETS[name]}: {100 * found['voxels_that_differ']['int8 to fp32']:.3f} %" for name, found in accuracy.items()
    )
    return [
        "## What INT8 costs",
        "Phantoms that neither training nor the choice of ranges saw, of the trained world and of another one, whose "
        "ranges of contrast, noise and anatomy lie outside (`--world shifted`). This student learnt for minutes and "
        "does not carry over to the other world: there INT8 keeps what FP32 does, good or bad.",
        table(["cases", "region", "with it", "Dice FP32", "Dice INT8", "change"], rows),
        f"Voxels whose label INT8 changes: {differ}. Voxels whose label differs between the compiled kernels and "
        f"onnxruntime's on the same INT8 graph, in the worst case: {100 * other_bits:.3f} %.",
    ]


def students(shapes: dict[str, Any]) -> list[str]:
    """Return the part on the student's shape."""
    rows = [
        [s["name"], f"{s['parameters']:,}", f"{s['gmac']:g}", f"{s['graph_mb']:.2f}", f"{s['int8_ms']:.0f}"]
        + [f"{s['dice'][r]:.3f}" for r in ("WT", "TC", "ET")]
        + [f"{s['mean_dice']:.3f}"]
        for s in sorted(shapes["shapes"], key=lambda s: s["int8_ms"])
    ]
    return [
        "## Which student",
        f"`python bench/student_shapes.py`: {shapes['shapes'][0]['iterations']} iterations each on the same batches of "
        "phantoms, Dice on validation cases, milliseconds of the INT8 graph on a brain. A name lists the widths at "
        "1/2, 1/4, 1/8 and 1/16 of the resolution and the convolutions a stage. One seed each, trained for minutes: "
        "differences of a few hundredths are chance, and large students have not caught up yet. What came of it: S and "
        "M have one convolution at half resolution, which costs less than two for no loss that this could show; M is "
        "the one for longer trainings.",
        "![Accuracy against time](images/student-shapes.png)",
        table(["student", "parameters", "GMAC", "graph MB", "INT8 ms", "WT", "TC", "ET", "mean Dice"], rows),
    ]


def main() -> None:
    """Write the page and the picture."""
    speed, accuracy, shapes = load("speed"), load("accuracy"), load("student_shapes")
    draw(speed)
    found = goals(speed, accuracy)
    held = [[figure, goal, measured, "yes" if holds else "**no**"] for figure, goal, measured, holds in found]
    parts = [
        *head(speed),
        "## Goals",
        table(["figure", "goal", "measured", "holds"], held),
        *whole_cases(speed),
        *network(speed),
        *cost_of_int8(accuracy),
        *students(shapes),
    ]
    write_bytes(PAGE, ("\n\n".join(parts) + "\n").encode())
    for figure, goal, measured, holds in found:
        print(f"{'holds' if holds else 'FAILS':6} {figure}: {measured} ({goal})")


if __name__ == "__main__":
    main()
