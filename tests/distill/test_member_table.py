"""What each member is worth."""

from __future__ import annotations

import csv
import io

import pytest
from glialite_distill.member_table import csv_text, markdown, member_table, rows_json

from tests.distill.test_member_weights import evidence

NAMES = ("baseline", "grokking", "mednext-b")
CASES = [
    evidence("9900", "9900", "0099", truth="xx..", fold=0),
    evidence("9900", "9900", "0099", truth="xx..", fold=1),
]


def test_the_table_shows_every_ensemble_of_one_member_less() -> None:
    """All, with four ways to weigh them; without each; each alone."""
    rows = member_table(CASES, NAMES)
    assert [(row.members, row.weights) for row in rows] == [
        ("all", "equal"),
        ("all", "hybrid"),
        ("all", "learnt"),
        ("all", "best"),
        *((f"without {name}", way) for name in NAMES for way in ("equal", "learnt")),
        *((f"only {name}", "equal") for name in NAMES),
    ]


def test_more_members_are_not_always_better() -> None:
    """Two are right and one says the opposite: with equal weights two of three still win, alone it scores 0."""
    found = {(row.members, row.weights): row.dice for row in member_table(CASES, NAMES)}
    assert found["all", "equal"] == (1.0, 1.0, 1.0)
    assert found["only mednext-b", "equal"] == (0.0, 0.0, 0.0)
    assert found["without mednext-b", "equal"] == (1.0, 1.0, 1.0)
    assert found["without grokking", "equal"][0] < 1
    assert found["without grokking", "learnt"] == (1.0, 1.0, 1.0)


def test_learnt_weights_are_scored_on_other_folds_than_they_were_learnt_on() -> None:
    """Who is right in one fold is wrong in the other: learning from the one scores 0 in the other."""
    cases = [evidence("9900", "0099", truth="xx..", fold=0), evidence("9900", "0099", truth="..xx", fold=1)]
    found = {(row.members, row.weights): row.mean for row in member_table(cases, ("a", "b"))}
    assert found["all", "learnt"] == found["all", "best"] == 0


def test_a_single_fold_has_no_learnt_rows_and_one_member_no_others() -> None:
    """What cannot be measured honestly is not in the table."""
    assert [row.weights for row in member_table(CASES[:1], NAMES) if row.weights in ("learnt", "best")] == []
    alone = member_table([evidence("9900", truth="xx..")], ("grokking",))
    assert [(row.members, row.weights) for row in alone] == [("all", "equal")]


def test_the_table_reads_the_same_in_all_its_forms() -> None:
    """JSON, CSV and Markdown hold the same rows; differences are to all members with equal weights."""
    rows = member_table(CASES, NAMES)
    values = rows_json(rows)
    table = list(csv.DictReader(io.StringIO(csv_text(rows))))
    lines = markdown(rows, 2).splitlines()[4:]
    assert len(values) == len(table) == len(lines) == len(rows)
    for value, row, line in zip(values, table, lines, strict=True):
        assert value["against_all"] == pytest.approx(value["mean_dice"] - values[0]["mean_dice"])
        assert float(row["dice_ET"]) == pytest.approx(value["dice"]["ET"], abs=1e-6)
        assert line.startswith(f"| {value['members']} | {value['weights']} | {value['dice']['WT']:.3f} |")
        assert line.endswith(f"{value['against_all']:+.3f} |")
