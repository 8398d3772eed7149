"""Which cases of an evaluation are told apart, and which are the worst."""

from __future__ import annotations

from typing import Any

from glialite_distill.evaluate_groups import subgroups, worst_cases
from glialite_runtime.sequences import REGIONS, SEQUENCES

Three = tuple[float | None, float | None, float | None]


def row(case: str, dice: Three, true_ml: Three = (100, 40, 20), predicted_ml: Three | None = None, **more: Any) -> Any:
    """Return a row as `distill evaluate` writes it; what is outlined has the true volume unless it is given."""
    fixed = {"case": case, "source": "it", "sequences": list(SEQUENCES), "withheld": False, "false_positive_ml": None}
    values = {"dice": dice, "true_ml": true_ml, "predicted_ml": predicted_ml or true_ml}
    return {**fixed, **{name: dict(zip(REGIONS, three, strict=True)) for name, three in values.items()}, **more}


def named(rows: list[Any]) -> list[tuple[str, str, str]]:
    """Return title, case and region of each of the worst cases."""
    return [(found.title, found.row["case"], found.region) for found in worst_cases(rows)]


def test_each_of_the_worst_is_another_case() -> None:
    """Lowest mean first, shown where it is lowest; then each region's lowest of those that are left."""
    rows = [
        row("good", (0.9, 0.9, 0.9)),
        row("et", (0.9, 0.8, 0.4)),
        row("tc", (0.9, 0.6, 0.9)),
        row("wt", (0.7, 0.8, 0.9)),
        row("bad", (0.5, 0.1, 0.3)),
        row("bad", (0.0, 0.0, 0.0), sequences=["t1n"], withheld=True),
    ]
    assert named(rows) == [
        ("lowest mean Dice", "bad", "TC"),
        ("lowest WT Dice of the others", "wt", "WT"),
        ("lowest TC Dice of the others", "tc", "TC"),
        ("lowest ET Dice of the others", "et", "ET"),
    ]


def test_a_speck_where_nothing_is_does_not_take_the_place_of_a_failure() -> None:
    """Under 1 mL of false outline is passed over; above it, the more mL the worse."""
    none = (0.0, 0.0, 0.0)
    rows = [
        row("speck", (0.0, None, None), none, (0.02, 0.0, 0.0)),
        row("some", (0.0, None, None), none, (1.0, 0.0, 0.0)),
        row("much", (0.0, None, None), none, (9.0, 0.0, 0.0)),
        row("poor", (0.3, 0.3, 0.3)),
    ]
    assert [case for _, case, _ in named(rows)] == ["much", "some", "poor"]


def test_regions_that_are_not_reported_are_never_the_worst() -> None:
    """Without t1c only WT has a Dice, and no volume of TC and ET is asked for."""
    rows = [row("blind", (0.2, None, None), (10, 5, 5), (9, None, None)), row("nothing", (None, None, None), (0, 0, 0))]
    assert named(rows) == [("lowest mean Dice", "blind", "WT")]
    assert named([]) == []


def test_groups_without_cases_are_left_out() -> None:
    """All, a size, enhancement, and a set of sequences; nothing else here."""
    rows = [row("a", (0.9, 0.9, 0.9)), row("a", (0.5, None, None), sequences=["t2f"], withheld=True)]
    assert [(name, len(group)) for name, group in subgroups(rows)] == [
        ("all", 1),
        ("80 mL and more", 1),
        ("with enhancing tumour", 1),
        ("only t2f", 1),
    ]
