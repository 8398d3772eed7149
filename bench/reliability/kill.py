"""`kill -9` at random moments: nothing partial lies under a final name, and a second run ends bit for bit the same.

`make proof-kill` runs it. Every second kill comes at a random moment of the whole run, the others at a random moment
between the first and the last write, which takes a tenth of the time. After each kill the output folder is judged,
the same command is run again to its end, the folder is compared with that of a run that nobody disturbed, and the
audit log must hold.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from glialite_runtime.cli import app
from glialite_runtime.command import run
from glialite_runtime.errors import GliaLiteError
from glialite_runtime.files import sha256_bytes, sha256_file
from glialite_runtime.trust.audit_log import verify_log

from bench.reliability.command import GLIALITE
from bench.reliability.ledger import WORK, Ledger, arguments, run_slice, small_case, write_section

FRESH_EVERY: Final = 10
"""One run in so many is a fresh process; the others are forked from one that has the libraries loaded, and no more."""

LIMIT_S: Final = 120
PARTIAL: Final = re.compile(r"^\..*\.part$|^\.glialite-|^glialite-journal\.jsonl$|^audit\.jsonl$|\.lock$")
"""What is no result; of the two logs, which tell of every run, the audit log is checked apart."""
VOLATILE: Final = re.compile(rb'\d{4}-\d\d-\d\dT[\d:]+(\+00:00|Z)|"timings_s": \{[^}]*\}')


class Forked:
    """A run of `glialite` in a fork of this process, with the methods of `Popen` that are needed."""

    def __init__(self, words: list[str]) -> None:
        self.returncode: int | None = None
        self._pid = os.fork()
        if self._pid == 0:
            code = 1
            try:
                nowhere = os.open(os.devnull, os.O_RDWR)
                for stream in (0, 1, 2):
                    os.dup2(nowhere, stream)
                code = run(app, words)
            finally:
                os._exit(code)

    def poll(self) -> int | None:
        """Return the exit code, or None while it runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self._pid, os.WNOHANG)
            self.returncode = os.waitstatus_to_exitcode(status) if pid else None
        return self.returncode

    def wait(self, timeout: float = LIMIT_S) -> int:
        """Return the exit code when it has ended; kill it after `timeout` seconds."""
        until = time.monotonic() + timeout
        while self.poll() is None:
            if time.monotonic() > until:
                self.kill()
            time.sleep(0.002)
        return int(self.returncode or 0)

    def kill(self) -> None:
        """Send SIGKILL."""
        os.kill(self._pid, signal.SIGKILL)


@dataclass(frozen=True)
class Command:
    """What is killed: its words after `glialite` (OUT: the output folder), how long it takes, and its writing."""

    name: str
    words: tuple[str, ...]
    whole_s: float = 0.0
    writing_s: float = 0.0

    def start(self, out: Path, *, fresh: bool) -> Forked | subprocess.Popen[bytes]:
        """Start it into `out`."""
        words = [str(out) if word == "OUT" else word for word in self.words]
        if not fresh:
            return Forked(words)
        silent = subprocess.DEVNULL
        return subprocess.Popen([sys.executable, "-c", GLIALITE, *words], stdout=silent, stderr=silent)


def finals(out: Path) -> dict[str, str]:
    """Return path -> hash of content for all files under final names; times of day and timings count as equal."""
    found = {}
    for path in sorted(out.rglob("*")):
        if path.is_file() and not any(PARTIAL.search(part) for part in path.relative_to(out).parts):
            content = path.read_bytes()
            if path.suffix in (".json", ".html", ".csv"):
                content = VOLATILE.sub(b"", content)
            if path.name.endswith("-manifest.json"):
                content = re.sub(rb"[0-9a-f]{64}", b"", content)  # of the report with its times; checked apart
            found[str(path.relative_to(out))] = sha256_bytes(content)
    return found


def faults(out: Path, reference: dict[str, str]) -> list[str]:
    """Return what is wrong under final names: a file that differs from the reference, a manifest that does not hold."""
    found = [f"{name} differs" for name, digest in finals(out).items() if reference.get(name) != digest]
    for manifest in out.rglob("*-manifest.json"):
        for name, digest in json.loads(manifest.read_bytes())["files"].items():
            if not (manifest.parent / name).is_file() or sha256_file(manifest.parent / name) != digest:
                found.append(f"{manifest.name} lists {name}, which is not so")
    return found


def _written(out: Path) -> bool:
    """Return whether a result has begun to be written."""
    return any(any(folder.iterdir()) for folder in out.iterdir() if folder.is_dir() and folder.name[0] != ".")


def rehearsed(command: Command, scratch: Path) -> tuple[Command, dict[str, str]]:
    """Run a command undisturbed, twice; return it with its times, and the reference."""
    for _ in range(2):
        out = scratch / "reference"
        shutil.rmtree(out, ignore_errors=True)
        out.mkdir(parents=True)
        began, first = time.monotonic(), 0.0
        process = command.start(out, fresh=False)
        while process.poll() is None:
            if not first and _written(out):
                first = time.monotonic()
            time.sleep(0.001)
        ended = time.monotonic()
        if process.returncode:
            raise SystemExit(f"{command.name} ends with {process.returncode}; try it by hand: {command.words}")
    return Command(command.name, command.words, ended - began, ended - (first or ended)), finals(out)


