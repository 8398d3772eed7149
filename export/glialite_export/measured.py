"""The part of a model card that says how good the model is, and where it is not, on cases that it never saw."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Final

from glialite_distill.evaluate_groups import Row, subgroups
from glialite_runtime.sequences import REGIONS

__all__ = ["HEADING", "measured_section", "with_measured"]

HEADING: Final = "## Measured on cases that it never saw"
_WORST: Final = 5

_SHOWN: Final = {
    "subgroups.png": "Dice by subgroup: a dot a case, a bar for the mean",
    "worst.png": "The worst cases: truth beside prediction in three planes",
}
"""Name of a picture in the bundle -> what it shows."""


def measured_section(cases: Sequence[Row], source: str, pictures: Collection[str] = ()) -> str:
    """Return the section as Markdown; empty where `cases` hold nothing of the model.

    Parameters
    ----------
    cases : sequence of mapping
        `cases` of the JSON of `distill evaluate`: a row a case, model and set of sequences.
    source : str
        The model's name there.
    pictures : collection of str
        Those of `_SHOWN` that lie beside the card.
    """
    own = [row for row in cases if row["source"] == source]
    whole = [row for row in own if not row["withheld"]]
    if not whole:
        return ""
    lines = [HEADING, "", "| cases | number | WT | TC | ET |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [_line(name, group) for name, group in subgroups(own)]
    lines += [
        "",
        "Mean Dice; a region that neither truth nor model has does not count, one falsely outlined counts as 0.",
        *_picture("subgroups.png", pictures),
    ]
    healthy = [row["false_positive_ml"] for row in whole if row["false_positive_ml"] is not None]
    if healthy:
        lines += ["", f"In {len(healthy)} brains without a tumour: at most {max(healthy):.2f} mL falsely outlined."]
    known = [(min(found), row) for row in whole if (found := [d for d in row["dice"].values() if d is not None])]
    known.sort(key=lambda one: one[0])
    failures = "; ".join(f"{row['case']} ({_dice(row)})" for _, row in known[:_WORST])
    return "\n".join([*lines, *_picture("worst.png", pictures), "", f"Worst: {failures}.", ""])


def _picture(name: str, pictures: Collection[str]) -> list[str]:
    return ["", f"![{_SHOWN[name]}]({name})"] if name in pictures else []


def _dice(row: Row) -> str:
    return ", ".join(f"{region} {row['dice'][region]:.2f}" for region in REGIONS if row["dice"][region] is not None)


def _line(name: str, rows: Sequence[Row]) -> str:
    cells = []
    for region in REGIONS:
        found = [row["dice"][region] for row in rows if row["dice"][region] is not None]
        cells.append(f"{sum(found) / len(found):.3f}" if found else "–")
    return f"| {name} | {len(rows)} | {' | '.join(cells)} |"


def with_measured(card: str, section: str) -> str:
    """Return a model card with this section at its end, in place of the one that it has."""
    return card.partition(f"\n{HEADING}")[0] + (f"\n{section}" if section else "")
