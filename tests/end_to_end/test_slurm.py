"""Teachers through a real SLURM: munged, slurmctld and slurmd on this computer, started and stopped by the test."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from glialite_distill.prepare import Request, prepare

from tests.distill.conftest import write_cohort

TEACHER_TRAIN = Path(sys.executable).parent / "teacher-train"
DAEMONS = ("munged", "slurmctld", "slurmd")
FEW = ("--epochs", "2", "--iterations", "1", "--device", "cpu")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        any(shutil.which(name) is None for name in DAEMONS) or not hasattr(os, "geteuid") or os.geteuid() != 0,
        reason="needs root and SLURM's daemons: apt-get install slurm-wlm munge",
    ),
]


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("", 0))
        return int(found.getsockname()[1])


def configuration(folder: Path) -> str:
    """Return slurm.conf of one node: no systemd, no cgroups, no accounting database, everything in `folder`."""
    host = socket.gethostname()
    return f"""ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldPort={free_port()}
SlurmdPort={free_port()}
KillWait=2
ReturnToService=2
JobCompType=jobcomp/filetxt
JobCompLoc={folder}/completed.txt
NodeName={host} NodeAddr=127.0.0.1 CPUs={os.cpu_count()} State=UNKNOWN
PartitionName=main Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def wait_for(what: str, ready: Callable[[], Any], seconds: float) -> None:
    """Return when `ready` is true; fail after `seconds`."""
    end = time.monotonic() + seconds
    while not ready():
        assert time.monotonic() < end, f"waited {seconds:.0f} s for {what}"
        time.sleep(0.5)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Run a cluster of one node; `SLURM_CONF` leads every command to it."""
    folder = Path(tempfile.mkdtemp(prefix="slurm"))  # short: a socket's path has at most 107 characters
    for name in ("state", "spool"):
        (folder / name).mkdir()
    key = folder / "munge.key"
    key.write_bytes(secrets.token_bytes(128))
    key.chmod(0o600)
    (folder / "slurm.conf").write_text(configuration(folder))
    monkeypatch.setenv("SLURM_CONF", str(folder / "slurm.conf"))
    munge = [
        f"--{name}={folder}/munge.{name.split('-')[0]}" for name in ("socket", "pid-file", "log-file", "seed-file")
    ]
    commands = (
        ["munged", "--foreground", "--force", f"--key-file={key}", *munge],
        ["slurmctld", "-D", "-c"],
        ["slurmd", "-D"],
    )
    running = []
    with (folder / "daemons.log").open("w") as log:
        for command in commands:
            running.append(subprocess.Popen(command, stdout=log, stderr=log))
            time.sleep(1)
    try:
        wait_for("an idle node", lambda: "idle" in ask("sinfo", "--noheader", "--format=%T"), 20)
        yield folder
    finally:
        subprocess.run(["scancel", "--me", "--full", "--signal=KILL"], check=False)
        for daemon in reversed(running):
            daemon.terminate()
            daemon.wait(20)
        shutil.rmtree(folder, ignore_errors=True)


def ask(*command: str) -> str:
    """Return what a command of SLURM prints."""
    return subprocess.run(command, capture_output=True, text=True, check=False).stdout


def teacher_train(verb: str, work: Path, *arguments: str) -> list[dict[str, Any]]:
    """Run a verb of teacher-train and return its JSON."""
    command = [str(TEACHER_TRAIN), verb, "--workspace", str(work), *arguments, "--json"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    rows: list[dict[str, Any]] = json.loads(done.stdout)
    return rows


def states(work: Path) -> dict[tuple[str, int], tuple[str, int]]:
    """Return recipe and fold -> state and epochs."""
    return {(r["recipe"], r["fold"]): (r["state"], r["epoch"]) for r in teacher_train("status", work)}


def test_teachers_go_through_the_queue_and_survive_a_kill(
    cluster: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """An array and what depends on it, requeued at every time limit; one job is killed and the command run again."""
    work = prepare(Request((write_cohort(tmp_path / "cohort", 4),), tmp_path / "w", plan="small", folds=2)).root
    recipes = ("--recipe", "baseline,grokking", "--fold", "all", *FEW)
    # Three minutes are what a job keeps in reserve, so each start trains one epoch and goes back into the queue.
    command = ("run", work, *recipes, "--launcher", "slurm", "--time-limit", "3m", "--slurm", "cpus_per_task=1")
    first = {(r["recipe"], r["fold"]): r["job"] for r in teacher_train(*command)}
    array = first["baseline", 0].split("_")[0]
    assert [first["baseline", fold] for fold in (0, 1)] == [f"{array}_0", f"{array}_1"]
    assert {(r["recipe"], r["fold"]): r["job"] for r in teacher_train(*command)} == first
    assert f"afterok:{array}_1" in ask("scontrol", "show", "job", first["grokking", 1])
    assert states(work)["grokking", 1] == ("queued", 0)
    holder = work / "locks" / "baseline-fold1.json"
    wait_for("fold 1 to be trained", holder.is_file, 120)
    before = json.loads(holder.read_text())["pid"]
    wait_for("it to come back from the queue", lambda: json.loads(holder.read_text())["pid"] != before, 120)
    os.kill(json.loads(holder.read_text())["pid"], signal.SIGKILL)
    wait_for("an empty queue", lambda: not ask("squeue", "--noheader").strip(), 240)
    expected = {("baseline", 0): ("finished", 2), ("grokking", 0): ("finished", 2), ("baseline", 1): ("interrupted", 1)}
    assert states(work) == expected
    shown = ask("scontrol", "show", "job")
    again = {(r["recipe"], r["fold"]): r["job"] for r in teacher_train(*command)}
    assert again["baseline", 0] is again["grokking", 0] is None
    wait_for("an empty queue", lambda: not ask("squeue", "--noheader").strip(), 240)
    assert states(work) == dict.fromkeys(first, ("finished", 2))
    shown += ask("scontrol", "show", "job", again["baseline", 1]) + ask("scontrol", "show", "job", again["grokking", 1])
    logs = "".join(path.read_text() for path in (work / "slurm").glob(f"{again['baseline', 1]}_*_log.err"))
    assert "baseline fold 1: epoch 1 of 2" in logs
    with capsys.disabled():
        sys.stdout.write("\n".join(["", *re.findall(r"JobId=.*|JobState=.*|Restarts=\d+", shown), ""]))
        sys.stdout.write(ask("sacct", "--completion"))
