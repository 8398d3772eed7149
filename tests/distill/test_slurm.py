"""What is asked of SLURM, against stand-ins for its commands; tests/end_to_end/test_slurm.py has the real ones."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from glialite_distill.prepare import Request, prepare
from glialite_distill.run_status import status, status_table
from glialite_distill.runs import fold_folder
from glialite_distill.slurm import Training, submit_teachers
from glialite_distill.slurm_queue import parse_settings, queued_jobs
from glialite_distill.teachers import RunOptions
from glialite_distill.workspace import Workspace
from glialite_runtime.errors import BackendUnavailableError, ConfigError, TimeLimitReached

DAY = RunOptions(time_limit_s=24 * 3600.0)
SBATCH = """#!/bin/sh
cd "$QUEUE"; n=$(ls | grep -c script); cp "$1" script$n
echo "Submitted batch job 4$n"
"""


@pytest.fixture
def queue(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder where sbatch leaves its scripts and squeue reads `active`."""
    folder = tmp_path / "queue"
    folder.mkdir()
    commands = {"sbatch": SBATCH, "srun": "#!/bin/sh\n", "squeue": '#!/bin/sh\ncat "$QUEUE/active"\n'}
    for name, text in commands.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    (folder / "active").write_text("")
    monkeypatch.setenv("QUEUE", str(folder))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    return folder


@pytest.fixture
def workspace(cohort: Path, tmp_path: Path) -> Workspace:
    """Return a prepared workspace of this test's own."""
    return prepare(Request((cohort,), tmp_path / "w", plan="tiny", folds=2))


def sbatch_options(script: Path) -> dict[str, str]:
    """Return the options of a submitted script."""
    return dict(re.findall(r"#SBATCH --([\w-]+)=(.*)", script.read_text()))


def test_what_can_start_is_an_array_and_a_warm_start_waits_for_its_fold(workspace: Workspace, queue: Path) -> None:
    """Two folds of two recipes in one array; the long run of each fold after the baseline of the same fold."""
    rows = submit_teachers(workspace, ("baseline", "grokking", "mednext-b"), (0, 1), DAY, {"partition": "gpu"})
    ids = {(job.recipe.name, job.fold): number for job, number in rows}
    assert [ids["baseline", f] for f in (0, 1)] == ["40_0", "40_1"]
    assert [ids["mednext-b", f] for f in (0, 1)] == ["40_2", "40_3"]
    array = sbatch_options(queue / "script0")
    expected = {"array": "0-3%4", "time": "1440", "partition": "gpu", "gpus-per-node": "1", "signal": "USR2@120"}
    assert expected.items() <= array.items()
    assert "dependency" not in array
    for fold in (0, 1):
        number = ids["grokking", fold]
        assert number is not None
        waiting = sbatch_options(queue / f"script{number[1:]}")
        assert waiting["dependency"] == f"afterok:40_{fold}"
        assert waiting["kill-on-invalid-dep"] == "yes"


def test_asking_again_submits_only_what_is_neither_queued_nor_finished(workspace: Workspace, queue: Path) -> None:
    """Ids are remembered; a job that left the queue unfinished is sent again, a dependant waits for it."""
    submit_teachers(workspace, ("baseline",), (0, 1), DAY, {})
    (queue / "active").write_text("40_0 RUNNING\n40_1 PENDING\n7 RUNNING\n")
    rows = submit_teachers(workspace, ("baseline", "grokking"), (0, 1), DAY, {})
    assert [number for _, number in rows] == ["40_0", "40_1", "41", "42"]
    assert [(r["state"], r["job"]) for r in status(workspace)][:2] == [("running", "40_0"), ("queued", "40_1")]
    assert "40_1" in status_table(status(workspace))
    (queue / "active").write_text("40_1 PENDING\n41 PENDING\n42 PENDING\n")
    rows = submit_teachers(workspace, ("baseline",), (0, 1), DAY, {})
    assert [number for _, number in rows] == ["43", "40_1"]
    assert len(list(queue.glob("script*"))) == 4


