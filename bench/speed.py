"""How long a case takes, side by side in one run: GliaLite, nnU-Net's own predictor, onnxruntime and OpenVINO.

    python bench/speed.py --bundle B --student student.pt --cases DIR --workspace W --out bench/results/speed.json

Whole cases are timed as fresh processes, from files on disk to files on disk, in turns; the network alone is timed in a
process of its own an engine, in turns too. Every program gets both cores.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from glialite_runtime.cases import Case, find_cases
from glialite_runtime.files import write_json

BIN = Path(sys.executable).parent
BRAIN = (144, 176, 144)
ENGINES = Path(__file__).with_name("engine_seconds.py")


@dataclass(frozen=True, slots=True)
class Run:
    """One process: seconds on the clock, seconds of processor, peak memory in 10⁶ bytes."""

    wall_s: float
    cpu_s: float
    peak_mb: float


def run(command: list[str], environment: dict[str, str] | None = None) -> tuple[Run, str]:
    """Run a command to its end; return what it cost and what it printed on stdout."""
    with tempfile.TemporaryFile("w+") as output, tempfile.TemporaryFile("w+") as errors:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=errors, env={**os.environ, **(environment or {})})
        _, status, used = os.wait4(process.pid, 0)
        wall = time.perf_counter() - started
        output.seek(0)
        errors.seek(0)
        if status:
            raise SystemExit(f"{' '.join(command)} failed:\n{errors.read()[-3000:]}")
        return Run(
            round(wall, 3), round(used.ru_utime + used.ru_stime, 3), round(used.ru_maxrss * 1024e-6)
        ), output.read()


def middle(runs: list[Run]) -> dict[str, float]:
    """Return the medians."""
    return {key: round(statistics.median(asdict(r)[key] for r in runs), 3) for key in ("wall_s", "cpu_s", "peak_mb")}


def segment(case: Case, bundle: Path, out: Path, *options: str) -> tuple[Run, dict[str, Any]]:
    """Time ``glialite segment`` on a case that it has not seen."""
    shutil.rmtree(out, ignore_errors=True)
    folder = next(iter(case.paths.values())).parent
    command = [str(BIN / "glialite"), "segment", str(folder), "--out", str(out), "--bundle", str(bundle), "--json"]
    cost, text = run([*command, *options])
    return cost, json.loads(text)


def share_of_other_labels(one: dict[str, Any], other: dict[str, Any]) -> float:
    """Return the share of voxels whose label differs between two reports of a case."""
    import numpy as np
    from glialite_runtime.nifti import read

    labels = [read(Path(report["outputs"]["labels"])).data for report in (one, other)]
    return float(np.mean(labels[0] != labels[1]))


def batch(cases: list[Case], bundle: Path, work: Path) -> Run:
    """Time ``glialite batch`` on a folder of these cases."""
    folder, out = work / "batch", work / "batch-out"
    shutil.rmtree(out, ignore_errors=True)
    folder.mkdir(exist_ok=True)
    for case in cases:
        link = folder / case.name
        if not link.exists():
            link.symlink_to(next(iter(case.paths.values())).parent.resolve(), target_is_directory=True)
    return run([str(BIN / "glialite"), "batch", str(folder), "--out", str(out), "--bundle", str(bundle)])[0]


def nnunet_model(workspace: Path, folder: Path) -> None:
    """Write an untrained nnU-Net of the workspace's published plan, one fold, as its predictor reads it."""
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from nnunetv2.utilities.plans_handling.plans_handler import PlansManager

    if (folder / "fold_0" / "checkpoint_final.pth").is_file():
        return
    prepared = next((workspace / "nnUNet_preprocessed").glob("Dataset*"))
    plans_file = next(prepared.glob("*lans*.json"))
    plans, dataset = json.loads(plans_file.read_text()), json.loads((prepared / "dataset.json").read_text())
    manager = PlansManager(plans)
    torch.manual_seed(0)
    network = nnUNetTrainer.build_network_architecture(manager, manager.get_configuration("3d_fullres"), 4, 3)
    (folder / "fold_0").mkdir(parents=True)
    (folder / "plans.json").write_text(json.dumps(plans))
    (folder / "dataset.json").write_text(json.dumps(dataset))
    torch.save(
        {
            "network_weights": network.state_dict(),
            "trainer_name": "nnUNetTrainer",
            "init_args": {"configuration": "3d_fullres"},
            "inference_allowed_mirroring_axes": None,
        },
        folder / "fold_0" / "checkpoint_final.pth",
    )


