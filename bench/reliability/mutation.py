"""Thousands of damaged inputs: each is refused in words or segmented with a verdict, in 5 s and 700 MB.

`make proof-mutation` runs it. Most go through a long-lived worker process with a memory limit, a share through the real
command. NIfTI: one file of a case of four is damaged. DICOM: one file of a vendor's series. Study: one slice of a
phantom's DICOM study, each through `glialite segment STUDY --yes` itself.
"""

from __future__ import annotations

import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from bench.reliability.command import Ending, glialite
from bench.reliability.damage import BYTES, NIFTI, damaged
from bench.reliability.ledger import WORK, Ledger, arguments, run_slice, small_case, write_section
from bench.reliability.study import written_study

HANG_S = 60
"""Of the clock, on a machine that has other work; the 5 s that are promised are of the processor."""
COMMAND_EVERY = 50
"""One trial in so many goes through the real command; of a study all do."""
_STRIDE = 37
"""From one file that is damaged to the next: prime, so that few trials meet all series of a study."""
_NAMES = {"nifti": "NIfTI", "dicom": "DICOM", "study": "DICOM studies"}


class Worker:
    """A worker process, started again when it has died or hangs."""

    def __init__(self, what: str, base: Path, bundle: Path) -> None:
        self._words = [sys.executable, "-m", "bench.reliability.worker", what, str(base), str(bundle)]
        self._process: subprocess.Popen[bytes] | None = None

    def trial(self, number: int) -> dict[str, Any]:
        """Return what became of a trial."""
        process = self._process or self._start()
        assert process.stdin is not None  # noqa: S101 - for the type checker
        process.stdin.write(f"{number}\n".encode())
        process.stdin.flush()
        line = self._line(process, HANG_S)
        if line:
            return dict(json.loads(line))
        died = process.poll()
        self.close()
        return {"n": number, "kind": "?", "outcome": "lost", "seconds": HANG_S, "peak_mb": 0, "fault": f"ended {died}"}

    def _start(self) -> subprocess.Popen[bytes]:
        process = subprocess.Popen(self._words, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if self._line(process, 60).strip() != b"ready":
            raise SystemExit("the worker does not start")
        self._process = process
        return process

    @staticmethod
    def _line(process: subprocess.Popen[bytes], seconds: float) -> bytes:
        assert process.stdout is not None  # noqa: S101
        ready, _, _ = select.select([process.stdout], [], [], seconds)
        return process.stdout.readline() if ready else b""

    def close(self) -> None:
        """End the process."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


def by_command(
    base: Path, kinds: Mapping[str, Any], bundle: Path, number: int, more: tuple[str, ...] = ()
) -> dict[str, Any]:
    """Give a damaged case or study to `glialite segment` itself: exit code 0 with a verdict, or 3 with nothing."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch) / base.name, Path(scratch) / "out"
        shutil.copytree(base, folder)
        files = sorted(folder.iterdir())
        target = files[number // len(kinds) * _STRIDE % len(files)]
        kind, content = damaged(target.read_bytes(), kinds, number)
        target.write_bytes(content)
        words = ("segment", str(folder), "--out", str(out), "--bundle", str(bundle), "--threads", "1", *more)
        ending = glialite(*words, prefix=("timeout", "-s", "KILL", str(HANG_S)))
        fault = ending.fault or _wrong_results(ending, out, base.name)
    outcome = "command: " + ("segmented" if ending.code == 0 else "refused")
    took = {"seconds": round(ending.seconds, 3), "peak_mb": ending.peak_mb}
    return {"n": number, "kind": kind, "outcome": outcome, **took, "fault": fault}


def _wrong_results(ending: Ending, out: Path, name: str) -> str:
    """Return what is wrong with what a run left: with 0 it is finished and has a verdict, with 3 there is nothing."""
    written = sorted(path.name for path in out.rglob("*") if path.is_file())
    if ending.code not in (0, 3) or (ending.code == 3 and written):
        return f"exit code {ending.code} and {written}"
    if ending.code == 0:
        if f"{name}-manifest.json" not in written:
            return f"exit code 0 and {written}"
        verdict = json.loads((out / name / f"{name}-report.json").read_bytes())["quality"]["verdict"]
        return "" if verdict in ("good", "check") else f"verdict {verdict!r}"
    return ""


def summary(what: str, trials: list[dict[str, Any]]) -> str:
    """Return the figures and a table by kind."""
    wrong = [t for t in trials if t["fault"]]
    commands = sum(t["outcome"].startswith("command") for t in trials)
    slowest, largest = max(t["seconds"] for t in trials), max(t["peak_mb"] for t in trials)
    text = (
        f"{what}: {len(trials):,} damaged inputs ({commands:,} through the command itself): {len(wrong)} crashed, "
        f"hung, took more than 700 MB, or wrote a result without a verdict. The slowest took {slowest:.1f} s of "
        f"processor time, the largest {largest} MB."
    )
    lines = [text, "", "| damage | inputs | refused | segmented or converted |", "| --- | --- | --- | --- |"]
    for kind in sorted({t["kind"] for t in trials}):
        outcomes = Counter("refused" in t["outcome"] for t in trials if t["kind"] == kind)
        lines.append(f"| {kind} | {outcomes.total()} | {outcomes[True]} | {outcomes[False]} |")
    return "\n".join(lines)


def main() -> None:
    """Run a slice, and write the figures."""
    parser = arguments(__doc__ or "", 5000)
    parser.add_argument("what", choices=_NAMES)
    parser.add_argument("--study", type=Path, default=Path("../shared/data/dicom"), help="For dicom.")
    given = parser.parse_args()
    ledger, bundle = Ledger(f"mutation-{given.what}"), given.bundle.resolve()
    base = given.study
    if given.what != "dicom":
        base = (small_case if given.what == "nifti" else written_study)(given.cases, WORK)
    worker = Worker(given.what, base.resolve(), bundle)

    def trial(number: int) -> dict[str, Any]:
        if given.what == "study":
            return by_command(base, BYTES, bundle, number, ("--yes",))
        if given.what == "nifti" and number % COMMAND_EVERY == COMMAND_EVERY - 1:
            return by_command(base, NIFTI, bundle, number)
        return worker.trial(number)

    try:
        run_slice(ledger, given.count, given.seconds, trial)
    finally:
        worker.close()
    write_section(f"mutation-{given.what}", summary(_NAMES[given.what], ledger.trials))
    if wrong := [t for t in ledger.trials if t["fault"]]:
        raise SystemExit("\n".join(map(str, wrong[:20])))


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