def test_finished_teachers_are_not_submitted(trained: Workspace, queue: Path) -> None:
    """They have no job, and nothing reaches sbatch."""
    rows = submit_teachers(trained, ("baseline", "grokking"), (0, 1), DAY, {})
    assert [number for _, number in rows] == [None] * 4
    assert not list(queue.glob("script*"))


def test_a_job_gets_a_gpu_unless_it_asks_for_none(workspace: Workspace, queue: Path) -> None:
    """A processor alone with --device cpu, another kind of GPU with gres."""
    submit_teachers(workspace, ("baseline",), (0,), RunOptions(device="cpu", time_limit_s=60), {"mem": "8GB"})
    submit_teachers(workspace, ("mednext-b",), (0,), DAY, {"gres": "gpu:a100:1"})
    processor, other = (sbatch_options(queue / f"script{n}") for n in (0, 1))
    assert "gpus-per-node" not in {**processor, **other}
    assert (processor["mem"], processor["time"], other["gres"]) == ("8GB", "1", "gpu:a100:1")


def test_starting_anew_while_queued_is_refused(workspace: Workspace, queue: Path) -> None:
    """The job would lose its files; the message says which to cancel. Otherwise they go before anything is sent."""
    submit_teachers(workspace, ("baseline",), (0,), DAY, {})
    folder = fold_folder(workspace, "baseline", 0)
    folder.mkdir(parents=True)
    anew = RunOptions(time_limit_s=600.0, restart=True)
    (queue / "active").write_text("40 PENDING\n")
    with pytest.raises(ConfigError, match=r"baseline fold 0 \(scancel 40\)"):
        submit_teachers(workspace, ("baseline",), (0,), anew, {})
    assert folder.is_dir()
    (queue / "active").write_text("")
    submit_teachers(workspace, ("baseline",), (0,), anew, {})
    assert not folder.exists()


def test_a_job_at_its_time_limit_asks_to_be_queued_again(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """It sends itself the signal that SLURM would send; what runs then is the same job."""
    import signal

    received = []
    monkeypatch.setattr(signal, "raise_signal", received.append)

    def stop(*_: object) -> None:
        raise TimeLimitReached("time")

    monkeypatch.setattr("glialite_distill.slurm.run_teachers", stop)
    training = Training(workspace.root, "baseline", 0, DAY)
    training()
    assert received == [signal.SIGUSR2]
    assert training.checkpoint().function == training


@pytest.mark.parametrize("breaking", ["sbatch", "squeue"])
def test_a_slurm_that_refuses_is_no_bug(breaking: str, workspace: Workspace, queue: Path, tmp_path: Path) -> None:
    """Exit code 5 with SLURM's own words; no job is remembered."""
    (tmp_path / breaking).write_text("#!/bin/sh\necho 'Unable to contact slurm controller' >&2; exit 1\n")
    with pytest.raises(BackendUnavailableError, match="Unable to contact slurm controller"):
        submit_teachers(workspace, ("baseline",), (0,), DAY, {})
    assert queued_jobs(workspace) == {}


def test_a_workspace_with_jobs_can_be_looked_at_where_slurm_is_not(
    workspace: Workspace, queue: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Jobs keep their ids and count as out of the queue; submitting is exit code 5."""
    submit_teachers(workspace, ("baseline",), (0,), DAY, {})
    monkeypatch.setenv("PATH", "")
    assert queued_jobs(workspace) == {("baseline", 0): ("40", None)}
    assert status(workspace) == []
    with pytest.raises(BackendUnavailableError, match="squeue is not installed"):
        submit_teachers(workspace, ("baseline",), (0,), DAY, {})


def test_settings_are_checked_all_at_once() -> None:
    """Unknown keys, missing values and text where a number belongs; good ones come out typed."""
    with pytest.raises(ConfigError) as caught:
        parse_settings(("nodes=4", "partition", "cpus_per_task=many", "mem=1GB"))
    assert [word in str(caught.value) for word in ("'nodes=4'", "'partition'", "'many'", "mem=1GB")] == [True] * 3 + [
        False
    ]
    assert parse_settings(("cpus_per_task=8", "account=a=b")) == {"cpus_per_task": 8, "account": "a=b"}
