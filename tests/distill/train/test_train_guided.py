"""Training with helpers: an assistant that is followed, scans without labels, and exact continuation with both."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from glialite_distill.guidance import Guidance
from glialite_distill.student_file import StudentFile
from glialite_distill.train import TrainOptions, train
from glialite_distill.train_forecast import forecast
from glialite_runtime.errors import ConfigError, TimeLimitReached

from .conftest import Data, Soft, options, settings


def a_student(folder: Path, seed: int) -> StudentFile:
    """Return a student of one iteration."""
    return train(Data(), Soft(), options(iterations=1, validations=1, seed=seed), settings(folder / f"assistant{seed}"))


@dataclass(frozen=True)
class Scans:
    """Two scans without labels, of one of which the teachers are sure."""

    key: str = "scans" * 4
    cases: tuple[str, ...] = ("u3", "u4")
    soft: Soft = field(default_factory=lambda: Soft(("u3",)))

    def load(self, case: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
        return Data().load(case)


def guided(folder: Path) -> tuple[TrainOptions, Guidance]:
    return options(feature_weight=0.5), Guidance(a_student(folder, 1), Scans())


def test_an_assistant_is_followed(tmp_path: Path) -> None:
    """Without truth and teachers' weight to speak of, the student's probabilities come close to the assistant's."""
    teacher = train(Data(), None, options(iterations=40, soft_weight=0.0, learning_rate=1e-2), settings(tmp_path / "a"))
    alike = options(iterations=40, hard_weight=1e-6, soft_weight=0.0, learning_rate=1e-2, seed=7)
    file = train(Data(), None, alike, settings(tmp_path / "b"), None, Guidance(teacher))
    rows = (tmp_path / "b" / "run" / "history.csv").read_text().splitlines()
    column = rows[0].split(",").index("assistant")
    losses = [float(row.split(",")[column]) for row in rows[1:]]
    assert losses[-1] < 0.5 * losses[0]
    assert file.provenance["last"]["dice_wt"] > 0.3


def test_guided_training_stopped_after_every_iteration_ends_in_the_same_bytes(tmp_path: Path) -> None:
    """Assistant, projection, scans without labels and the averaged student: all continue bit for bit."""
    chosen, guidance = guided(tmp_path)
    straight = train(Data(), Soft(), chosen, settings(tmp_path / "straight"), None, guidance)
    assert all(straight.provenance["last"][part] > 0 for part in ("assistant", "features", "unlabelled"))
    for _ in range(7):
        with pytest.raises(TimeLimitReached):
            train(Data(), Soft(), chosen, settings(tmp_path, time_limit_s=0.0), None, guidance)
    train(Data(), Soft(), chosen, settings(tmp_path, time_limit_s=0.0), None, guidance)
    one, other = (folder / "run" / "student.pt" for folder in (tmp_path, tmp_path / "straight"))
    assert one.read_bytes() == other.read_bytes()


def test_another_assistant_or_other_scans_are_another_training(tmp_path: Path) -> None:
    """The message names what differs."""
    chosen, guidance = guided(tmp_path)
    run = settings(tmp_path, time_limit_s=0.0)
    with pytest.raises(TimeLimitReached):
        train(Data(), Soft(), chosen, run, None, guidance)
    for changed, said in (
        (replace(guidance, assistant=a_student(tmp_path, 2)), "different: assistant"),
        (replace(guidance, unlabelled=Scans("other")), "different: unlabelled"),
    ):
        with pytest.raises(ConfigError, match=said):
            train(Data(), Soft(), chosen, run, None, changed)


def test_a_forecast_counts_the_assistant(tmp_path: Path) -> None:
    """It runs with all helpers and leaves no file."""
    chosen, guidance = guided(tmp_path / "made")
    assert forecast(Data(), Soft(), chosen, settings(tmp_path / "new"), None, guidance).iterations_left == 8
    assert not (tmp_path / "new").exists()
