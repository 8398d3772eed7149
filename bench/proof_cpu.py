"""The same answer on every processor: one bundle here and on emulated Nehalem, SandyBridge and Haswell, bit for bit.

`make proof-cpu` runs it. Each processor runs the network on two crops, in the compiled kernels and
in onnxruntime, and `glialite segment` on two phantoms (one of
them on other voxels than the model's, so that it is resampled), with 1 and 2 threads; SHA-256 of the logits and of the
label files must agree. That the test can fail is shown beside it: the same kind of network with weights of all 8 bits,
and the same bundle in FP32, need not agree. Without a bundle a student with random weights is quantised: agreement
is a matter of arithmetic, not of training.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import numpy.typing as npt
from glialite_runtime.bundle import Bundle, default_bundle, read_bundle, write_bundle
from glialite_runtime.command import run
from glialite_runtime.engine import Engine, OnnxEngine, open_engine
from glialite_runtime.errors import BackendUnavailableError, BundleError, CheckFailedError
from glialite_runtime.files import sha256_bytes, sha256_file
from glialite_runtime.processor import instruction_sets, processor_name
from glialite_runtime.sequences import SEQUENCES

if TYPE_CHECKING:
    from glialite_distill.phantom import Phantom
    from glialite_distill.student import Student

EMULATED: Final = ("Nehalem", "SandyBridge", "Haswell")
"""SSE4.2; AVX; AVX2, where 8-bit weights saturate. The emulator knows no AVX-512."""

THREADS: Final = (1, 2)
CROP: Final = (48, 64, 64)
RADIUS: Final = 24
LIMIT_S: Final = 900
PROVED: Final = ("golden crop", "large crop", "label map", "label map, resampled", "13-bit layers", "onnxruntime")
INFORMATION: Final = ("FP32", "8-bit weights")
GLIALITE: Final = "from glialite_runtime.cli import main; main()"


@dataclass(frozen=True)
class Inputs:
    """What every processor is given.

    The bundle, one with 13-bit layers, one with 8-bit weights as a control, a file of the large crop (4, z, y, x), and
    two case folders by column of the table.
    """

    bundle: Path
    wide: Path
    control: Path
    crop: Path
    cases: dict[str, Path]


def worker(bundle: Path, wide: Path, control: Path, crop: Path, threads: int) -> None:
    """Print the hashes of the logits of each network, as JSON; this is what runs on an emulated processor."""
    opened = read_bundle(bundle)
    graph = opened.graph("cpu")
    model, golden, large = opened.files[graph.file], opened.golden()[0], np.load(crop)
    ours = open_engine(opened, threads)
    runs: dict[str, tuple[Engine, npt.NDArray[np.float32]]] = {
        "golden crop": (ours, golden),
        "large crop": (ours, large),
        "13-bit layers": (open_engine(read_bundle(wide), threads), large),
        "onnxruntime": (OnnxEngine(graph, model, threads), large),
        "FP32": (OnnxEngine(graph, model, threads, dequantised=True), golden),
        "8-bit weights": (open_engine(read_bundle(control), threads), golden),
    }
    hashes = {name: sha256_bytes(np.ascontiguousarray(e.logits(image)).tobytes()) for name, (e, image) in runs.items()}
    print(json.dumps({"kernels": ours.kernels, **hashes}))


def measure(inputs: Inputs, processor: str | None, threads: int) -> dict[str, str]:
    """Return the hashes on one processor (None: this one) by the columns of the table, and the seconds."""
    emulator = [] if processor is None else [emulator_path(), "-cpu", processor]
    # A kernel choice inherited from the environment would crash, or hide, what an older processor chooses by itself.
    environment = {name: value for name, value in os.environ.items() if name != "OPENBLAS_CORETYPE"}
    environment |= {"OPENBLAS_NUM_THREADS": str(threads), "OMP_NUM_THREADS": str(threads)}

    def call(*arguments: object) -> str:
        done = subprocess.run(
            [*emulator, sys.executable, *(str(argument) for argument in arguments)],
            capture_output=True,
            text=True,
            check=False,
            timeout=LIMIT_S,
            env=environment,
        )
        if done.returncode:
            raise CheckFailedError(f"on {processor or 'this processor'}: exit {done.returncode}: {done.stderr[-500:]}")
        return done.stdout

    started = time.monotonic()
    found: dict[str, str] = json.loads(
        call(__file__, "--worker", inputs.wide, inputs.control, inputs.crop, threads, "--bundle", inputs.bundle)
    )
    with tempfile.TemporaryDirectory() as out:
        for column, case in inputs.cases.items():
            call("-c", GLIALITE, "segment", case, "--out", out, "--bundle", inputs.bundle, "--threads", threads)
            found[column] = sha256_file(Path(out) / case.name / f"{case.name}-seg.nii.gz")
    return {**found, "seconds": f"{time.monotonic() - started:.0f}"}


def emulator_path() -> str:
    """Return where qemu's user-mode emulator is; `BackendUnavailableError` when it is not installed."""
    found = shutil.which("qemu-x86_64") or shutil.which("qemu-x86_64-static")
    if found is None:
        raise BackendUnavailableError("qemu-x86_64 is not installed: apt-get install qemu-user")
    return found


