"""The status table: states, ages, the live view."""

from __future__ import annotations

from pathlib import Path

import pytest
from glialite_distill import run_status
from glialite_distill.prepare import Request, prepare
from glialite_distill.run_status import duration, status, status_table, watch_status
from glialite_distill.runs import fold_folder, read_history, write_history
from glialite_distill.teachers import RunOptions, run_teachers
from glialite_distill.training_lock import training_lock
from glialite_distill.workspace import Workspace
from glialite_runtime.errors import TimeLimitReached


@pytest.fixture(scope="module")
def stopped(cohort: Path, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    """Return a workspace with one teacher that was stopped after one of two epochs."""
    workspace = prepare(Request((cohort,), tmp_path_factory.mktemp("stopped") / "w", plan="tiny", folds=2))
    options = RunOptions(epochs=2, iterations=1, device="cpu", time_limit_s=1e-9)
    with pytest.raises(TimeLimitReached):
        run_teachers(workspace, ("baseline",), (0,), options)
    return workspace


def test_a_teacher_is_interrupted_unless_somebody_trains_it(stopped: Workspace) -> None:
    """The lock decides; the time that is left is the pace of its epochs times those left."""
    (row,) = status(stopped)
    assert (row["state"], row["epoch"], row["epochs"], row["job"]) == ("interrupted", 1, 2, None)
    assert row["eta_s"] == read_history(fold_folder(stopped, "baseline", 0))[0]["seconds"]
    with training_lock(stopped, "baseline", 0):
        assert status(stopped)[0]["state"] == "running"


def test_the_table_has_aligned_columns(stopped: Workspace) -> None:
    """Every line is as long as the head, however long a recipe's name."""
    row = {**status(stopped)[0], "job": "12_0"}
    text = status_table([row, {**row, "recipe": "a-recipe-with-a-long-name", "eta_s": None, "job": "13_0"}])
    head, *lines = text.splitlines()
    assert {line.index("interrupted") for line in lines} == {head.index("state")}
    assert {line.index("1/2") + 3 for line in lines} == {head.index("epoch") + 5}
    assert status_table([]) == "no teacher has been begun"


def test_watching_ends_when_nothing_runs(
    stopped: Workspace, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """It looks again while a teacher runs, then leaves the last table."""
    (row,) = status(stopped)
    looks = iter([[{**row, "state": "running"}], [{**row, "state": "queued"}], [{**row, "state": "finished"}]])
    monkeypatch.setattr(run_status, "status", lambda _: next(looks))
    monkeypatch.setattr(run_status, "_REFRESH_S", 0.0)
    watch_status(stopped)
    assert next(looks, None) is None
    assert "finished" in capsys.readouterr().out


def test_history_has_the_norm_of_all_weights_and_keeps_it_when_continued(stopped: Workspace) -> None:
    """A column of `history.csv`; rows of an older version without it are read as unknown."""
    folder = fold_folder(stopped, "baseline", 0)
    (first,) = read_history(folder)
    assert 1 < first["weight_norm"] < 100
    run_teachers(stopped, ("baseline",), (0,), RunOptions(device="cpu"))
    rows = read_history(folder)
    assert len(rows) == 2
    assert rows[0] == first
    assert rows[1]["weight_norm"] not in (first["weight_norm"], 0)
    write_history(folder, rows)
    assert read_history(folder) == rows
    text = (folder / "history.csv").read_text()
    (folder / "history.csv").write_text("\n".join(line.rpartition(",")[0] for line in text.splitlines()))
    assert [str(row["weight_norm"]) for row in read_history(folder)] == ["nan", "nan"]
    assert status(stopped)[0]["state"] == "finished"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0 s"), (99.4, "99 s"), (120, "2 min"), (5400, "90 min"), (6000, "1.7 h"), (360000, "100.0 h")],
)
def test_durations_are_said_as_people_say_them(seconds: float, text: str) -> None:
    """Seconds, minutes, hours."""
    assert duration(seconds) == text
