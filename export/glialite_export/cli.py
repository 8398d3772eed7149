"""``edge-export``: from a trained student to a file that a clinic can run. It parses, calls one function, reports."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer
from glialite_runtime.command import bar, emit, log_to_stderr, new_app, run
from glialite_runtime.errors import BackendUnavailableError, ConfigError, ParityError

if TYPE_CHECKING:
    from glialite_runtime.bundle import Bundle

    from glialite_export.plan import Plan

__all__ = ["app", "main"]

app = new_app("Turn a trained student into a bundle of at most 5 MB for clinics, held to it at every step.")

_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]

_TARGETS: Final = {"cpu": "glialite_export.build", "gpu": "glialite_export.build_gpu"}
"""What builds a bundle for each target."""

_FP32_S_PER_MVOXEL: Final = 0.8
_INT8_S_PER_MVOXEL: Final = 0.4  # with reading and decoding
_NATIVE_S_PER_MVOXEL: Final = 1.3
_START_S: Final = 8.0


@app.command(
    epilog="Examples:  edge-export build --student W/students/S/student.pt --workspace W --out bundle   |   "
    "edge-export build --student W/students/S/student.pt --workspace W --out bundle.zip --dry-run   |   "
    "edge-export build --student W/students/S/student.pt --workspace W --out gpu-bundle --target gpu"
)
def build(
    student: Annotated[Path, typer.Option("--student", help="student.pt that `distill train` wrote.")],
    workspace: Annotated[Path, typer.Option("--workspace", help="Workspace that the student was trained in.")],
    out: Annotated[Path, typer.Option("--out", help="The bundle: a folder, or a zip when the name ends in .zip.")],
    target: Annotated[str, typer.Option("--target", help="cpu: clinics; gpu: FP16 and INT8 for TensorRT.")] = "cpu",
    ranges: Annotated[
        str,
        typer.Option(
            "--ranges",
            help="Activation ranges: auto tries them all; min-max-doubled, min-max, percentile-99.999, "
            "percentile-99.99, mse, entropy.",
        ),
    ] = "auto",
    reliability: Annotated[
        Path | None,
        typer.Option("--reliability", help="JSON of `distill evaluate --fit-on`: reports give intervals. Not for gpu."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Check the inputs, forecast, write nothing.")] = False,
    as_json: _Json = False,
) -> None:
    """Build a bundle: ONNX, exact 2-D lowering, INT8, with a parity gate after each hop.

    For --target gpu: native 3-D graphs in FP16 and INT8, checked against TensorRT's rules; neither a GPU nor TensorRT
    is needed to build it. A build that is there already, from the same inputs, is left as it is.
    """
    if target not in _TARGETS:
        raise ConfigError(f"--target {target}: choose {' or '.join(_TARGETS)}")
    if target == "gpu" and reliability is not None:
        raise ConfigError("--reliability is for clinic bundles: leave it out, or choose --target cpu")
    asked = {"student": student, "workspace": workspace, "out": out, "method": ranges, "reliability": reliability}
    plan, module = _plan(target, asked)
    if dry_run:
        done = module.finished(plan) is not None
        forecast = _forecast(plan, done=done)
        if target == "gpu" and not done:
            forecast |= module.forecast(plan)
        emit(forecast, "\n".join(f"{name}: {value}" for name, value in forecast.items()), as_json=as_json)
        return
    log_to_stderr()
    try:
        bundle = module.build(plan, lambda items, label: _tracked(list(items), label))
    except ParityError as error:
        if as_json:
            emit({"error": str(error), "report": error.report}, "", as_json=True)
        raise
    emit(_summary(bundle, out), _text(bundle, out), as_json=as_json)


def _plan(target: str, asked: dict[str, Any]) -> tuple[Plan, Any]:
    try:
        module = import_module(_TARGETS[target])
    except ImportError as error:
        raise BackendUnavailableError(
            f"edge-export needs {error.name}; install it: pip install 'glialite[export,train]'"
        ) from error
    return module.plan_build(module.Request(**asked)), module


def _tracked(items: list[str], label: str) -> Iterable[str]:
    return bar(items, label=label)


def _forecast(plan: Plan, *, done: bool) -> dict[str, Any]:
    """Return what a build will cost, from measured rates times voxels; two cores."""
    from glialite_export.int8_choice import methods_for

    cases = (*plan.range_cases, *plan.selection_cases, *plan.parity_cases)
    voxels = {case: 1e-6 * _voxels(plan, case) for case in set(cases)}
    exact = 2 * min(0.27, max(voxels.values())) * len(plan.parity_cases[:2])
    observed, selection, gate = (
        sum(voxels[case] for case in part) for part in (plan.range_cases, plan.selection_cases, plan.parity_cases)
    )
    tried = len(methods_for(plan.request.method)) + 1  # and one graph with a wide layer
    fp32, int8 = 2 * observed + selection + gate, tried * selection + gate
    parameters = sum(tensor.numel() for tensor in plan.file.state.values())
    return {
        "out": str(plan.request.out),
        "already_built": done,
        "range_cases": list(plan.range_cases),
        "selection_cases": list(plan.selection_cases),
        "parity_cases": list(plan.parity_cases),
        "seconds": 0
        if done
        else round(_START_S + exact * _NATIVE_S_PER_MVOXEL + fp32 * _FP32_S_PER_MVOXEL + int8 * _INT8_S_PER_MVOXEL),
        "disk_mb": round(1.2 * parameters / 1e6 + 0.4, 1),
        "memory_mb": round(700 + 350 * max(voxels.values())),
    }


def _voxels(plan: Plan, case: str) -> int:
    z, y, x = plan.workspace.shape_of(case)
    return z * y * x


def _summary(bundle: Bundle, out: Path) -> dict[str, Any]:
    return {
        "bundle": str(out),
        "name": bundle.manifest.name,
        "sha256": bundle.identity,
        "bytes": sum(len(content) for content in bundle.files.values()),
        "trained_on": bundle.manifest.trained_on,
        "parity": bundle.manifest.provenance.get("parity"),
    }


def _text(bundle: Bundle, out: Path) -> str:
    size = sum(len(content) for content in bundle.files.values())
    lines = [f"{out}: {bundle.manifest.name}, {size / 1e6:.2f} MB. {bundle.manifest.trained_on}"]
    for hop in bundle.manifest.provenance.get("parity", []):
        limits = {row["figure"] for row in hop["limits"]}
        figures = ", ".join(f"{name} {_figure(value)}" for name, value in hop["figures"].items() if name in limits)
        lines.append(f"  {hop['hop']}: {figures}")
    return "\n".join(lines)


def _figure(value: Any) -> str:
    if isinstance(value, dict):
        return " / ".join(f"{region} {_figure(item)}" for region, item in value.items())
    return "not judged" if value is None else f"{value:.2g}" if abs(value) < 0.1 else f"{value:.3f}"


@app.command(epilog="Example:  edge-export verify bundle")
def verify(
    bundle: Annotated[Path, typer.Argument(help="Bundle: folder or zip.")],
    threads: Annotated[int, typer.Option("--threads", min=0, max=64, help="Threads; 0: one a core.")] = 0,
    as_json: _Json = False,
) -> None:
    """Check every byte of a bundle, and that its golden crop comes out bit for bit here.

    For a GPU bundle: its graphs keep TensorRT's rules, and its golden crop comes out within the tolerance, by
    onnxruntime; no GPU is needed.
    """
    from glialite_runtime.bundle import read_bundle
    from glialite_runtime.verify import selftest

    opened = read_bundle(bundle)
    if all(graph.target == "gpu" for graph in opened.manifest.graphs):
        from glialite_export.verify_gpu import verify_gpu

        checked = verify_gpu(opened, threads)
        text = f"{bundle}: whole, keeps TensorRT's rules, golden crop within its tolerance ({checked['seconds']} s)"
        emit({**_summary(opened, bundle), **checked, "bundle": str(bundle)}, text, as_json=as_json)
        return
    tested = selftest(opened, threads)
    emit(
        {**_summary(opened, bundle), **tested, "bundle": str(bundle)},
        f"{bundle}: whole, and the golden crop is bit-identical ({tested['seconds']} s)",
        as_json=as_json,
    )


@app.command(
    epilog="Examples:  edge-export package --bundle bundle --out dist   |   "
    "edge-export package --bundle bundle --out dist --trust release.pub"
)
def package(
    out: Annotated[Path, typer.Option("--out", help="Folder for the program and its archive.")],
    bundle: Annotated[Path | None, typer.Option("--bundle", help="Bundle inside. Default: the one installed.")] = None,
    trust: Annotated[
        list[Path] | None,
        typer.Option("--trust", help="Public key; the program then uses only bundles that it signed. Repeatable."),
    ] = None,
    as_json: _Json = False,
) -> None:
    """Package the clinic's program: one folder that needs no Python, with a bundle inside, and its archive.

    Made for the system that this runs on; takes minutes. It says which glibc the program needs, and the program is
    tried without an environment before it appears.
    """
    from dataclasses import asdict

    from glialite_runtime.bundle import default_bundle

    from glialite_export.executable import package as build_package

    made = build_package(bundle or default_bundle(), out, tuple(trust or ()))
    library = f"needs glibc {made.glibc} ({made.glibc_because_of}), " if made.glibc else ""
    text = (
        f"{made.folder}: {made.folder_bytes / 1e6:.0f} MB, {library}cold --help {made.help_seconds} s\n"
        f"{made.archive}: {made.archive_bytes / 1e6:.0f} MB"
    )
    emit({**asdict(made), "folder": str(made.folder), "archive": str(made.archive)}, text, as_json=as_json)


@app.command(
    epilog="Example:  edge-export keygen release   (release.key signs, release.pub goes to edge-export package)"
)
def keygen(
    stem: Annotated[Path, typer.Argument(metavar="NAME", help="NAME.key and NAME.pub are written.")],
) -> None:
    """Make a pair of keys to sign bundles with, in minisign's format, without a password."""
    from glialite_export.signing import make_keys

    secret, public = make_keys(stem)
    emit({}, f"{secret}: keep it secret, and a copy of it safe\n{public}: give it away", as_json=False)


@app.command(epilog="Example:  edge-export sign bundle --key release.key")
def sign(
    bundle: Annotated[Path, typer.Argument(help="Bundle: folder or zip.")],
    key: Annotated[Path, typer.Option("--key", help="Secret key of edge-export keygen or minisign -GW.")],
) -> None:
    """Sign a bundle in place; minisign can check it, too: minisign -Vm BUNDLE/bundle.json -p NAME.pub."""
    from glialite_export.signing import read_secret_key, sign_bundle

    signed = sign_bundle(bundle, read_secret_key(key))
    emit({}, f"{bundle}: {signed.manifest.name} is signed", as_json=False)


def main() -> None:
    """Entry point of ``edge-export``."""
    raise SystemExit(run(app))