def write_case(folder: Path, phantom: Phantom, spacing_mm: tuple[float, float, float]) -> Path:
    """Write what lies around a phantom's tumour as a case whose header says `spacing_mm` (z, y, x).

    A ball is enough of a brain for the whole chain, and small enough for an emulator.
    """
    import nibabel as nib

    middle = np.argwhere(phantom.labels > 0).mean(axis=0).reshape(3, 1, 1, 1)
    ball = np.square(np.indices(phantom.labels.shape) - middle).sum(axis=0) < RADIUS**2
    low, high = (edge(np.argwhere(ball), axis=0) for edge in (np.min, np.max))
    z, y, x = (slice(start, stop + 1) for start, stop in zip(low, high, strict=True))
    affine = np.diag([-spacing_mm[2], -spacing_mm[1], spacing_mm[0], 1.0])
    folder.mkdir()
    for sequence, image in zip(SEQUENCES, phantom.images, strict=True):
        cut = np.pad((image * ball)[z, y, x], 2)
        nib.save(nib.Nifti1Image(cut.T, affine), folder / f"{folder.name}-{sequence}.nii.gz")
    return folder


def smooth_noise(shape: tuple[int, int, int]) -> npt.NDArray[np.float32]:
    """Return an image (4, z, y, x) of seeded noise at two scales; edges are multiples of 8."""
    rng = np.random.default_rng(1)
    coarse = 2 * rng.standard_normal((len(SEQUENCES), *(n // 8 for n in shape)))
    return (np.kron(coarse, np.ones((8, 8, 8))) + rng.standard_normal((4, *shape))).astype(np.float32)


@contextmanager
def largest_weight(levels: int) -> Iterator[None]:
    """Quantise weights to ± `levels` instead of the ± 63 that make processors agree."""
    from glialite_export import int8_convolution

    usual = int8_convolution.MAX_WEIGHT
    int8_convolution.MAX_WEIGHT = levels  # type: ignore[misc]
    try:
        yield
    finally:
        int8_convolution.MAX_WEIGHT = usual  # type: ignore[misc]


def lively_student() -> Student:
    """Return student S with seeded random weights, scaled so that every layer and every region is used."""
    import torch
    from glialite_distill.student import STUDENTS, Student
    from glialite_export.pack import golden_crop

    torch.manual_seed(0)
    student = Student(STUDENTS["S"])
    image = torch.from_numpy(golden_crop(student.spec.divisor).astype(np.float32))[None]
    with torch.no_grad():
        for module in student.modules():
            if isinstance(module, torch.nn.BatchNorm3d):
                module.momentum = 1.0  # one pass makes its own statistics the ones that are kept
        student(image)
        logits = student.eval()(image)[0].flatten(1)
        scale = 2 / logits.std(dim=1)
        middle = torch.stack([torch.quantile(row, q) for row, q in zip(logits, (0.6, 0.75, 0.9), strict=True)])
        student.head.weight *= scale.reshape(1, -1, 1, 1, 1)
        student.head.bias.copy_((student.head.bias - middle) * scale)
    return student


def random_bundle(out: Path, *, levels: int) -> Path:
    """Write a bundle of student S with seeded random weights, quantised to ± `levels`; every third layer is wide."""
    from glialite_calibration.ranges import activation_ranges, collect
    from glialite_export.graph import OPSET
    from glialite_export.int8 import OutputGrid, observed_tensors, quantize, with_outputs
    from glialite_export.layers import with_layers
    from glialite_export.lower import lower
    from glialite_export.onnx_export import export_student
    from glialite_export.pack import Packing, bundle_files, golden_crop, manifest_of
    from glialite_runtime.decode import DecisionRule

    student = lively_student()
    divisor = student.spec.divisor
    crop = golden_crop(divisor)
    lowered = lower(export_student(student), divisor)
    tensors = observed_tensors(lowered)
    seen = np.ascontiguousarray(crop.astype(np.float32).transpose(1, 0, 2, 3))
    histograms = collect(with_outputs(lowered, tensors).SerializeToString(), tensors, [seen])
    ranges = activation_ranges(histograms, "min-max")
    wide = [node.output[0] for node in lowered.graph.node if node.op_type == "Conv"][1::3]
    with largest_weight(levels):
        graph = with_layers(quantize(lowered, ranges, OutputGrid((0.0, 0.0, 0.0)), wide)).SerializeToString()
    packing = Packing(
        name="random weights",
        graph=graph,
        divisor=divisor,
        opset=OPSET,
        spacing_mm=(2.0, 2.0, 2.0),
        decision=DecisionRule(),
        accepted_sequences=(SEQUENCES,),
        sites=("PHA",),
        training_cases=0,
        provenance={},
    )
    engine = OnnxEngine(manifest_of(packing).graphs[0], graph)
    write_bundle(out, manifest_of(packing), bundle_files(packing, crop, engine.logits))
    return out


def prepare(folder: Path, bundle: Path | None) -> tuple[Inputs, Bundle]:
    """Write what every processor is given into `folder`."""
    from glialite_distill.phantom import make_phantom, settings_for

    wide = random_bundle(folder / "wide", levels=63)
    if bundle is None:
        try:
            bundle = default_bundle()
        except BundleError:
            bundle = wide
    opened = read_bundle(bundle)
    crop = folder / "crop.npy"
    np.save(crop, smooth_noise(CROP))
    z, y, x = opened.manifest.spacing_mm
    phantom = make_phantom(31, settings_for(spacing_mm=2 if z > 1.5 else 1))
    cases = {
        PROVED[2]: write_case(folder / "P1", phantom, (z, y, x)),
        PROVED[3]: write_case(folder / "P2", phantom, (1.2 * z, 1.2 * y, 1.2 * x)),
    }
    return Inputs(bundle, wide, random_bundle(folder / "control", levels=127), crop, cases), opened


def markdown(rows: list[dict[str, str]], bundle: Bundle, emulator: str) -> str:
    """Return the table, a row a processor and number of threads, and what it was measured with."""
    import onnxruntime

    columns = ("processor", "threads", "kernels", *PROVED, *INFORMATION, "seconds")
    first = rows[0]

    def cell(row: dict[str, str], column: str) -> str:
        if column not in PROVED + INFORMATION:
            return row[column]
        return row[column][:8] + ("" if row[column] == first[column] else " **differs**")

    told = [name for name, there in instruction_sets().items() if there]
    lines = [
        "# Proof: the same bits on every processor",
        "",
        f"Written by `make proof-cpu` on {datetime.now(UTC):%Y-%m-%d}. Bundle: {bundle.manifest.name} "
        f"({bundle.identity[:16]}); onnxruntime {onnxruntime.__version__}, numpy {np.__version__}; "
        f"{emulator}. This processor: {processor_name()} ({', '.join(told)}).",
        "",
        "First 8 digits of the SHA-256 of the raw logits, and of the label file of a whole `glialite segment`. "
        "kernels: what ran all columns but the last three; onnxruntime: its integer kernels on the large crop. "
        "13-bit layers: a student with random weights of which every third layer is wide. "
        f"The columns {', '.join(INFORMATION)} are for comparison: FP32 is the same bundle dequantised; 8-bit weights "
        "is a random student whose weights use all 8 bits, which AVX2 kernels without VNNI add with saturation.",
        "",
        f"| {' | '.join(columns)} |",
        f"| {' | '.join('---' for _ in columns)} |",
        *(f"| {' | '.join(cell(row, column) for column in columns)} |" for row in rows),
        "",
    ]
    return "\n".join(lines)


def differing(rows: list[dict[str, str]], columns: tuple[str, ...]) -> list[str]:
    """Return the columns that are not the same in all rows."""
    return [column for column in columns if len({row[column] for row in rows}) > 1]


def main(args: list[str] | None = None) -> None:
    """Run the proof; `CheckFailedError` (exit 6) when any processor differs."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="default: the one installed, else random weights")
    parser.add_argument("--out", type=Path, help="Markdown file for the table, too")
    parser.add_argument("--worker", nargs=4, help=argparse.SUPPRESS)
    choice = parser.parse_args(args)
    if choice.worker:
        wide, control, crop, threads = choice.worker
        worker(choice.bundle, Path(wide), Path(control), Path(crop), int(threads))
        return
    emulator = emulator_path()
    rows: list[dict[str, str]] = []
    with tempfile.TemporaryDirectory(prefix="proof-cpu-") as folder:
        inputs, bundle = prepare(Path(folder), choice.bundle)
        for processor in (None, *EMULATED):
            for threads in THREADS:
                row = measure(inputs, processor, threads)
                rows.append({"processor": processor or "this one", "threads": str(threads), **row})
                print(rows[-1], file=sys.stderr)
    version = subprocess.run([emulator, "--version"], capture_output=True, text=True, check=True).stdout
    table = markdown(rows, bundle, version.partition(" (")[0])
    print(table)
    if choice.out:
        choice.out.write_text(table, encoding="utf-8")
    if wrong := differing(rows, PROVED):
        raise CheckFailedError(f"processors do not agree on: {', '.join(wrong)}; see the table")
    if rows[0]["onnxruntime"] != rows[0]["large crop"]:
        raise CheckFailedError("the compiled kernels and onnxruntime do not agree; see the table")
    if "8-bit weights" not in differing(rows, INFORMATION):
        raise CheckFailedError("8-bit weights agreed too, so this proof proves nothing; look at the control")


if __name__ == "__main__":
    sys.exit(run(main))
