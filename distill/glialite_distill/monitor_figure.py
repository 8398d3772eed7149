"""The monitor's picture: losses and score over the epochs, gap and weight norm, learning rate, what happened when."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from textwrap import fill
from typing import Any, Final

import numpy as np

from glialite_distill.figures import new_figure, save_figure
from glialite_distill.monitor import Curves, Verdict, curves_of_run, judge
from glialite_distill.recipes import RECIPES
from glialite_distill.runs import fold_folder, read_history
from glialite_distill.workspace import Workspace

__all__ = ["draw", "draw_runs"]

_TRAINING, _VALIDATION, _SCORE, _NORM = "#1f6f8b", "#c8553d", "#3a7d44", "#7a5195"
_POINTS: Final = 400
_LOG_FROM: Final = 100.0  # losses are drawn on a logarithmic axis when they span this factor


def draw_runs(workspace: Workspace, out: Path) -> list[dict[str, Any]]:
    """Draw every run of a workspace that has finished an epoch as `<out>/<recipe>-fold<k>.png`.

    Returns
    -------
    list of dict
        A row a picture, ready for JSON: `recipe`, `fold`, `picture`, and the verdict's attributes.
    """
    rows = []
    for recipe in RECIPES:
        for fold in range(len(workspace.splits)):
            if read_history(fold_folder(workspace, recipe, fold)):
                curves, picture = curves_of_run(workspace, recipe, fold), out / f"{recipe}-fold{fold}.png"
                verdict = judge(curves)
                out.mkdir(parents=True, exist_ok=True)
                draw(curves, verdict, picture, f"{recipe}, fold {fold}")
                rows.append({"recipe": recipe, "fold": fold, "picture": str(picture), **asdict(verdict)})
    return rows


def draw(curves: Curves, verdict: Verdict, path: Path, title: str, score: str = "Dice") -> None:
    """Write the picture as PNG, in one step.

    Parameters
    ----------
    curves : Curves
        What happened; a weight norm or a learning rate that is NaN throughout has no line.
    verdict : Verdict
        Of `monitor.judge`; its sentence stands below the title.
    path : Path
        File to write.
    title : str
        What was trained.
    score : str
        Name of the validation score.
    """
    figure = new_figure(9, 7)
    figure.suptitle(title, fontweight="bold")
    upper, lower, bottom = figure.subplots(3, 1, sharex=True, height_ratios=(6, 4, 2))
    upper.set_title(fill(verdict.sentence, 105), fontsize=9, loc="left")
    epochs = curves.epoch
    _line(upper, epochs, curves.train_loss, _TRAINING, "training loss")
    _line(upper, epochs, curves.validation_loss, _VALIDATION, "validation loss")
    upper.set_ylabel("loss")
    losses = np.concatenate([curves.train_loss, curves.validation_loss])
    if losses.min() > 0 and losses.max() / losses.min() > _LOG_FROM:
        upper.set_yscale("log")
    right = upper.twinx()
    _line(right, epochs, curves.score, _SCORE, f"validation {score}")
    right.set(ylim=(-0.03, 1.03))
    right.set_ylabel(f"validation {score}", color=_SCORE)
    _line(lower, epochs, curves.gap, "0.35", "generalisation gap (validation − training loss)")
    lower.axhline(0, color="0.8", linewidth=0.8, zorder=0)
    lower.set(ylabel="gap")
    bottom.plot(epochs, curves.learning_rate, color="0.35", linewidth=1.3)
    bottom.set(xlabel="epoch", ylabel="learning\nrate", yscale="log")
    axes = [lower]
    if np.isfinite(curves.weight_norm).any():
        axes.append(lower.twinx())
        _line(axes[1], epochs, curves.weight_norm, _NORM, "weight norm")
        axes[1].set_ylabel("weight norm", color=_NORM)
    _mark((upper, lower, bottom), curves, verdict)
    _legend((upper, right))
    _legend(axes)
    save_figure(path, figure)


def _line(axes: Any, epochs: Any, values: Any, colour: str, label: str) -> None:
    """Draw a curve; of long ones the medians over blocks of epochs, the epochs themselves faintly behind them."""
    parts = np.array_split(np.arange(len(epochs)), min(len(epochs), _POINTS))
    if len(epochs) > _POINTS:
        axes.plot(epochs, values, color=colour, linewidth=0.5, alpha=0.3)
    middle = [[np.median(one[part]) for part in parts] for one in (epochs, values)]
    axes.plot(*middle, color=colour, linewidth=1.3, label=label)


def _mark(panels: tuple[Any, ...], curves: Curves, verdict: Verdict) -> None:
    """Draw what happened when as vertical lines through every panel; the first one names them."""
    marks = [(epoch, f"learning rate restarts ({epoch})", "0.5", ":") for epoch in curves.restarts]
    if verdict.flat_from is not None:
        marks.append((verdict.flat_from, f"training has flattened ({verdict.flat_from})", _TRAINING, "--"))
    if verdict.overfitting_from is not None:
        marks.append(
            (verdict.overfitting_from, f"validation loss rises ({verdict.overfitting_from})", _VALIDATION, "--")
        )
    if verdict.jump is not None:
        marks.append((verdict.jump.epoch, f"late jump ({verdict.jump.epoch})", "black", "-"))
    for panel in panels:
        for epoch, label, colour, style in marks:
            panel.axvline(
                epoch, color=colour, linestyle=style, linewidth=1, label=label if panel is panels[0] else None
            )
        if verdict.jump is not None:
            panel.axvspan(verdict.jump.start, verdict.jump.end, color=_SCORE, alpha=0.12, linewidth=0)


def _legend(axes: Any) -> None:
    """Put one legend for axes that share a panel to the right of it."""
    handles = [pair for one in axes for pair in zip(*one.get_legend_handles_labels(), strict=True)]
    lines, labels = zip(*handles, strict=True)
    axes[0].legend(lines, labels, loc="upper left", bbox_to_anchor=(1.12, 1.02), fontsize=8, frameon=False)
