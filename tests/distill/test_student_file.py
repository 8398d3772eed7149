"""The file of a trained student."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from glialite_distill.student import Student, StudentSpec
from glialite_distill.student_file import (
    StudentFile,
    build_student,
    earlier_cases,
    load_student,
    record_is_complete,
    save_student,
    seen_cases,
    trained_on,
)
from glialite_runtime.decode import DecisionRule
from glialite_runtime.errors import ConfigError

TINY = StudentSpec("tiny", (8, 16), 1)


def tiny_file() -> StudentFile:
    torch.manual_seed(0)
    network = Student(TINY)
    network.train()(torch.randn(1, 4, 8, 8, 8))  # moves the BatchNorm statistics away from 0 and 1
    rule = DecisionRule((0.5, 0.7, 0.6), (100.0, 50.0, 0.0), 1.5, 0.25)
    return StudentFile(TINY, network.state_dict(), (2.0, 1.0, 3.0), rule, {"cohort_hash": "abc", "cases": ["a"]})


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    save_student(tmp_path / "student.pt", tiny_file())
    return tmp_path / "student.pt"


def changed(path: Path, **entries: object) -> Path:
    content = torch.load(path, weights_only=True)
    torch.save({**content, **entries}, path)
    return path


def test_what_is_saved_comes_back(saved: Path) -> None:
    """Spec, spacing, decision rule, provenance and every tensor survive the file, kernels to 11 bits."""
    wanted, got = tiny_file(), load_student(saved)
    assert (got.spec, got.spacing_mm, got.decision) == (wanted.spec, wanted.spacing_mm, wanted.decision)
    assert got.provenance == wanted.provenance
    assert got.state.keys() == wanted.state.keys()
    for name, tensor in wanted.state.items():
        assert got.state[name].dtype == tensor.dtype
        torch.testing.assert_close(got.state[name], tensor, rtol=2**-11 if tensor.ndim > 1 else 0, atol=1e-7)


def test_what_came_back_is_saved_as_it_was(saved: Path, tmp_path: Path) -> None:
    """Rounding happens once; kernels take two bytes a weight."""
    save_student(tmp_path / "again.pt", load_student(saved))
    assert (tmp_path / "again.pt").read_bytes() == saved.read_bytes()
    kernels = [t for t in torch.load(saved, weights_only=True)["state"].values() if t.ndim > 1]
    assert {t.dtype for t in kernels} == {torch.float16}


def test_a_number_of_convolutions_a_stage_comes_back(tmp_path: Path) -> None:
    """A tuple stays a tuple, and the weights fit."""
    spec = StudentSpec("tiny", (8, 16), (1, 2))
    save_student(tmp_path / "student.pt", replace(tiny_file(), spec=spec, state=Student(spec).state_dict()))
    assert load_student(tmp_path / "student.pt").spec == spec


def test_the_same_student_gives_the_same_bytes(saved: Path) -> None:
    """Neither the file's name nor the time of writing gets into it."""
    other = saved.with_name("another.pt")
    save_student(other, tiny_file())
    assert other.read_bytes() == saved.read_bytes()


def test_the_network_is_built_for_evaluation(saved: Path) -> None:
    """The built network does not use batch statistics, so one case never changes another's result."""
    network = build_student(load_student(saved))
    one, two = torch.randn(1, 4, 8, 8, 8), 5 * torch.randn(1, 4, 8, 8, 8)
    with torch.no_grad():
        together = network(torch.cat((one, two)))[0]
        torch.testing.assert_close(network(one)[0], together)


def test_a_truncated_file_is_refused(saved: Path) -> None:
    """Half a file gives a sentence with its name."""
    saved.write_bytes(saved.read_bytes()[:2000])
    with pytest.raises(ConfigError, match=r"student\.pt is truncated or no student"):
        load_student(saved)


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """A path without a file gives a sentence, not a traceback."""
    with pytest.raises(ConfigError, match="does not exist"):
        load_student(tmp_path / "none.pt")


def test_another_torch_file_is_refused(tmp_path: Path) -> None:
    """A checkpoint of something else is not taken for a student."""
    torch.save({"network_weights": {}}, tmp_path / "nnunet.pth")
    with pytest.raises(ConfigError, match="no student"):
        load_student(tmp_path / "nnunet.pth")


