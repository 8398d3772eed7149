"""What decides the result of a training: hyper-parameters, schedule, and which cases it sees."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Final

from glialite_runtime.errors import ConfigError

from glialite_distill.augment import Augmentation
from glialite_distill.cohort import patient_of
from glialite_distill.losses import Regionwise
from glialite_distill.patches import Shape, SoftLabels, TrainingData, TrainingSplit
from glialite_distill.student import STUDENTS

__all__ = ["CONTINUED", "FINE_TUNING", "TrainOptions", "learning_rate", "select_cases", "validation_part"]


_AVERAGED_SHARE: Final = 0.1
_VALIDATION_SHARE: Final = 0.2
_LARGE_FOLD: Final = 0.3


@dataclass(frozen=True, slots=True)
class TrainOptions:
    """What decides the result of a training.

    Attributes
    ----------
    student : str
        A key of `STUDENTS`.
    iterations : int
        Batches.
    batch_size : int
        Patches in a batch.
    patch : tuple of int
        Voxels (z, y, x), multiples of the student's divisor.
    fold : int
        Whose training cases to train on and whose validation cases to validate on.
    learning_rate : float
        Highest, reached after `warm_up` and lowered along a half cosine to nearly 0.
    warm_up : float
        Share of the iterations.
    weight_decay : float
        Of AdamW, on convolution kernels alone.
    average : float
        Largest decay of the running average of the weights, see `decay`.
    fixed_norm : float
        Share of the iterations, the last ones, in which BatchNorm uses statistics that no longer change, as the graph
        in the clinic does. Those of a batch of two tell the network about the scan itself; one that learnt to lean on
        that outlines less core without (docs/distillation.md).
    gradient_clip : float
        Largest norm of the gradient.
    temperature : tuple of float
        Of each of `REGIONS`, see `SoftTarget`.
    hard_weight, soft_weight, doubt : float
        See `DistillationLoss`; a soft weight of 0 trains on the truth alone.
    assistant_weight, feature_weight : float
        Of the divergence from an assistant's probabilities and of `feature_loss`, where there is an assistant.
    consistency : float
        Weight of the agreement with the averaged student on scans without labels, where there are any (the largest
        weight of Yu et al., MICCAI 2019, arXiv:1907.07034).
    hard_cases : bool
        Also train, on the truth alone, on cases that have no soft labels.
    foreground : float
        Share of patches put on a tumour voxel.
    validations : int
        Times that the averaged weights are validated, the last time at the end.
    seed : int
        Of everything random.
    augmentation : Augmentation
        How patches are changed.
    quantisation_aware : bool
        Round as the INT8 graph will, see `FakeQuantStudent`; only to continue a trained student.
    """

    student: str = "S"
    iterations: int = 2000
    batch_size: int = 2
    patch: Shape = (64, 80, 64)
    fold: int = 0
    learning_rate: float = 2e-3
    warm_up: float = 0.05
    weight_decay: float = 0.01
    average: float = 0.999
    fixed_norm: float = 0.5
    gradient_clip: float = 1.0
    temperature: Regionwise = (2.0, 2.0, 2.0)
    hard_weight: float = 1.0
    soft_weight: float = 1.0
    doubt: float = 0.0
    assistant_weight: float = 1.0
    feature_weight: float = 0.0
    consistency: float = 0.1
    hard_cases: bool = True
    foreground: float = 0.5
    validations: int = 10
    seed: int = 0
    augmentation: Augmentation = field(default_factory=Augmentation)
    quantisation_aware: bool = False

    def __post_init__(self) -> None:
        problems = []
        if self.student not in STUDENTS:
            problems.append(f"student {self.student!r} is unknown; known: {', '.join(STUDENTS)}")
        else:
            divisor = STUDENTS[self.student].divisor
            if any(n <= 0 or n % divisor for n in self.patch):
                problems.append(f"patch {self.patch}: every edge must be a multiple of {divisor}")
        positive = ("iterations", "batch_size", "learning_rate", "gradient_clip", "validations")
        shares = ("warm_up", "average", "fixed_norm", "foreground", "doubt")
        weights = ("hard_weight", "soft_weight", "assistant_weight", "feature_weight", "consistency")
        values = {name: getattr(self, name) for name in (*positive, *shares, *weights, "weight_decay", "seed", "fold")}
        values["augmentation.dropout"] = self.augmentation.dropout
        for name, value in values.items():
            if name in positive and not 0 < value < math.inf:
                problems.append(f"{name} must be positive, not {value}")
            elif name in (*shares, "augmentation.dropout") and not 0 <= value <= 1:
                problems.append(f"{name} must be in 0 to 1, not {value}")
            elif not 0 <= value < math.inf:
                problems.append(f"{name} must not be negative, but is {value}")
        if not all(0 < t < math.inf for t in self.temperature):
            problems.append(f"temperature must be positive for each region, not {self.temperature}")
        if self.hard_weight == self.soft_weight == 0:
            problems.append("hard_weight and soft_weight are both 0: nothing would be trained")
        if self.quantisation_aware and self.feature_weight > 0:
            problems.append("feature_weight has no place in quantisation-aware training; leave it at 0")
        if problems:
            raise ConfigError("training options: " + "; ".join(problems))

    @property
    def fixed_from(self) -> int:
        """The first iteration with fixed BatchNorm statistics."""
        return round((1 - self.fixed_norm) * self.iterations)

    @property
    def decay(self) -> float:
        """Decay of the running average: `average`, less in a short run, which averages over a tenth of itself."""
        return min(self.average, max(0.0, 1 - 1 / (_AVERAGED_SHARE * self.iterations)))


CONTINUED: Final = TrainOptions(iterations=1000, learning_rate=2e-4, fixed_norm=1.0)
"""A trained student on other cases, a clinic's own for one: half a training at a tenth of its rate."""

