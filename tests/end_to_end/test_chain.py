"""The demo itself, tiny: every real stage through the users' commands, killed on the way and run again."""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def start(demo: Path) -> subprocess.Popen[str]:
    """Start demo.sh in a process group of its own.

    Eight patients and 250 iterations: fewer make a student that the parity gate rightly refuses.
    """
    tiny = {"DEMO": str(demo), "PATIENTS": "8", "UNSEEN": "1", "EPOCHS": "1", "STUDENT_ITERATIONS": "250"}
    environment = {**os.environ, **tiny, "BIN": str(Path(sys.executable).parent)}
    return subprocess.Popen(
        ["sh", str(ROOT / "demo.sh")],
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


@pytest.mark.slow
def test_the_demo_survives_kills_and_ends_with_a_table_and_a_page(tmp_path: Path) -> None:
    """Killed twice without warning, run again: all nine stages, four rows in the table, a report; then it is idle."""
    demo = tmp_path / "demo"
    for seconds in (20, 60):
        running = start(demo)
        time.sleep(seconds)
        os.killpg(running.pid, signal.SIGKILL)
        running.wait()
    done = start(demo)
    output, _ = done.communicate(timeout=900)
    assert done.returncode == 0, output[-3000:]
    assert "9/9" in output
    with (demo / "dice.csv").open() as stream:
        sources = {row["source"] for row in csv.DictReader(stream)}
    assert len(sources) == 4, sources
    bundle = demo / "bundle"
    assert sum(path.stat().st_size for path in bundle.iterdir()) <= 5_000_000
    (page,) = (demo / "clinic").glob("*/*-report.html")
    assert "not a diagnosis" in page.read_text()
    before = {path: path.stat().st_mtime_ns for path in (*bundle.iterdir(), page)}
    again = start(demo)
    output, _ = again.communicate(timeout=300)
    assert again.returncode == 0, output[-3000:]
    assert {path: path.stat().st_mtime_ns for path in before} == before
