"""One iteration of a training: what the student sees, what it is compared with, and the step of its weights."""

from __future__ import annotations

import math
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, fields
from typing import Any, Final

import torch
from glialite_runtime.errors import CheckFailedError

from glialite_distill.augment import augment
from glialite_distill.averaging import to_training, update_average
from glialite_distill.device import mixed_precision
from glialite_distill.guidance import feature_loss, ramp, with_features
from glialite_distill.losses import DistillationLoss, LossTerms, SoftTarget, weighted_mean
from glialite_distill.modality_dropout import drop_sequences
from glialite_distill.patches import Batch
from glialite_distill.student import Student
from glialite_distill.train_options import TrainOptions, learning_rate
from glialite_distill.train_state import TrainState, network_to_train

__all__ = ["UNLABELLED_STREAM", "StepInput", "seen_patches", "train_step"]

UNLABELLED_STREAM: Final = 1 << 32
"""Added to the seed for what is drawn for scans without labels."""


@dataclass(frozen=True, slots=True)
class StepInput:
    """What an iteration gets.

    Attributes
    ----------
    batch : Batch
        Patches of labelled cases, with the margin that augmentation turns in.
    unlabelled : Batch, optional
        Likewise of scans without labels; its labels are not used.
    assistant : Student, optional
        In evaluation mode.
    """

    batch: Batch
    unlabelled: Batch | None = None
    assistant: Student | None = None


def seen_patches(batch: Batch, options: TrainOptions, iteration: int) -> tuple[Batch, Batch]:
    """Return the augmented patches of an iteration, and the same ones as the student sees them, sequences dropped."""
    whole = augment(batch, options.patch, options.augmentation, options.seed, iteration)
    return whole, drop_sequences(whole, options.augmentation.dropout, options.seed, iteration)


def train_step(state: TrainState, given: StepInput, options: TrainOptions) -> float:
    """Train on one batch and return its loss; `state` is updated.

    Raises
    ------
    CheckFailedError
        The loss is no longer finite.
    """
    rate = learning_rate(options, state.iteration)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    terms = _labelled(state, given, options)
    if given.unlabelled is not None:
        terms = terms.plus("unlabelled", 1.0, _unlabelled(state, given.unlabelled, options))
    values = [float(getattr(terms, f.name).detach()) for f in fields(LossTerms)]
    if not math.isfinite(values[0]):
        raise CheckFailedError(
            f"the loss is {values[0]} at iteration {state.iteration}: the training diverged; lower the learning rate "
            f"(it was {options.learning_rate})"
        )
    state.optimizer.zero_grad(set_to_none=True)
    state.scaler.scale(terms.total).backward()
    state.scaler.unscale_(state.optimizer)
    torch.nn.utils.clip_grad_norm_(state.network.parameters(), options.gradient_clip)
    state.scaler.step(state.optimizer)
    state.scaler.update()
    update_average(state.average, state.network, options.decay, state.iteration)
    state.iteration += 1
    state.sums = [total + value for total, value in zip(state.sums, values, strict=True)]
    return values[0]


def _labelled(state: TrainState, given: StepInput, options: TrainOptions) -> LossTerms:
    """Return the losses against truth, soft labels, and what an assistant says about the whole patch."""
    whole, seen = seen_patches(given.batch, options, state.iteration)
    network, image = network_to_train(state, options), _laid_out(seen)
    with _precision(state, options):
        if state.projection is None:
            logits, features = network(image), None
        else:
            logits, features = with_features(state.network, image)
    logits = logits.float()
    terms = _loss(options)(logits, seen)
    if given.assistant is None:
        return terms
    with torch.no_grad(), _precision(state, options):
        guess, wanted = with_features(given.assistant, _laid_out(whole))
    divergence = SoftTarget(options.temperature)(logits, torch.sigmoid(guess.float()), seen.told())
    terms = terms.plus("assistant", options.assistant_weight, divergence)
    if state.projection is not None and features is not None:
        terms = terms.plus("features", options.feature_weight, feature_loss(state.projection, features, wanted))
    return terms


def _unlabelled(state: TrainState, batch: Batch, options: TrainOptions) -> torch.Tensor:
    """Return the loss on scans without labels: divergence from confident teachers, and from the averaged student.

    The averaged student sees all sequences in another view of the same place; the squared difference of probabilities
    is asked for more and more over the first half of a training. Its BatchNorm uses the batch where the student's does.

    Notes
    -----
    Source: Tarvainen, Valpola, Mean teachers are better role models, NeurIPS 2017 (arXiv:1703.01780).
    """
    seed, iteration = options.seed + UNLABELLED_STREAM, state.iteration
    one, other = (augment(batch, options.patch, options.augmentation, seed, iteration, view) for view in (0, 1))
    seen = drop_sequences(one, options.augmentation.dropout, seed, iteration)
    with _precision(state, options):
        logits = network_to_train(state, options)(_laid_out(seen)).float()
    loss = options.soft_weight * _loss(options).soft_loss(logits, seen)
    if options.consistency > 0:
        with torch.no_grad(), _precision(state, options):
            teacher = to_training(state.average, fixed=state.rounded is not None or iteration >= options.fixed_from)
            wanted = torch.sigmoid(teacher(_laid_out(other)).float())
        weight = options.consistency * ramp(iteration, options.iterations)
        loss = loss + weight * weighted_mean((torch.sigmoid(logits) - wanted).square(), seen.told())
    return loss


def _loss(options: TrainOptions) -> DistillationLoss:
    return DistillationLoss(options.temperature, options.hard_weight, options.soft_weight, options.doubt)


def _laid_out(batch: Batch) -> torch.Tensor:
    return batch.image.contiguous(memory_format=torch.channels_last_3d)


def _precision(state: TrainState, options: TrainOptions) -> AbstractContextManager[Any]:
    """Return mixed precision, but none where steps are finer than bfloat16's."""
    if state.rounded is not None:
        return nullcontext()
    device = next(state.network.parameters()).device
    return mixed_precision(device, min(options.patch) // state.network.spec.divisor)
