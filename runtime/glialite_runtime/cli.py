"""``glialite``: the clinic's command. It parses, calls one function, and maps errors to exit codes."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from glialite_runtime import __version__
from glialite_runtime.cases import case_from_files, find_case, is_dicom_folder
from glialite_runtime.command import bar, emit, new_app, run, stop_event
from glialite_runtime.errors import BatchError, ConfigError, GliaLiteError, InputError
from glialite_runtime.launcher import check_computer, check_folder
from glialite_runtime.sequences import SEQUENCES

if TYPE_CHECKING:
    from glialite_runtime.clinic.arrivals import Arrival
    from glialite_runtime.dicom.study import Study
    from glialite_runtime.workflow import Result

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
_Raw = Annotated[
    bool, typer.Option("--raw", help="Scans as the scanner made them: align them, find the brain (approximate).")
]
_Language = Annotated[str, typer.Option("--language", help="Of pages and refusals: en, fr, pt or sw.")]
_Order = Annotated[
    str | None, typer.Option("--channel-order", help="What _0000 to _0003 are, e.g. t1n,t1c,t2w,t2f (nnU-Net names).")
]


@app.callback(invoke_without_command=True)
def _root(version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False) -> None:
    check_computer()  # nothing has imported numpy yet, which an older processor dies of without a word
    if version:
        emit({}, f"GliaLite {__version__}", as_json=False)


def _told_in_its_language(command: Callable[..., None]) -> Callable[..., None]:
    """Return a command that refuses in the language that its `--language` asks for."""

    @wraps(command)
    def told(**given: Any) -> None:
        from glialite_runtime.page.refusals import refused_in

        with refused_in(given["language"]):
            command(**given)

    return told


def _channel_order(text: str | None) -> tuple[str, ...] | None:
    if text is None:
        return None
    order = tuple(word.strip() for word in text.split(","))
    if sorted(order) != sorted(SEQUENCES):
        raise ConfigError(f"--channel-order {text!r}: name each of t1n, t1c, t2w and t2f once, separated by commas")
    return order


def _confirm(study: Study, *, ask: bool) -> Study:
    """Return a study as the operator wants it, who is shown which series is taken for which sequence."""
    from glialite_runtime.dicom.confirmation import confirmed, table_of

    if not ask:
        typer.echo(table_of(study), err=True)
        return study
    if not sys.stdin.isatty():
        raise ConfigError("which series is which must be confirmed: run this in a terminal, or add --yes")
    return confirmed(study, lambda text: str(typer.prompt(text, err=True)))


@app.command(
    epilog="Examples:  glialite segment BraTS-SSA-00002-000 --out results   |   "
    "glialite segment --t1n a.nii.gz --t1c b.nii.gz --t2w c.nii.gz --t2f d.nii.gz --case P17 --out results"
)
@_told_in_its_language
def segment(
    out: _Out,
    case_dir: Annotated[
        Path | None, typer.Argument(help="Case folder with one NIfTI file a sequence, or a DICOM study.")
    ] = None,
    t1n: Annotated[Path | None, typer.Option(help="T1 without contrast.")] = None,
    t1c: Annotated[Path | None, typer.Option(help="T1 with contrast.")] = None,
    t2w: Annotated[Path | None, typer.Option(help="T2.")] = None,
    t2f: Annotated[Path | None, typer.Option(help="FLAIR.")] = None,
    bundle: _Bundle = None,
    case: Annotated[str | None, typer.Option("--case", help="Name of the case.")] = None,
    prior: Annotated[Path | None, typer.Option(help="Report (JSON) of an earlier study, to compare with.")] = None,
    language: _Language = "en",
    raw: _Raw = False,
    brain_mask: Annotated[
        Path | None, typer.Option("--brain-mask", metavar="FILE", help="With --raw: your own mask, on the T1c scan.")
    ] = None,
    threads: _Threads = 0,
    low_memory: _LowMemory = False,
    channel_order: _Order = None,
    study: Annotated[
        str | None, typer.Option("--study", help="Which DICOM study of several: its number, or how its UID begins.")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask which DICOM series is which.")] = False,
    as_json: _Json = False,
) -> None:
    """Segment one case: label map, volumes in mL and a picture report."""
    from glialite_runtime.report import ReportOptions
    from glialite_runtime.workflow import open_model, segment_case

    check_folder(out)
    if brain_mask is not None and not raw:
        raise ConfigError("--brain-mask belongs to --raw: other scans are skull-stripped already")
    options = ReportOptions(language, prior=prior, raw=raw, brain_mask=brain_mask)
    files = {s: p for s, p in zip(SEQUENCES, (t1n, t1c, t2w, t2f), strict=True) if p is not None}
    if (case_dir is None) == (not files):
        raise ConfigError("give either a case folder or the files with --t1n --t1c --t2w --t2f")
    if study is not None and (case_dir is None or not is_dicom_folder(case_dir)):
        raise ConfigError("--study chooses among the studies of a DICOM folder; give that folder")
    order = _channel_order(channel_order)
    if case_dir is not None and is_dicom_folder(case_dir):
        from glialite_runtime.dicom.study import converted_study

        with converted_study(case_dir, out, case, lambda found: _confirm(found, ask=not yes), study) as found:
            done = segment_case(found, open_model(bundle, threads, low_memory=low_memory), out, options)
    else:
        found = find_case(case_dir, order) if case_dir else case_from_files(files, case)
        found = case_from_files(found.paths, case or found.name)
        done = segment_case(found, open_model(bundle, threads, low_memory=low_memory), out, options)
    emit(done.report, done.text, as_json=as_json)


@app.command(epilog="Example:  glialite batch cases --out results   (run it again to continue after a power cut)")
@_told_in_its_language
def batch(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Folder that holds a folder (or zip) a case.")],
    out: _Out,
    bundle: _Bundle = None,
    language: _Language = "en",
    raw: _Raw = False,
    threads: _Threads = 0,
    low_memory: _LowMemory = False,
    channel_order: _Order = None,
    as_json: _Json = False,
) -> None:
    """Segment every case of a folder; finished ones are skipped, failed ones are listed at the end.

    A case is a folder, a zip, loose files that begin alike, or a DICOM study, of which a folder may hold several. As
    many are worked on at a time as there are cores, and memory for.
    """
    from glialite_runtime.batch import plan_workers, run_side_by_side, work_on_arrival
    from glialite_runtime.clinic.arrivals import by_study, find_arrivals
    from glialite_runtime.page.refusals import refusal
    from glialite_runtime.page.words import words_in
    from glialite_runtime.report import ReportOptions
    from glialite_runtime.workflow import open_model, segment_case

    check_folder(out)
    words, options = words_in(language), ReportOptions(language, raw=raw)
    order = _channel_order(channel_order)
    found = (arrival for arrival in find_arrivals(folder, order) if arrival.path.resolve() != out.resolve())
    cases = by_study([arrival for arrival in found if arrival.holds_images])
    if not cases:
        raise InputError(f"{folder} holds no case: no folder, zip or loose files with NIfTI or DICOM images")
    workers = plan_workers(len(cases), threads, low_memory=low_memory, raw=raw)
    model = open_model(bundle, threads if workers == 1 else 1, low_memory=low_memory)

    def work(arrival: Arrival) -> Result:
        return work_on_arrival(arrival, out, order, lambda case: segment_case(case, model, out, options))

    results, lines, failed = [], [], []
    for case, outcome in bar(run_side_by_side(cases, work, workers), label="Segmenting", length=len(cases)):
        if isinstance(outcome, GliaLiteError):
            failed.append((case.name, str(outcome)))
        else:
            results.append(outcome.report)
            lines.append(outcome.text)
    named = [f"{name}: {sentence}" for name, sentence in failed]
    emit({"cases": results, "failed": named}, "\n".join(lines), as_json=as_json)
    if failed:
        said = "\n  ".join(f"{name}: {refusal(sentence, words)}" for name, sentence in failed)
        raise BatchError(words.say("some_not_segmented", failed=len(failed), cases=len(cases), said=said))


@app.command(
    epilog="Example:  glialite watch inbox outbox   (Ctrl-C ends it in order; start it again and it goes on)   |   "
    "glialite watch inbox outbox --once"
)
@_told_in_its_language
def watch(
    inbox: Annotated[Path, typer.Argument(metavar="INBOX", help="Folder in which cases arrive; it is only read.")],
    outbox: Annotated[
        Path,
        typer.Argument(metavar="OUTBOX", help="Folder for the results and the journal."),
    ],
    bundle: _Bundle = None,
    language: _Language = "en",
    raw: _Raw = False,
    threads: _Threads = 0,
    low_memory: _LowMemory = False,
    channel_order: _Order = None,
    once: Annotated[bool, typer.Option("--once", help="End when nothing is left to do.")] = False,
    as_json: _Json = False,
) -> None:
    """Segment what arrives in a folder: case folders, zips, or four files that begin alike.

    A case is begun when its files have stopped changing. After a power cut, start it again: finished cases stay
    finished, and one that failed is tried again only when its files change.
    """
    from glialite_runtime.clinic.watch import WatchOptions
    from glialite_runtime.clinic.watch import watch as watch_folder
    from glialite_runtime.page.refusals import refusal
    from glialite_runtime.page.words import words_in
    from glialite_runtime.report import ReportOptions
    from glialite_runtime.workflow import open_model, segment_case

    check_folder(outbox)
    words, wanted = words_in(language), ReportOptions(language, raw=raw)
    model = open_model(bundle, threads, low_memory=low_memory)

    def tell(event: str, case: str, sentence: str) -> None:
        said = refusal(sentence, words)
        text = words.say("not_segmented", name=case, sentence=said) if event == "failed" else said
        typer.echo(json.dumps({"event": event, "case": case, "sentence": sentence}) if as_json else text)

    with stop_event() as stop:
        failed = watch_folder(
            inbox,
            outbox,
            lambda case: segment_case(case, model, outbox, wanted).text.partition("\n")[0],
            tell,
            stop,
            WatchOptions(channel_order=_channel_order(channel_order), once=once, language=language),
        )
    if once and failed:
        raise BatchError(f"{failed} cases in {inbox} were not segmented; {outbox} says why")


@app.command(epilog="Example:  glialite serve --out results")
@_told_in_its_language
def serve(
    out: Annotated[
        Path | None, typer.Option("--out", help="Keep the results here. Default: until the end only.")
    ] = None,
    bundle: _Bundle = None,
    language: _Language = "en",
    threads: _Threads = 0,
    low_memory: _LowMemory = False,
    port: Annotated[int, typer.Option("--port", min=0, max=65535, help="0: any that is free.")] = 0,
    browser: Annotated[bool, typer.Option("--browser/--no-browser", help="Open the page in the browser.")] = True,
) -> None:
    """Open a page on this computer where a case is dropped, looked at and downloaded.

    Only this computer can reach it, and only with the address that is printed.
    """
    import webbrowser
    from threading import Thread

    from glialite_runtime.clinic.serve import ServeOptions
    from glialite_runtime.clinic.serve import serve as serve_page
    from glialite_runtime.workflow import open_model, segment_case

    how = ServeOptions(out=out, port=port, language=language)
    model = open_model(bundle, threads, low_memory=low_memory)

    def announce(address: str) -> None:
        typer.echo(address)
        if browser:
            # some browsers only return at their end
            Thread(target=webbrowser.open, args=(address,), daemon=True).start()

    shown = {"name": model.bundle.manifest.name, "intended_use": model.bundle.manifest.intended_use}
    with stop_event() as stop:
        serve_page(
            lambda case, into, wanted: segment_case(case, model, into, wanted).report,
            shown,
            announce,
            stop,
            how,
        )


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
            "decision": bundle.manifest.decision.to_json(),
            "sha256": bundle.identity,
            "bytes": sum(len(content) for content in bundle.files.values()),
        }
    else:
        facts = _image_facts(path)
    emit(facts, "\n".join(f"{key}: {value}" for key, value in facts.items()), as_json=as_json)


def _image_facts(path: Path) -> dict[str, Any]:
    import numpy as np

    from glialite_runtime.cases import sequence_of
    from glialite_runtime.nifti import load_nibabel, read

    image, aff2axcodes = read(path), load_nibabel().aff2axcodes
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


@app.command(
    epilog="Examples:  glialite verify results/P17/P17-report.json   |   glialite verify results/audit.jsonl   |   "
    "glialite verify results/P17/P17-report.json --corrected P17-fixed.nii.gz --scans P17"
)
def verify(
    report: Annotated[Path, typer.Argument(metavar="REPORT|LOG", help="<case>-report.json, or audit.jsonl")],
    corrected: Annotated[
        Path | None, typer.Option("--corrected", metavar="MASK", help="Label map corrected by hand: measure it too.")
    ] = None,
    scans: Annotated[
        Path | None, typer.Option("--scans", metavar="CASE_DIR", help="With --corrected: the case, for pictures.")
    ] = None,
    language: Annotated[str | None, typer.Option(help="With --corrected: en, fr, pt or sw.")] = None,
    channel_order: _Order = None,
    as_json: _Json = False,
) -> None:
    """Derive a report again from its mask and check every hash; measure a mask that was corrected by hand."""
    from glialite_runtime.trust.audit_log import LOG, verify_log
    from glialite_runtime.verify import verify_report

    if report.name == LOG:
        log = verify_log(report.parent)
        text = f"{report}: {log['entries']} entries, none changed or missing; all {log['results']} results are in it"
        emit(log, f"{text}; last hash {log['last']}", as_json=as_json)
        return
    if corrected is None and (scans is not None or language is not None):
        raise ConfigError("--scans and --language belong to --corrected MASK")
    if corrected is not None:
        from glialite_runtime.correction import correct

        case = find_case(scans, _channel_order(channel_order)) if scans is not None else None
        report = correct(report, corrected, case, language)
    result = verify_report(report)
    dice = "".join(f", Dice {r} {d:.3f}" for r, d in result.get("dice", {}).items() if d is not None)
    text = f"{result['case']}: {len(result['files'])} files unchanged, everything measured follows from the mask{dice}"
    emit({**result, "report": str(report)}, f"{text}\n  {report}" if corrected else text, as_json=as_json)


def main() -> None:
    """Run the command and exit with its code."""
    # numpy's matrix products here are small: a second thread would only spin beside the network's. Read at its import.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    raise SystemExit(run(app))
