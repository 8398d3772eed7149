"""What decides a training: the schedule, refused options, and the cases it sees."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from glialite_distill.augment import Augmentation
from glialite_distill.cohort import Split
from glialite_distill.train import TrainOptions, learning_rate, select_cases
from glialite_runtime.errors import ConfigError

from .conftest import OPTIONS, Data, Soft, options


def test_learning_rate_by_hand() -> None:
    """Warm-up over 10 of 110 iterations, the middle of the cosine at half, nearly 0 at the end."""
    some = replace(OPTIONS, iterations=110, warm_up=10 / 110, learning_rate=1.0)
    rates = [learning_rate(some, i) for i in (0, 4, 9, 10, 60, 109)]
    assert rates == pytest.approx([0.1, 0.5, 1.0, 1.0, 0.5, 0.5 * (1 + math.cos(math.pi * 0.99))])


def test_a_short_run_averages_over_a_tenth_of_itself() -> None:
    """Of 500 iterations 50 count, of a hundred thousand the thousand that `average` allows."""
    assert replace(OPTIONS, iterations=500).decay == pytest.approx(0.98)
    assert replace(OPTIONS, iterations=100_000, average=0.999).decay == 0.999
    assert replace(OPTIONS, iterations=1).decay == 0


def test_all_problems_of_the_options_are_named_at_once() -> None:
    """An unknown student, no iterations and a share above 1 in one message."""
    with pytest.raises(ConfigError, match=r"student 'XL'.*iterations.*foreground"):
        TrainOptions(student="XL", iterations=0, foreground=2)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"doubt": 2.0}, "doubt must be in 0 to 1"),
        ({"temperature": (2.0, 0.0, 2.0)}, "temperature must be positive"),
        ({"augmentation": Augmentation(dropout=-0.1)}, "dropout must be in 0 to 1"),
        ({"consistency": -1.0}, "consistency must not be negative"),
        ({"quantisation_aware": True, "feature_weight": 1.0}, "feature_weight has no place"),
    ],
)
def test_options_that_cannot_be_are_refused(changed: dict[str, object], said: str) -> None:
    """One sentence each."""
    with pytest.raises(ConfigError, match=said):
        options(**changed)


def test_a_patch_that_the_student_cannot_take_is_refused() -> None:
    """S halves four times, so 40 is no edge for it."""
    with pytest.raises(ConfigError, match="multiple of 16"):
        TrainOptions(patch=(48, 40, 48))


def test_of_two_large_folds_whole_patients_validate_and_the_rest_trains() -> None:
    """Ten cases in two folds: the first patient, scanned twice, validates; the other eight train, in order."""
    first = ("P-00001-000", "P-00001-001", "P-00003-000", "P-00005-000", "P-00007-000")
    second = tuple(f"P-0000{n}-000" for n in (2, 4, 6, 8, 9))
    training, validation = select_cases(Data(splits=(Split(second, first),)), None, options(soft_weight=0.0))
    assert validation == first[:2]
    assert training == tuple(sorted((*first[2:], *second)))


def test_cases_without_soft_labels_are_trained_on_unless_refused() -> None:
    """By default all training cases count; with hard_cases off only those with soft labels."""
    assert select_cases(Data(), Soft(), options()) == (("c1", "c2"), ("c0",))
    assert select_cases(Data(), Soft(), options(hard_cases=False)) == (("c1",), ("c0",))


def test_a_held_out_case_is_never_trained_on() -> None:
    """Folds that contain a held-out case are refused."""
    with pytest.raises(ConfigError, match=r"held-out cases \(c2\)"):
        select_cases(Data(held_out=("c2",)), Soft(), options())


@pytest.mark.parametrize("soft", [None, Soft(cases=("c0",))])
def test_distilling_without_soft_labels_is_refused(soft: Soft | None) -> None:
    """Soft labels of validation cases alone are none; the message says how to do without."""
    with pytest.raises(ConfigError, match="--soft-weight 0"):
        select_cases(Data(), soft, options())


def test_the_truth_alone_needs_no_soft_labels() -> None:
    """With a soft weight of 0 all training cases are taken."""
    assert select_cases(Data(), None, options(soft_weight=0.0))[0] == ("c1", "c2")


def test_an_unknown_fold_is_refused() -> None:
    """The message says which folds there are."""
    with pytest.raises(ConfigError, match="fold 3 does not exist"):
        select_cases(Data(), Soft(), options(fold=3))
