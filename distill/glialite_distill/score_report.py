"""What `teacher-train evaluate` leaves behind: a page of tables with charts and pictures of the worst cases."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from glialite_runtime.errors import ConfigError
from glialite_runtime.files import remove, write_bytes

from glialite_distill.label_maps import Model, find_label_maps, parse_models, read_pair
from glialite_distill.run_length import write_submission
from glialite_distill.score_pictures import find_image, write_agreement, write_bars, write_case
from glialite_distill.score_tables import (
    SHOWN,
    agreement_table,
    comparison_table,
    group_table,
    paper_table,
    site_of_name,
    size_groups,
    worst_cases,
    worst_table,
)
from glialite_distill.scores import Score, Settings, score_folders, summary, write_csv

__all__ = ["WORST", "Evaluation", "evaluate_predictions", "report_text", "write_report"]

WORST: Final = 10
"""Pictures of so many cases are drawn."""


@dataclass(frozen=True, slots=True)
class Evaluation:
    """What one call of the command asks for.

    Attributes
    ----------
    reference : Path or None
        Folder of true label maps; without one only `rle` can be asked for.
    predictions : tuple of str
        `DIR` or `NAME=DIR`.
    settings : Settings
        Metric and label conventions.
    csv, report, rle : Path or None
        Table, folder of tables and pictures, and run-length file to write.
    """

    reference: Path | None
    predictions: tuple[str, ...]
    settings: Settings
    csv: Path | None
    report: Path | None
    rle: Path | None


def evaluate_predictions(
    asked: Evaluation, progress: Callable[..., Iterable[Any]] = lambda items, **_: items
) -> tuple[dict[str, Any], str]:
    """Score, and write what is asked for; return the summary for machines and for people.

    Raises
    ------
    ConfigError
        The options do not fit together.
    InputError
        Label maps are missing or cannot be read or compared.
    """
    models = parse_models(asked.predictions)
    _check(asked, models)
    if asked.rle is not None:
        label_maps = find_label_maps(models[0].folder)
        write_submission(asked.rle, label_maps, asked.settings.conventions[1])
    if asked.reference is None or asked.csv is None:
        return {"rle": str(asked.rle), "cases": sorted(label_maps)}, f"{len(label_maps)} cases in {asked.rle}"
    scores = score_folders(asked.reference, models, asked.settings, progress)
    write_csv(asked.csv, scores, asked.settings.metric)
    if asked.report is not None:
        write_report(asked.report, scores, asked.settings, asked.reference, models)
    return summary(scores), "\n".join(f"{model.name}\n{paper_table(scores, model.name)}" for model in models)


def _check(asked: Evaluation, models: Sequence[Model]) -> None:
    problems = []
    if asked.reference is None and (asked.rle is None or asked.csv is not None or asked.report is not None):
        problems.append("scores need --reference; without one only --rle can be written")
    if asked.reference is not None and asked.csv is None:
        problems.append("scores need --csv, the table to write")
    if asked.rle is not None and len(models) > 1:
        problems.append(f"--rle takes one folder of predictions, not {len(models)}")
    if problems:
        raise ConfigError("; ".join(problems))


def report_text(scores: Sequence[Score], settings: Settings, pictures: Sequence[str]) -> str:
    """Return the page in Markdown; `pictures` are the file names of the worst cases' pictures."""
    models = list(dict.fromkeys(s.model for s in scores))
    sizes = size_groups(scores)
    challenge = "" if settings.metric == "plain" else f", constants of {settings.challenge.upper()}"
    cases = len({s.case for s in scores})
    parts = [f"# Scores\n\nMetric {settings.metric}{challenge}; mean ± SD over {cases} cases.\n"]
    if len(models) > 1:
        parts.append("## Models side by side\n")
        parts += [comparison_table(scores, c) for c in SHOWN if c in scores[0].values]
    for model in models:
        parts += [f"## {model}\n", paper_table(scores, model)]
        parts += ["By tumour size (terciles of the true volume):\n"]
        parts += [group_table(scores, model, lambda s: sizes[s.case, s.region])]
        parts += ["By site:\n", group_table(scores, model, lambda s: site_of_name(s.case))]
    parts += ["## Bar charts\n\n![Mean scores by region](bars.png)\n"]
    parts += ["## Volumes (Bland-Altman)\n", agreement_table(scores), "![Bland-Altman plots](bland-altman.png)\n"]
    parts += ["## Worst cases\n", worst_table(worst_cases(scores, WORST))]
    parts += [f"![{name}]({name})\n" for name in pictures]
    return "\n".join(parts)


def write_report(
    folder: Path, scores: Sequence[Score], settings: Settings, reference: Path, models: Sequence[Model]
) -> None:
    """Write `table.md`, `bars.png`, `bland-altman.png` and a picture of each of the worst cases into a folder.

    Parameters
    ----------
    folder : Path
        Made where it is absent; `table.md` is written last.
    scores : sequence of Score
        As from `score_folders` of the same folders.
    settings : Settings
        What they are.
    reference : Path
        Folder of true label maps; scans beside them become the pictures' background.
    models : sequence of Model
        Predictions.
    """
    for old in folder.glob("worst-*.png"):  # of an earlier evaluation, which may have had other cases
        remove(old)
    write_bars(folder / "bars.png", scores)
    write_agreement(folder / "bland-altman.png", scores)
    truths = find_label_maps(reference)
    predictions = {model.name: find_label_maps(model.folder) for model in models}
    names = []
    for number, score in enumerate(worst_cases(scores, WORST), 1):
        truth, prediction = truths[score.case], predictions[score.model][score.case]
        name = f"worst-{number:02}-{score.model}-{score.case}.png"
        pair = read_pair(truth, prediction, settings.conventions)
        write_case(folder / name, score, pair, find_image(truth, score.case, score.region))
        names.append(name)
    write_bytes(folder / "table.md", report_text(scores, settings, names).encode())