def one_kill(command: Command, reference: dict[str, str], scratch: Path, number: int) -> dict[str, Any]:
    """Kill a run into an empty folder at a moment that its number decides, judge, run again, judge again."""
    rng, out = np.random.default_rng([number, len(command.name)]), scratch / "killed"
    fresh = number // 2 % FRESH_EVERY == FRESH_EVERY - 1
    shutil.rmtree(out, ignore_errors=True)
    out.mkdir(parents=True)
    process, began = command.start(out, fresh=fresh), time.monotonic()
    if number % 2:
        while process.poll() is None and not _written(out):
            time.sleep(0.0005)
        moment = time.monotonic() + rng.uniform(0, command.writing_s)
    else:
        moment = began + rng.uniform(0, command.whole_s * (2 if fresh else 0.9))
    while process.poll() is None and time.monotonic() < moment:
        time.sleep(0.0005)
    ended = process.poll() is not None
    if not ended:
        process.kill()
    process.wait()
    wrong, phase = faults(out, reference), _phase(out, reference, ended)
    code = command.start(out, fresh=fresh).wait(LIMIT_S)
    if code:
        wrong.append(f"second run ends with {code}")
    if finals(out) != reference:
        wrong.append("second run differs")
    wrong += faults(out, reference)
    try:
        verify_log(out)
    except GliaLiteError as error:
        wrong.append(str(error))
    wrong += [f"left behind: {path.name}" for path in out.rglob("*.part")]
    return {"command": command.name, "phase": phase, "faults": wrong, "fresh": fresh}


def _phase(out: Path, reference: dict[str, str], ended: bool) -> str:
    """Return where the kill fell: by the share of final files that were there, and whether one was being written."""
    if ended:
        return "after the end"
    there = len(finals(out))
    if there == 0 and not _written(out):
        return "before the first write"
    if there == len(reference):
        return "all files there"
    between = "one being written" if any(out.rglob("*.part")) else "between two"
    return f"{there} of {len(reference)} files, {between}"


def commands(bundle: Path, cases: Path, scratch: Path) -> list[Command]:
    """Return `segment`, `batch` and `watch` on small cases, so that what is written takes much of the time."""
    few = scratch / "cases"
    if not few.is_dir():
        for name in ("first", "second"):
            for path in small_case(cases, WORK, 4).iterdir():
                (few / name).mkdir(parents=True, exist_ok=True)
                shutil.copyfile(path, few / name / path.name)
    first = str(min(few.iterdir()))
    model = ("--bundle", str(bundle))
    every = [
        Command("segment", ("segment", first, "--out", "OUT", "--threads", "1", *model)),
        Command("batch", ("batch", str(few), "--out", "OUT", "--threads", "1", *model)),
        Command("watch", ("watch", str(few), "OUT", "--once", *model)),
    ]
    return [c for c in every if c.name != "watch" or _has_once()]


def _has_once() -> bool:
    """Return whether this version has `watch --once`."""
    words = [sys.executable, "-c", GLIALITE, "watch", "--help"]
    return "--once" in subprocess.run(words, check=False, capture_output=True, text=True).stdout


def summary(trials: list[dict[str, Any]]) -> str:
    """Return the figures and the histogram."""
    lines = []
    inside = [t for t in trials if t["phase"] not in ("before the first write", "all files there", "after the end")]
    wrong = [t for t in trials if t["faults"]]
    lines.append(
        f"{len(trials)} kills, {len(inside)} of them between the first and the last write; "
        f"{len(wrong)} left something partial under a final name or did not end the same."
    )
    for name in dict.fromkeys(t["command"] for t in trials):
        count = Counter(t["phase"] for t in trials if t["command"] == name)
        lines += ["", f"| `{name}`: the kill came | kills |", "| --- | --- |"]
        order = sorted(count, key=lambda p: (p == "after the end", p != "before the first write", p))
        lines += [f"| {phase} | {count[phase]} |" for phase in order]
    return "\n".join(lines)


def main() -> None:
    """Run a slice, and write the figures when something was done."""
    parser = arguments(__doc__ or "", 300)
    parser.add_argument("--command", choices=("segment", "batch", "watch"), help="Only this one.")
    given = parser.parse_args()
    trials: list[dict[str, Any]] = []
    failed = False
    for module in ("bundle", "engine", "predict", "batch", "int8_engine"):
        importlib.import_module(f"glialite_runtime.{module}")
    with tempfile.TemporaryDirectory() as folder:
        chosen = commands(given.bundle.resolve(), given.cases.resolve(), Path(folder))
        for command in chosen:
            ledger = Ledger(f"kill-{command.name}")
            wanted = -(-given.count // len(chosen))
            if given.command in (None, command.name) and len(ledger.trials) < wanted:
                timed, reference = rehearsed(command, Path(folder))
                print(f"{command.name}: {timed.whole_s:.2f} s, writing {timed.writing_s:.2f} s")
                run_slice(
                    ledger, wanted, given.seconds, lambda n, c=timed, r=reference: one_kill(c, r, Path(folder), n)
                )
            trials += ledger.trials
            failed |= any(t["faults"] for t in ledger.trials)
    write_section("kill", summary(trials))
    if failed:
        raise SystemExit("\n".join(str(t) for t in trials if t["faults"]))


if __name__ == "__main__":
    main()
