"""Reads a run's curves: generalisation gap, overfitting, and whether validation jumped after training had flattened.

The question is that of Power et al., arXiv:2201.02177 ("grokking"): long after a network has learnt its training cases
by heart, does it suddenly begin to generalise? `judge` answers it by a rule (`Rule`) and a sentence.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import ruptures
from glialite_runtime.errors import InputError

from glialite_distill.runs import fold_folder, read_history, training_record
from glialite_distill.workspace import Workspace

__all__ = ["Curves", "Jump", "Rule", "Verdict", "curves_of_run", "join_histories", "judge"]

Array = npt.NDArray[np.float64]

_COLUMNS: Final = ("train_loss", "validation_loss", "dice_mean", "learning_rate", "weight_norm")
_NEEDED: Final = _COLUMNS[:3]
_FEWEST_EPOCHS: Final = 40
_SHORTEST_SEGMENT: Final = 3  # blocks between two change points
_STAYS: Final = 6  # blocks in a row in which validation loss is up: noise alone does not do that


@dataclass(frozen=True, slots=True)
class Curves:
    """One value an epoch; float64 arrays (n,) of one length.

    Attributes
    ----------
    epoch : array
        Rising; runs that start from one another are counted through.
    train_loss, validation_loss : array
        Means over an epoch.
    score : array
        Validation score, 0 to 1: mean Dice of the regions.
    learning_rate, weight_norm : array
        NaN where a history has none.
    restarts : tuple of int
        First epochs of the runs after the first.
    """

    epoch: Array
    train_loss: Array
    validation_loss: Array
    score: Array
    learning_rate: Array
    weight_norm: Array
    restarts: tuple[int, ...] = ()

    @property
    def gap(self) -> Array:
        """Return the generalisation gap: validation loss minus training loss."""
        return self.validation_loss - self.train_loss


@dataclass(frozen=True, slots=True)
class Rule:
    """What counts as a late jump; shares are of the judged epochs.

    Attributes
    ----------
    blocks : int
        The curves are reduced to medians over at most this many blocks of epochs: single epochs decide nothing.
    penalty : float
        Cost of a change point: this many times log(blocks) of the noise's variance.
    smallest_rise : float
        Score gained, from the median before to the median after.
    trend_factor : float
        How many times the gain must exceed what the trend before it would have brought.
    wander_factor : float
        How many times the gain must exceed what neighbouring stretches of the score differ by elsewhere.
    plateau, climb : float
        Length over which levels are taken before and after; longest way from one to the other.
    flat : float
        Training has flattened when this share of its loss's whole fall is done.
    """

    blocks: int = 200
    penalty: float = 3.0
    smallest_rise: float = 0.02
    trend_factor: float = 3.0
    wander_factor: float = 4.0
    plateau: float = 0.1
    climb: float = 0.25
    flat: float = 0.9


@dataclass(frozen=True, slots=True)
class Jump:
    """A late jump: the last epoch before it, the one half way up, the first after it; scores before and after."""

    start: int
    epoch: int
    end: int
    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the curves say.

    Attributes
    ----------
    jump : Jump or None
        The late jump, if there is one.
    flat_from : int or None
        Epoch from which training had flattened; None when there are too few epochs to tell.
    overfitting_from : int or None
        Epoch from which validation loss stayed up (by 4 times its noise and 5 % of its range at least), training loss
        not.
    gap : float or None
        Generalisation gap at the end, median of the last tenth; None without any epoch.
    sentence : str
        All of this in words.
    """

    jump: Jump | None
    flat_from: int | None
    overfitting_from: int | None
    gap: float | None
    sentence: str


