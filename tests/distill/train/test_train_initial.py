"""Training that starts from another student: its weights, and quantisation-aware fine-tuning."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from glialite_distill.guidance import Guidance
from glialite_distill.quant_aware import FakeQuantStudent
from glialite_distill.student_file import load_student
from glialite_distill.train import train
from glialite_distill.train_forecast import forecast
from glialite_runtime.errors import ConfigError, TimeLimitReached

from .conftest import OPTIONS, Data, Soft, options, settings


def test_training_starts_from_a_given_student(whole: Path, tmp_path: Path) -> None:
    """With a vanishing learning rate the weights stay those of the given student."""
    start = load_student(whole / "student.pt")
    tiny = options(iterations=1, learning_rate=1e-12, validations=1)
    file = train(Data(), Soft(), tiny, settings(tmp_path), start)
    torch.testing.assert_close(file.state["head.weight"], start.state["head.weight"])


def test_a_given_student_of_another_shape_is_refused(whole: Path, tmp_path: Path) -> None:
    """S does not start from the weights of a tiny student."""
    with pytest.raises(ConfigError, match="initial weights"):
        train(Data(), Soft(), OPTIONS, settings(tmp_path), load_student(whole / "student.pt"))


def test_a_student_remembers_the_cases_of_what_it_started_from_and_learnt_from(whole: Path, tmp_path: Path) -> None:
    """Parent's and assistant's cases are in the provenance; of a parent without a record, that nothing is known."""
    parent = load_student(whole / "student.pt")
    assert parent.provenance["earlier_cases"] == {"trained": [], "validated": []}
    other = replace(parent, provenance={"train_cases": ["a"], "validation_cases": ["b"]})
    tiny = options(iterations=1, validations=1)
    child = train(Data(), Soft(), tiny, settings(tmp_path), parent, Guidance(other))
    assert child.provenance["earlier_cases"] == {"trained": ["a", "c1", "c2"], "validated": ["b", "c0"]}
    orphan = train(Data(), Soft(), tiny, settings(tmp_path / "2"), replace(parent, provenance={}))
    assert orphan.provenance["earlier_cases"] is None


def test_a_parent_that_was_trained_on_what_is_kept_back_is_refused(whole: Path, tmp_path: Path) -> None:
    """The validation case, or a held-out one, would be known to the student."""
    parent = load_student(whole / "student.pt")
    for case in ("c0", "c9"):
        leaky = replace(parent, provenance={"train_cases": ["c1", case]})
        with pytest.raises(ConfigError, match=f"student to start from was trained on {case}"):
            train(Data(), Soft(), options(), settings(tmp_path), leaky)


@pytest.fixture(scope="module")
def tuned(whole: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a quantisation-aware training of the trained student that ran through."""
    folder = tmp_path_factory.mktemp("tuned")
    train(Data(), Soft(), options(quantisation_aware=True), settings(folder), load_student(whole / "student.pt"))
    return folder / "run"


def test_a_fine_tuned_student_is_an_ordinary_one_that_names_its_parent(whole: Path, tuned: Path) -> None:
    """The same tensors in the same form; statistics are the parent's, weights are not on a grid."""
    parent, file = load_student(whole / "student.pt"), load_student(tuned / "student.pt")
    assert file.spec == parent.spec
    assert all("running" not in key or torch.equal(file.state[key], parent.state[key]) for key in parent.state)
    assert not torch.equal(file.state["head.weight"], parent.state["head.weight"])
    channel = file.state["encoder.0.0.0.weight"][0].flatten() / file.state["encoder.0.0.0.weight"][0].abs().max() * 63
    assert (channel - channel.round()).abs().max() > 0.1
    assert file.provenance["options"]["quantisation_aware"] is True
    digest = hashlib.sha256()
    for key in sorted(parent.state):
        digest.update(parent.state[key].numpy().tobytes())
    assert file.provenance["initial"] == digest.hexdigest()


def test_fine_tuning_stopped_after_every_iteration_ends_in_the_same_bytes(
    whole: Path, tuned: Path, tmp_path: Path
) -> None:
    """The running ranges of activations go into the checkpoint too: the student.pt is that of one run, bit for bit."""
    parent = load_student(whole / "student.pt")
    for done in range(1, 8):
        with pytest.raises(TimeLimitReached, match=f"after {done} of 8"):
            train(Data(), Soft(), options(quantisation_aware=True), settings(tmp_path, time_limit_s=0.0), parent)
    train(Data(), Soft(), options(quantisation_aware=True), settings(tmp_path, time_limit_s=0.0), parent)
    assert (tmp_path / "run" / "student.pt").read_bytes() == (tuned / "student.pt").read_bytes()


def test_fine_tuning_trains_the_rounded_and_the_plain_student_by_turns(
    whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every second iteration rounds, from the first one on; none does in an ordinary training."""
    rounding: list[int] = []
    done: list[int] = []
    plain = FakeQuantStudent.forward

    def forward(self: FakeQuantStudent, image: torch.Tensor) -> torch.Tensor:
        rounding.append(len(done))
        return plain(self, image)

    monkeypatch.setattr(FakeQuantStudent, "forward", forward)
    run = settings(tmp_path, report=lambda progress: done.append(progress.iteration))
    train(Data(), Soft(), options(quantisation_aware=True, iterations=5), run, load_student(whole / "student.pt"))
    assert rounding == [0, 2, 4]


def test_fine_tuning_needs_a_trained_student(tmp_path: Path) -> None:
    """The message says why, and what to do; a forecast is refused alike."""
    for command in (train, forecast):
        with pytest.raises(ConfigError, match=r"freezes.*--init"):
            command(Data(), Soft(), options(quantisation_aware=True), settings(tmp_path))


def test_fine_tuning_and_training_are_not_mixed_up(whole: Path, tuned: Path) -> None:
    """The folder of one does not continue as the other."""
    with pytest.raises(ConfigError, match="quantisation_aware"):
        train(Data(), Soft(), options(), settings(tuned.parent), load_student(whole / "student.pt"))
