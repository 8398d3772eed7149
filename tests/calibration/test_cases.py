"""The guard in front of calibration: held-out patients never calibrate."""

import pytest
from glialite_calibration.cases import guard_cases, spread
from glialite_runtime.errors import CalibrationError

TRAINING = ("A-000", "A-001", "B-000")
HELD_OUT = ("C-000",)
PATIENTS = {"A-000": "A", "A-001": "A", "B-000": "B", "C-000": "C"}


def test_training_cases_pass() -> None:
    """Training cases come back in their order."""
    assert guard_cases(["B-000", "A-001"], TRAINING, HELD_OUT, PATIENTS) == ("B-000", "A-001")


def test_held_out_case_is_refused_even_when_listed_as_training() -> None:
    """Held out wins over everything else."""
    with pytest.raises(CalibrationError, match="C-000 is held out"):
        guard_cases(["A-000", "C-000"], (*TRAINING, "C-000"), HELD_OUT, PATIENTS)


def test_another_scan_of_a_held_out_patient_is_refused() -> None:
    """A second time point shows the same tumour."""
    with pytest.raises(CalibrationError, match="held-out patient C"):
        guard_cases(["C-001"], (*TRAINING, "C-001"), HELD_OUT, {**PATIENTS, "C-001": "C"})


def test_every_problem_is_named_at_once() -> None:
    """One message lists all cases that cannot calibrate."""
    with pytest.raises(CalibrationError, match=r"X-000 is not a training case.*C-000 is held out"):
        guard_cases(["X-000", "A-000", "C-000"], TRAINING, HELD_OUT, PATIENTS)


def test_no_case_is_refused() -> None:
    """An empty choice is an error."""
    with pytest.raises(CalibrationError, match="at least one"):
        guard_cases([], TRAINING, HELD_OUT, PATIENTS)


@pytest.mark.parametrize(
    ("count", "chosen"), [(1, (4,)), (2, (2, 6)), (3, (1, 4, 6)), (8, tuple(range(8))), (99, tuple(range(8)))]
)
def test_spread_takes_evenly(count: int, chosen: tuple[int, ...]) -> None:
    """The choice covers the whole list and never repeats a case."""
    cases = [str(number) for number in range(8)]
    assert spread(cases, count) == tuple(str(number) for number in chosen)
