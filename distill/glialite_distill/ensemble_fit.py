"""Fit an ensemble on out-of-fold predictions: weights by region, thresholds, minimum sizes, the worth of each member.

No member is asked about a case that it was trained on; `OutOfFold.plan` refuses it. What was fitted lies in the
workspace under `ensembles/<key>`, keyed by the checkpoints of all members, the cohort, mirroring and overlap, so that
it is never used for others.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from glialite_runtime.decode import DecisionRule
from glialite_runtime.errors import ConfigError
from glialite_runtime.files import sha256_bytes, write_bytes, write_json
from glialite_runtime.sequences import REGIONS

from glialite_distill.automatic_choice import best_configuration
from glialite_distill.decision import (
    FITTED,
    PRESETS,
    Labelled,
    fit_decision,
    preset,
    rule_dice,
    rule_from_json,
    rule_json,
)
from glialite_distill.device import pick_device
from glialite_distill.ensemble import to_logits
from glialite_distill.member_table import MemberRow, csv_text, markdown, member_table, rows_json
from glialite_distill.member_weights import (
    FITTED_WEIGHTS,
    LEVELS,
    MemberWeights,
    equal_weights,
    evidence_of,
    hybrid_weights,
    learn_weights,
    read_weights,
)
from glialite_distill.members import Member, sources_of
from glialite_distill.out_of_fold import OutOfFold
from glialite_distill.predict_options import Choice
from glialite_distill.predictions import Combination
from glialite_distill.prepare import Progress, without_progress
from glialite_distill.windows import Window
from glialite_distill.workspace import Workspace

__all__ = ["choose_combination", "fit_ensemble", "fit_folder"]

LOG = logging.getLogger(__name__)

_SCHEMA: Final = 1


def fit_folder(workspace: Workspace, members: Sequence[Member], window: Window) -> Path:
    """Return where what was fitted for exactly these members and settings lies."""
    key = sha256_bytes(json.dumps(_made_by(workspace, members, window), sort_keys=True).encode())
    return workspace.root / "ensembles" / key[:16]


def _made_by(workspace: Workspace, members: Sequence[Member], window: Window) -> dict[str, Any]:
    return {
        "schema": _SCHEMA,
        "cohort_hash": workspace.cohort_hash,
        "members": [[m.recipe, m.fold, m.sha256] for m in members],
        "tta": window.tta,
        "step": window.step,
    }


def fit_ensemble(
    workspace: Workspace,
    members: Sequence[Member],
    window: Window,
    device: str = "auto",
    progress: Progress = without_progress,
) -> dict[str, Any]:
    """Fit weights and decision rules, or return what was fitted before; an interrupted fit continues.

    Parameters
    ----------
    workspace : Workspace
        With the trained members.
    members : sequence of Member
        All finished folds of every recipe.
    window : Window
        Overlap and mirroring, the same as in the predictions to come.
    device : str
        "auto", "cpu" or "cuda".
    progress : Progress
        Shows the predictions as they are done.

    Returns
    -------
    dict
        The content of `ensemble.json`: for `equal`, `learnt`, `best` and `hybrid` (where it can be) under `choices` the
        `weights`, the fitted `decision` and the mean Dice of both rules (on the cases that they were fitted on);
        `table` says what each member is worth; `cases` and `left_out`, which cases took part. `member_table.csv`
        and `member_table.md` lie beside it.

    Raises
    ------
    ConfigError
        See `OutOfFold.plan`.
    """
    folder = fit_folder(workspace, members, window)
    if (done := _read(folder)) is not None:
        return done
    predictions = OutOfFold.plan(workspace, members, window)
    if predictions.left_out:
        LOG.warning("%d cases have no out-of-fold teacher of every member", len(predictions.left_out))
    predictions.make(pick_device(device), progress)
    cases = sorted(predictions.teachers)
    choices, rows = _weighed(predictions, cases)
    result = {
        **_made_by(workspace, members, window),
        "cases": cases,
        "left_out": list(predictions.left_out),
        "choices": {name: _choice(predictions, weights) for name, weights in choices.items()},
        "table": rows_json(rows),
    }
    write_bytes(folder / "member_table.csv", csv_text(rows).encode())
    write_bytes(folder / "member_table.md", markdown(rows, len(cases)).encode())
    write_json(folder / "ensemble.json", result)
    return result


def _weighed(predictions: OutOfFold, cases: Sequence[str]) -> tuple[dict[str, MemberWeights], tuple[MemberRow, ...]]:
    """Return the ways to weigh the members by name, and what each member is worth."""
    names, labels = predictions.names, predictions.workspace
    evidence = [evidence_of(predictions.load(c), labels.load(c)[1], predictions.fold_of(c)) for c in cases]
    choices = {
        "equal": equal_weights(names),
        "learnt": learn_weights(evidence, names),
        "best": best_configuration(evidence, names),
    }
    if {"baseline", "grokking"} <= set(names):
        choices["hybrid"] = hybrid_weights(names)
    return choices, member_table(evidence, names)


def _choice(predictions: OutOfFold, weights: MemberWeights) -> dict[str, Any]:
    cases, voxel_mm3 = partial(_labelled, predictions, weights), math.prod(predictions.workspace.spacing_mm)
    rule = fit_decision(cases, voxel_mm3)
    scores = {"plain": PRESETS["plain"], FITTED: rule}
    found = [[rule_dice(logits, labels, r, voxel_mm3) for r in scores.values()] for logits, labels in cases()]
    means = np.mean(found, axis=0).tolist()
    return {
        "weights": weights.to_json(),
        "decision": rule_json(rule),
        "dice": {name: dict(zip(REGIONS, row, strict=True)) for name, row in zip(scores, means, strict=True)},
    }


def _labelled(predictions: OutOfFold, weights: MemberWeights) -> Iterator[Labelled]:
    """Yield the logits of the weighted mean and the labels of every case, one in memory at a time."""
    shares = np.array([weights.shares[name] for name in predictions.names], np.float32) / LEVELS  # (members, 3)
    for case in sorted(predictions.teachers):
        levels = predictions.load(case)
        mean = np.zeros(levels.shape[1:], np.float32)
        for member, share in zip(levels, shares, strict=True):
            mean += member * share[:, None, None, None]
        yield to_logits(mean), predictions.workspace.load(case)[1]


def _read(folder: Path) -> dict[str, Any] | None:
    path = folder / "ensemble.json"
    return dict(json.loads(path.read_text(encoding="utf-8"))) if path.is_file() else None


def choose_combination(workspace: Workspace, members: Sequence[Member], window: Window, choice: Choice) -> Combination:
    """Return the weights and the decision rule that the user chose by name.

    Raises
    ------
    ConfigError
        A name is unknown, or what it names was not fitted for these members and settings.
    """
    names = sources_of(members)
    fitted: Mapping[str, Any] = {}
    if choice.weights in FITTED_WEIGHTS or choice.decision == FITTED:
        found = _read(fit_folder(workspace, members, window))
        if found is None:
            raise ConfigError(
                "nothing was fitted for exactly these members, checkpoints, --tta and --step; "
                "run teacher-train ensemble with --fit first"
            )
        fitted = found["choices"].get(choice.weights, {})
    if choice.weights in FITTED_WEIGHTS:
        weights = MemberWeights({n: (w["WT"], w["TC"], w["ET"]) for n, w in fitted["weights"].items()})
    elif choice.weights == "hybrid":
        weights = hybrid_weights(names)
    elif choice.weights == "equal":
        weights = equal_weights(names)
    else:
        weights = read_weights(Path(choice.weights), names)
    rule: DecisionRule = rule_from_json(fitted["decision"]) if choice.decision == FITTED else preset(choice.decision)
    return Combination(weights, rule)