def nnunet(cases: list[Case], model: Path, work: Path) -> Run:
    """Time nnU-Net's own command on these cases, without mirroring, one process each to read and to write."""
    given, out = work / "nnunet-in", work / "nnunet-out"
    for folder in (given, out):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
    for case in cases:
        for channel, path in enumerate(case.paths.values()):
            (given / f"{case.name}_{channel:04d}.nii.gz").symlink_to(path.resolve())
    command = [str(BIN / "nnUNetv2_predict_from_modelfolder"), "-i", str(given), "-o", str(out), "-m", str(model)]
    command += ["-f", "0", "--disable_tta", "-device", "cpu", "-npp", "1", "-nps", "1", "--disable_progress_bar"]
    folders = {name: str(work) for name in ("nnUNet_raw", "nnUNet_preprocessed", "nnUNet_results")}
    cost, _ = run(command, folders)
    if len(list(out.glob("*.nii.gz"))) != len(cases):
        raise SystemExit("nnU-Net wrote no segmentation")
    return cost


def graphs(student: Path, work: Path) -> dict[str, Path]:
    """Write the same student as ONNX in FP32: native 3-D, and lowered."""
    from glialite_distill.student_file import build_student, load_student
    from glialite_export.lower import lower
    from glialite_export.onnx_export import export_student

    network = build_student(load_student(student))
    native = export_student(network)
    contents = {
        "native": native.SerializeToString(),
        "lowered": lower(native, network.spec.divisor).SerializeToString(),
    }
    for name, content in contents.items():
        (work / f"{name}.onnx").write_bytes(content)
    return {name: work / f"{name}.onnx" for name in contents}


def engine_seconds(peers: Path, student: Path, bundle: Path, case: Case, work: Path) -> dict[str, Any]:
    """Return seconds a brain by engine: the median over three turns of each one's median."""
    files = graphs(student, work)
    shape = ",".join(map(str, BRAIN))
    ours = [sys.executable, str(ENGINES)]
    commands = {
        "GliaLite INT8": [*ours, "glialite", str(bundle), "lowered"],
        "GliaLite INT8, kernels for AVX2": [*ours, "avx2", str(bundle), "lowered"],
        "GliaLite INT8, kernels for SSE4.1": [*ours, "sse", str(bundle), "lowered"],
        "onnxruntime INT8, lowered (GliaLite's graph)": [
            *ours,
            "onnxruntime",
            str(bundle / "cpu-int8.onnx"),
            "lowered",
        ],
        "onnxruntime FP32, lowered": [*ours, "onnxruntime", str(files["lowered"]), "lowered"],
        "onnxruntime FP32, native Conv3d": [*ours, "onnxruntime", str(files["native"]), "native"],
    }
    if peers.is_file():
        theirs = [str(peers), str(ENGINES)]
        commands |= {
            "OpenVINO INT8 (NNCF), native Conv3d": [*theirs, "nncf", str(files["native"]), "native"],
            "OpenVINO INT8 (NNCF), lowered": [*theirs, "nncf", str(files["lowered"]), "lowered"],
            "OpenVINO FP32, native Conv3d": [*theirs, "openvino", str(files["native"]), "native"],
        }
    image = _calibration_image(case, work)
    found: dict[str, list[float]] = {name: [] for name in commands}
    for turn in range(3):
        for name, command in commands.items():
            print(f"  turn {turn + 1}: {name}", file=sys.stderr, flush=True)
            _, text = run([*command, shape, str(image)])
            found[name].append(json.loads(text.splitlines()[-1])["median_s"])  # NNCF talks on stdout first
    return {name: {"seconds": round(statistics.median(values), 4), "turns": values} for name, values in found.items()}


