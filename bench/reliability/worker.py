"""A long-lived process that works on one damaged case after the other under a memory limit, and says what it made."""

from __future__ import annotations

import contextlib
import json
import resource
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from glialite_runtime.errors import InputError

from bench.reliability.damage import BYTES, NIFTI, damaged
from bench.reliability.ledger import WORK

LIMIT_BYTES = 700 << 20

Work = Callable[[Path, Path], str]
"""From a damaged folder and an empty one for results to a word: what was made of it; raises `InputError`."""


def nifti_work(bundle_path: Path) -> Work:
    """Return what segments a case folder, writes its results and looks that they carry a verdict."""
    from glialite_runtime.bundle import read_bundle
    from glialite_runtime.cases import find_case
    from glialite_runtime.engine import open_engine
    from glialite_runtime.predict import segment, write
    from glialite_runtime.verify import verify_report

    bundle = read_bundle(bundle_path)
    engine = open_engine(bundle, 1)

    def work(folder: Path, out: Path) -> str:
        outputs = write(segment(find_case(folder), bundle, engine), bundle, out)
        verify_report(outputs.report)
        verdict = json.loads(outputs.report.read_bytes())["quality"]["verdict"]
        if verdict not in ("good", "check"):
            raise ValueError(f"verdict {verdict!r}")
        return f"segmented, {verdict}"

    return work


def dicom_work() -> Work:
    """Return what reads a study and converts every series that is said to be usable."""
    from glialite_runtime import nifti
    from glialite_runtime.dicom.conversion import convert_series
    from glialite_runtime.dicom.series import scan_folder
    from glialite_runtime.dicom.study import read_study

    def work(folder: Path, out: Path) -> str:
        with contextlib.suppress(InputError):  # no glioma protocol: its series are converted all the same
            read_study(folder)
        usable = [series for series in scan_folder(folder).series if not series.problem]
        for number, series in enumerate(usable):
            nifti.read(convert_series(series, out / str(number)))
        return f"{len(usable)} series converted"

    return work


def trial(work: Work, kinds: Mapping[str, Any], base: Path, scratch: Path, number: int) -> dict[str, Any]:
    """Damage one file of a copy of the base folder and work on it."""
    folder, out = scratch / base.name, scratch / "out"
    for used in (folder, out):
        shutil.rmtree(used, ignore_errors=True)
    shutil.copytree(base, folder)
    files = sorted(p for p in folder.rglob("*") if p.is_file())
    target = files[number // len(kinds) % len(files)]  # all are hit in turn
    kind, content = damaged(target.read_bytes(), kinds, number)
    target.write_bytes(content)
    began, fault = time.process_time(), ""
    Path("/proc/self/clear_refs").write_text("5")  # from here on, the peak of memory is this trial's
    try:
        outcome = work(folder, out)
    except InputError as error:
        outcome = f"refused, {type(error).__name__}"
        if [p for p in out.rglob("*") if p.is_file() and p.suffix in (".gz", ".json", ".html")]:
            fault = "refused, and wrote a result"
        if "\n\n" in str(error) or len(str(error)) > 2000:
            fault = "refused in too many words"
    except Exception as error:  # noqa: BLE001 - the proof is that there is none
        outcome, fault = "crashed", f"{type(error).__name__}: {error}"
    status = Path("/proc/self/status").read_text()
    peak_mb = int(status.split("VmHWM:")[1].split()[0]) // 1024
    seconds = round(time.process_time() - began, 3)
    if seconds > 5:
        fault = fault or f"took {seconds} s"
    if peak_mb > 700:
        fault = fault or f"took {peak_mb} MB"
    return {"n": number, "kind": kind, "outcome": outcome, "seconds": seconds, "peak_mb": peak_mb, "fault": fault}


def main() -> None:
    """Read trial numbers from stdin, write one JSON line each to stdout."""
    what, base, bundle = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3])
    bases = sorted(base.glob("*/001")) or [base]  # one folder, or one a vendor
    work, kinds = (nifti_work(bundle), NIFTI) if what == "nifti" else (dicom_work(), BYTES)
    # What libraries have mapped so far is no work of ours; a damaged case may add 700 MB to it, then memory ends.
    mapped = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (mapped + LIMIT_BYTES, mapped + LIMIT_BYTES))
    WORK.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        print("ready", flush=True)
        for line in sys.stdin:
            number = int(line)
            chosen = bases[number // len(kinds) % len(bases)]
            print(json.dumps(trial(work, kinds, chosen, Path(folder), number)), flush=True)


if __name__ == "__main__":
    main()
