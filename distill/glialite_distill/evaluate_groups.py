"""Which cases of an evaluation are told apart, and which were the worst: what tables and pictures of it go by."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from glialite_runtime.sequences import REGIONS

__all__ = ["Failure", "Row", "subgroups", "worst_cases"]

Row = Mapping[str, Any]
"""Of `cases` in the JSON of `distill evaluate`: a case, a source, a set of sequences."""

_FALSE_ML: Final = 1.0
"""Less than that, outlined where the truth has nothing, is a speck that tells nothing of how a model fails."""

_GROUPS: Final[Mapping[str, Callable[[Row], bool]]] = {
    "whole tumour under 20 mL": lambda row: 0 < row["true_ml"]["WT"] < 20,
    "20 to 80 mL": lambda row: 20 <= row["true_ml"]["WT"] < 80,
    "80 mL and more": lambda row: row["true_ml"]["WT"] >= 80,
    "with enhancing tumour": lambda row: row["true_ml"]["ET"] > 0,
    "tumour, but none that enhances": lambda row: row["true_ml"]["WT"] > 0 == row["true_ml"]["ET"],
}


@dataclass(frozen=True, slots=True)
class Failure:
    """One of the worst cases.

    Attributes
    ----------
    title : str
        What it is the worst in.
    row : Row
        Its figures.
    region : str
        Where they are worst.
    """

    title: str
    row: Row
    region: str


def subgroups(rows: Sequence[Row]) -> list[tuple[str, list[Row]]]:
    """Return the groups that have cases: all, by size, by enhancement, by sequences that were withheld.

    Parameters
    ----------
    rows : sequence of Row
        Of one source. Groups that sequences do not make hold the rows in which none was withheld.
    """
    whole = [row for row in rows if not row["withheld"]]
    groups = [("all", whole)]
    groups += [(name, [row for row in whole if belongs(row)]) for name, belongs in _GROUPS.items()]
    for kept in dict.fromkeys(tuple(row["sequences"]) for row in rows if row["withheld"]):
        groups.append(("only " + ", ".join(kept), [r for r in rows if tuple(r["sequences"]) == kept]))
    return [(name, group) for name, group in groups if group]


def worst_cases(rows: Sequence[Row]) -> list[Failure]:
    """Return the case of the lowest mean Dice, then of each region the lowest among those not yet named.

    Of equal Dice, the larger error in mL is the worse. Empty when there is nothing to compare.
    """
    left = [row for row in rows if not row["withheld"] and _judged(row)]
    found: list[Failure] = []
    for region in (None, *REGIONS):
        able = [row for row in left if region is None or region in _judged(row)]
        if not able:
            continue
        row = min(able, key=lambda row: _badness(row, REGIONS if region is None else (region,)))
        left = [other for other in left if other is not row]
        shown = region or min(_judged(row), key=lambda r: _badness(row, (r,)))
        rest = " of the others" if found else ""
        found.append(Failure(f"lowest {region or 'mean'} Dice{rest}", row, shown))
    return found


def _judged(row: Row) -> dict[str, float]:
    """Return the Dice of the regions that are there, or are outlined where they are not."""
    return {
        region: dice
        for region, dice in row["dice"].items()
        if dice is not None and (row["true_ml"][region] > 0 or row["predicted_ml"][region] >= _FALSE_ML)
    }


def _badness(row: Row, regions: Sequence[str]) -> tuple[float, float]:
    """Return what sorts the worst first: mean Dice, then the error in mL, negative."""
    found = {region: dice for region, dice in _judged(row).items() if region in regions}
    wrong_ml = sum(abs(row["predicted_ml"][region] - row["true_ml"][region]) for region in found)
    return sum(found.values()) / len(found), -wrong_ml