FINE_TUNING: Final = TrainOptions(iterations=200, learning_rate=2e-4, fixed_norm=1.0, quantisation_aware=True)
"""Quantisation-aware fine-tuning: a tenth of a training at a tenth of its rate.

AdamW moves a weight by at most 0.02 in it: some twenty of the 7-bit steps of a trained S (median 0.001), room to settle
anew without learning another network. At half the rate a badly scaled student came less close to its FP32 outlines.
"""


def learning_rate(options: TrainOptions, iteration: int) -> float:
    """Return the learning rate of an iteration (from 0): linear warm-up, then half a cosine down to nearly 0.

    Source: Loshchilov, Hutter, SGDR, ICLR 2017 (arXiv:1608.03983), without restarts.
    """
    warm = max(1, round(options.warm_up * options.iterations))
    if iteration < warm:
        return options.learning_rate * (iteration + 1) / warm
    done = (iteration - warm) / max(1, options.iterations - warm)
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * done))


def select_cases(
    data: TrainingData, soft: SoftLabels | None, options: TrainOptions
) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Return the cases to train on and to validate on; a held-out case is never one of them.

    Of few, large folds a fifth of all cases validates and the rest trains as well: their soft labels are out-of-fold
    anyway, and a student labels nothing.

    Raises
    ------
    ConfigError
        The fold does not exist, soft labels are wanted but there are none, or no case is left to train on.
    """
    if options.fold >= len(data.splits):
        raise ConfigError(f"fold {options.fold} does not exist; the workspace has 0 to {len(data.splits) - 1}")
    split = data.splits[options.fold]
    if leaked := sorted({*split.train, *split.validation} & set(data.held_out)):
        raise ConfigError(f"fold {options.fold} contains held-out cases ({', '.join(leaked)}); prepare it again")
    validation = validation_part(split)
    rest = (*split.train, *(c for c in split.validation if c not in validation))
    labelled: set[str] = set() if soft is None else set(soft.cases)
    chosen = tuple(c for c in sorted(rest) if options.hard_cases or c in labelled)
    if options.soft_weight > 0 and not labelled & set(chosen):
        raise ConfigError(
            "no training case has soft labels; make them with `distill soft-labels`, "
            "or train on the truth alone with --soft-weight 0"
        )
    if not chosen:
        raise ConfigError(f"no training case is left in fold {options.fold}")
    return chosen, validation


def validation_part(split: TrainingSplit) -> tuple[str, ...]:
    """Return the validation cases of a fold, whole patients, at most about a fifth of all cases."""
    every = len(split.train) + len(split.validation)
    if len(split.validation) <= _LARGE_FOLD * every:
        return split.validation
    chosen: list[str] = []
    for patient in sorted({patient_of(case) for case in split.validation}):
        if len(chosen) >= _VALIDATION_SHARE * every:
            break
        chosen += [case for case in split.validation if patient_of(case) == patient]
    return tuple(chosen)
