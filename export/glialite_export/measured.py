"""The part of a model card that says how good the model is, and where it is not, on cases that it never saw."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from glialite_runtime.sequences import REGIONS

__all__ = ["HEADING", "measured_section", "with_measured"]

HEADING: Final = "## Measured on cases that it never saw"
_WORST: Final = 5

_Row = Mapping[str, Any]

_GROUPS: Final[Mapping[str, Callable[[_Row], bool]]] = {
    "whole tumour under 20 mL": lambda row: 0 < row["true_ml"]["WT"] < 20,
    "20 to 80 mL": lambda row: 20 <= row["true_ml"]["WT"] < 80,
    "80 mL and more": lambda row: row["true_ml"]["WT"] >= 80,
    "with enhancing tumour": lambda row: row["true_ml"]["ET"] > 0,
    "tumour, but none that enhances": lambda row: row["true_ml"]["WT"] > 0 == row["true_ml"]["ET"],
}


def measured_section(cases: Sequence[_Row], source: str) -> str:
    """Return the section as Markdown; empty where `cases` hold nothing of the model.

    Parameters
    ----------
    cases : sequence of mapping
        `cases` of the JSON of `distill evaluate`: a row a case, model and set of sequences.
    source : str
        The model's name there.
    """
    own = [row for row in cases if row["source"] == source]
    whole = [row for row in own if not row["withheld"]]
    if not whole:
        return ""
    lines = [HEADING, "", "| cases | number | WT | TC | ET |", "| --- | ---: | ---: | ---: | ---: |"]
    lines += [_line("all", whole)]
    lines += [_line(name, group) for name, belongs in _GROUPS.items() if (group := [r for r in whole if belongs(r)])]
    for kept in dict.fromkeys(tuple(row["sequences"]) for row in own if row["withheld"]):
        lines.append(_line("only " + ", ".join(kept), [r for r in own if tuple(r["sequences"]) == kept]))
    lines += [
        "",
        "Mean Dice; a region that neither truth nor model has does not count, one falsely outlined counts as 0.",
    ]
    healthy = [row["false_positive_ml"] for row in whole if row["false_positive_ml"] is not None]
    if healthy:
        lines += ["", f"In {len(healthy)} brains without a tumour: at most {max(healthy):.2f} mL falsely outlined."]
    known = [(min(found), row) for row in whole if (found := [d for d in row["dice"].values() if d is not None])]
    known.sort(key=lambda one: one[0])
    failures = "; ".join(f"{row['case']} ({_dice(row)})" for _, row in known[:_WORST])
    return "\n".join([*lines, "", f"Worst: {failures}.", ""])


def _dice(row: _Row) -> str:
    return ", ".join(f"{region} {row['dice'][region]:.2f}" for region in REGIONS if row["dice"][region] is not None)


def _line(name: str, rows: Sequence[_Row]) -> str:
    cells = []
    for region in REGIONS:
        found = [row["dice"][region] for row in rows if row["dice"][region] is not None]
        cells.append(f"{sum(found) / len(found):.3f}" if found else "–")
    return f"| {name} | {len(rows)} | {' | '.join(cells)} |"


def with_measured(card: str, section: str) -> str:
    """Return a model card with this section at its end, in place of the one that it has."""
    return card.partition(f"\n{HEADING}")[0] + (f"\n{section}" if section else "")
