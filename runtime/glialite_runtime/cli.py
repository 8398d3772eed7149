"""``glialite``: the clinic's command. It parses, calls one function, and maps errors to exit codes."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glialite_runtime import __version__
from glialite_runtime.cases import Case, case_from_files, find_case, find_cases
from glialite_runtime.command import bar, emit, new_app, not_built_yet, run
from glialite_runtime.errors import BatchError, ConfigError, GliaLiteError
from glialite_runtime.processor import require_x86_64_v2
from glialite_runtime.sequences import REGIONS, SEQUENCES

if TYPE_CHECKING:
    from glialite_runtime.bundle import Bundle
    from glialite_runtime.engine import Engine

__all__ = ["app", "main"]

app = new_app(
    "Outline a brain glioma on MRI, offline and without a GPU. Research use: decision support, not a diagnosis."
)

_Bundle = Annotated[
    Path | None, typer.Option("--bundle", help="Model bundle (folder or zip). Default: the one installed.")
]
_Out = Annotated[Path, typer.Option("--out", help="Folder for the results.")]
_Threads = Annotated[int, typer.Option("--threads", min=0, max=64, help="Threads of the network; 0: one a core.")]
_Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
_LowMemory = Annotated[
    bool, typer.Option("--low-memory", help="At most 400 MB: one case at a time, in the compiled kernels.")
]
_Order = Annotated[
    str | None, typer.Option("--channel-order", help="What _0000 to _0003 are, e.g. t1n,t1c,t2w,t2f (nnU-Net names).")
]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    require_x86_64_v2()  # nothing has imported numpy yet, which an older processor dies of without a word
    if version:
        emit({}, f"GliaLite {__version__}", as_json=False)


def _channel_order(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    order = tuple(word.strip() for word in text.split(","))
    if sorted(order) != sorted(SEQUENCES):
        raise ConfigError(f"--channel-order {text!r}: name each of {', '.join(SEQUENCES)} once, separated by commas")
    return order


def _open(bundle: Path | None, threads: int, low_memory: bool) -> tuple[Bundle, Engine]:
    from glialite_runtime.bundle import default_bundle, read_bundle
    from glialite_runtime.engine import open_engine

    opened = read_bundle(bundle or default_bundle())
    return opened, open_engine(opened, threads, low_memory=low_memory)


def _refuse_unbuilt(prior: Path | None, language: str) -> None:
    if prior is not None:
        raise not_built_yet("--prior (comparison with an earlier study)")
    if language not in ("en", "fr", "pt", "sw"):
        raise ConfigError(f"--language {language}: choose en, fr, pt or sw")
    if language != "en":
        raise not_built_yet(f"--language {language}")


def _segment_one(case: Case, bundle: Bundle, engine: Engine, out: Path) -> tuple[dict[str, Any], str]:
    """Segment a case unless that is done already; return its summary for machines and for people."""
    import json

    from glialite_runtime.predict import finished, outputs_of, segment, write

    again = finished(case, bundle, out)
    if not again:
        write(segment(case, bundle, engine), bundle, out)
    outputs = outputs_of(case, out)
    report = json.loads(outputs.report.read_bytes())
    volumes = ", ".join(
        f"{region} {report['volumes_ml'][region]:.1f} mL" if report["volumes_ml"][region] is not None else f"{region} -"
        for region in REGIONS
    )
    seconds = sum(report["timings_s"].values())
    text = f"{case.name}: {volumes} ({'already done' if again else f'{seconds:.1f} s'})\n  {outputs.page}"
    return {**report, "outputs": {"labels": str(outputs.labels), "page": str(outputs.page)}}, text


@app.command(
    epilog="Examples:  glialite segment BraTS-SSA-00002-000 --out results   |   "
    "glialite segment --t1n a.nii.gz --t1c b.nii.gz --t2w c.nii.gz --t2f d.nii.gz --case P17 --out results"
)
def segment(
    out: _Out,
    case_dir: Annotated[Path | None, typer.Argument(help="Case folder with one NIfTI file a sequence.")] = None,
    t1n: Annotated[Path | None, typer.Option(help="T1 without contrast.")] = None,
    t1c: Annotated[Path | None, typer.Option(help="T1 with contrast.")] = None,
    t2w: Annotated[Path | None, typer.Option(help="T2.")] = None,
    t2f: Annotated[Path | None, typer.Option(help="FLAIR.")] = None,
    bundle: _Bundle = None,
    case: Annotated[str | None, typer.Option("--case", help="Name of the case.")] = None,
    prior: Annotated[Path | None, typer.Option(help="Earlier report (not built yet).")] = None,
    language: Annotated[str, typer.Option(help="en; fr, pt and sw are not built yet.")] = "en",
    threads: _Threads = 0,
    low_memory: _LowMemory = False,
    channel_order: _Order = None,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing (NIfTI input has no questions).")] = False,
    as_json: _Json = False,
) -> None:
    """Segment one case: label map, volumes in mL and a picture report."""
    del yes
    _refuse_unbuilt(prior, language)
    files = {s: p for s, p in zip(SEQUENCES, (t1n, t1c, t2w, t2f), strict=True) if p is not None}
    if (case_dir is None) == (not files):
        raise ConfigError("give either a case folder or the files with --t1n --t1c --t2w --t2f")
    found = find_case(case_dir, _channel_order(channel_order)) if case_dir else case_from_files(files, case)
    if case is not None:
        found = case_from_files(found.paths, case)
    result, text = _segment_one(found, *_open(bundle, threads, low_memory), out)
    emit(result, text, as_json=as_json)


@app.command(epilog="Example:  glialite batch cases --out results   (run it again to continue after a power cut)")
def batch(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that holds a folder a case.")],
    out: _Out,
    bundle: _Bundle = None,
    threads: _Threads = 0,
    low_memory: _LowMemory = False,
    channel_order: _Order = None,
    as_json: _Json = False,
) -> None:
    """Segment every case of a folder; finished ones are skipped, failed ones are listed at the end.

    As many cases are worked on at a time as there are cores, and memory for.
    """
    from glialite_runtime.batch import plan_workers, run_side_by_side

    cases = find_cases(folder, _channel_order(channel_order))
    workers = plan_workers(len(cases), threads, low_memory=low_memory)
    opened, engine = _open(bundle, threads if workers == 1 else 1, low_memory)
    done = run_side_by_side(cases, lambda case: _segment_one(case, opened, engine, out), workers)
    results, lines, failed = [], [], []
    for case, outcome in bar(done, label="Segmenting", length=len(cases)):
        if isinstance(outcome, GliaLiteError):
            failed.append(f"{case.name}: {outcome}")
        else:
            results.append(outcome[0])
            lines.append(outcome[1])
    emit({"cases": results, "failed": failed}, "\n".join(lines), as_json=as_json)
    if failed:
        raise BatchError(f"{len(failed)} of {len(cases)} cases were not segmented:\n  " + "\n  ".join(failed))


@app.command()
def watch(inbox: Path, outbox: Path) -> None:
    """Segment what arrives in a folder (not built yet)."""
    raise not_built_yet("glialite watch")


@app.command()
def serve() -> None:
    """Open a page on this computer where a case is dropped (not built yet)."""
    raise not_built_yet("glialite serve")


@app.command(epilog="Example:  glialite selftest   (exit code 6: works, but slower and in FP32; see the sentence)")
def selftest(bundle: _Bundle = None, threads: _Threads = 0, as_json: _Json = False) -> None:
    """Check that the network gives, on this computer, the numbers it gave where it was made; time a whole case."""
    from glialite_runtime.bundle import default_bundle, read_bundle
    from glialite_runtime.trial import run_trial, trial_text
    from glialite_runtime.verify import selftest as check

    opened = read_bundle(bundle or default_bundle())
    result = run_trial(opened, threads)
    emit(result, trial_text(result), as_json=as_json)
    check(opened, threads)


@app.command(epilog="Examples:  glialite inspect scan.nii.gz   |   glialite inspect bundle")
def inspect(
    path: Annotated[Path, typer.Argument(metavar="FILE|BUNDLE", help="NIfTI file, or bundle.")], as_json: _Json = False
) -> None:
    """Describe an image file or a model bundle, checked."""
    if path.is_dir() or path.suffix == ".zip":
        from dataclasses import asdict

        from glialite_runtime.bundle import read_bundle

        bundle = read_bundle(path)
        facts: dict[str, Any] = {
            **asdict(bundle.manifest),
            "sha256": bundle.identity,
            "bytes": sum(len(content) for content in bundle.files.values()),
        }
        facts["decision"].pop("logit_thresholds")
    else:
        facts = _image_facts(path)
    emit(facts, "\n".join(f"{key}: {value}" for key, value in facts.items()), as_json=as_json)


def _image_facts(path: Path) -> dict[str, Any]:
    import numpy as np
    from nibabel.orientations import aff2axcodes

    from glialite_runtime.cases import sequence_of
    from glialite_runtime.nifti import read

    image = read(path)
    return {
        "shape": list(image.data.shape),
        "voxel_mm": np.linalg.norm(image.affine[:3, :3], axis=0).round(4).tolist(),
        "axes": "".join(aff2axcodes(image.affine)),
        "type": str(image.data.dtype),
        "smallest": float(image.data.min()),
        "largest": float(image.data.max()),
        "not_zero": round(float(np.count_nonzero(image.data)) / image.data.size, 4),
        "sequence_by_name": sequence_of(path),
    }


@app.command(epilog="Example:  glialite verify results/P17/P17-report.json")
def verify(
    report: Annotated[Path, typer.Argument(metavar="REPORT", help="<case>-report.json")], as_json: _Json = False
) -> None:
    """Derive the volumes of a report again from its mask and check every hash."""
    from glialite_runtime.verify import verify_report

    result = verify_report(report)
    emit(
        result,
        f"{result['case']}: {len(result['files'])} files unchanged, volumes follow from the mask",
        as_json=as_json,
    )


def main() -> None:
    """Run the command and exit with its code."""
    # numpy's matrix products here are small: a second thread would only spin beside the network's. Read at its import.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    raise SystemExit(run(app))