def _calibration_image(case: Case, work: Path) -> Path:
    """Write a normalised case, cut or filled to `BRAIN`: what every engine runs on, and NNCF calibrates on."""
    import numpy as np
    from glialite_runtime.preprocess import preprocess
    from glialite_runtime.volume import load_volume

    image, _ = preprocess(load_volume(case))
    box = np.zeros((4, *BRAIN), np.float32)
    z, y, x = (min(a, b) for a, b in zip(image.shape[1:], BRAIN, strict=True))
    box[:, :z, :y, :x] = image[:, :z, :y, :x]
    np.save(work / "brain.npy", box)
    return work / "brain.npy"


def machine() -> dict[str, Any]:
    """Return what it was measured on."""
    import onnxruntime
    import torch

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.processor())
    flags = next((line.split(":")[1].split() for line in lines if line.startswith("flags")), [])
    return {
        "processor": model,
        "cores": len(os.sched_getaffinity(0)),
        "instructions": [flag for flag in ("avx2", "avx512f", "avx512_vnni", "avx_vnni") if flag in flags],
        "python": platform.python_version(),
        "onnxruntime": onnxruntime.__version__,
        "torch": torch.__version__.split("+")[0],
    }


def main() -> None:
    """Measure everything and write it down."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("bundle", "student", "cases", "workspace"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--peers", type=Path, default=Path("bench/work/peers/bin/python"), help="Python with OpenVINO.")
    parser.add_argument("--work", type=Path, default=Path("bench/work"))
    parser.add_argument("--out", type=Path, default=Path("bench/results/speed.json"))
    parser.add_argument("--turns", type=int, default=3, help="Turns of the whole cases; nnU-Net runs in each.")
    given = parser.parse_args()
    cases = find_cases(given.cases)[:10]
    # A new process is born with its parent's peak memory on its account, so this one stays small: no torch in it.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
        apart.submit(nnunet_model, given.workspace, given.work / "nnunet-model").result()
    segment(cases[0], given.bundle, given.work / "warm-up")
    runs: dict[str, list[Run]] = {"glialite": [], "low_memory": [], "batch": [], "nnunet": []}
    reports, differ = [], []
    for turn in range(given.turns):
        print(f"whole cases, turn {turn + 1} of {given.turns}", file=sys.stderr, flush=True)
        for case in cases[turn :: given.turns]:
            cost, report = segment(case, given.bundle, given.work / "one")
            runs["glialite"].append(cost)
            reports.append(report["timings_s"] | {"start": cost.wall_s - sum(report["timings_s"].values())})
        cost, low = segment(cases[turn], given.bundle, given.work / "one", "--low-memory")
        runs["low_memory"].append(cost)
        usual = segment(cases[turn], given.bundle, given.work / "two")[1]
        differ.append(share_of_other_labels(low, usual))
        runs["batch"].append(batch(cases, given.bundle, given.work))
        runs["nnunet"].append(nnunet(cases[turn : turn + 1], given.work / "nnunet-model", given.work))
    print("the network alone", file=sys.stderr, flush=True)
    alone = engine_seconds(given.peers, given.student, given.bundle, cases[0], given.work)
    stages = {stage: round(statistics.median(r[stage] for r in reports), 4) for stage in reports[0]}
    size = sum(path.stat().st_size for path in given.bundle.iterdir())
    result = {
        "machine": machine(),
        "cases": len(cases),
        "whole_case": {name: middle(found) for name, found in runs.items()},
        "highest_peak_mb": {name: max(r.peak_mb for r in found) for name, found in runs.items()},
        "batch_per_case_s": round(middle(runs["batch"])["wall_s"] / len(cases), 3),
        "stages_s": stages,
        "network_alone": alone,
        "low_memory_differs": max(differ),
        "bundle_mb": round(size / 1e6, 2),
    }
    write_json(given.out, result)
    print(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