def join_histories(*histories: Sequence[Mapping[str, float]]) -> Curves:
    """Return the curves of runs that start from one another, in their order.

    Parameters
    ----------
    *histories : sequence of mapping
        Rows as of `runs.read_history`. Rows without a finite loss and score are left out; `learning_rate` and
        `weight_norm` may be missing.

    Raises
    ------
    InputError
        There is no row with finite losses and score.
    """
    rows: list[tuple[float, ...]] = []
    restarts: list[int] = []
    offset = 0
    for history in histories:
        if offset:
            restarts.append(offset)
        for row in history:
            values = [row.get(column, math.nan) for column in _COLUMNS]
            if all(math.isfinite(value) for value in values[: len(_NEEDED)]):
                rows.append((offset + row["epoch"], *values))
        offset += len(history)
    if not rows:
        raise InputError(f"the history has no epoch with finite {', '.join(_NEEDED)}")
    epoch, train, validation, score, rate, norm = np.array(rows, np.float64).T
    return Curves(epoch, train, validation, score, rate, norm, tuple(restarts))


def curves_of_run(workspace: Workspace, recipe: str, fold: int) -> Curves:
    """Return the curves of a recipe and fold, after those of the run that it started from."""
    parent = training_record(workspace, recipe, fold).get("warm_start")
    names = (recipe,) if parent is None else (parent["recipe"], recipe)
    return join_histories(*(read_history(fold_folder(workspace, name, fold)) for name in names))


