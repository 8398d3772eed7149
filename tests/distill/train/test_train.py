"""Training on truth and soft labels: what it leaves, exact continuation, and that it learns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from glialite_distill.augment import Augmentation
from glialite_distill.student import Student
from glialite_distill.student_file import load_student
from glialite_distill.train import Progress, train
from glialite_runtime.errors import CheckFailedError, ConfigError, TimeLimitReached
from glialite_runtime.sequences import SEQUENCES

from .conftest import Data, Soft, options, settings


def test_a_finished_training_leaves_its_files(whole: Path) -> None:
    """Student, history and curve lie there, the checkpoint is gone, and the provenance says what was seen."""
    assert sorted(p.name for p in whole.iterdir()) == ["curve.png", "history.csv", "student.pt"]
    file = load_student(whole / "student.pt")
    assert file.spacing_mm == (2.0, 2.0, 2.0)
    assert file.provenance["train_cases"] == ["c1", "c2"]
    assert file.provenance["soft_label_cases"] == ["c1"]
    assert file.provenance["validation_cases"] == ["c0"]
    assert file.provenance["cohort_hash"] == Data().cohort_hash
    assert file.provenance["soft_label_key"] == Soft().key
    rows = (whole / "history.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["iteration", "3", "5", "8"]
    assert (whole / "curve.png").read_bytes().startswith(b"\x89PNG")


def test_a_training_stopped_after_every_iteration_ends_in_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    """Eight runs of one iteration each give the student.pt of one run of eight, bit for bit."""
    for done in range(1, 8):
        with pytest.raises(TimeLimitReached, match=f"after {done} of 8"):
            train(Data(), Soft(), options(), settings(tmp_path, time_limit_s=0.0))
    train(Data(), Soft(), options(), settings(tmp_path, time_limit_s=0.0))
    assert (tmp_path / "run" / "student.pt").read_bytes() == (whole / "student.pt").read_bytes()
    assert (tmp_path / "run" / "history.csv").read_bytes() == (whole / "history.csv").read_bytes()


def test_a_training_killed_between_checkpoints_ends_in_the_same_bytes(whole: Path, tmp_path: Path) -> None:
    """What was done after the last checkpoint is done again, alike."""

    def die_at(iteration: int) -> Callable[[Progress], None]:
        def report(progress: Progress) -> None:
            if progress.iteration == iteration:
                raise KeyboardInterrupt

        return report

    for seconds, iteration in ((0.0, 3), (1e9, 6)):
        with pytest.raises(KeyboardInterrupt):
            train(Data(), Soft(), options(), settings(tmp_path, checkpoint_s=seconds, report=die_at(iteration)))
    train(Data(), Soft(), options(), settings(tmp_path))
    assert (tmp_path / "run" / "student.pt").read_bytes() == (whole / "student.pt").read_bytes()


def test_a_training_stopped_after_its_last_iteration_ends_in_the_same_bytes(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped while its thresholds are being fitted, a training is continued with nothing left to train."""

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("glialite_distill.train.fit_decision", stop)
        with pytest.raises(KeyboardInterrupt):
            train(Data(), Soft(), options(), settings(tmp_path))
    train(Data(), Soft(), options(), settings(tmp_path))
    assert (tmp_path / "run" / "student.pt").read_bytes() == (whole / "student.pt").read_bytes()


def test_the_student_has_the_statistics_that_its_last_iterations_saw(tmp_path: Path) -> None:
    """Fixed from the beginning they are those of the first weights, whatever the training did to the weights."""
    means = []
    for name, rate in (("slow", 1e-9), ("fast", 1e-2)):
        file = train(Data(), Soft(), options(fixed_norm=1.0, learning_rate=rate), settings(tmp_path / name))
        means.append(file.state["stem.1.running_mean"])
    assert torch.equal(*means)
    assert means[0].abs().sum() > 0


def test_a_finished_training_is_not_done_again(whole: Path) -> None:
    """The same command reads the student and loads no case."""
    data = Data()
    seen: list[Progress] = []
    file = train(data, Soft(), options(), settings(whole.parent, report=seen.append))
    assert (data.loads, seen) == (0, [])
    assert file.provenance["iterations"] == 8


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seed": 5}, r"seed \(0, now 5\)"),
        ({"temperature": (3.0, 2.0, 2.0)}, r"temperature \(\[2.*now \[3.0, 2.0"),
    ],
)
def test_a_training_with_other_options_is_not_mixed_up(whole: Path, changed: dict[str, object], said: str) -> None:
    """The message names each option that differs, and what to do."""
    with pytest.raises(ConfigError, match=said + ".*--name"):
        train(Data(), Soft(), options(**changed), settings(whole.parent))


def test_a_training_on_other_soft_labels_is_not_mixed_up(whole: Path) -> None:
    """New soft labels are another training."""
    with pytest.raises(ConfigError, match="soft_label_key"):
        train(Data(), Soft(key="new"), options(), settings(whole.parent))


def test_a_damaged_checkpoint_is_refused(tmp_path: Path) -> None:
    """A truncated checkpoint is named, and not silently started over."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoint.pt").write_bytes(b"half")
    with pytest.raises(ConfigError, match=r"checkpoint\.pt is damaged"):
        train(Data(), Soft(), options(), settings(tmp_path))


def test_a_diverged_training_stops(tmp_path: Path) -> None:
    """NaN in the data ends with a sentence instead of a NaN student."""

    class Broken(Data):
        def load(self, case: str) -> tuple[npt.NDArray[np.float32], npt.NDArray[np.uint8]]:
            image, labels = super().load(case)
            return image * np.float32("nan"), labels

    with pytest.raises(CheckFailedError, match="diverged"):
        train(Broken(), Soft(), options(), settings(tmp_path))


def test_a_student_learns_a_bright_tumour(tmp_path: Path) -> None:
    """Eighty iterations on the truth find the tumour of an unseen case."""
    file = train(Data(), None, options(iterations=80, soft_weight=0.0, learning_rate=1e-2), settings(tmp_path))
    assert file.provenance["last"]["dice_wt"] > 0.6


def test_a_student_of_soft_labels_alone_follows_its_teachers(tmp_path: Path) -> None:
    """Teachers that see no tumour make a student that sees none, though the truth has one."""
    blind = Soft(("c1", "c2"), value=lambda labels: labels > 9)
    file = train(Data(), blind, options(iterations=25, hard_weight=0.0), settings(tmp_path))
    assert file.provenance["last"]["dice_wt"] == 0


def test_the_provenance_says_which_subsets_were_learnt(whole: Path, tmp_path: Path) -> None:
    """All 15 with dropout, the full set alone without."""
    assert load_student(whole / "student.pt").provenance["accepted_sequences"] == [list(SEQUENCES)]
    some = replace(Augmentation(), dropout=0.25)
    file = train(Data(), Soft(), options(iterations=1, validations=1, augmentation=some), settings(tmp_path))
    assert len(file.provenance["accepted_sequences"]) == 15


def test_a_student_sees_patches_without_sequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the share 1 no patch that reaches the network has all four."""
    seen: list[torch.Tensor] = []
    plain = Student.forward

    def forward(self: Student, image: torch.Tensor) -> torch.Tensor:
        if self.training:
            seen.append(image.flatten(2).any(2))
        return plain(self, image)

    monkeypatch.setattr(Student, "forward", forward)
    always = replace(Augmentation(), dropout=1.0)
    train(Data(), Soft(), options(iterations=3, validations=1, augmentation=always), settings(tmp_path))
    assert len(seen) == 3 + 12
    assert not torch.cat(seen).all(1).any()
