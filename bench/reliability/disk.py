"""A full disk, at every size, and a folder that cannot be written: exit code 7, and nothing partial under a final name.

`make proof-disk` runs it under `unshare -rm`, where a small tmpfs can be mounted without rights.
"""

from __future__ import annotations

import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from bench.reliability.command import glialite
from bench.reliability.kill import faults, finals
from bench.reliability.ledger import WORK, Ledger, arguments, run_slice, small_case, write_section

STEPS: Final = 10
PAGE: Final = 4096
CANNOT_WRITE: Final = 7


@contextmanager
def mounted(folder: Path, options: str) -> Iterator[Path]:
    """Mount a tmpfs on a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def full(case: Path, bundle: Path, reference: Path, size: int) -> dict[str, Any]:
    """Segment onto a disk of `size` bytes; then make room and run again."""
    words = ("segment", str(case), "--bundle", str(bundle), "--threads", "1", "--out")
    right = finals(reference)
    with tempfile.TemporaryDirectory() as scratch, mounted(Path(scratch) / "full", f"size={size}") as disk:
        ended = glialite(*words, str(disk))
        wrong = [ended.fault] if ended.fault else []
        wrong += faults(disk, right) + [f"left behind: {p.name}" for p in disk.rglob("*.part")]
        if ended.code == 0 and finals(disk) != right:
            wrong.append("says that it is done, and is not")
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        again = glialite(*words, str(disk))
        if again.code or finals(disk) != right:
            wrong.append(f"with room again: exit code {again.code}, or other files")
    return {
        "what": f"disk of {size // 1024} kB",
        "code": ended.code,
        "said": ended.said.strip().replace(str(scratch), "…")[-160:],
        "faults": wrong,
    }


def unwritable(case: Path, bundle: Path, kind: str) -> dict[str, Any]:
    """Segment into a folder that cannot be written."""
    words = ("segment", str(case), "--bundle", str(bundle), "--threads", "1", "--out")
    with tempfile.TemporaryDirectory() as scratch:
        if kind == "a file in the way":
            (Path(scratch) / "out").write_text("here")
            ended, left = glialite(*words, str(Path(scratch) / "out")), []
        else:
            with mounted(Path(scratch) / "out", "size=1m,ro") as disk:
                ended, left = glialite(*words, str(disk)), list(disk.iterdir())
    wrong = [ended.fault] if ended.fault else []
    if ended.code != CANNOT_WRITE or left:
        wrong.append(f"exit code {ended.code}, files {left}")
    return {
        "what": kind,
        "code": ended.code,
        "said": ended.said.strip().replace(str(scratch), "…")[-160:],
        "faults": wrong,
    }


def summary(trials: list[dict[str, Any]]) -> str:
    """Return the figures."""
    disks = [t for t in trials if t["what"].startswith("disk")]
    enough = [t for t in disks if t["code"] == 0]
    lines = [
        f"Full disk (a tmpfs of {len(disks)} sizes): "
        f"{sum(t['code'] == CANNOT_WRITE for t in disks)} ended with exit code 7, {len(enough)} had room enough; "
        f"{sum(bool(t['faults']) for t in disks)} left something partial under a final name, or did not end the same "
        "once there was room."
    ]
    lines += [f"{t['what'].capitalize()}: exit code {t['code']}." for t in trials if t not in disks]
    told = next((t["said"] for t in disks if t["code"] == CANNOT_WRITE), "")
    return "\n\n".join(lines) + (f"\n\nThe sentence: `{told}`" if told else "")


def main() -> None:
    """Run a slice, and write the figures."""
    given = arguments(__doc__ or "", STEPS + 2).parse_args()
    ledger, case = Ledger("disk"), small_case(given.cases, WORK)
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder)
        made = glialite("segment", str(case), "--bundle", str(given.bundle), "--threads", "1", "--out", folder)
        if made.code:
            raise SystemExit(made.said)
        whole = sum(-(-p.stat().st_size // PAGE) * PAGE for p in reference.rglob("*") if p.is_file())

        def trial(number: int) -> dict[str, Any]:
            if number >= STEPS:
                return unwritable(case, given.bundle, ("a read-only folder", "a file in the way")[number % 2])
            return full(case, given.bundle, reference, PAGE * (1 + int(number * 1.3 * whole / PAGE / STEPS)))

        run_slice(ledger, given.count, given.seconds, trial)
    write_section("disk", summary(ledger.trials))
    if wrong := [t for t in ledger.trials if t["faults"]]:
        raise SystemExit("\n".join(map(str, wrong)))


if __name__ == "__main__":
    main()
