"""Train a student on truth and soft labels; a killed run continues to the same weights, bit for bit on a CPU."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import torch
from glialite_runtime.decode import DecisionRule, decode
from glialite_runtime.errors import CheckFailedError, ConfigError, TimeLimitReached
from glialite_runtime.metrics import dice_per_region

from glialite_distill.augment import augment
from glialite_distill.averaging import refresh_batch_norm, update_average
from glialite_distill.decision import fit_minimum_sizes
from glialite_distill.evaluate import network_logits
from glialite_distill.history import HistoryRow, write_curve, write_history
from glialite_distill.losses import DistillationLoss
from glialite_distill.patches import Batch, CachedCase, PatchSampler, SoftLabels, TrainingData, cache_case
from glialite_distill.student import STUDENTS
from glialite_distill.student_file import StudentFile, load_student, save_student
from glialite_distill.train_options import TrainOptions, learning_rate, select_cases
from glialite_distill.train_state import (
    TrainState,
    check_same,
    identity_of,
    network_to_train,
    save_checkpoint,
    start_or_resume,
)

__all__ = ["Progress", "RunSettings", "cache_folder", "remaining_iterations", "train", "train_step"]

_STATISTICS_BATCHES: Final = 12
"""Batches that BatchNorm statistics of the averaged weights are taken over."""


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a training stands: iterations done and wanted, mean loss of late, seconds left, and the last validation."""

    iteration: int
    iterations: int
    loss: float
    seconds_left: float
    validated: HistoryRow | None


@dataclass(frozen=True, slots=True)
class RunSettings:
    """What does not decide the result: where it runs and for how long.

    Attributes
    ----------
    folder : Path
        Gets student.pt, history.csv, curve.png; checkpoint.pt while it is not finished.
    cache : Path
        Gets the cases in a form to cut patches from.
    device : torch.device
        Mixed precision is used on CUDA alone.
    time_limit_s : float
        Seconds after which the run stops in order.
    checkpoint_s : float
        Seconds between checkpoints.
    report : callable
        Called with a `Progress` after every iteration.
    """

    folder: Path
    cache: Path
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    time_limit_s: float = math.inf
    checkpoint_s: float = 30.0
    report: Callable[[Progress], None] = field(default_factory=lambda: _ignore)


@dataclass(frozen=True, slots=True)
class _Job:
    """What the loop needs beside its state."""

    options: TrainOptions
    run: RunSettings
    identity: Mapping[str, Any]
    sampler: PatchSampler
    checked: tuple[CachedCase, ...]
    deadline: float


def _ignore(progress: Progress) -> None:
    del progress


