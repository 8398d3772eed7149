"""An evaluation as Markdown and as a picture of reliability."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from glialite_calibration.reliability import BINS
from glialite_runtime.sequences import REGIONS, SEQUENCES

from glialite_distill.evaluate_scores import NEAR_MM, SCOPES
from glialite_distill.figures import new_figure, save_figure

__all__ = ["markdown", "write_reliability"]

_STAGES: Final = ("before", "after")


def markdown(result: Mapping[str, Any]) -> str:
    """Return all tables of a result of `run_evaluation`; those about which nothing is known are left out."""
    parts = [_accuracy(result["summary"]), _volumes(result["summary"])]
    parts += [_reliability(result["reliability"], result["without_probabilities"])] if result["reliability"] else []
    parts += [_subsets(result["subsets"])] if result["subsets"] else []
    return "\n".join(parts)


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    rule = ["---", *(["---:"] * (len(header) - 1))]
    escaped = ([cell.replace("|", "\\|") for cell in cells] for cells in (header, rule, *rows))
    return "".join(f"| {' | '.join(cells)} |\n" for cells in escaped)


def _figure(value: float | None, form: str = ".3f") -> str:
    return "–" if value is None else f"{value:{form}}"


def _with_interval(value: float | None, interval: Sequence[float | None], form: str = ".3f") -> str:
    low, high = interval
    return _figure(value, form) if low is None or high is None else f"{value:{form}} ({low:{form}} to {high:{form}})"


def _accuracy(summary: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for row in summary:
        cells = [_with_interval(row["dice"][r], row["dice_95"][r]) for r in REGIONS]
        cells.append(_with_interval(row["mean_dice"], row["mean_dice_95"]))
        ratio = row["ratio"]
        cells.append("–" if ratio is None else _with_interval(ratio["value"], (ratio["low"], ratio["high"]), ".1%"))
        rows.append([row["source"], *cells])
    counted = [f"{r} {'/'.join(str(row['counted'][r]) for row in summary)}" for r in REGIONS]
    return _table(["Dice (95 % interval over patients)", *REGIONS, "mean", "of the reference"], rows) + (
        f"\n{summary[0]['cases']} cases; counted, source by source: {', '.join(counted)}. A region that neither "
        "truth nor prediction has is not counted.\n"
    )


def _volumes(summary: Sequence[Mapping[str, Any]]) -> str:
    header = ["Volume, predicted − true (mL): mean, mean absolute", *REGIONS]
    rows = []
    for row in summary:
        errors = [row["volume_error_ml"][r] for r in REGIONS]
        cells = [f"{_figure(e['mean'], '+.1f')}, {_figure(e['mean_absolute'], '.1f')}" for e in errors]
        rows.append([row["source"], *cells, f"{_figure(row['false_positive_ml'], '.2f')}"])
        rows[-1].append(_figure(row["largest_false_positive_ml"], ".2f"))
    free = f"{summary[0]['tumour_free_cases']} brains without tumour"
    text = _table([*header, f"false mL in {free}", "largest"], rows)
    covered = [row for row in summary if row["volume_coverage"] is not None]
    if covered:
        rows = []
        for row in covered:
            held = [row["volume_coverage"][r] for r in REGIONS]
            rows.append([row["source"], *(_with_interval(h["value"], (h["low"], h["high"]), ".0%") for h in held)])
        rate = f"{covered[0]['volume_interval_rate']:.0%}"
        text += "\n" + _table([f"True volume inside the {rate} interval", *REGIONS], rows)
    return text


def _reliability(found: Mapping[str, Any], without: Sequence[str]) -> str:
    stages = [s for s in _STAGES if any(s in regions[REGIONS[0]] for x in found.values() for regions in x.values())]
    header = ["Calibration error", "where", *(f"{r} {stage} temperature" for r in REGIONS for stage in stages)]
    rows = []
    for source, scopes in found.items():
        for scope, regions in scopes.items():
            figures = [regions[r].get(stage) for r in REGIONS for stage in stages]
            rows.append([source, scope, *("–" if f is None else _figure(f["ece"], ".4f") for f in figures)])
    return _table(header, rows) + (
        f"\nExpected calibration error over {BINS} bins of one width; every voxel counts once: all of the brain, "
        f"or those of the true tumour and at most {NEAR_MM:g} mm from it along each axis."
        + (f" Without probabilities: {', '.join(without)}.\n" if without else "\n")
    )


def _subsets(rows: Sequence[Mapping[str, Any]]) -> str:
    lines = []
    for row in rows:
        cells = [_with_interval(row["dice"][r], row["dice_95"][r]) for r in REGIONS]
        shown = " ".join(s if s in row["sequences"] else "·" for s in SEQUENCES)
        lines.append([row["source"], shown, *cells])
    return _table(["Dice by sequences", "shown", *REGIONS], lines) + (
        f"\n{max(row['cases'] for row in rows)} cases. Without t1c, TC and ET are not reported.\n"
    )


def write_reliability(path: Path, found: Mapping[str, Any]) -> None:
    """Draw how often a region is there against how probable it was called: a row a source, a column a region.

    Parameters
    ----------
    path : Path
        PNG to write.
    found : mapping
        Of `reliability_json`, not empty. Thin lines are before temperature, thick ones after.
    """
    figure = new_figure(3.4 * len(REGIONS), 3.2 * len(found) + 0.4)
    panels = figure.subplots(len(found), len(REGIONS), squeeze=False, sharex=True, sharey=True)
    for (source, scopes), line in zip(found.items(), panels, strict=True):
        for region, axes in zip(REGIONS, line, strict=True):
            axes.plot((0, 1), (0, 1), color="0.7", linewidth=1)
            for colour, scope in zip(("C0", "C1"), SCOPES, strict=True):
                for stage, width in zip(_STAGES, (1, 2.5), strict=True):
                    if (curve := scopes[scope][region].get(stage)) is None:
                        continue
                    points = [
                        (p, f) for p, f in zip(curve["probability"], curve["frequency"], strict=True) if f is not None
                    ]
                    error = _figure(curve["ece"], ".4f")
                    axes.plot(
                        *zip(*points, strict=True) if points else ((), ()),
                        color=colour, linewidth=width, marker=".", label=f"{scope}, {stage} temperature: ECE {error}",
                    )  # fmt: skip
            axes.set_title(f"{source}: {region}", fontsize=9)
            axes.legend(fontsize=6, loc="upper left")
            axes.grid(alpha=0.3)
        line[0].set_ylabel("share that is there")
    for axes in panels[-1]:
        axes.set_xlabel("probability")
    save_figure(path, figure)
