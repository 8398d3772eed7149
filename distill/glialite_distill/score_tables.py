"""Tables of scores as papers print them, and where the errors are: by tumour size, by site, the worst cases."""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from glialite_distill.scores import ROWS, Score

__all__ = [
    "SHOWN",
    "Agreement",
    "agreement",
    "agreement_table",
    "comparison_table",
    "group_table",
    "headline",
    "paper_table",
    "site_of_name",
    "size_groups",
    "worst_cases",
    "worst_table",
]

SHOWN: Final[Mapping[str, tuple[str, int]]] = MappingProxyType(
    {
        "Dice": ("Dice", 3),
        "Legacy_Dice": ("Dice", 3),
        "LesionWise_Score_Dice": ("LW Dice", 3),
        "HD95": ("HD95 (mm)", 2),
        "Legacy_HD95": ("HD95 (mm)", 2),
        "LesionWise_Score_HD95": ("LW HD95 (mm)", 2),
        "NSD @ 0.5": ("NSD 0.5 mm", 3),
        "Legacy NSD @ 0.5": ("NSD 0.5 mm", 3),
        "LesionWise_Score_NSD @ 0.5": ("LW NSD 0.5 mm", 3),
        "NSD @ 1.0": ("NSD 1.0 mm", 3),
        "Legacy NSD @ 1.0": ("NSD 1.0 mm", 3),
        "LesionWise_Score_NSD @ 1.0": ("LW NSD 1.0 mm", 3),
        "Volume_Error_mL": ("Volume error (mL)", 2),
        "Volume_Error_Percent": ("Volume error (%)", 1),
    }
)
"""Column of the CSV -> its name and decimals in a table; LW is lesion-wise."""

_REGION_TITLES: Final = {"ET": "Enhancing tumour", "TC": "Tumour core", "WT": "Whole tumour"}
_SITE: Final = re.compile(r"^(BraTS-[A-Za-z]+|TCGA-[A-Z0-9]{2})-")
_SIZES: Final = ("small", "medium", "large")
_LIMITS_SD: Final = 1.96  # 95 % of a normal distribution


def headline(score: Score) -> str:
    """Return the column that cases are ranked by: lesion-wise Dice where there is one, else Dice."""
    return next(c for c in ("LesionWise_Score_Dice", "Dice") if c in score.values)


def _names(scores: Sequence[Score]) -> list[str]:
    return list(dict.fromkeys(s.model for s in scores))


def _shown(scores: Sequence[Score]) -> list[str]:
    return [c for c in SHOWN if scores and c in scores[0].values]


def _mean_sd(values: Sequence[float], decimals: int) -> str:
    """Return mean ± SD (n − 1) of what is defined, and of how many cases when not of all; a dash of none."""
    known = [v for v in values if not math.isnan(v)]
    if not known:
        return "–"
    spread = f" ± {statistics.stdev(known):.{decimals}f}" if len(known) > 1 else ""
    count = f" (n = {len(known)})" if len(known) < len(values) else ""
    return f"{statistics.fmean(known):.{decimals}f}{spread}{count}"


def _markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [[cell.replace("|", "\\|") for cell in line] for line in (header, *rows)]
    widths = [max(3, *(len(line[n]) for line in lines)) for n in range(len(header))]
    lines.insert(1, ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])])
    padded = ([cell.ljust(width) for cell, width in zip(line, widths, strict=True)] for line in lines)
    return "\n".join(f"| {' | '.join(line)} |" for line in padded) + "\n"


def paper_table(scores: Sequence[Score], model: str) -> str:
    """Return one model's table in Markdown: a row a metric, a column a region, mean ± SD over cases."""
    rows = []
    for column in _shown(scores):
        title, decimals = SHOWN[column]
        values = {r: [s.values[column] for s in scores if s.model == model and s.region == r] for r in ROWS}
        rows.append([title, *(_mean_sd(values[r], decimals) for r in ROWS)])
    return _markdown(["Metric", *_REGION_TITLES.values()], rows)


def comparison_table(scores: Sequence[Score], column: str) -> str:
    """Return one metric's table in Markdown: a row a model, a column a region, and the mean of the regions' means."""
    decimals, rows = SHOWN[column][1], []
    for model in _names(scores):
        values = [[s.values[column] for s in scores if s.model == model and s.region == r] for r in ROWS]
        means = [statistics.fmean(known) for v in values if (known := [x for x in v if not math.isnan(x)])]
        cells = [_mean_sd(v, decimals) for v in values]
        rows.append([model, *cells, f"{statistics.fmean(means):.{decimals}f}" if means else "–"])
    return _markdown([SHOWN[column][0], *ROWS, "Average"], rows)