def judge(curves: Curves, rule: Rule | None = None) -> Verdict:
    """Say whether, and where, the validation score jumped late; only the epochs from the last restart on are judged.

    A late jump is a change point of the score (ruptures: piecewise constant, exact segmentation with a penalty) at
    which all of this holds: the median rises by `smallest_rise`, by `trend_factor` times what the straight line through
    the epochs before would have brought, and by `wander_factor` times what the score wanders elsewhere; at least half
    of that is kept to the end, for a `plateau` or longer; and half a `plateau` or more before it began, training had
    flattened or overfitting was seen.

    Notes
    -----
    Source: change points: Truong et al., Signal Processing 167 (2020); Killick et al., J. Am. Stat. Assoc. 107 (2012).
    """
    rule = rule or Rule()
    first = int(np.searchsorted(curves.epoch, curves.restarts[-1])) if curves.restarts else 0
    epoch = curves.epoch[first:].astype(int)
    gap = float(np.median(curves.gap[first:][-max(1, len(epoch) // 10) :])) if len(epoch) else None
    if len(epoch) < _FEWEST_EPOCHS:
        return Verdict(None, None, None, gap, f"too few epochs to tell: {len(epoch)} of at least {_FEWEST_EPOCHS}")
    parts = np.array_split(np.arange(len(epoch)), min(rule.blocks, len(epoch)))
    train, validation, score = (
        np.array([np.median(values[first:][part]) for part in parts])
        for values in (curves.train_loss, curves.validation_loss, curves.score)
    )
    flat = _flat_from(train, max(curves.train_loss[first], train[0]), rule.flat)
    overfitting = _overfitting_from(train, validation)
    starts = [int(epoch[part[0]]) for part in parts]
    late_from = min(block for block in (flat, overfitting) if block is not None)
    found = _late_rise(score, late_from, rule)
    jump = None
    if found is not None:
        start, end, before, after = found
        middle = start + int(np.argmax(score[start : end + 1] >= (before + after) / 2))
        jump = Jump(int(epoch[parts[start][0] - 1]), starts[middle], starts[end], before, after)
    levels = float(score[flat]), float(np.median(score[-max(1, len(score) // 10) :]))
    over = None if overfitting is None else starts[overfitting]
    sentence = _sentence(jump, starts[flat], over, len(epoch), levels)
    return Verdict(jump, starts[flat], over, gap, sentence)


def _flat_from(train: Array, initial: float, share: float) -> int:
    """Return the first block by which `share` of the loss's whole fall from `initial` is done."""
    lowest = np.minimum.accumulate(train)
    return int(np.argmax(initial - lowest >= share * (initial - lowest[-1])))


def _noise(values: Array) -> float:
    """Return the SD of a curve's noise, from the steps between neighbours; what drifts slowly does not count."""
    steps = np.diff(values)
    return 1.4826 * float(np.median(np.abs(steps - np.median(steps)))) / math.sqrt(2)


def _borders(values: Array, floor: float, penalty: float) -> list[int]:
    """Return the borders [0, …, n] of the pieces in which a curve is level; noise counts as at least `floor`."""
    scaled = values / max(floor, _noise(values))
    search = ruptures.KernelCPD(kernel="linear", min_size=_SHORTEST_SEGMENT).fit(scaled[:, None])
    return [0, *search.predict(pen=penalty * math.log(len(values)))]


def _overfitting_from(train: Array, validation: Array) -> int | None:
    """Return the first block from which validation loss stays above its lowest, while training loss does not."""
    clear = max(4 * _noise(validation), 0.05 * float(np.ptp(validation)))
    lowest = 0
    for block in range(1, len(validation) - _STAYS + 1):
        ahead = slice(block, block + _STAYS)
        if validation[ahead].min() > validation[lowest] + clear and np.median(train[ahead]) <= train[lowest]:
            return block
        if validation[block] < validation[lowest]:
            lowest = block
    return None


def _late_rise(score: Array, late_from: int, rule: Rule) -> tuple[int, int, float, float] | None:
    """Return the block before which the score rises late, the one from which it has, and the scores before and after.

    Of several such rises it is the one with the largest square of the gain by length, the window included.
    """
    borders = _borders(score, rule.smallest_rise / 10, rule.penalty)
    window, longest = max(_SHORTEST_SEGMENT, round(rule.plateau * len(score))), round(rule.climb * len(score))
    found = []
    for start in (border for border in borders[1:-1] if border >= max(window, late_from + window // 2)):
        before = float(np.median(score[start - window : start]))
        begun = min(start - window, max(border for border in borders if border < start))
        slope = max(0.0, float(np.polyfit(np.arange(begun, start), score[begun:start], 1)[0]))
        for end in (border for border in borders[1:-1] if start <= border <= start + longest):
            after = float(np.median(score[end : end + window]))
            needed = max(
                rule.smallest_rise,
                rule.trend_factor * slope * (end - start + window),
                rule.wander_factor * _wander(score, window, late_from, (start, end)),
            )
            stays = len(score) - end >= window and np.median(score[end:]) >= (before + after) / 2
            if after - before >= needed and stays:
                found.append((start, end, before, after))
    return max(found, key=lambda f: (f[3] - f[2]) ** 2 / (f[1] - f[0] + window), default=None)


def _wander(score: Array, window: int, late_from: int, climb: tuple[int, int]) -> float:
    """Return by how much (root mean square) neighbouring windows differ away from the climb, 0 where none lie."""
    levels = np.median(np.lib.stride_tricks.sliding_window_view(score, window), axis=1)
    at = np.arange(window, len(score) - window + 1)
    apart = (at >= late_from + window) & ((at <= climb[0] - window) | (at >= climb[1] + window))
    steps = (levels[window:] - levels[:-window])[apart]
    return float(np.sqrt(np.mean(steps**2))) if len(steps) else 0.0


def _sentence(jump: Jump | None, flat: int, overfitting: int | None, epochs: int, levels: tuple[float, float]) -> str:
    fitted = f"training had flattened at epoch {flat}"
    fitted += "" if overfitting is None else f", validation loss was rising from epoch {overfitting}"
    if jump is None:
        return (
            f"no late jump seen in {epochs} epochs: {fitted}; the validation score was {levels[0]:.3f} "
            f"when training flattened and {levels[1]:.3f} at the end"
        )
    return (
        f"late jump at epoch {jump.epoch}: the validation score went from {jump.before:.3f} to {jump.after:.3f} "
        f"between the epochs {jump.start} and {jump.end}; {fitted}"
    )
