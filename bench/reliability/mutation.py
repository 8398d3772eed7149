"""Thousands of damaged inputs: each is refused in words or segmented with a verdict, in 5 s and 700 MB.

`make proof-mutation` runs it. Most go through a long-lived worker process with a memory limit, a share through the real
command. NIfTI: one file of a case of four is damaged. DICOM: one file of a study.
"""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from bench.reliability.command import GLIALITE
from bench.reliability.damage import NIFTI, damaged
from bench.reliability.ledger import WORK, Ledger, arguments, run_slice, small_case, write_section

HANG_S = 60
"""Of the clock, on a machine that has other work; the 5 s that are promised are of the processor."""
COMMAND_EVERY = 50
"""One trial in so many goes through the real command."""


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


def by_command(base: Path, bundle: Path, number: int) -> dict[str, Any]:
    """Give a damaged case to `glialite segment` itself: exit code 0 with results, or 3 with one line."""
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = Path(scratch) / base.name, Path(scratch) / "out"
        shutil.copytree(base, folder)
        files = sorted(folder.iterdir())
        target = files[number // len(NIFTI) % len(files)]
        kind, content = damaged(target.read_bytes(), NIFTI, number)
        target.write_bytes(content)
        words = [sys.executable, "-c", GLIALITE, "segment", str(folder), "--out", str(out), "--bundle", str(bundle)]
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        process = subprocess.Popen([*words, "--threads", "1"], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        said = process.communicate(timeout=HANG_S)[1].decode() if process.stderr else ""
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        seconds = round(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, 3)
        written = {p.name for p in out.rglob("*") if p.is_file()}
        fault = ""
        if process.returncode not in (0, 3) or "Traceback" in said:
            fault = f"exit code {process.returncode}: {said[-300:]}"
        elif (process.returncode == 0) != (f"{base.name}-manifest.json" in written) or (process.returncode and written):
            fault = f"exit code {process.returncode} and {sorted(written)}"
        elif seconds > 5:
            fault = f"took {seconds} s"
    outcome = "command: " + ("segmented" if process.returncode == 0 else "refused")
    return {"n": number, "kind": kind, "outcome": outcome, "seconds": seconds, "peak_mb": 0, "fault": fault}


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
    parser.add_argument("what", choices=("nifti", "dicom"))
    parser.add_argument("--study", type=Path, default=Path("../shared/data/dicom"), help="For dicom.")
    given = parser.parse_args()
    ledger = Ledger(f"mutation-{given.what}")
    base = small_case(given.cases, WORK) if given.what == "nifti" else given.study
    worker = Worker(given.what, base.resolve(), given.bundle.resolve())

    def trial(number: int) -> dict[str, Any]:
        if given.what == "nifti" and number % COMMAND_EVERY == COMMAND_EVERY - 1:
            return by_command(base, given.bundle.resolve(), number)
        return worker.trial(number)

    try:
        run_slice(ledger, given.count, given.seconds, trial)
    finally:
        worker.close()
    write_section(f"mutation-{given.what}", summary({"nifti": "NIfTI", "dicom": "DICOM"}[given.what], ledger.trials))
    if wrong := [t for t in ledger.trials if t["fault"]]:
        raise SystemExit("\n".join(map(str, wrong[:20])))


if __name__ == "__main__":
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    main()