def train(
    data: TrainingData,
    soft: SoftLabels | None,
    options: TrainOptions,
    run: RunSettings,
    initial: StudentFile | None = None,
) -> StudentFile:
    """Train a student, or continue where the same training stopped; a finished one is read and returned.

    Parameters
    ----------
    data : TrainingData
        The cases.
    soft : SoftLabels, optional
        The teachers' probabilities; needed unless `options.soft_weight` is 0.
    options : TrainOptions
        What decides the result.
    run : RunSettings
        Where and how long.
    initial : StudentFile, optional
        Start from its weights; its shape must be that of `options.student`. Needed for quantisation-aware training.

    Raises
    ------
    ConfigError
        Options, data and `initial` do not fit, or the folder holds a training with other options or data.
    CheckFailedError
        The loss is no longer finite.
    TimeLimitReached
        The time limit came; the state is saved.
    OutputError
        A file cannot be written.
    """
    started = time.monotonic()
    soft = soft if options.soft_weight > 0 else None
    training, validation = select_cases(data, soft, options)
    identity = _identity(data, soft, options, initial)
    final = run.folder / "student.pt"
    if final.is_file():
        finished = load_student(final)
        check_same(identity, finished.provenance, final)
        return finished
    state = start_or_resume(options, run.folder / "checkpoint.pt", run.device, identity, initial)
    cache = cache_folder(data, soft, run)
    cached = {name: cache_case(data, soft, name, cache) for name in (*training, *validation)}
    z, y, x = (n + 2 * (n // 8) for n in options.patch)  # a rotation turns in what lies beside the patch
    seen = tuple(cached[name] for name in training)
    sampler = PatchSampler(seen, (z, y, x), options.batch_size, options.foreground, options.seed)
    checked = tuple(cached[name] for name in validation)
    _iterate(state, _Job(options, run, identity, sampler, checked, started + run.time_limit_s))
    provenance = {
        **identity,
        "members": list(soft.members) if soft else [],
        "train_cases": list(training),
        "soft_label_cases": [case.name for case in seen if case.soft is not None],
        "validation_cases": list(validation),
        "iterations": options.iterations,
        "seed": options.seed,
        "last": {k: None if math.isnan(v) else v for k, v in asdict(state.history[-1]).items()},
    }
    rule = fit_minimum_sizes(
        ((network_logits(state.average, _image(case), run.device), np.asarray(case.labels)) for case in checked),
        DecisionRule(),
        math.prod(data.spacing_mm),
    )
    file = StudentFile(STUDENTS[options.student], state.average.state_dict(), data.spacing_mm, rule, provenance)
    write_history(run.folder / "history.csv", state.history)
    write_curve(run.folder / "curve.png", state.history)
    save_student(final, file)
    (run.folder / "checkpoint.pt").unlink(missing_ok=True)
    return load_student(final)


def cache_folder(data: TrainingData, soft: SoftLabels | None, run: RunSettings) -> Path:
    """Return where the cases lie in a form to cut patches from; other data or other soft labels have another folder."""
    return run.cache / f"{data.cohort_hash[:12]}-{soft.key[:12] if soft else 'hard'}"


def remaining_iterations(
    data: TrainingData, soft: SoftLabels | None, options: TrainOptions, run: RunSettings, initial: StudentFile | None
) -> int:
    """Return how many iterations are left: 0 when the student is finished, all when none was done.

    Raises
    ------
    ConfigError
        The folder holds a training with other options or data.
    """
    soft = soft if options.soft_weight > 0 else None
    identity = _identity(data, soft, options, initial)
    final, checkpoint = run.folder / "student.pt", run.folder / "checkpoint.pt"
    if final.is_file():
        check_same(identity, load_student(final).provenance, final)
        return 0
    if checkpoint.is_file():
        return options.iterations - start_or_resume(options, checkpoint, run.device, identity, initial).iteration
    return options.iterations


def _identity(
    data: TrainingData, soft: SoftLabels | None, options: TrainOptions, initial: StudentFile | None
) -> dict[str, Any]:
    if options.quantisation_aware and initial is None:
        raise ConfigError(
            "quantisation-aware training continues a trained student, whose BatchNorm statistics it freezes; a new one "
            "has none. Train it first without, then give its student.pt with --init"
        )
    return identity_of(data, soft, options, initial)


def _iterate(state: TrainState, job: _Job) -> None:
    """Run the iterations that are left; `state` is updated."""
    options, run = job.options, job.run
    marks = {round(options.iterations * k / options.validations) for k in range(1, options.validations + 1)}
    first, began = state.iteration, time.monotonic()
    saved = began
    for batch in _prefetched(job.sampler, first, options.iterations):
        loss = train_step(state, batch.to(run.device), options)
        validated = None
        if state.iteration in marks:
            validated = _validate(state, job)
            write_history(run.folder / "history.csv", state.history)
        now = time.monotonic()
        left = (now - began) / (state.iteration - first) * (options.iterations - state.iteration)
        run.report(Progress(state.iteration, options.iterations, loss, left, validated))
        ended, late = state.iteration == options.iterations, now >= job.deadline
        if ended or late or now - saved >= run.checkpoint_s:
            save_checkpoint(state, run.folder / "checkpoint.pt", job.identity)
            saved = now
        if late and not ended:
            raise TimeLimitReached(
                f"the time limit came after {state.iteration} of {options.iterations} iterations; "
                "run the same command again to continue"
            )


def _prefetched(sampler: PatchSampler, first: int, last: int) -> Iterator[Batch]:
    """Yield the batches of the iterations `first` to `last` − 1, each cut while the one before is being used."""
    if first >= last:
        return
    with ThreadPoolExecutor(1) as pool:
        following = pool.submit(sampler.batch, first)
        for iteration in range(first + 1, last):
            batch = following.result()
            following = pool.submit(sampler.batch, iteration)
            yield batch
        yield following.result()


def train_step(state: TrainState, batch: Batch, options: TrainOptions) -> float:
    """Train on one batch and return its loss; `state` is updated."""
    rate = learning_rate(options, state.iteration)
    for group in state.optimizer.param_groups:
        group["lr"] = rate
    batch = augment(batch, options.patch, options.augmentation, options.seed, state.iteration)
    network = network_to_train(state)
    with nullcontext() if state.rounded else _mixed_precision(batch.image.device):  # steps are finer than bfloat16's
        logits = network(batch.image.contiguous(memory_format=torch.channels_last_3d))
    terms = DistillationLoss(options.temperature, options.hard_weight, options.soft_weight)(logits, batch)
    values = [float(term.detach()) for term in (terms.total, terms.dice, terms.bce, terms.soft)]
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


def _mixed_precision(device: torch.device) -> AbstractContextManager[Any]:
    if device.type != "cuda":
        return nullcontext()
    return torch.autocast("cuda", torch.bfloat16 if torch.cuda.is_bf16_supported() else torch.float16)


def _image(case: CachedCase) -> npt.NDArray[np.float32]:
    return np.asarray(case.image, np.float32)


def _validate(state: TrainState, job: _Job) -> HistoryRow:
    """Give the averaged weights their BatchNorm statistics, validate them on whole cases, append a row of history.

    Quantisation-aware training keeps the statistics that it started with.
    """
    options, device = job.options, job.run.device
    ahead = range(options.iterations, options.iterations + (0 if state.rounded else _STATISTICS_BATCHES))  # unseen
    changed = (
        augment(job.sampler.batch(i).to(device), options.patch, options.augmentation, options.seed, i) for i in ahead
    )
    refresh_batch_norm(state.average, (b.image.contiguous(memory_format=torch.channels_last_3d) for b in changed))
    dices = [
        dice_per_region(decode(network_logits(state.average, _image(case), device), DecisionRule(), 1.0), case.labels)
        for case in job.checked
    ]
    known = [[d for d in column if not math.isnan(d)] for column in zip(*dices, strict=True)] or [[], [], []]
    wt, tc, et = (sum(column) / len(column) if column else math.nan for column in known)
    since = state.history[-1].iteration if state.history else 0
    loss, dice_loss, bce, soft = (total / (state.iteration - since) for total in state.sums)
    rate = learning_rate(options, state.iteration - 1)
    row = HistoryRow(state.iteration, rate, loss, dice_loss, bce, soft, wt, tc, et)
    state.history.append(row)
    state.sums = [0.0] * len(state.sums)
    return row