def test_code_in_a_file_is_not_run(tmp_path: Path) -> None:
    """A pickle that would call a function is refused and the function is not called."""
    trap = tmp_path / "called"

    class Trap:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (open, (str(trap), "w"))

    torch.save({"format": "glialite-student", "version": 1, "spec": Trap()}, tmp_path / "student.pt")
    trap.unlink(missing_ok=True)
    with pytest.raises(ConfigError, match="no student"):
        load_student(tmp_path / "student.pt")
    assert not trap.exists()


def test_a_student_of_the_first_version_confines_no_core_to_a_rim(saved: Path) -> None:
    """It knew no such rule; the rest of its rule is kept."""
    decision = torch.load(saved, weights_only=True)["decision"]
    del decision["rim_share"]
    assert load_student(changed(saved, version=1, decision=decision)).decision == replace(
        tiny_file().decision, rim_share=1
    )


def test_a_newer_version_is_refused(saved: Path) -> None:
    """A file of a later format is named as such."""
    with pytest.raises(ConfigError, match="version 99"):
        load_student(changed(saved, version=99))


def test_a_missing_entry_is_refused(saved: Path) -> None:
    """A file without a decision rule is damaged, whatever else it holds."""
    with pytest.raises(ConfigError, match="damaged"):
        load_student(changed(saved, decision={}))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (lambda s: s.pop("head.bias"), "head.bias is missing"),
        (lambda s: s.update(extra=torch.zeros(1)), "extra is not one"),
        (lambda s: s.update({"head.bias": torch.zeros(4)}), r"\(4,\), not \(3,\)"),
        (lambda s: s.update({"head.bias": torch.full((3,), float("nan"))}), "NaN"),
    ],
)
def test_weights_that_do_not_fit_are_refused(saved: Path, edit, said: str) -> None:
    """A missing, foreign, misshapen or NaN tensor is named."""
    state = dict(tiny_file().state)
    edit(state)
    with pytest.raises(ConfigError, match=said):
        load_student(changed(saved, state=state))


def test_saving_refuses_what_could_not_be_read(tmp_path: Path) -> None:
    """Weights of another shape and a provenance that is no JSON are refused together, and nothing is written."""
    wrong = replace(tiny_file(), spec=StudentSpec("tiny", (8, 24), 1), provenance={"loss": float("nan")})
    with pytest.raises(ConfigError, match=r"encoder.*provenance"):
        save_student(tmp_path / "student.pt", wrong)
    assert list(tmp_path.iterdir()) == []


def made_by(**provenance: object) -> StudentFile:
    return replace(tiny_file(), provenance=provenance)


def test_a_chain_hands_its_cases_on() -> None:
    """Grandparent, parent and assistant: what trained any of them trained the child, what validated is kept apart."""
    first = made_by(train_cases=["a"], validation_cases=["b"], initial=None)
    second = made_by(train_cases=["c"], validation_cases=["a", "d"], initial="x", earlier_cases=earlier_cases(first))
    helper = made_by(train_cases=["e"], unlabelled_cases=["u"], validation_cases=["f"])
    inherited = earlier_cases(second, None, helper)
    assert inherited == {"trained": ["a", "c", "e", "u"], "validated": ["b", "d", "f"]}
    child = {"train_cases": ["g"], "validation_cases": ["h"], "initial": "y", "earlier_cases": inherited}
    assert trained_on(child) == set("aceug")
    assert seen_cases(child) == set("abcdefghu")
    assert record_is_complete(child)


def test_a_first_student_inherits_nothing() -> None:
    """Two empty lists, and its record is complete; without training cases no record is."""
    assert earlier_cases(None, None) == {"trained": [], "validated": []}
    assert record_is_complete({"train_cases": ["a"], "earlier_cases": earlier_cases()})
    assert not record_is_complete({})


def test_a_broken_chain_stays_broken() -> None:
    """A student with a parent that nobody wrote down: neither it nor what comes after it has a complete record."""
    orphan = made_by(train_cases=["a"], initial="somebody")
    assert not record_is_complete(orphan.provenance)
    assert not record_is_complete(made_by(train_cases=["a"], assistant="somebody").provenance)
    assert earlier_cases(orphan) is None
    child = {"train_cases": ["b"], "earlier_cases": earlier_cases(orphan)}
    assert not record_is_complete(child)
    assert seen_cases(child) == {"b"}