@dataclass(frozen=True, slots=True)
class Agreement:
    """Bland-Altman analysis of volumes.

    Attributes
    ----------
    means_ml, differences_ml : tuple of float
        A case's mean of the two volumes, and predicted minus true.
    bias_ml : float
        Mean difference; NaN without a case.
    low_ml, high_ml : float
        Limits of agreement, bias ± 1.96 SD; NaN below two cases.
    """

    means_ml: tuple[float, ...]
    differences_ml: tuple[float, ...]
    bias_ml: float
    low_ml: float
    high_ml: float


def agreement(scores: Iterable[Score]) -> Agreement:
    """Return the agreement of predicted and true volumes of one region by one model.

    Cases in which both volumes are 0 are left out: they would narrow the limits for nothing.

    Source: Bland and Altman, Lancet 327 (1986) 307-310.
    """
    pairs = [(s.reference_ml, s.predicted_ml) for s in scores if s.reference_ml or s.predicted_ml]
    differences = tuple(predicted - true for true, predicted in pairs)
    bias = statistics.fmean(differences) if differences else math.nan
    reach = _LIMITS_SD * statistics.stdev(differences) if len(differences) > 1 else math.nan
    means = tuple((true + predicted) / 2 for true, predicted in pairs)
    return Agreement(means, differences, bias, bias - reach, bias + reach)


def agreement_table(scores: Sequence[Score]) -> str:
    """Return bias and limits of agreement of the volumes in Markdown, a row a model and region."""
    rows = []
    for model in _names(scores):
        for region in ROWS:
            a = agreement(s for s in scores if s.model == model and s.region == region)
            numbers = ["–" if math.isnan(v) else f"{v:+.2f}" for v in (a.bias_ml, a.low_ml, a.high_ml)]
            rows.append([model, region, *numbers, str(len(a.differences_ml))])
    return _markdown(["Volume, predicted − true", "Region", "Bias (mL)", "Lower", "Upper", "Cases"], rows)


def site_of_name(case: str) -> str:
    """Return the site in a case's name (`BraTS-SSA`, `TCGA-DU`), else "other"."""
    found = _SITE.match(case)
    return found[1] if found else "other"


def size_groups(scores: Sequence[Score]) -> dict[tuple[str, str], str]:
    """Return (case, region) -> size group: terciles of the region's true volume, and "absent" where there is none.

    The name holds the volumes that the group spans. Cases of one volume are in one group, fewer than three all in one.
    """
    groups: dict[tuple[str, str], str] = {}
    for region in ROWS:
        volumes = {s.case: s.reference_ml for s in scores if s.region == region}
        present = sorted(v for v in volumes.values() if v)
        limits = [present[len(present) * k // len(_SIZES)] for k in (1, 2)] if len(present) >= len(_SIZES) else []
        sizes = {c: _SIZES[sum(v >= limit for limit in limits)] if limits else "present" for c, v in volumes.items()}
        for case, size in sizes.items():
            spanned = [v for c, v in volumes.items() if v and sizes[c] == size]
            span = f"{size} ({min(spanned):.1f}–{max(spanned):.1f} mL)" if volumes[case] else "absent"
            groups[case, region] = span
    return groups


def group_table(scores: Sequence[Score], model: str, group_of: Callable[[Score], str]) -> str:
    """Return mean ± SD of the headline score by region and group in Markdown, groups by rising true volume."""
    rows = []
    for region in ROWS:
        own = sorted((s for s in scores if s.model == model and s.region == region), key=lambda s: s.reference_ml)
        for group in dict.fromkeys(group_of(s) for s in own):
            members = [s for s in own if group_of(s) == group]
            values = [s.values[headline(s)] for s in members]
            rows.append([f"{region}: {group}", _mean_sd(values, 3), str(len(members))])
    title = SHOWN[headline(scores[0])][0] if scores else "Dice"
    return _markdown(["Group", title, "Cases"], rows)


def worst_cases(scores: Sequence[Score], count: int) -> list[Score]:
    """Return each case's worst region, the lowest headline scores first; a case without any score is left out."""
    lowest: dict[tuple[str, str], Score] = {}
    for s in scores:
        value = s.values[headline(s)]
        kept = lowest.get((s.model, s.case))
        if not math.isnan(value) and (kept is None or value < kept.values[headline(kept)]):
            lowest[s.model, s.case] = s
    return sorted(lowest.values(), key=lambda s: (s.values[headline(s)], s.model, s.case))[:count]


def worst_table(worst: Sequence[Score]) -> str:
    """Return the worst cases in Markdown."""
    rows = [
        [
            s.case, s.model, s.region, f"{s.values[headline(s)]:.3f}", f"{s.reference_ml:.1f}", f"{s.predicted_ml:.1f}",
        ]
        for s in worst
    ]  # fmt: skip
    return _markdown(["Case", "Model", "Worst region", "Score", "True (mL)", "Predicted (mL)"], rows)
