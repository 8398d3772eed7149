"""Tables as papers print them, agreement of volumes, groups and worst cases."""

from __future__ import annotations

import math
from types import MappingProxyType

import pytest
from glialite_distill.score_tables import (
    agreement,
    agreement_table,
    comparison_table,
    group_table,
    paper_table,
    site_of_name,
    size_groups,
    worst_cases,
    worst_table,
)
from glialite_distill.scores import Score


def score(case: str, region: str, dice: float, model: str = "m", true: float = 1.0, predicted: float = 1.0) -> Score:
    """Return a score with a Dice, an HD95 and volumes."""
    return Score(model, case, region, true, predicted, MappingProxyType({"Dice": dice, "HD95": 10 * dice}))


TWO = [score(c, r, d) for c, d in (("a", 0.8), ("b", 0.9)) for r in ("ET", "TC", "WT")]


def cells(table: str) -> list[list[str]]:
    """Return a Markdown table's cells without its rule."""
    lines = [[c.strip() for c in line.strip("|").split("|")] for line in table.splitlines()]
    return [lines[0], *lines[2:]]


def test_a_models_table_is_the_papers() -> None:
    """A row a metric, a column a region, mean ± SD (n − 1): 0.8 and 0.9 are 0.850 ± 0.071."""
    assert cells(paper_table(TWO, "m")) == [
        ["Metric", "Enhancing tumour", "Tumour core", "Whole tumour"],
        ["Dice", *["0.850 ± 0.071"] * 3],
        ["HD95 (mm)", *["8.50 ± 0.71"] * 3],
    ]


def test_fewer_cases_are_said() -> None:
    """A region without a score in one case tells of how many the mean is; of none it is a dash; of one it has no SD."""
    scores = [score("a", "ET", math.nan), score("b", "ET", 0.5), score("a", "TC", math.nan), score("a", "WT", 0.7)]
    assert cells(paper_table(scores, "m"))[1] == ["Dice", "0.500 (n = 1)", "–", "0.700"]


def test_models_stand_side_by_side() -> None:
    """A row a model in the order given, with the average of the regions."""
    scores = [*TWO, score("a", "ET", 0.3, "other"), score("a", "TC", 0.6, "other"), score("a", "WT", math.nan, "other")]
    assert cells(comparison_table(scores, "Dice"))[1:] == [
        ["m", *["0.850 ± 0.071"] * 3, "0.850"],
        ["other", "0.300", "0.600", "–", "0.450"],
    ]


def test_agreement_by_hand() -> None:
    """Differences +2, 0, −2 mL: bias 0, SD 2, limits ± 3.92; a case without volumes is left out."""
    volumes = [(10, 12), (20, 20), (32, 30), (0, 0)]
    found = agreement([score(str(n), "WT", 1, true=t, predicted=p) for n, (t, p) in enumerate(volumes)])
    assert (found.bias_ml, found.low_ml, found.high_ml) == pytest.approx((0, -3.92, 3.92))
    assert found.means_ml == (11, 20, 31)


def test_agreement_of_too_few() -> None:
    """One case has a bias and no limits; none has neither, and the table shows dashes."""
    one = agreement([score("a", "WT", 1, true=2, predicted=3)])
    assert one.bias_ml == 1
    assert math.isnan(one.low_ml)
    assert math.isnan(agreement([]).bias_ml)
    rows = cells(agreement_table([score("a", "WT", 1, true=2, predicted=3)]))
    assert rows[1:] == [
        ["m", "ET", "–", "–", "–", "0"],
        ["m", "TC", "–", "–", "–", "0"],
        ["m", "WT", "+1.00", "–", "–", "1"],
    ]


@pytest.mark.parametrize(
    ("case", "site"),
    [
        ("BraTS-SSA-00126-000", "BraTS-SSA"),
        ("BraTS-GLI-00001-000", "BraTS-GLI"),
        ("TCGA-DU-7294", "TCGA-DU"),
        ("brats_2013_pat0001_1", "other"),
        ("", "other"),
    ],
)
def test_sites_are_in_the_names(case: str, site: str) -> None:
    """What names tell, and nothing more."""
    assert site_of_name(case) == site


def test_sizes_are_terciles_of_the_true_volume() -> None:
    """Six volumes make three pairs; a case without the region is a group of its own."""
    scores = [score(f"c{n}", "ET", 1, true=n) for n in range(7)]
    groups = size_groups(scores)
    assert [groups[f"c{n}", "ET"].split(" ")[0] for n in range(7)] == [
        "absent", "small", "small", "medium", "medium", "large", "large",
    ]  # fmt: skip
    assert groups["c3", "ET"] == "medium (3.0–4.0 mL)"


def test_two_cases_make_no_terciles() -> None:
    """They are one group."""
    groups = size_groups([score("a", "WT", 1, true=1), score("b", "WT", 1, true=9)])
    assert set(groups.values()) == {"present (1.0–9.0 mL)"}


def test_groups_are_averaged_by_region() -> None:
    """Mean ± SD and how many, smaller tumours first."""
    scores = [score("x", "WT", 0.9, true=5), score("y", "WT", 0.5, true=2), score("z", "WT", 0.7, true=9)]
    rows = cells(group_table(scores, "m", lambda s: "big" if s.reference_ml > 3 else "small"))
    assert rows == [["Group", "Dice", "Cases"], ["WT: small", "0.500", "1"], ["WT: big", "0.800 ± 0.141", "2"]]


def test_the_worst_come_first() -> None:
    """A case counts by its worst region; one without any score is left out."""
    scores = [
        score("a", "ET", 0.9), score("a", "WT", 0.4), score("b", "ET", 0.2), score("c", "ET", 0.8),
        score("d", "ET", math.nan),
    ]  # fmt: skip
    worst = worst_cases(scores, 2)
    assert [(s.case, s.region) for s in worst] == [("b", "ET"), ("a", "WT")]
    assert cells(worst_table(worst))[1] == ["b", "m", "ET", "0.200", "1.0", "1.0"]
    assert len(worst_cases(scores, 10)) == 3


def test_lesion_wise_dice_ranks_where_there_is_one() -> None:
    """The BraTS metrics rank by lesions, not by the whole image."""
    values = [{"Legacy_Dice": 0.1, "LesionWise_Score_Dice": 0.9}, {"Legacy_Dice": 0.9, "LesionWise_Score_Dice": 0.2}]
    scores = [Score("m", str(n), "WT", 1, 1, MappingProxyType(v)) for n, v in enumerate(values)]
    assert [s.case for s in worst_cases(scores, 2)] == ["1", "0"]
